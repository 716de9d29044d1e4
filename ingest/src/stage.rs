//! The join stage: decoded records in merged order in, batches out.
//!
//! A pure state machine around the joiner, the feature state and the batcher, and the only writer of the three. Behind
//! a join tier a [`JoinResultReceiver`] takes the joiner's place; both return [`JoinEffects`], and everything else is
//! the same. Between two records the stage is consistent: a [`StageCheckpoint`] restores it.

mod checkpoint;
mod error;
mod migrate;
mod output;

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::counter;
use ouzel_sample::{
    Batch, Batcher, DecodedRecord, Event, EventTime, FeatureConfig, FeatureState, Id, ItemVectors, JoinEvent,
    Ledger, PartitionId, Positions, ProfileUpdate, UpdateOutcome,
};

use crate::deleted::DeletedItems;
use crate::join::{
    AnyStore, Counters, FeatureSource, JoinConfig, JoinEffects, JoinError, Joiner, Mark, Outcome,
    StoreConfig, TimeJump,
};
use crate::metrics::{DELETED, ITEM_UPDATES};
use crate::tier::JoinResultReceiver;
use checkpoint::StageState;
use output::StageOutput;

pub use checkpoint::{CatalogCounts, StageBytes, StageCheckpoint};
pub use error::StageError;
pub use migrate::{NewStage, StageMigration};
pub use output::seed_histories;

#[derive(Debug)]
enum Join {
    /// From the joiner of this process.
    Here(Box<Joiner<AnyStore>>),
    /// From the processes of a join tier.
    Tier(Box<JoinResultReceiver>),
}

impl Join {
    fn step(
        &mut self,
        record: &DecodedRecord,
        features: &mut dyn FeatureSource,
    ) -> Result<&mut JoinEffects, JoinError> {
        match self {
            Join::Here(joiner) => joiner.step(record, features),
            Join::Tier(receiver) => Ok(receiver.step(record, features)),
        }
    }

