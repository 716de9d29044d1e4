//! The join stage: decoded records in merged order in, batches out.
//!
//! A pure state machine around the joiner, the feature state and the batcher, and the one writer of all three.
//! Behind a join tier the joiner's place is taken by [`JoinResultReceiver`], which hear what the tier has joined; all else is
//! the same.
//! Its state between two records is a consistent cut: what was read, what waits for its window, what a user
//! did, which samples are not yet in a batch, and the ledger of those that are.

mod features;

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::counter;
use ouzel_sample::{
    Action, Batch, Batcher, DecodedRecord, Event, EventTime, FeatureConfig, FeatureState, FeatureStateError,
    Id, Impression, ItemVectors, JoinEvent, JoinRecord, Ledger, PartitionId, Positions, Sample, ShownSlate,
};
use serde::{Deserialize, Serialize};

use crate::deleted::Deleted;
use crate::join::{AnyStore, Counters, JoinConfig, JoinError, Joiner, Mark, Outcome, StoreConfig};
use crate::metrics::DELETED;
use crate::tier::{JoinResultReceiver, ReceiveEffect};
use features::{capture, complete, show};

pub use features::seed_histories;

/// A failure of the stage. None of them is about a single record: those are counted and passed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The join.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The features of a cut.
    #[error(transparent)]
    Features(#[from] FeatureStateError),
    /// The rest of a cut.
    #[error("cannot read the batcher of a cut: {0}")]
    Decode(#[from] postcard::Error),
}

impl StageError {
    /// True when the join store failed: the state is undefined, and a cut restores it.
    #[must_use]
    pub fn is_store_failure(&self) -> bool {
        matches!(self, Self::Join(JoinError::Store(_)))
    }
}

/// The stage's whole state as bytes, between two records.
#[derive(Clone, Debug)]
pub struct StageCheckpoint {
    /// Next offset to read of each partition.
    pub positions: Positions,
    /// Newest event time seen.
    pub event_time: EventTime,
    /// The hash of every sample so far.
    pub ledger: Ledger,
    /// The number of the next batch.
    pub next_batch: u64,
    /// Outcome counters.
    pub counters: Counters,
    /// The state that [`Stage::restore`] reads.
    pub bytes: StageBytes,
}

/// The state of a stage in bytes, one part for each file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageBytes {
    /// The join, or what the tier has reported.
    pub join: Vec<u8>,
    /// Histories, counters and items.
    pub features: Vec<u8>,
    /// Open batch, positions, ledger, rejection counts and deleted items.
    pub batcher: Vec<u8>,
}

/// What the stage keeps besides the joiner and the features.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StageState {
    batcher: Batcher,
    positions: Positions,
    event_time: EventTime,
    /// Rejected records by reason.
    rejected: BTreeMap<String, u64>,
    n_items: u64,
}

/// What tells of outcomes.
#[derive(Debug)]
enum Join {
    /// This process joins itself.
    Here(Box<Joiner<AnyStore>>),
    /// A tier of others does.
    Tier(Box<JoinResultReceiver>),
}

