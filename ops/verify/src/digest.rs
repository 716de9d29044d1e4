//! What is compared: the hashes in the manifests of snapshots, and the outcomes in their join state.

use anyhow::{Context, bail};

use ouzel_ingest::join::StoreConfig;
use ouzel_ingest::{Stage, StageBytes};
use ouzel_snapshot::{Manifest, Snapshot};

use crate::lineage_dir::LineageDir;
use crate::workload::Expected;

/// The hash that is a function of the learned batches alone.
const WEIGHTS: &str = "weights and optimizer";

/// The hashes of one snapshot: states are equal bit for bit if their digests are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDigest {
    id: String,
    /// Number of batches learned.
    pub n_batches: u64,
    /// Number of samples learned or in the open batch.
    pub n_samples: u64,
    /// Next offset of each partition, such as `actions[0]: 17`.
    positions: Vec<String>,
    /// By name: the ledger, the weights with the optimizer state, and each blob of the join stage.
    hashes: Vec<(&'static str, String)>,
}

impl StateDigest {
    /// Reads the digest from a manifest.
    ///
    /// # Errors
    /// If the snapshot has no join stage.
    pub fn new(manifest: &Manifest) -> anyhow::Result<Self> {
        let cut = &manifest.checkpoint;
        let mut hashes = vec![
            ("ledger", cut.ledger_hash.clone()),
            (WEIGHTS, cut.weights_hash.clone()),
        ];
        for (name, file) in [
            ("join state", "join.bin"),
            ("features", "features.bin"),
            ("open batch", "batcher.bin"),
        ] {
            let entry = manifest.file(file);
            let entry = entry.with_context(|| format!("snapshot {} has no {file}", manifest.id))?;
            hashes.push((name, entry.blake3.clone()));
        }
        let positions = cut.positions.iter().map(|(name, next)| format!("{name}: {next}"));
        Ok(Self {
            id: manifest.id.to_string(),
            n_batches: cut.batch_seq,
            n_samples: cut.sample_seq,
            positions: positions.collect(),
            hashes,
        })
    }

    /// The digest of every snapshot in `dir` with a readable manifest.
    pub(crate) fn read_all(dir: &LineageDir) -> anyhow::Result<Vec<Self>> {
        let listed = dir.store().list()?;
        let manifests = listed.iter().filter_map(|listed| listed.manifest.as_ref());
        manifests.map(Self::new).collect()
    }

    /// The hashes that differ though they must be equal, one line each; `None` after different numbers of batches.
    ///
    /// After the same number of batches the weights must be equal. At the same positions all hashes must.
    fn differences(&self, other: &Self) -> Option<Vec<String>> {
        if self.n_batches != other.n_batches {
            return None;
        }
        let is_same_position = self.positions == other.positions;
        let pairs = self.hashes.iter().zip(&other.hashes);
        let differences = pairs
            .filter(|((name, hash), (_, expected))| {
                (is_same_position || *name == WEIGHTS) && hash != expected
            })
            .map(|((name, hash), (_, expected))| {
                format!(
                    "{name} after batch {}: {hash} in snapshot {}, {expected} in snapshot {}",
                    self.n_batches, self.id, other.id
                )
            });
        Some(differences.collect())
    }

    /// Checks that this last state of a lineage equals `expected`, the last state of `run`.
    ///
    /// # Errors
    /// If the states differ; the error names the differences.
    pub fn must_equal(&self, expected: &Self, run: &str) -> anyhow::Result<()> {
        let differences = self.differences(expected).unwrap_or_default();
        if !differences.is_empty() {
            bail!("the last state differs from {run}: {}", differences.join("; "));
        }
        if (self.n_batches, &self.positions) != (expected.n_batches, &expected.positions) {
            bail!(
                "the last state differs from {run}: {} batches at [{}], expected {} batches at [{}]",
                self.n_batches,
                self.positions.join(", "),
                expected.n_batches,
                expected.positions.join(", ")
            );
        }
        Ok(())
    }
}

/// Compares each digest with those of `run` after the same number of batches. Returns the ids of the compared ones.
pub(crate) fn compare(
    digests: &[StateDigest],
    expected: &[StateDigest],
    run: &str,
) -> anyhow::Result<Vec<String>> {
    let mut compared = Vec::new();
    for digest in digests {
        for differences in expected.iter().filter_map(|other| digest.differences(other)) {
            if !differences.is_empty() {
                bail!(
                    "snapshot {} differs from {run}: {}",
                    digest.id,
                    differences.join("; ")
                );
            }
            compared.push(digest.id.clone());
        }
    }
    Ok(compared)
}

/// Restores the join stage of `snapshot` and compares its counters with the outcomes that the generator counted.
pub(crate) fn check_outcomes(
    dir: &LineageDir,
    snapshot: &Snapshot,
    expected: &Expected,
) -> anyhow::Result<()> {
    let bytes = StageBytes {
        join: snapshot.blob("join.bin")?,
        features: snapshot.blob("features.bin")?,
        batcher: snapshot.blob("batcher.bin")?,
    };
    let (join, features) = (dir.settings.section("join")?, dir.settings.section("features")?);
    let stage = Stage::restore(&StoreConfig::Memory, &join, features, &bytes)
        .with_context(|| format!("cannot restore the join stage of snapshot {}", snapshot.id()))?;
    let counters = stage.counters();
    counters.check()?;
    let differences = expected.differences(counters);
    if !differences.is_empty() {
        bail!(
            "not every record has exactly one outcome: {}",
            differences.join("; ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n_batches: u64, next: i64, ledger: &str, weights: &str) -> StateDigest {
        StateDigest {
            id: "1".to_owned(),
            n_batches,
            n_samples: 9,
            positions: vec![format!("actions[0]: {next}")],
            hashes: vec![("ledger", ledger.to_owned()), (WEIGHTS, weights.to_owned())],
        }
    }

    #[test]
    fn only_states_after_the_same_batch_are_compared() {
        let one = digest(3, 10, "a", "w");
        let n_differences = |other: StateDigest| one.differences(&other).map(|found| found.len());
        assert_eq!(n_differences(one.clone()), Some(0));
        assert_eq!(n_differences(digest(4, 10, "b", "x")), None);
        assert_eq!(
            n_differences(digest(3, 11, "b", "w")),
            Some(0),
            "more was read, the same was learned"
        );
        assert_eq!(
            n_differences(digest(3, 11, "a", "x")),
            Some(1),
            "the same was learned with other weights"
        );
        assert_eq!(n_differences(digest(3, 10, "b", "x")), Some(2));
    }

    #[test]
    fn compared_snapshots_are_counted_and_a_difference_fails() {
        let [one, two] = [digest(3, 10, "a", "w"), digest(6, 20, "b", "x")];
        let digests = [one, two.clone()];
        assert_eq!(compare(&digests, &[two], "a run").unwrap().len(), 1);
        let error = compare(&digests, &[digest(3, 10, "a", "z")], "a run").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("snapshot 1 differs from a run: weights"),
            "{error}"
        );
    }

    #[test]
    fn the_last_state_must_be_equal_at_the_same_position() {
        let one = digest(3, 10, "a", "w");
        assert!(one.must_equal(&one, "itself").is_ok());
        for other in [
            digest(4, 10, "a", "w"),
            digest(3, 11, "a", "w"),
            digest(3, 10, "b", "w"),
        ] {
            assert!(one.must_equal(&other, "another").is_err());
        }
    }
}
