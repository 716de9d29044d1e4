//! Where a start begins: from the newest valid snapshot, or from nothing.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use metrics::counter;

use ouzel_ingest::join::StoreConfig;
use ouzel_ingest::{Stage, StageBytes};
use ouzel_learner::Trainer;
use ouzel_learner::validation::Progressive;
use ouzel_sample::{FeatureState, MODALITIES, PartitionId, Positions, Stream};
use ouzel_snapshot::{CheckpointMeta, Fingerprint, Snapshot, SnapshotId, Store};

use crate::cli::ErrorExt;
use crate::config::{Config, JoinSource};
use crate::contents::Contents;
use crate::metrics::VECTORS_LOST;
use crate::stages::learn::Provenance;

/// Samples of the window that progressive figures are shown for, count.
const WINDOW_SAMPLES: usize = 20_000;

/// What was found in the store.
#[derive(Debug)]
pub struct ResumePoint {
    snapshot: Option<Snapshot>,
}

/// The state machines, where they go on.
#[derive(Debug)]
pub struct Start {
    /// The join side.
    pub stage: Stage,
    /// The model side.
    pub trainer: Trainer,
    /// Its running figures.
    pub progressive: Progressive,
    /// The snapshot resumed from.
    pub snapshot: Option<SnapshotId>,
}

impl ResumePoint {
    /// Looks for the newest valid snapshot. Refuses to begin from nothing where there were snapshots and none
    /// can be used: a person should see that first.
    pub fn in_store(store: &Store) -> anyhow::Result<Self> {
        let recovery = store.newest_valid()?;
        for skipped in &recovery.skipped {
            let id = skipped.id.map_or("latest".to_owned(), |id| id.to_string());
            tracing::warn!(snapshot = id, why = skipped.why, "snapshot skipped");
        }
        if recovery.snapshot.is_none() && !recovery.skipped.is_empty() {
            bail!(
                "no snapshot in {} can be used; see `ouzel snapshot list`, or start with an empty state directory \
                 to learn everything again",
                store.root().display()
            );
        }
        Ok(Self {
            snapshot: recovery.snapshot,
        })
    }

    /// This snapshot, whatever the newest is.
    #[must_use]
    pub fn exactly(snapshot: Snapshot) -> Self {
        Self {
            snapshot: Some(snapshot),
        }
    }

    /// Next offset to read of each partition; empty for a first start.
    pub fn positions(&self) -> anyhow::Result<Positions> {
        let Some(snapshot) = &self.snapshot else {
            return Ok(Positions::default());
        };
        snapshot
            .manifest()
            .cut
            .positions
            .iter()
            .map(|(name, next)| Ok((partition(name)?, *next)))
            .collect()
    }

    /// Plan entries that are in the snapshot.
    #[must_use]
    pub fn plan_position(&self) -> u64 {
        self.snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.manifest().cut.plan_position)
    }

    /// The state machines, restored, or new ones over `partitions`.
    pub fn start(
        &self,
        config: &Config,
        contents: Option<&Contents>,
        partitions: &[PartitionId],
    ) -> anyhow::Result<Start> {
        let (model, learner) = (config.model_config(), config.learner_config());
        let store = config.join_store(&config.join_dir());
        let mut progressive = Progressive::new(WINDOW_SAMPLES);
        let Some(snapshot) = &self.snapshot else {
            let features = Arc::new(FeatureState::new(config.feature_config()));
            let timed = partitions.iter().copied().filter(|id| id.stream != Stream::Items);
            let join = config.join.clone();
            let stage = match config.join.source {
                JoinSource::Events => Stage::new(&store, &join, timed, features, learner.batch_min_samples)?,
                JoinSource::Tier => Stage::behind_tier(&join, features, learner.batch_min_samples),
            };
            return Ok(Start {
                stage,
                trainer: Trainer::new(model, learner)?,
                progressive,
                snapshot: None,
            });
        };
        let id = snapshot.id();
        let cut = &snapshot.manifest().cut;
        check_schema(id, cut, config)?;
        let now = encoders(contents);
        if cut.encoders != now {
            let (was, is) = (words(&cut.encoders), words(&now));
            return Err(anyhow!(
                "snapshot {id} was made with the encoders {was}, and [content] names {is}: their vectors cannot be \
                 compared"
            ))
            .hint("go back to those, or encode everything anew with `ouzel snapshot re-encode --config FILE`");
        }
        let stage = Stage::restore(
            &store,
            &config.join,
            config.feature_config(),
            &stage_bytes(snapshot)?,
        )
        .with_context(|| format!("cannot restore the join state of snapshot {id}"))?;
        if let Some(contents) = contents {
            restore_vectors(contents, stage.features())?;
        }
        let trainer = Trainer::load(snapshot, &model, learner)?;
        progressive
            .restore(&snapshot.blob("validation.json")?)
            .with_context(|| format!("cannot read the figures of snapshot {id}"))?;
        Ok(Start {
            stage,
            trainer,
            progressive,
            snapshot: Some(id),
        })
    }
}

