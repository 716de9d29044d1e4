//! The start of a pipeline: the newest valid snapshot, or the beginning of the log.

use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use metrics::counter;

use ouzel_ingest::join::StoreConfig;
use ouzel_ingest::{Stage, StageBytes};
use ouzel_learner::Trainer;
use ouzel_learner::validation::Progressive;
use ouzel_sample::{FeatureState, PartitionId, Positions, Stream};
use ouzel_snapshot::{CheckpointMeta, Manifest, Snapshot, SnapshotId, Store};

use super::contents::Contents;
use super::provenance::{encoders, list_encoders};
use crate::config::Config;
use crate::error::ErrorExt;
use crate::telemetry::metrics::VECTORS_LOST;

/// Window of the progressive validation, samples.
const WINDOW_SAMPLES: usize = 20_000;

/// The snapshot that a pipeline starts from, or the beginning of the log.
#[derive(Debug, Default)]
pub(crate) struct ResumePoint {
    snapshot: Option<Snapshot>,
}

impl ResumePoint {
    /// The newest valid snapshot of a store, or the beginning of the log if the store never had one.
    ///
    /// Fails if there are snapshots and none can be used: the operator decides what to do.
    pub(crate) fn newest(store: &Store) -> anyhow::Result<Self> {
        let recovery = store.newest_valid()?;
        for skipped in &recovery.skipped {
            let id = skipped.id.map_or("latest".to_owned(), |id| id.to_string());
            tracing::warn!(snapshot = id, reason = skipped.why, "snapshot skipped");
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

    /// A pipeline that starts from this snapshot.
    pub(crate) fn at(snapshot: Snapshot) -> Self {
        Self {
            snapshot: Some(snapshot),
        }
    }

    /// The id of the snapshot.
    pub(crate) fn id(&self) -> Option<SnapshotId> {
        self.snapshot.as_ref().map(Snapshot::id)
    }

    /// Next offset to read of each partition; empty at the beginning of the log.
    pub(crate) fn positions(&self) -> anyhow::Result<Positions> {
        let snapshot = self.snapshot.as_ref();
        snapshot.map_or_else(
            || Ok(Positions::default()),
            |snapshot| positions_of(snapshot.manifest()),
        )
    }

    /// Number of plan log entries before the snapshot.
    pub(crate) fn plan_position(&self) -> u64 {
        let snapshot = self.snapshot.as_ref();
        snapshot.map_or(0, |snapshot| snapshot.manifest().checkpoint.plan_position)
    }

    /// Restores the state machines, or creates new ones over `partitions`. `store` holds the join state.
    pub(crate) fn restore(
        &self,
        config: &Config,
        contents: Option<&Contents>,
        partitions: &[PartitionId],
        store: &StoreConfig,
    ) -> anyhow::Result<(Stage, Trainer, Progressive)> {
        let (model, learner) = (config.model_config(), config.learner_config());
        let mut progressive = Progressive::new(WINDOW_SAMPLES, config.task_names().len());
        let Some(snapshot) = &self.snapshot else {
            let features = Arc::new(FeatureState::new(config.feature_config()));
            let stage = if partitions.iter().any(|id| id.stream == Stream::Samples) {
                Stage::behind_tier(&config.join, features, learner.batch_min_samples)
            } else {
                let timed = partitions.iter().copied().filter(|id| id.stream != Stream::Items);
                Stage::new(store, &config.join, timed, features, learner.batch_min_samples)?
            };
            let trainer = Trainer::new(model, learner)?;
            return Ok((stage, trainer, progressive));
        };
        let id = snapshot.id();
        let checkpoint = &snapshot.manifest().checkpoint;
        check_schema(id, checkpoint, config)?;
        let current = encoders(contents);
        if checkpoint.encoders != current {
            let (before, now) = (list_encoders(&checkpoint.encoders), list_encoders(&current));
            return Err(anyhow!(
                "snapshot {id} was made with the encoders {before}, and [content] names {now}: their vectors cannot \
                 be compared"
            ))
            .hint(
                "configure the former encoders, or encode all contents again with `ouzel snapshot re-encode --config \
                 FILE`",
            );
        }
        let stage = restore_stage(config, store, snapshot)?;
        if let Some(contents) = contents {
            restore_vectors(contents, stage.features())?;
        }
        let trainer = Trainer::load(snapshot, &model, learner)?;
        progressive
            .restore(&snapshot.blob("validation.json")?)
            .with_context(|| format!("cannot read the validation figures of snapshot {id}"))?;
        Ok((stage, trainer, progressive))
    }
}

/// Next offset to read of each partition after a snapshot.
pub(crate) fn positions_of(manifest: &Manifest) -> anyhow::Result<Positions> {
    let positions = manifest.checkpoint.positions.iter();
    positions
        .map(|(name, next)| Ok((partition(name)?, *next)))
        .collect()
}

/// Fills in the content vectors that a restored feature state refers to.
pub(crate) fn restore_vectors(contents: &Contents, features: &FeatureState) -> anyhow::Result<()> {
    let n_lost = contents.restore(features)?;
    if n_lost > 0 {
        counter!(VECTORS_LOST).increment(n_lost as u64);
        tracing::warn!(
            vectors = n_lost,
            "content vectors are not in the store and cannot be computed again: requests captured with them are \
             learned without"
        );
    }
    Ok(())
}

/// Restores the join side of a snapshot in memory, regardless of `join.store`, for inspection.
pub(crate) fn inspect_stage(config: &Config, snapshot: &Snapshot) -> anyhow::Result<Stage> {
    restore_stage(config, &StoreConfig::Memory, snapshot)
}

fn restore_stage(config: &Config, store: &StoreConfig, snapshot: &Snapshot) -> anyhow::Result<Stage> {
    let bytes = StageBytes {
        join: snapshot.blob("join.bin")?,
        features: snapshot.blob("features.bin")?,
        batcher: snapshot.blob("batcher.bin")?,
    };
    Stage::restore(store, &config.join, config.feature_config(), &bytes)
        .with_context(|| format!("cannot restore the join state of snapshot {}", snapshot.id()))
}

/// Refuses a snapshot whose features or weights have another meaning under this configuration.
pub(crate) fn check_schema(
    id: SnapshotId,
    checkpoint: &CheckpointMeta,
    config: &Config,
) -> anyhow::Result<()> {
    if checkpoint.schema_fingerprint != config.schema_fingerprint() {
        bail!(
            "snapshot {id} was made under another schema ([ids], [features], content.texts_per_item, [join] tasks or source, or \
             [model] with the widths of vectors differ): restore that configuration, or start in an empty state directory"
        );
    }
    Ok(())
}

/// Parses `stream[partition]`.
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
        _ => bail!("`{name}` in the positions of a snapshot is not a partition such as impressions[0]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_partition_is_parsed_back() {
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
