//! What is compared: the hashes in the manifests of snapshots, and the outcomes in their join state.

use anyhow::{Context, bail};

use ouzel_snapshot::{Manifest, Snapshot};

use crate::pipeline::resume::inspect_stage;

use super::daemon::Home;
use super::world::Expected;

/// What one snapshot says of the state it holds. Equal evidence, equal bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Of which snapshot.
    pub id: String,
    /// Batches learned from.
    pub n_batches: u64,
    /// Samples learned from, or in the open batch.
    pub n_samples: u64,
    /// Next offset of each partition.
    positions: Vec<(String, i64)>,
    /// Names and hashes: the ledger, weights with optimizer state, and each blob of the stage.
    hashes: Vec<(&'static str, String)>,
}

impl Evidence {
    /// The evidence in a manifest.
    pub fn of(manifest: &Manifest) -> anyhow::Result<Self> {
        let cut = &manifest.cut;
        let mut hashes = vec![
            ("ledger", cut.ledger_hash.clone()),
            ("weights and optimizer", cut.weights_hash.clone()),
        ];
        for (what, name) in [
            ("join state", "join.bin"),
            ("features", "features.bin"),
            ("open batch", "batcher.bin"),
        ] {
            let file = manifest.file(name);
            let file = file.with_context(|| format!("snapshot {} has no {name}", manifest.id))?;
            hashes.push((what, file.blake3.clone()));
        }
        Ok(Self {
            id: manifest.id.to_string(),
            n_batches: cut.batch_seq,
            n_samples: cut.sample_seq,
            positions: cut
                .positions
                .iter()
                .map(|(name, next)| (name.clone(), *next))
                .collect(),
            hashes,
        })
    }

    /// The evidence of every snapshot in `home` whose manifest can be read.
    pub fn all(home: &Home) -> anyhow::Result<Vec<Self>> {
        let listed = home.store().list()?;
        listed
            .iter()
            .filter_map(|listed| listed.manifest.as_ref())
            .map(Self::of)
            .collect()
    }

    /// What of this state differs from `other`, though the same was learned; `None` when that cannot be said,
    /// because they stand at different places.
    ///
    /// After the same number of batches the weights must be equal, and where the same records were read,
    /// everything.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Option<Vec<String>> {
        if self.n_batches != other.n_batches {
            return None;
        }
        let is_same_place = self.positions == other.positions;
        let compared = self.hashes.iter().zip(&other.hashes);
        let differences = compared
            .filter(|((what, ours), (_, theirs))| {
                (is_same_place || *what == "weights and optimizer") && ours != theirs
            })
            .map(|((what, ours), (_, theirs))| {
                format!(
                    "{what} after batch {}: {ours} in snapshot {}, {theirs} in snapshot {}",
                    self.n_batches, self.id, other.id
                )
            });
        Some(differences.collect())
    }

    /// Fails unless both are the same state at the same place.
    pub fn must_equal(&self, other: &Self, whose: &str) -> anyhow::Result<()> {
        let what = match self.differences(other) {
            Some(differences) if differences.is_empty() && self.positions == other.positions => return Ok(()),
            Some(differences) if !differences.is_empty() => differences.join("; "),
            _ => format!(
                "{} batches up to {:?}, there {} up to {:?}",
                self.n_batches, self.positions, other.n_batches, other.positions
            ),
        };
        bail!("the last state is not that of {whose}: {what}")
    }
}

/// Compares each of `found` with those of `others` at the same place, if there are any; they are `what`. Returns
/// the ids of those that could be compared.
pub fn compare(found: &[Evidence], others: &[Evidence], what: &str) -> anyhow::Result<Vec<String>> {
    let mut compared = Vec::new();
    for evidence in found {
        for differences in others.iter().filter_map(|other| evidence.differences(other)) {
            if !differences.is_empty() {
                bail!(
                    "snapshot {} is not what {what}: {}",
                    evidence.id,
                    differences.join("; ")
                );
            }
            compared.push(evidence.id.clone());
        }
    }
    Ok(compared)
}

/// Restores the join from `snapshot`, which counts its slots again, and compares its outcomes with what the
/// world says must have become of every record.
pub fn outcomes(home: &Home, snapshot: &Snapshot, expected: &Expected) -> anyhow::Result<()> {
    let stage = inspect_stage(home.config(), snapshot)?;
    let counters = stage.counters();
    counters.check()?;
    let differences = expected.differences(counters);
    if !differences.is_empty() {
        bail!("not every record has its one outcome: {}", differences.join("; "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(n_batches: u64, next: i64, ledger: &str, weights: &str) -> Evidence {
        Evidence {
            id: "1".to_owned(),
            n_batches,
            n_samples: 9,
            positions: vec![("actions[0]".to_owned(), next)],
            hashes: vec![
                ("ledger", ledger.to_owned()),
                ("weights and optimizer", weights.to_owned()),
            ],
        }
    }

    #[test]
    fn only_states_at_the_same_place_are_compared() {
        let one = evidence(3, 10, "a", "w");
        let n_differences = |other: Evidence| one.differences(&other).map(|found| found.len());
        assert_eq!(n_differences(one.clone()), Some(0));
        assert_eq!(n_differences(evidence(4, 10, "b", "x")), None);
        assert_eq!(
            n_differences(evidence(3, 11, "b", "w")),
            Some(0),
            "more was read, the same was learned"
        );
        assert_eq!(
            n_differences(evidence(3, 11, "a", "x")),
            Some(1),
            "the same was learned otherwise"
        );
        assert_eq!(n_differences(evidence(3, 10, "b", "x")), Some(2));
    }

    #[test]
    fn what_was_compared_is_named_and_what_differs_fails() {
        let [one, two] = [evidence(3, 10, "a", "w"), evidence(6, 20, "b", "x")];
        let found = [one.clone(), two.clone()];
        assert_eq!(compare(&found, &[two], "it was").unwrap().len(), 1);
        let error = compare(&found, &[evidence(3, 10, "a", "z")], "it was").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("snapshot 1 is not what it was: weights"),
            "{error}"
        );
    }

    #[test]
    fn the_last_state_must_be_the_same_at_the_same_place() {
        let one = evidence(3, 10, "a", "w");
        assert!(one.must_equal(&one, "itself").is_ok());
        for other in [
            evidence(4, 10, "a", "w"),
            evidence(3, 11, "a", "w"),
            evidence(3, 10, "b", "w"),
        ] {
            assert!(one.must_equal(&other, "another").is_err());
        }
    }
}
