//! The start of a pipeline: the newest valid snapshot, or the beginning of the log.

use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use metrics::counter;

use ouzel_ingest::join::StoreConfig;
use ouzel_ingest::{Stage, StageBytes, StageError};
use ouzel_learner::Trainer;
use ouzel_learner::gates::check_restored;
use ouzel_learner::validation::Progressive;
use ouzel_sample::{FeatureState, PartitionId, Positions, Stream};
use ouzel_snapshot::{CheckpointMeta, IntervalStart, Manifest, SkippedSnapshot, Snapshot, SnapshotId, Store};

use super::contents::Contents;
use super::gates::Gates;
use super::promoted::UsedConfig;
use super::provenance::{encoders, list_encoders};
use super::schema::check_schema;
use super::standby::comparison::Point;
use crate::config::Config;
use crate::error::ErrorExt;
use crate::telemetry::metrics::VECTORS_LOST;

/// Window of the progressive validation, samples.
const WINDOW_SAMPLES: usize = 20_000;

/// The state that a pipeline starts from: that of a snapshot, or the beginning of the log.
#[derive(Default)]
pub(crate) struct ResumePoint {
    restored: Option<Restored>,
    /// The snapshots passed over, in a sentence for the lineage.
    pub(crate) note: Option<String>,
}

/// A snapshot with the state machines restored from it.
struct Restored {
    snapshot: Snapshot,
    state: RestoredState,
    used: UsedConfig,
}

/// Stage, trainer, progressive figures, and the gates unless they are off.
pub(crate) type RestoredState = (Stage, Trainer, Progressive, Option<Gates>);

impl ResumePoint {
    /// Restores the newest snapshot of a store that can be used, or starts at the beginning of the log if the store never
    /// had one. `join_store` holds the join state.
    ///
    /// A snapshot whose files or weights are damaged is passed over for an older one. Fails if there are snapshots and none
    /// can be used, and if one was made under another configuration: the operator decides what to do.
    pub(crate) fn newest(
        store: &Store,
        config: &Config,
        contents: Option<&Contents>,
        join_store: &StoreConfig,
    ) -> anyhow::Result<Self> {
        let recovery = store.newest_loaded(|snapshot| {
            let used = UsedConfig::of(config, &snapshot)?;
            let restored = restore(&snapshot, &used.config, contents, join_store)?;
            Ok::<_, anyhow::Error>(restored.map(|state| Restored {
                snapshot,
                state,
                used,
            }))
        })?;
        for skipped in &recovery.skipped {
            tracing::warn!(snapshot = name(skipped), reason = skipped.why, "snapshot skipped");
        }
        let Some(newest) = recovery.skipped.first() else {
            return Ok(Self {
                restored: recovery.snapshot,
                note: None,
            });
        };
        if recovery.snapshot.is_none() {
            let error = anyhow!(
                "no snapshot in {} can be used; the newest, {}: {}",
                store.root().display(),
                name(newest),
                newest.why
            );
            return Err(error).hint(
                "`ouzel snapshot list` and `verify` say what is wrong with each; an empty state directory learns \
                 everything again",
            );
        }
        let skipped: Vec<String> = recovery.skipped.iter().map(name).collect();
        Ok(Self {
            restored: recovery.snapshot,
            note: Some(format!("resumed without {}: {}", skipped.join(", "), newest.why)),
        })
    }

    /// Restores this snapshot; `join_store` holds the join state.
    pub(crate) fn at(
        snapshot: Snapshot,
        config: &Config,
        contents: Option<&Contents>,
        join_store: &StoreConfig,
    ) -> anyhow::Result<Self> {
        let used = UsedConfig::of(config, &snapshot)?;
        match restore(&snapshot, &used.config, contents, join_store)? {
            Ok(state) => Ok(Self {
                restored: Some(Restored {
                    snapshot,
                    state,
                    used,
                }),
                note: None,
            }),
            Err(why) => bail!("snapshot {} cannot be used: {why}", snapshot.id()),
        }
    }

    /// The id of the snapshot.
    pub(crate) fn id(&self) -> Option<SnapshotId> {
        self.restored.as_ref().map(|restored| restored.snapshot.id())
    }

    /// The configuration that the state is used under: `config` with the promoted settings of the snapshot.
    pub(crate) fn used_config(&self, config: &Config) -> UsedConfig {
        let restored = self.restored.as_ref();
        restored.map_or_else(|| UsedConfig::of_file(config), |restored| restored.used.clone())
    }

    fn checkpoint(&self) -> Option<&CheckpointMeta> {
        let restored = self.restored.as_ref();
        restored.map(|restored| &restored.snapshot.manifest().checkpoint)
    }

    /// Its state, for a comparison.
    pub(crate) fn point(&self) -> Option<Point> {
        self.checkpoint().map(Point::from)
    }