    fn counters(&self) -> &Counters {
        match self {
            Join::Here(joiner) => joiner.counters(),
            Join::Tier(receiver) => receiver.counters(),
        }
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Stage {
    join: Join,
    output: StageOutput,
    /// The first event far ahead of its time since the last message about one; in no checkpoint.
    time_jump: Option<TimeJump>,
}

impl Stage {
    /// A stage that has read nothing. `partitions` are those of impressions and actions, which hold event time.
    pub fn new(
        store: &StoreConfig,
        config: &JoinConfig,
        partitions: impl IntoIterator<Item = PartitionId>,
        features: Arc<FeatureState>,
        batch_min_samples: usize,
    ) -> Result<Self, StageError> {
        let partitions: Vec<PartitionId> = partitions.into_iter().collect();
        let start = |store| Ok(Joiner::new(config.clone(), partitions.iter().copied(), store)?);
        let joiner = store.start(start, StageError::is_store_failure)?;
        Ok(Self::start(
            Join::Here(Box::new(joiner)),
            features,
            batch_min_samples,
        ))
    }

    /// A stage behind a join tier that has read nothing.
    pub fn behind_tier(config: &JoinConfig, features: Arc<FeatureState>, batch_min_samples: usize) -> Self {
        let receiver = JoinResultReceiver::new(config);
        Self::start(Join::Tier(Box::new(receiver)), features, batch_min_samples)
    }

    fn start(join: Join, features: Arc<FeatureState>, batch_min_samples: usize) -> Self {
        let output = StageOutput {
            features,
            state: StageState {
                batcher: Batcher::new(batch_min_samples),
                positions: Positions::default(),
                event_time: EventTime::MIN,
                rejected: BTreeMap::new(),
                items: CatalogCounts::default(),
                users: CatalogCounts::default(),
            },
            deleted: DeletedItems::default(),
            shown: Vec::new(),
        };
        Self {
            join,
            output,
            time_jump: None,
        }
    }

    /// The stage as it was at a checkpoint. What `store` held before is ignored.
    pub fn restore(
        store: &StoreConfig,
        config: &JoinConfig,
        features: FeatureConfig,
        bytes: &StageBytes,
    ) -> Result<Self, StageError> {
        let join = if JoinResultReceiver::is_exported(&bytes.join) {
            let receiver = JoinResultReceiver::import(&bytes.join, config)?;
            Join::Tier(Box::new(receiver))
        } else {
            let start = |store| Ok(Joiner::import(config.clone(), store, &bytes.join)?);
            Join::Here(Box::new(store.start(start, StageError::is_store_failure)?))
        };
        let (state, deleted) = StageState::decode(&bytes.batcher)?;
        let output = StageOutput {
            features: Arc::new(FeatureState::load(&bytes.features, features)?),
            state,
            deleted,
            shown: Vec::new(),
        };
        Ok(Self {
            join,
            output,
            time_jump: None,
        })
    }

    /// Takes the next record of the merged log; full batches are appended to `out`.
    ///
    /// A record before the stage's positions was taken already and changes nothing.
    pub fn take(&mut self, record: &DecodedRecord, out: &mut Vec<Batch>) -> Result<Outcome, StageError> {
        let state = &mut self.output.state;
        if !state.positions.advance(record.position) {
            return Ok(Outcome::Passed);
        }
        match &record.event {
            // An item may be told now and be shown in an old log: it is no present to score in.
            Ok(event) if !record.position.partition.stream.is_catalog() => {
                state.event_time = state.event_time.max(event.ts());
            }
            Ok(_) => {}
            Err(reject) => {
                let reason = reject.reason.name().to_owned();
                *state.rejected.entry(reason).or_default() += 1;
            }
        }
        let impression = match &record.event {
            Ok(Event::Item(_) | Event::ItemUpdate(_) | Event::Deletion(_)) => {
                self.take_item(record);
                return Ok(Outcome::Passed);
            }
            Ok(Event::Profile(update)) => {
                self.take_profile(update);
                return Ok(Outcome::Passed);
            }
            Ok(Event::Impression(impression)) => Some(impression),
            Ok(Event::JoinRecord(report)) => match &report.event {
                JoinEvent::Shown { impression, .. } => Some(impression),
                _ => None,
            },
            _ => None,
        };
        let effects = self.join.step(record, &mut self.output)?;
        let (outcome, n_batches) = (effects.outcome, out.len());
        if let Some(ahead_ms) = effects.ahead_ms {
            let position = record.position;
            self.time_jump.get_or_insert(TimeJump { position, ahead_ms });
        }
        self.output.apply(effects, impression, out);
        self.check_after(n_batches, out)?;
        Ok(outcome)
    }

    fn take_item(&mut self, record: &DecodedRecord) {
        let StageOutput {
            features,
            state,
            deleted,
            ..
        } = &mut self.output;
        let counts = &mut state.items;
        match &record.event {
            Ok(Event::Item(item)) => {
                let is_stored = deleted.restore(item.id, item.ts) && features.put_item((**item).clone());
                *(if is_stored {
                    &mut counts.stored
                } else {
                    &mut counts.outdated
                }) += 1;
            }
            Ok(Event::ItemUpdate(update)) => {
                let outcome = match deleted.restore(update.id, update.ts) {
                    true => features.update_item((**update).clone()),
                    false => UpdateOutcome::Stale,
                };
                let (name, count) = match outcome {
                    UpdateOutcome::Merged => ("merged", &mut counts.stored),
                    UpdateOutcome::New => ("new", &mut counts.stored),
                    UpdateOutcome::Stale => ("stale", &mut counts.outdated),
                };
                *count += 1;
                counter!(ITEM_UPDATES, "outcome" => name).increment(1);
            }
            Ok(Event::Deletion(deletion)) if features.delete_item(deletion) => {
                deleted.delete(deletion.item, deletion.ts);
                counter!(DELETED).increment(1);
                counts.deleted += 1;
            }
            Ok(Event::Deletion(_)) => counts.unknown_deletions += 1,
            _ => {}
        }
    }

    fn take_profile(&mut self, update: &ProfileUpdate) {
        let is_stored = self.output.features.update_profile(update.clone());
        let counts = &mut self.output.state.users;
        let count = match (update.is_deletion, is_stored) {
            (false, true) => &mut counts.stored,
            (false, false) => &mut counts.outdated,
            (true, true) => &mut counts.deleted,
            (true, false) => &mut counts.unknown_deletions,
        };
        *count += 1;
    }

    /// Applies a recorded mark of an idle or active partition. Behind a tier no partition of this process holds event
    /// time, and a mark changes nothing.
    pub fn mark(
        &mut self,
        partition: PartitionId,
        mark: Mark,
        out: &mut Vec<Batch>,
    ) -> Result<(), StageError> {
        if let Join::Here(joiner) = &mut self.join {
            let n_batches = out.len();
            self.output.apply(joiner.mark(partition, mark)?, None, out);
            self.check_after(n_batches, out)?;
        }
        Ok(())
    }

    /// The log is over: closes every window and the open batch. For bounded runs only. Outcomes that a tier has not
    /// reported stay unknown.
    pub fn finish(&mut self, out: &mut Vec<Batch>) -> Result<(), StageError> {
        if let Join::Here(joiner) = &mut self.join {
            let n_batches = out.len();
            self.output.apply(joiner.finish()?, None, out);
            self.check_after(n_batches, out)?;
        }
        out.extend(self.flush());
        Ok(())
    }

    /// Closes the open batch. Before the end of the log only a recorded decision may call this.
    pub fn flush(&mut self) -> Option<Batch> {
        let mut batch = self.output.flush()?;
        batch.read = self.counters().read_totals();
        Some(batch)
    }

    /// The whole state.
    pub fn checkpoint(&self) -> Result<StageCheckpoint, StageError> {
        let state = &self.output.state;
        Ok(StageCheckpoint {
            positions: state.positions.clone(),
            event_time: state.event_time,
            ledger: state.batcher.ledger(),
            next_batch: state.batcher.next_batch(),
            counters: self.counters().clone(),
            bytes: StageBytes {
                join: match &self.join {
                    Join::Here(joiner) => joiner.export()?,
                    Join::Tier(receiver) => receiver.export(),
                },
                features: self.output.features.dump(),
                batcher: state.encode(&self.output.deleted),
            },
        })
    }

    /// Uses content vectors for an item from here on, unless it was deleted meanwhile.
    pub fn use_vectors(&self, item: Id, vectors: ItemVectors) {
        if !self.output.deleted.has(item) {
            self.output.features.vectors().put(item, vectors);
        }
    }

    /// The first event far ahead of its time since the last call, for a message.
    pub fn take_time_jump(&mut self) -> Option<TimeJump> {
        self.time_jump.take()
    }

    /// The feature state, to be read by others.
    pub fn features(&self) -> &Arc<FeatureState> {
        &self.output.features
    }

    /// The store of the join state. `None` behind a join tier.
    pub fn store(&self) -> Option<&AnyStore> {
        match &self.join {
            Join::Here(joiner) => Some(joiner.store()),
            Join::Tier(_) => None,
        }
    }

    /// The outcomes so far.
    pub fn counters(&self) -> &Counters {
        self.join.counters()
    }

    /// Item events by what became of them.
    pub fn item_counts(&self) -> CatalogCounts {
        self.output.state.items
    }

    /// Events of users' profiles by what became of them.
    pub fn user_counts(&self) -> CatalogCounts {
        self.output.state.users
    }

    /// The watermark: no on-time event still to come is older.
    pub fn watermark(&self) -> EventTime {
        match &self.join {
            Join::Here(joiner) => joiner.clock().watermark(),
            Join::Tier(receiver) => receiver.watermark(),
        }
    }

    /// The newest event time of each partition that the watermark waits for, in order of partition; none behind a tier,
    /// where the joining processes have them.
    pub fn partition_times(&self) -> Vec<(PartitionId, EventTime)> {
        let Join::Here(joiner) = &self.join else {
            return Vec::new();
        };
        let partitions = joiner.clock().partitions();
        let active = partitions.filter(|(_, _, is_idle)| !is_idle);
        active.map(|(id, newest, _)| (id, newest)).collect()
    }

    /// Counts the state again and compares it with the counters.
    pub fn audit(&self) -> Result<(), StageError> {
        match &self.join {
            Join::Here(joiner) => joiner.audit()?,
            Join::Tier(receiver) => receiver.audit()?,
        }
        Ok(())
    }

    /// Next offset to read of each partition.
    pub fn positions(&self) -> &Positions {
        &self.output.state.positions
    }

    /// Continues `partition` at `next`: the records before it are lost, and the operator has accepted that.
    pub fn skip_lost(&mut self, partition: PartitionId, next: i64) {
        self.output.state.positions.set(partition, next);
    }

    /// The hash of every sample so far.
    pub fn ledger(&self) -> Ledger {
        self.output.state.batcher.ledger()
    }

    /// Number of samples in the open batch.
    pub fn n_open(&self) -> usize {
        self.output.state.batcher.n_open()
    }

    /// Newest event time seen.
    pub fn event_time(&self) -> EventTime {
        self.output.state.event_time
    }

    /// The identities must hold after each batch. Gives the new batches their totals.
    fn check_after(&self, n_batches: usize, out: &mut [Batch]) -> Result<(), StageError> {
        if out.len() > n_batches {
            self.counters().check().map_err(JoinError::from)?;
            let read = self.counters().read_totals();
            for batch in &mut out[n_batches..] {
                batch.read = read;
            }
        }
        Ok(())
    }
}
