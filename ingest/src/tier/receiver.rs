//! The learner's side of the join tier: join records in, the effects of a join out.
//!
//! Takes the joiner's place in a [`Stage`](crate::Stage). Join records arrive at least once; the ledger drops what was
//! reported before. Within one partition of the samples topic the impressions of one source arrive in order of offset,
//! and a process that repeats them leaves none out. Closed impressions keep no state.

mod pending;

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::counter;
use ouzel_sample::{DecodedRecord, Event, EventTime, JoinEvent, JoinRecord, TaskId};
use serde::{Deserialize, Serialize};

use crate::join::{
    CountedAction, Counters, FeatureSource, JoinConfig, JoinEffects, JoinError, LabelPolicy, Outcome,
    TaskConfig,
};
use crate::metrics::{TIER_ABANDONED, TIER_STALE};
use crate::tier::ledger::SourceLedger;
use pending::{PendingImpression, Reported};

/// First bytes of a state; the digit is the version of the layout.
const MAGIC: &[u8; 10] = b"ouzeltier5";

/// The receiver.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct JoinResultReceiver {
    counters: Counters,
    /// By partition of the samples topic, and source partition.
    ledgers: BTreeMap<(i32, i32), SourceLedger>,
    /// By source partition, and offset of the impression.
    pending: BTreeMap<(i32, i64), PendingImpression>,
    /// A window was closed, so that there are negatives.
    is_started: bool,
    /// The tasks, of whose values those outside their cap are counted.
    #[serde(skip)]
    tasks: Vec<TaskConfig>,
    /// The effects of the last record; reused to avoid allocation.
    #[serde(skip)]
    effects: JoinEffects,
}

impl JoinResultReceiver {
    /// A receiver that has read nothing.
    pub fn new(config: &JoinConfig) -> Self {
        Self {
            counters: Counters::new(config.n_tasks()),
            tasks: config.tasks.clone(),
            // The other policies emit negatives as soon as positives.
            is_started: config.label_policy != LabelPolicy::Eager,
            ..Self::default()
        }
    }

    /// The whole state as bytes.
    pub fn export(&self) -> Vec<u8> {
        postcard::to_extend(self, MAGIC.to_vec()).expect("the state has no type that postcard refuses")
    }