    /// Next offset to read of each partition; empty at the beginning of the log.
    pub(crate) fn positions(&self) -> anyhow::Result<Positions> {
        let restored = self.restored.as_ref();
        restored.map_or_else(
            || Ok(Positions::default()),
            |restored| positions_of(restored.snapshot.manifest()),
        )
    }

    /// Number of plan log entries before the snapshot.
    pub(crate) fn plan_position(&self) -> u64 {
        self.checkpoint().map_or(0, |checkpoint| checkpoint.plan_position)
    }

    /// Where the next interval of figures begins; `None` at the beginning of the log.
    pub(crate) fn interval_start(&self) -> Option<IntervalStart> {
        self.checkpoint().map(|checkpoint| IntervalStart {
            batch_seq: checkpoint.batch_seq,
            sample_seq: checkpoint.sample_seq,
            event_time_ms: checkpoint.event_time_ms,
        })
    }

    /// Returns the restored state, or a new one over `partitions`. `store` holds the join state.
    pub(crate) fn into_state(
        self,
        config: &Config,
        contents: Option<&Contents>,
        partitions: &[PartitionId],
        store: &StoreConfig,
    ) -> anyhow::Result<RestoredState> {
        if let Some(restored) = self.restored {
            if let Some(contents) = contents {
                restore_vectors(contents, restored.state.0.features())?;
            }
            return Ok(restored.state);
        }
        let learner = config.learner_config();
        let features = Arc::new(FeatureState::new(config.feature_config()));
        let stage = if partitions.iter().any(|id| id.stream == Stream::Samples) {
            Stage::behind_tier(&config.join, features, learner.batch_min_samples)
        } else {
            let timed = partitions.iter().copied().filter(|id| !id.stream.is_catalog());
            Stage::new(store, &config.join, timed, features, learner.batch_min_samples)?
        };
        let trainer = Trainer::new(config.model_config(), learner)?;
        Ok((stage, trainer, progressive(config), Gates::new(config)?))
    }
}

/// Next offset to read of each partition after a snapshot.
pub(crate) fn positions_of(manifest: &Manifest) -> anyhow::Result<Positions> {
    let positions = manifest.checkpoint.positions.iter();
    positions
        .map(|(name, next)| Ok((partition(name)?, *next)))
        .collect()
}

fn name(skipped: &SkippedSnapshot) -> String {
    skipped.id.map_or("latest".to_owned(), |id| id.to_string())
}

fn progressive(config: &Config) -> Progressive {
    Progressive::new(WINDOW_SAMPLES, config.task_names().len())
}

/// Restores the gates as they were at a snapshot, whose weights `trainer` has; none if they are off. The inner error says
/// which gate the weights do not pass.
fn restore_gates(
    snapshot: &Snapshot,
    config: &Config,
    trainer: &mut Trainer,
) -> anyhow::Result<Result<Option<Gates>, String>> {
    let Some(mut gates) = Gates::new(config)? else {
        return Ok(Ok(None));
    };
    match check_restored(snapshot, trainer)? {
        Ok(probe) => {
            gates.restore(snapshot, probe)?;
            Ok(Ok(Some(gates)))
        }
        Err(breach) => Ok(Err(format!("its weights do not pass the gates: {breach}"))),
    }
}

/// Restores the state machines of a snapshot. The inner error says why the snapshot cannot be used; the outer one is of
/// another configuration or of this machine.
fn restore(
    snapshot: &Snapshot,
    config: &Config,
    contents: Option<&Contents>,
    store: &StoreConfig,
) -> anyhow::Result<Result<RestoredState, String>> {
    let id = snapshot.id();
    let checkpoint = &snapshot.manifest().checkpoint;
    check_schema(snapshot, config)?;
    let current = encoders(contents);
    if checkpoint.encoders != current {
        let (before, now) = (list_encoders(&checkpoint.encoders), list_encoders(&current));
        return Err(anyhow!(
            "snapshot {id} was made with the encoders {before}, and [content] names {now}: their vectors cannot \
             be compared"
        ))
        .hint(
            "configure the former encoders, or encode all contents again: with `ouzel snapshot re-encode --config FILE`, or \
             with `ouzel snapshot migrate --config FILE` where other settings change too",
        );
    }
    let mut trainer = match Trainer::load(snapshot, &config.model_config(), config.learner_config()) {
        Err(error) if error.is_damage() => return Ok(Err(error.to_string())),
        trainer => trainer?,
    };
    let gates = match restore_gates(snapshot, config, &mut trainer)? {
        Ok(gates) => gates,
        Err(why) => return Ok(Err(why)),
    };
    let stage = match restore_stage(config, store, snapshot) {
        Err(error) if is_damage(&error) => return Ok(Err(format!("{error:#}"))),
        stage => stage?,
    };
    let mut progressive = progressive(config);
    let figures = match snapshot.blob("validation.json") {
        Err(error) if is_missing_or_damaged(&error) => return Ok(Err(error.to_string())),
        figures => figures?,
    };
    Ok(match progressive.restore(&figures) {
        Ok(()) => Ok((stage, trainer, progressive, gates)),
        Err(error) => Err(format!("cannot read its validation figures: {error}")),
    })
}