/// The state machine.
#[derive(Debug)]
pub struct Stage {
    join: Join,
    features: Arc<FeatureState>,
    rest: StageState,
    deleted: Deleted,
    groups: Vec<Vec<Sample>>,
    /// JoinResultReceiver accepted since the last batch. Not part of a cut: it serves validation alone.
    shown: Vec<ShownSlate>,
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
        Ok(Self::of(
            Join::Here(Box::new(joiner)),
            features,
            batch_min_samples,
        ))
    }

    /// A stage that has read nothing, behind a join tier.
    #[must_use]
    pub fn behind_tier(config: &JoinConfig, features: Arc<FeatureState>, batch_min_samples: usize) -> Self {
        Self::of(
            Join::Tier(Box::new(JoinResultReceiver::new(config))),
            features,
            batch_min_samples,
        )
    }

    fn of(join: Join, features: Arc<FeatureState>, batch_min_samples: usize) -> Self {
        Self {
            join,
            features,
            rest: StageState {
                batcher: Batcher::new(batch_min_samples),
                positions: Positions::default(),
                event_time: EventTime::MIN,
                rejected: BTreeMap::new(),
                n_items: 0,
            },
            deleted: Deleted::default(),
            groups: Vec::new(),
            shown: Vec::new(),
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
            Join::Tier(Box::new(JoinResultReceiver::import(
                &bytes.join,
                config.n_tasks(),
            )?))
        } else {
            let start = |store| Ok(Joiner::import(config.clone(), store, &bytes.join)?);
            Join::Here(Box::new(store.start(start, StageError::is_store_failure)?))
        };
        let (rest, deleted) = postcard::take_from_bytes(&bytes.batcher)?;
        let deleted = match deleted {
            [] => Deleted::default(),
            deleted => postcard::from_bytes(deleted)?,
        };
        Ok(Self {
            join,
            features: Arc::new(FeatureState::load(&bytes.features, features)?),
            rest,
            deleted,
            groups: Vec::new(),
            shown: Vec::new(),
        })
    }

    /// Takes the next record of the merged log; full batches are appended to `out`.
    ///
    /// A record from before the stage's positions was taken already and changes nothing.
    pub fn take(&mut self, recorded: &DecodedRecord, out: &mut Vec<Batch>) -> Result<Outcome, StageError> {
        if !self.rest.positions.advance(recorded.position) {
            return Ok(Outcome::Passed);
        }
        match &recorded.event {
            Ok(event) => self.rest.event_time = self.rest.event_time.max(event.ts()),
            Err(reject) => {
                *self
                    .rest
                    .rejected
                    .entry(reject.reason.name().to_owned())
                    .or_default() += 1;
            }
        }
        let outcome = match (&recorded.event, &mut self.join) {
            (Ok(Event::Item(item)), _) => {
                self.rest.n_items += 1;
                if self.deleted.restore(item.id, item.ts) {
                    self.features.put_item((**item).clone());
                }
                Outcome::Passed
            }
            (Ok(Event::Deletion(deletion)), _) => {
                self.rest.n_items += 1;
                if self.features.delete_item(deletion) {
                    self.deleted.delete(deletion.item, deletion.ts);
                    counter!(DELETED).increment(1);
                }
                Outcome::Passed
            }
            (Ok(Event::JoinRecord(told)), Join::Tier(_)) => {
                self.hear(recorded.position.partition.partition, told);
                Outcome::Passed
            }
            (_, Join::Here(_)) => self.join(recorded)?,
            (_, Join::Tier(_)) => Outcome::Passed,
        };
        self.batch(out)?;
        Ok(outcome)
    }

    /// Joins an impression or an action.
    fn join(&mut self, recorded: &DecodedRecord) -> Result<Outcome, StageError> {
        let Join::Here(joiner) = &mut self.join else {
            return Ok(Outcome::Passed);
        };
        let features = &self.features;
        let shown = &mut self.shown;
        let captured = |impression: &Impression| capture(features, impression, shown);
        let outcome = joiner.step(recorded, captured, &mut self.groups)?;
        match (&recorded.event, &outcome) {
            (Ok(Event::Impression(impression)), Outcome::Accepted) => {
                show(features, impression);
                for resolved in joiner.take_resolved() {
                    let action = Action {
                        request: impression.request,
                        item: resolved.item,
                        user: impression.user,
                        ts: resolved.ts,
                        task: resolved.task,
                        value: None,
                    };
                    let context = if resolved.is_late {
                        &[][..]
                    } else {
                        &impression.context
                    };
                    features.add_action(&action, context);
                }
            }
            (Ok(Event::Action(action)), Outcome::Matched(request)) => {
                features.add_action(action, request.as_ref().map_or(&[], |request| &request.context));
            }
            // The user did it, though it comes too late for a sample. One that is early waits: the features
            // of its own impression must not contain it.
            (Ok(Event::Action(action)), Outcome::LateAction) => features.add_action(action, &[]),
            _ => {}
        }
        Ok(outcome)
    }

    /// Takes in what partition `from` of the tier's topic tells.
    fn hear(&mut self, from: i32, told: &JoinRecord) {
        let Join::Tier(slates) = &mut self.join else {
            return;
        };
        let features = &self.features;
        let shown = &mut self.shown;
        let captured = |impression: &Impression| capture(features, impression, shown);
        let heard = slates.hear(from, told, captured, &mut self.groups);
        match (heard, &told.event) {
            (ReceiveEffect::Shown, JoinEvent::Shown { impression, .. }) => show(features, impression),
            (ReceiveEffect::AttributedAction(actions, request), _) => {
                let context = request.as_ref().map_or(&[][..], |request| &request.context);
                for action in &actions {
                    features.add_action(action, context);
                }
            }
            _ => {}
        }
    }

    /// Applies a journaled mark of an idle or active partition.
    pub fn mark(
        &mut self,
        partition: PartitionId,
        mark: Mark,
        out: &mut Vec<Batch>,
    ) -> Result<bool, StageError> {
        // Behind a tier no partition of this process holds time.
        let Join::Here(joiner) = &mut self.join else {
            return Ok(false);
        };
        let is_applied = joiner.mark(partition, mark, &mut self.groups)?;
        self.batch(out)?;
        Ok(is_applied)
    }

    /// The log is over: closes every window and the open batch. For bounded runs only. What a tier has not told
    /// stays unknown.
    pub fn finish(&mut self, out: &mut Vec<Batch>) -> Result<(), StageError> {
        if let Join::Here(joiner) = &mut self.join {
            joiner.finish(&mut self.groups)?;
        }
        self.batch(out)?;
        out.extend(self.flush());
        Ok(())
    }

    /// Closes the open batch. Live, only a journaled decision may call this.
    pub fn flush(&mut self) -> Option<Batch> {
        let batch = self.rest.batcher.flush()?;
        Some(complete(
            batch,
            &self.features,
            &mut self.shown,
            &mut self.deleted,
        ))
    }

    /// The whole state.
    ///
    /// # Panics
    /// Never: the types written have no failing representation.
    pub fn checkpoint(&self) -> Result<StageCheckpoint, StageError> {
        Ok(StageCheckpoint {
            positions: self.rest.positions.clone(),
            event_time: self.rest.event_time,
            ledger: self.rest.batcher.ledger(),
            next_batch: self.rest.batcher.next_batch(),
            counters: self.counters().clone(),
            bytes: StageBytes {
                join: match &self.join {
                    Join::Here(joiner) => joiner.export()?,
                    Join::Tier(receiver) => receiver.export(),
                },
                features: self.features.dump(),
                batcher: self.dump_rest(),
            },
        })
    }

    /// The batcher's state, with the deleted items behind it where there ever was one.
    fn dump_rest(&self) -> Vec<u8> {
        let invariant = "the batcher has no type that postcard refuses";
        let mut bytes = postcard::to_stdvec(&self.rest).expect(invariant);
        if !self.deleted.is_untouched() {
            bytes.extend(postcard::to_stdvec(&self.deleted).expect(invariant));
        }
        bytes
    }

    /// Gives an item what was encoded of its contents, unless it was deleted meanwhile.
    pub fn use_vectors(&self, item: Id, vectors: ItemVectors) {
        if !self.deleted.has(item) {
            self.features.vectors().put(item, vectors);
        }
    }

    /// The feature state, to be read by others.
    #[must_use]
    pub fn features(&self) -> &Arc<FeatureState> {
        &self.features
    }

    /// Where the join state is; nowhere behind a join tier.
    #[must_use]
    pub fn store(&self) -> Option<&AnyStore> {
        match &self.join {
            Join::Here(joiner) => Some(joiner.store()),
            Join::Tier(_) => None,
        }
    }

    /// The outcomes so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        match &self.join {
            Join::Here(joiner) => joiner.counters(),
            Join::Tier(slates) => slates.counters(),
        }
    }

    /// Event time that no on-time event can be behind.
    #[must_use]
    pub fn watermark(&self) -> EventTime {
        match &self.join {
            Join::Here(joiner) => joiner.clock().watermark(),
            Join::Tier(slates) => slates.watermark(),
        }
    }

    /// Counts the state again and compares it with the counters.
    pub fn audit(&self) -> Result<(), StageError> {
        match &self.join {
            Join::Here(joiner) => joiner.audit()?,
            Join::Tier(slates) => slates.audit()?,
        }
        Ok(())
    }

    /// Next offset to read of each partition.
    #[must_use]
    pub fn positions(&self) -> &Positions {
        &self.rest.positions
    }

    /// The hash of every sample so far.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.rest.batcher.ledger()
    }

    /// Samples waiting in the open batch.
    #[must_use]
    pub fn n_open(&self) -> usize {
        self.rest.batcher.n_open()
    }

    /// Rejected records by reason.
    #[must_use]
    pub fn rejected(&self) -> &BTreeMap<String, u64> {
        &self.rest.rejected
    }

    /// Item records taken.
    #[must_use]
    pub fn n_items(&self) -> u64 {
        self.rest.n_items
    }

    /// Newest event time seen.
    #[must_use]
    pub fn event_time(&self) -> EventTime {
        self.rest.event_time
    }

    /// Groups into batches; after each batch the identities must hold.
    fn batch(&mut self, out: &mut Vec<Batch>) -> Result<(), StageError> {
        let before = out.len();
        for group in self.groups.drain(..) {
            if let Some(batch) = self.rest.batcher.push(group) {
                out.push(complete(
                    batch,
                    &self.features,
                    &mut self.shown,
                    &mut self.deleted,
                ));
            }
        }
        if out.len() > before {
            self.counters().check().map_err(JoinError::from)?;
        }
        Ok(())
    }
}