/// Fills in the vectors that a loaded feature state names.
pub fn restore_vectors(contents: &Contents, features: &FeatureState) -> anyhow::Result<()> {
    let n_lost = contents.restore(features)?;
    if n_lost > 0 {
        counter!(VECTORS_LOST).increment(n_lost as u64);
        tracing::warn!(
            vectors = n_lost,
            "content vectors are neither in the store nor can they be made again: requests captured with them are \
             learned without"
        );
    }
    Ok(())
}

/// The join side of a snapshot, whatever `join.store` says, for who looks at it and does not go on from it.
pub fn in_memory(config: &Config, snapshot: &Snapshot) -> anyhow::Result<Stage> {
    Stage::restore(
        &StoreConfig::Memory,
        &config.join,
        config.feature_config(),
        &stage_bytes(snapshot)?,
    )
    .with_context(|| format!("cannot restore the join state of snapshot {}", snapshot.id()))
}

/// The join side of a snapshot as its files hold it.
fn stage_bytes(snapshot: &Snapshot) -> anyhow::Result<StageBytes> {
    Ok(StageBytes {
        join: snapshot.blob("join.bin")?,
        features: snapshot.blob("features.bin")?,
        batcher: snapshot.blob("batcher.bin")?,
    })
}

/// Refuses a snapshot whose features or weights mean something else under this configuration.
pub fn check_schema(id: SnapshotId, cut: &CheckpointMeta, config: &Config) -> anyhow::Result<()> {
    if cut.schema_fingerprint != config.schema_fingerprint() {
        bail!(
            "snapshot {id} was made under another schema ([ids], [features], content.texts_per_item, [join] tasks or source, or \
             [model] with the widths of vectors differ): restore that configuration, or start in an empty state directory"
        );
    }
    Ok(())
}

/// The encoders by modality, as manifests name them.
pub fn encoders(contents: Option<&Contents>) -> BTreeMap<String, String> {
    let versions = contents.map(Contents::versions).unwrap_or_default();
    let named = MODALITIES.iter().zip(versions);
    named
        .filter_map(|(modality, version)| Some(((*modality).to_owned(), version?.to_string())))
        .collect()
}

/// Encoders for people.
pub fn words(encoders: &BTreeMap<String, String>) -> String {
    let words: Vec<String> = encoders
        .iter()
        .map(|(modality, by)| format!("{modality} {by}"))
        .collect();
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join(", ")
    }
}

/// What every manifest of this process says of it.
pub fn provenance(config: &Config, contents: Option<&Contents>) -> Provenance {
    Provenance {
        fingerprint: fingerprint(config),
        config_hash: config.hash(),
        schema: config.schema_fingerprint(),
        encoders: encoders(contents),
    }
}

/// What decides the bits of what this process learns.
pub fn fingerprint(config: &Config) -> Fingerprint {
    Fingerprint {
        ouzel: env!("CARGO_PKG_VERSION").to_owned(),
        git: None,
        libtorch: Some(ouzel_learner::LIBTORCH.to_owned()),
        device: config.learner.device.clone(),
        cpu_capability: ouzel_learner::cpu_capability(),
        n_threads: u32::try_from(config.learner.threads).unwrap_or(u32::MAX),
    }
}

/// Reads `stream[partition]`.
fn partition(name: &str) -> anyhow::Result<PartitionId> {
    let parts = name.strip_suffix(']').and_then(|name| name.split_once('['));
    let stream = parts.and_then(|(name, _)| {
        Stream::WITH_SAMPLES
            .into_iter()
            .find(|stream| stream.name() == name)
    });
    let number = parts.and_then(|(_, number)| i32::from_str(number).ok());
    match (stream, number) {
        (Some(stream), Some(partition)) => Ok(PartitionId { stream, partition }),
        _ => Err(anyhow!(
            "{name:?} in a snapshot's positions is no partition, as impressions[0] is"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_read_as_it_is_written() {
        for stream in Stream::WITH_SAMPLES {
            let id = PartitionId {
                stream,
                partition: 12,
            };
            assert_eq!(partition(&id.to_string()).unwrap(), id);
        }
        for wrong in ["", "clicks[0]", "actions", "actions[", "actions[x]", "actions[0"] {
            assert!(partition(wrong).is_err(), "{wrong}");
        }
    }
}