/// True for an error that says that the snapshot itself is bad.
fn is_damage(error: &anyhow::Error) -> bool {
    let stage = error
        .downcast_ref::<StageError>()
        .is_some_and(StageError::is_damage);
    stage || error.downcast_ref().is_some_and(is_missing_or_damaged)
}

fn is_missing_or_damaged(error: &ouzel_snapshot::Error) -> bool {
    error.is_damage() || matches!(error, ouzel_snapshot::Error::NoFile { .. })
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
    use ouzel_learner::weights_hash;
    use ouzel_snapshot::{Alias, Array, Arrays, Draft, FileKind, Fingerprint};

    use super::*;
    use crate::pipeline::provenance::provenance;

    fn new_state(config: &Config) -> RestoredState {
        let partition = |stream| PartitionId { stream, partition: 0 };
        let partitions = [Stream::Impressions, Stream::Actions].map(partition);
        let start = ResumePoint::default();
        start
            .into_state(config, None, &partitions, &StoreConfig::Memory)
            .unwrap()
    }

    /// Writes a snapshot of `state` and makes it `latest`; `change` changes a file of arrays by its name.
    fn write(store: &Store, config: &Config, change: impl Fn(&str, &mut Arrays)) -> SnapshotId {
        let (stage, mut trainer, progressive, _) = new_state(config);
        let mut honest = Draft::new(
            None,
            0,
            Fingerprint::default(),
            provenance(config, None, Vec::new()),
        );
        trainer.save(&mut honest).unwrap();
        let bytes = stage.checkpoint().unwrap().bytes;
        honest.add_blob("join.bin", bytes.join).unwrap();
        honest.add_blob("features.bin", bytes.features).unwrap();
        honest.add_blob("batcher.bin", bytes.batcher).unwrap();
        honest.add_blob("validation.json", progressive.dump()).unwrap();
        let snapshot = store.read(store.write(&honest).unwrap()).unwrap();
        let mut changed = Draft::new(None, 0, Fingerprint::default(), honest.checkpoint.clone());
        for file in &snapshot.manifest().files {
            match file.kind {
                FileKind::Blob => changed
                    .add_blob(&file.name, snapshot.blob(&file.name).unwrap())
                    .unwrap(),
                FileKind::Arrays => {
                    let mut arrays = snapshot.arrays(&file.name).unwrap();
                    change(&file.name, &mut arrays);
                    changed.add_arrays(&file.name, arrays).unwrap();
                }
            }
        }
        changed.checkpoint.weights_hash = weights_hash(&changed);
        let id = store.write(&changed).unwrap();
        store.set_alias(Alias::Latest, id).unwrap();
        id
    }

    #[test]
    fn a_sealed_snapshot_with_a_weight_that_is_not_finite_is_passed_over_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let config = Config::default();
        let good = write(&store, &config, |_, _| {});
        let poison = |name: &str, arrays: &mut Arrays| {
            if name == "dense.safetensors" {
                let shape = arrays.array("norm.mean").unwrap().shape().to_vec();
                let mut values = arrays.take::<f32>("norm.mean", &shape).unwrap();
                values[0] = f32::NAN;
                arrays
                    .insert("norm.mean", Array::new(&shape, values).unwrap())
                    .unwrap();
            }
        };
        let bad = write(&store, &config, poison);
        assert!(store.verify(bad).unwrap().is_valid(), "its hashes are right");

        let newest = || ResumePoint::newest(&store, &config, None, &StoreConfig::Memory);
        let start = newest().unwrap();
        assert_eq!(start.id().map(|id| id < bad), Some(true));
        let note = start.note.unwrap();
        assert!(
            note.starts_with(&format!("resumed without {bad}: ")) && note.contains("norm.mean"),
            "{note}"
        );
        // The snapshot between them is sound too; with only bad ones the start fails with the reason.
        for id in store
            .list()
            .unwrap()
            .iter()
            .map(|entry| entry.id)
            .filter(|id| *id <= good || *id < bad)
        {
            std::fs::remove_dir_all(store.read(id).unwrap().dir()).unwrap();
        }
        let error = newest().err().unwrap();
        assert!(error.to_string().contains("norm.mean"), "{error:#}");
    }

    #[test]
    fn a_snapshot_of_another_configuration_ends_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let config = Config::default();
        write(&store, &config, |_, _| {});
        let other = Config::parse("[model]\ndim = 4\n", "x.toml").unwrap();
        let error = ResumePoint::newest(&store, &other, None, &StoreConfig::Memory)
            .err()
            .unwrap();
        assert!(error.to_string().contains("under another schema"), "{error:#}");
    }

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
