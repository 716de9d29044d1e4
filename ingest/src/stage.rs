//! The join stage: decoded records in merged order in, batches out.
//!
//! A pure state machine around the joiner, the feature state and the batcher, and the one writer of all three.
//! Its state between two records is a consistent cut: what was read, what waits for its window, what a user
//! did, which samples are not yet in a batch, and the ledger of those that are.

use std::collections::BTreeMap;
use std::sync::Arc;

use ouzel_sample::{
    Action, Ask, Batch, Batcher, Event, EventTime, FeatureConfig, FeatureState, FeatureStateError, Id,
    Impression, Ledger, PartitionId, Positions, Recorded, Sample, Shown,
};
use serde::{Deserialize, Serialize};

use crate::join::{AnyStore, Captured, Counters, JoinConfig, JoinError, Joiner, Mark, Outcome, StoreConfig};

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
    pub fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Join(JoinError::Store(_)))
    }
}

/// The stage's whole state as bytes, between two records.
#[derive(Clone, Debug)]
pub struct Cut {
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
    /// The join state.
    pub join: Vec<u8>,
    /// The feature state.
    pub features: Vec<u8>,
    /// Open batch, ledger and rejection counts.
    pub batcher: Vec<u8>,
}

/// What the stage keeps besides the joiner and the features.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Rest {
    batcher: Batcher,
    positions: Positions,
    event_time: EventTime,
    /// Rejected records by reason.
    rejected: BTreeMap<String, u64>,
    n_items: u64,
}

/// The state machine.
#[derive(Debug)]
pub struct Stage {
    joiner: Joiner<AnyStore>,
    features: Arc<FeatureState>,
    rest: Rest,
    groups: Vec<Vec<Sample>>,
    /// Slates accepted since the last batch. Not part of a cut: it serves validation alone.
    shown: Vec<Shown>,
}

impl Stage {
    /// A stage that has read nothing. `partitions` are those of impressions and actions, which hold time.
    pub fn new(
        config: JoinConfig,
        partitions: impl IntoIterator<Item = PartitionId>,
        features: Arc<FeatureState>,
        batch_min_samples: usize,
    ) -> Result<Self, StageError> {
        Self::new_in(
            &StoreConfig::Memory,
            &config,
            partitions,
            features,
            batch_min_samples,
        )
    }

    /// As [`Stage::new`], its join state where `store` says.
    pub fn new_in(
        store: &StoreConfig,
        config: &JoinConfig,
        partitions: impl IntoIterator<Item = PartitionId>,
        features: Arc<FeatureState>,
        batch_min_samples: usize,
    ) -> Result<Self, StageError> {
        let partitions: Vec<PartitionId> = partitions.into_iter().collect();
        let start = |store| Ok(Joiner::new(config.clone(), partitions.iter().copied(), store)?);
        Ok(Self {
            joiner: store.start(start, StageError::is_of_the_store)?,
            features,
            rest: Rest {
                batcher: Batcher::new(batch_min_samples),
                positions: Positions::default(),
                event_time: EventTime::MIN,
                rejected: BTreeMap::new(),
                n_items: 0,
            },
            groups: Vec::new(),
            shown: Vec::new(),
        })
    }

    /// The stage as it was at a cut.
    pub fn restore(
        config: JoinConfig,
        features: FeatureConfig,
        join: &[u8],
        feature_bytes: &[u8],
        batcher: &[u8],
    ) -> Result<Self, StageError> {
        Self::restore_in(
            &StoreConfig::Memory,
            &config,
            features,
            join,
            feature_bytes,
            batcher,
        )
    }

    /// As [`Stage::restore`], its join state where `store` says. What was there before is not looked at.
    pub fn restore_in(
        store: &StoreConfig,
        config: &JoinConfig,
        features: FeatureConfig,
        join: &[u8],
        feature_bytes: &[u8],
        batcher: &[u8],
    ) -> Result<Self, StageError> {
        let start = |store| Ok(Joiner::import(config.clone(), store, join)?);
        Ok(Self {
            joiner: store.start(start, StageError::is_of_the_store)?,
            features: Arc::new(FeatureState::load(feature_bytes, features)?),
            rest: postcard::from_bytes(batcher)?,
            groups: Vec::new(),
            shown: Vec::new(),
        })
    }

