//! The stage of a checkpoint under another configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use ouzel_sample::{
    Batcher, EventTime, FeatureConfig, FeatureMigration, FeatureState, FeatureStateError, Positions, TaskMap,
};

use super::checkpoint::{CatalogCounts, StageState};
use super::output::StageOutput;
use super::{Join, Stage, StageBytes, StageError};
use crate::deleted::DeletedItems;
use crate::join::{
    JoinConfig, JoinMigration, JoinSource, Joiner, StoreConfig, is_of_another_version, migrate_join,
};
use crate::tier::JoinResultReceiver;

/// What a migration of the stage has kept and lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageMigration {
    /// The join.
    pub join: JoinMigration,
    /// Users, items and counters.
    pub features: FeatureMigration,
    /// Samples of the open batch that are not learned.
    pub lost_samples: u64,
    /// True when another version of ouzel wrote the state, so that join and features start anew: items and users are read
    /// again from the first record.
    pub starts_anew: bool,
}

/// The stage of a checkpoint that another version of ouzel wrote: what is known of it besides its bytes.
#[derive(Clone, Debug)]
pub struct NewStage {
    /// Next offset to read of each partition.
    pub positions: Positions,
    /// Newest event time seen.
    pub event_time: EventTime,
    /// The number of the next batch.
    pub next_batch: u64,
    /// The number of the next sample.
    pub next_sample: u64,
    /// Samples that close a batch.
    pub batch_min_samples: usize,
}

impl Stage {
    /// Restores a stage in memory under a configuration that may have other tasks, windows, label policy or feature
    /// definitions. `tasks` are the former ones; a state of another version of ouzel becomes `new`.
    ///
    /// # Errors
    /// [`StageError::Tier`] where one side of the change is a join tier; otherwise as for [`Stage::restore`].
    pub fn migrate(
        bytes: &StageBytes,
        (config, features): (&JoinConfig, FeatureConfig),
        former_tasks: &[String],
        new: NewStage,
    ) -> Result<(Self, StageMigration), StageError> {
        let is_tier = JoinResultReceiver::is_exported(&bytes.join);
        if is_tier != (config.source == JoinSource::Tier) {
            let found = if is_tier {
                "join.source = \"tier\""
            } else {
                "join.source = \"events\""
            };
            return Err(StageError::Tier { found });
        }
        let tasks = TaskMap::new(former_tasks, &config.task_names());
        if is_tier && !tasks.is_identity() {
            return Err(StageError::Tier { found: "other tasks" });
        }
        let mut done = StageMigration::default();
        let migrated = FeatureState::migrate(&bytes.features, features.clone(), &tasks);
        let is_older =
            matches!(migrated, Err(FeatureStateError::Format)) || is_of_another_version(&bytes.join);
        if is_older && is_tier {
            return Err(StageError::Tier {
                found: "another version of ouzel",
            });
        }
        if is_older {
            done.starts_anew = true;
            return Ok((Self::anew(config, features, new)?, done));
        }
        let (features, kept) = migrated?;
        done.features = kept;
        let (mut state, deleted) = StageState::decode(&bytes.batcher)?;
        let join = if is_tier {
            Join::Tier(Box::new(JoinResultReceiver::import(&bytes.join, config)?))
        } else {
            let (join, tasks, kept) = migrate_join(&bytes.join, config)?;
            done.lost_samples = match kept.closes_open {
                true => state.batcher.drop_open(),
                false => state.batcher.migrate(&tasks),
            };
            done.join = kept;
            Join::Here(Box::new(in_memory(|store| {
                Ok(Joiner::import(config.clone(), store, &join)?)
            })?))
        };
        let output = StageOutput {
            features: Arc::new(features),
            state,
            deleted,
            shown: Vec::new(),
        };
        let stage = Self {
            join,
            output,
            time_jump: None,
        };
        Ok((stage, done))
    }