    /// True for the bytes of an exported receiver of any version.
    pub(crate) fn is_exported(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC[..MAGIC.len() - 1])
    }

    /// The receiver that was exported, for the tasks of `config`.
    pub(crate) fn import(bytes: &[u8], config: &JoinConfig) -> Result<Self, JoinError> {
        let n_tasks = config.n_tasks();
        let decode = |detail: String| JoinError::Decode(detail);
        let body = bytes.strip_prefix(MAGIC).ok_or_else(|| {
            let what = match Self::is_exported(bytes) {
                true => "another version of ouzel wrote the tier's state: continue with that version",
                false => "the first bytes are not those of a tier's state",
            };
            decode(what.to_owned())
        })?;
        let mut receiver: Self = postcard::from_bytes(body).map_err(|error| decode(error.to_string()))?;
        if receiver.counters.tasks.len() != n_tasks {
            let n = receiver.counters.tasks.len();
            return Err(decode(format!("counters of {n} tasks, {n_tasks} are configured")));
        }
        receiver.tasks.clone_from(&config.tasks);
        receiver.audit()?;
        Ok(receiver)
    }

    /// Checks the counters against the pending impressions.
    pub(crate) fn audit(&self) -> Result<(), JoinError> {
        self.counters.check()?;
        let n_items: usize = self.pending.values().map(PendingImpression::n_items).sum();
        if n_items as u64 != self.counters.pending_items {
            let counted = self.counters.pending_items;
            return Err(JoinError::Decode(format!(
                "{n_items} items are pending, {counted} were counted"
            )));
        }
        Ok(())
    }

    /// The outcomes so far, each counted once.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Event time by which every window is closed, over all sources seen.
    pub fn watermark(&self) -> EventTime {
        let mut sources: BTreeMap<i32, EventTime> = BTreeMap::new();
        for ((_, source), ledger) in &self.ledgers {
            let newest = sources.entry(*source).or_insert(EventTime::MIN);
            *newest = ledger.watermark().max(*newest);
        }
        sources.into_values().min().unwrap_or(EventTime::MIN)
    }

    /// Takes the next record. Everything but a join record passes.
    pub(crate) fn step(
        &mut self,
        decoded: &DecodedRecord,
        features: &mut dyn FeatureSource,
    ) -> &mut JoinEffects {
        self.effects.clear();
        if let Ok(Event::JoinRecord(record)) = &decoded.event {
            self.receive(decoded.position.partition.partition, record, features);
        }
        &mut self.effects
    }

    fn receive(&mut self, topic_partition: i32, record: &JoinRecord, features: &mut dyn FeatureSource) {
        let source = record.at.partition.partition;
        let ledger_key = (topic_partition, source);
        self.advance_watermark(ledger_key, record.watermark);
        let key = (source, record.at.offset);
        match &record.event {
            JoinEvent::Shown {
                impression,
                late,
                deadline,
            } => {
                let ledger = self.ledgers.entry(ledger_key).or_default();
                if self.pending.contains_key(&key) || !ledger.enter_impression(record.at.offset) {
                    return count_stale("shown");
                }
                ledger.expect(record.at.offset, *deadline);
                let captured = features.capture(impression);
                let holds_positives = !self.is_started;
                let pending =
                    PendingImpression::new(captured, topic_partition, *late, *deadline, holds_positives);
                let n_items = pending.n_items() as u64;
                self.counters.add_impression(n_items, 0, *late);
                self.counters.pending_items += n_items;
                self.pending.insert(key, pending);
                self.effects.outcome = Outcome::Accepted;
            }
            JoinEvent::Late { n_items } => {
                // Two owners of the source may differ on an impression that came very late: then this ends it.
                if self.pending.contains_key(&key) {
                    return self.end(key, false);
                }
                let ledger = self.ledgers.entry(ledger_key).or_default();
                if !ledger.enter_impression(record.at.offset) {
                    return count_stale("late");
                }
                self.counters.add_impression(*n_items, 0, u8::MAX);
            }
            JoinEvent::Outcome { is_closed, .. } => {
                self.receive_outcome(ledger_key, record);
                if *is_closed && self.pending.contains_key(&key) {
                    self.is_started = true;
                    self.end(key, true);
                }
            }
            JoinEvent::LateAction {
                action,
                part,
                resolved_before,
            } => {
                let ledger = self.ledgers.entry(ledger_key).or_default();
                let is_new = ledger.enter_action(record.at.offset, *part);
                ledger.resolve_actions(*resolved_before);
                if !is_new {
                    return count_stale("late_action");
                }
                self.counters.actions += 1;
                match action.request {
                    Some(_) => self.counters.late_actions += 1,
                    None => self.counters.unattributed += 1,
                }
                self.effects.actions.push(CountedAction {
                    action: *action,
                    offset: record.at.offset,
                    impression: None,
                    is_late: true,
                });
            }
        }
    }

    /// Takes an outcome: the actions and samples in it that are new.
    fn receive_outcome(&mut self, ledger_key: (i32, i32), record: &JoinRecord) {
        let JoinEvent::Outcome {
            actions,
            samples,
            is_closed,
            resolved_before,
        } = &record.event
        else {
            return;
        };
        let Some(pending) = self.pending.get_mut(&(ledger_key.1, record.at.offset)) else {
            return count_stale("outcome");
        };
        let mut group = Vec::with_capacity(samples.len());
        for labeled in samples {
            match pending.enter_sample(record.at, labeled) {
                Reported::New(sample) => group.push(sample),
                Reported::Held => {}
                Reported::Before => count_stale("sample"),
            }
        }
        let ledger = self.ledgers.entry(ledger_key).or_default();
        for attributed in actions {
            if let Some(action) = pending.enter_action(attributed, ledger, &mut self.counters) {
                let scaled = action.value.zip(self.tasks.get(usize::from(action.task)));
                let scaled = scaled.and_then(|(value, task)| task.scaled(value));
                if scaled.is_some_and(|(_, is_clamped)| is_clamped) {
                    self.counters.tasks[usize::from(action.task)].values_clamped += 1;
                }
                self.effects.actions.push(CountedAction {
                    action,
                    offset: attributed.offset,
                    impression: Some((record.at, Arc::clone(&pending.request))),
                    is_late: false,
                });
            }
        }
        ledger.resolve_actions(*resolved_before);
        if self.effects.actions.len() < actions.len() {
            count_stale("action");
        }
        self.counters.add_samples(&group);
        if *is_closed && pending.holds_positives {
            group = pending.add_held(record.at, group);
        }
        if !group.is_empty() {
            self.effects.groups.push(group);
        }
    }

    /// Ends an impression. A task without a positive is negative if its window closed, and late if its outcome will
    /// never be reported.
    fn end(&mut self, key: (i32, i64), is_closed: bool) {
        let Some(pending) = self.pending.remove(&key) else {
            return;
        };
        if let Some(ledger) = self.ledgers.get_mut(&(pending.topic_partition, key.0)) {
            ledger.close(key.1, pending.deadline);
        }
        let n_tasks = TaskId::try_from(self.counters.tasks.len()).unwrap_or(TaskId::MAX);
        for undecided in pending.undecided() {
            for task in (0..n_tasks).filter(|task| undecided & (1 << task) != 0) {
                if is_closed {
                    self.counters.decide(task, false);
                } else {
                    let counters = &mut self.counters.tasks[usize::from(task)];
                    counters.pending = counters.pending.wrapping_sub(1);
                    counters.late += 1;
                }
            }
        }
        self.counters.pending_items -= pending.n_items() as u64;
    }

    /// Notes the watermark of a source, and abandons impressions whose end should have been reported by then.
    fn advance_watermark(&mut self, ledger_key: (i32, i32), watermark: EventTime) {
        let ledger = self.ledgers.entry(ledger_key).or_default();
        ledger.advance_watermark(watermark);
        while let Some(offset) = self.ledgers.entry(ledger_key).or_default().take_overdue() {
            let key = (ledger_key.1, offset);
            let n_items = self.pending.get(&key).map_or(0, PendingImpression::n_items);
            counter!(TIER_ABANDONED).increment(n_items as u64);
            self.end(key, false);
        }
    }
}

/// Counts a report that repeats an earlier one.
fn count_stale(what: &'static str) {
    counter!(TIER_STALE, "what" => what).increment(1);
}