    /// Takes the next record of the merged log; full batches are appended to `out`.
    ///
    /// A record from before the stage's positions was taken already and changes nothing.
    pub fn take(&mut self, recorded: &Recorded, out: &mut Vec<Batch>) -> Result<Outcome, StageError> {
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
        let features = &self.features;
        let shown = &mut self.shown;
        let captured = |impression: &Impression| capture(features, impression, shown);
        let outcome = self.joiner.step(recorded, captured, &mut self.groups)?;
        match (&recorded.event, &outcome) {
            (Ok(Event::Item(item)), _) => {
                self.rest.n_items += 1;
                features.put_item((**item).clone());
            }
            (Ok(Event::Impression(impression)), Outcome::Accepted) => {
                show(features, impression);
                for (item, task, ts) in self.joiner.take_caught_up() {
                    let (request, user) = (impression.request, impression.user);
                    let action = Action {
                        request,
                        item,
                        user,
                        ts,
                        task,
                        value: None,
                    };
                    features.act(&action, &impression.context);
                }
            }
            (Ok(Event::Action(action)), Outcome::Matched(request)) => {
                features.act(action, request.as_ref().map_or(&[], |request| &request.context));
            }
            // The user did it, though it comes too late for a sample. One that is early waits: the features
            // of its own impression must not contain it.
            (Ok(Event::Action(action)), Outcome::LateAction) => features.act(action, &[]),
            _ => {}
        }
        self.batch(out)?;
        Ok(outcome)
    }

    /// Applies a journaled mark of an idle or active partition.
    pub fn mark(
        &mut self,
        partition: PartitionId,
        mark: Mark,
        out: &mut Vec<Batch>,
    ) -> Result<bool, StageError> {
        let is_applied = self.joiner.mark(partition, mark, &mut self.groups)?;
        self.batch(out)?;
        Ok(is_applied)
    }

    /// The log is over: closes every window and the open batch. For bounded runs only.
    pub fn finish(&mut self, out: &mut Vec<Batch>) -> Result<(), StageError> {
        self.joiner.finish(&mut self.groups)?;
        self.batch(out)?;
        out.extend(self.flush());
        Ok(())
    }

    /// Closes the open batch. Live, only a journaled decision may call this.
    pub fn flush(&mut self) -> Option<Batch> {
        let mut batch = self.rest.batcher.flush()?;
        batch.shown = std::mem::take(&mut self.shown);
        Some(batch)
    }

    /// The whole state.
    ///
    /// # Panics
    /// Never: the types written have no failing representation.
    pub fn cut(&self) -> Result<Cut, StageError> {
        Ok(Cut {
            positions: self.rest.positions.clone(),
            event_time: self.rest.event_time,
            ledger: self.rest.batcher.ledger(),
            next_batch: self.rest.batcher.next_batch(),
            counters: self.joiner.counters().clone(),
            join: self.joiner.export()?,
            features: self.features.dump(),
            batcher: postcard::to_stdvec(&self.rest).expect("the batcher has no type that postcard refuses"),
        })
    }

    /// The feature state, to be read by others.
    #[must_use]
    pub fn features(&self) -> &Arc<FeatureState> {
        &self.features
    }

    /// The join.
    #[must_use]
    pub fn joiner(&self) -> &Joiner<AnyStore> {
        &self.joiner
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
            if let Some(mut batch) = self.rest.batcher.push(group) {
                batch.shown = std::mem::take(&mut self.shown);
                out.push(batch);
            }
        }
        if out.len() > before {
            self.joiner.counters().check().map_err(JoinError::from)?;
        }
        Ok(())
    }
}

/// The features of an impression, before it is counted.
fn capture(features: &FeatureState, impression: &Impression, shown: &mut Vec<Shown>) -> Captured {
    let captured = Captured::from(features.read(&Ask {
        request: impression.request,
        user: impression.user,
        ts: impression.ts,
        context: &impression.context,
        items: &impression.items,
        slate_size: None,
    }));
    // What is revealed at once is predicted by the very step that learns it.
    if impression.revealed.is_none() {
        let (request, candidates) = (Arc::clone(&captured.request), captured.candidates.clone());
        shown.push(Shown { request, candidates });
    }
    captured
}

/// Counts an impression, and the actions revealed with it.
fn show(features: &FeatureState, impression: &Impression) {
    features.show(impression);
    for (item, task) in impression.revealed.iter().flatten() {
        let action = Action {
            request: impression.request,
            item: *item,
            user: impression.user,
            ts: impression.ts,
            task: *task,
            value: None,
        };
        features.act(&action, &impression.context);
    }
}

/// Ids of a folder's histories, hashed: seeds the feature state before the first record.
pub fn seed_histories(
    features: &FeatureState,
    histories: impl IntoIterator<Item = (Id, Vec<Id>)>,
    ts: EventTime,
) {
    for (user, items) in histories {
        features.seed_history(user, &items, ts);
    }
}