    /// A stage at the positions of `new` that knows nothing: items and users are read from their first record.
    fn anew(config: &JoinConfig, features: FeatureConfig, new: NewStage) -> Result<Self, StageError> {
        let events = new
            .positions
            .iter()
            .filter(|(partition, _)| !partition.stream.is_catalog());
        let positions: Positions = events.collect();
        let partitions: Vec<_> = positions.iter().map(|(partition, _)| partition).collect();
        let start = |store| Ok(Joiner::new(config.clone(), partitions.iter().copied(), store)?);
        let output = StageOutput {
            features: Arc::new(FeatureState::new(features)),
            state: StageState {
                batcher: Batcher::continuing(new.batch_min_samples, new.next_batch, new.next_sample),
                positions,
                event_time: new.event_time,
                rejected: BTreeMap::new(),
                items: CatalogCounts::default(),
                users: CatalogCounts::default(),
            },
            deleted: DeletedItems::default(),
            shown: Vec::new(),
        };
        Ok(Self {
            join: Join::Here(Box::new(in_memory(start)?)),
            output,
            time_jump: None,
        })
    }
}

fn in_memory(
    start: impl Fn(crate::join::AnyStore) -> Result<Joiner<crate::join::AnyStore>, StageError>,
) -> Result<Joiner<crate::join::AnyStore>, StageError> {
    StoreConfig::Memory.start(start, StageError::is_store_failure)
}

#[cfg(test)]
mod tests {
    use ouzel_sample::{PartitionId, Stream};

    use super::*;
    use crate::join::TaskConfig;

    fn new_stage() -> NewStage {
        let partition = |stream| PartitionId::new(stream, 0);
        let positions = [(Stream::Impressions, 5), (Stream::Actions, 7), (Stream::Items, 9)];
        NewStage {
            positions: positions
                .map(|(stream, next)| (partition(stream), next))
                .into_iter()
                .collect(),
            event_time: EventTime(3),
            next_batch: 11,
            next_sample: 400,
            batch_min_samples: 32,
        }
    }

    fn bytes() -> StageBytes {
        let stage = Stage::anew(&JoinConfig::default(), FeatureConfig::default(), new_stage()).unwrap();
        stage.checkpoint().unwrap().bytes
    }

    fn migrate(bytes: &StageBytes, config: &JoinConfig) -> Result<(Stage, StageMigration), StageError> {
        let former = ["click".to_owned()];
        Stage::migrate(bytes, (config, FeatureConfig::default()), &former, new_stage())
    }

    #[test]
    fn the_state_of_another_version_starts_anew_at_the_positions_of_the_events() {
        let mut older = bytes();
        older.join[9] = b'3';
        let (stage, done) = migrate(&older, &JoinConfig::default()).unwrap();
        assert!(done.starts_anew);
        let point = stage.checkpoint().unwrap();
        assert_eq!((point.next_batch, point.event_time), (11, EventTime(3)));
        let read: Vec<_> = point
            .positions
            .iter()
            .map(|(id, next)| (id.stream, next))
            .collect();
        assert_eq!(
            read,
            [(Stream::Impressions, 5), (Stream::Actions, 7)],
            "items are read from the first"
        );
        let (_, done) = migrate(&bytes(), &JoinConfig::default()).unwrap();
        assert_eq!(done, StageMigration::default());
    }

    #[test]
    fn damage_and_a_tier_are_refused() {
        let mut damaged = bytes();
        damaged.join.truncate(12);
        assert!(migrate(&damaged, &JoinConfig::default()).unwrap_err().is_damage());
        let tier = JoinConfig {
            source: JoinSource::Tier,
            ..JoinConfig::default()
        };
        let refused = migrate(&bytes(), &tier).unwrap_err().to_string();
        assert!(refused.contains("join.source = \"events\""), "{refused}");
        let features = Arc::new(FeatureState::new(FeatureConfig::default()));
        let behind = Stage::behind_tier(&tier, features, 32)
            .checkpoint()
            .unwrap()
            .bytes;
        assert_eq!(migrate(&behind, &tier).unwrap().1, StageMigration::default());
        let more = JoinConfig {
            tasks: vec![TaskConfig::new("click", 1), TaskConfig::new("like", 1)],
            ..tier
        };
        let refused = migrate(&behind, &more).unwrap_err().to_string();
        assert!(refused.contains("other tasks"), "{refused}");
    }
}
