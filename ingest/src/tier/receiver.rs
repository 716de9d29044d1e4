//! The learner's side of the join tier: impressions that were told, and what is still to be told of them.
//!
//! Whatever is told twice is dropped, by the source record it is about. Impressions: within one partition of the
//! topic, those of one unit come in the order of their offsets, and whoever repeats them repeats them in that
//! order, leaving none out; so an offset below the newest one was heard before. Outcomes: by item, task and whether
//! it is the first thing said of them or what follows it. Actions: by offset, which of those that may come again
//! are kept, for the two that run a unit one after the other may have read an action before its impression and
//! after it, and tell of it in another order. Of an impression that is over nothing is kept at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use metrics::counter;
use ouzel_sample::{
    Action, AttributedAction, Candidate, EventTime, Impression, JoinEvent, JoinRecord, LabeledItem, Labels,
    Request, Sample, SampleKind, TaskId,
};
use serde::{Deserialize, Serialize};

use crate::join::{Captured, Counters, JoinConfig, JoinError, LabelPolicy};
use crate::metrics::{TIER_ABANDONED, TIER_STALE};

/// First bytes of a state; the digit is the version of the layout.
const MAGIC: &[u8; 10] = b"ouzeltier2";

/// The state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JoinResultReceiver {
    counters: Counters,
    /// By partition of the topic, and unit.
    lanes: BTreeMap<(i32, i32), Lane>,
    /// By unit and offset of the impression.
    open: BTreeMap<(i32, i64), Slate>,
    /// A window was closed, so that negatives can have been told.
    is_started: bool,
}

/// What one partition of the topic said of one unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Lane {
    /// One past the newest impression told.
    shown: i64,
    /// What was told of the unit's actions.
    actions: Actions,
    /// The unit's watermark.
    now: EventTime,
    /// When which impression will be over.
    until: BTreeSet<(EventTime, i64)>,
}

/// Offsets of actions that were told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Actions {
    /// All before it count as told.
    settled: i64,
    /// Those from there on.
    told: BTreeSet<i64>,
}

impl Actions {
    /// True for an action that was not told yet, which it is from now on.
    fn is_new(&mut self, offset: i64) -> bool {
        offset >= self.settled && self.told.insert(offset)
    }

    /// Before `settled` nothing new will be told.
    fn settle(&mut self, settled: i64) {
        if settled > self.settled {
            self.settled = settled;
            self.told = self.told.split_off(&settled);
        }
    }
}

/// An impression of which something is still to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Slate {
    request: Arc<Request>,
    items: Vec<Shown>,
    until: EventTime,
    /// The partition of the topic.
    lane: i32,
    /// Tasks that nothing will be told of, one bit each.
    late: u8,
    /// Its certain positives wait for its end: it was shown before any window was closed, and a model of
    /// positives alone would predict nothing else.
    is_held: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Shown {
    candidate: Arc<Candidate>,
    /// Tasks of which a first sample came, and one that follows it, one bit each.
    first: u8,
    second: u8,
    /// Tasks whose action came in time.
    positive: u8,
    /// Tasks whose positive is held back.
    held: u8,
}

/// What becomes of a sample that is new.
enum Sampled {
    /// It is one.
    New(Sample),
    /// It waits for the end of its impression.
    Held,
}

/// What to do about something told.
#[derive(Debug)]
pub(crate) enum ReceiveEffect {
    /// Nothing.
    Nothing,
    /// A new impression: count it.
    Shown,
    /// Actions that are new, with the request they belong to.
    AttributedAction(Vec<Action>, Option<Arc<Request>>),
}

impl JoinResultReceiver {
    /// Nothing told yet.
    #[must_use]
    pub fn new(config: &JoinConfig) -> Self {
        Self {
            counters: Counters::new(config.n_tasks()),
            // The other policies tell negatives as soon as positives.
            is_started: config.policy != LabelPolicy::Eager,
            ..Self::default()
        }
    }

    /// The whole state as bytes.
    ///
    /// # Panics
    /// Never: the types written have no failing representation.
    #[must_use]
    pub fn export(&self) -> Vec<u8> {
        postcard::to_extend(self, MAGIC.to_vec()).expect("the state has no type that postcard refuses")
    }

    /// True for the bytes of such a state.
    pub(crate) fn is_exported(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// The state that was exported, for `n_tasks` tasks.
    pub(crate) fn import(bytes: &[u8], n_tasks: usize) -> Result<Self, JoinError> {
        let decode = |detail: String| JoinError::Decode(detail);
        let body = bytes
            .strip_prefix(MAGIC)
            .ok_or_else(|| decode("the first bytes are not those of a tier's state".to_owned()))?;
        let slates: Self = postcard::from_bytes(body).map_err(|error| decode(error.to_string()))?;
        if slates.counters.tasks.len() != n_tasks {
            let n = slates.counters.tasks.len();
            return Err(decode(format!("counters of {n} tasks, {n_tasks} are configured")));
        }
        slates.audit()?;
        Ok(slates)
    }

    /// Checks the counters against the open impressions.
    pub(crate) fn audit(&self) -> Result<(), JoinError> {
        self.counters.check()?;
        let n_items: usize = self.open.values().map(|slate| slate.items.len()).sum();
        if n_items as u64 != self.counters.pending_items {
            let counted = self.counters.pending_items;
            return Err(JoinError::Decode(format!(
                "{n_items} items are open, {counted} were counted"
            )));
        }
        Ok(())
    }

    /// The outcomes so far; what was told again is left out.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Event time by which every window is closed, of every unit heard of.
    #[must_use]
    pub fn watermark(&self) -> EventTime {
        let mut units: BTreeMap<i32, EventTime> = BTreeMap::new();
        for ((_, unit), lane) in &self.lanes {
            let newest = units.entry(*unit).or_insert(EventTime::MIN);
            *newest = lane.now.max(*newest);
        }
        units.into_values().min().unwrap_or(EventTime::MIN)
    }

    /// Takes what partition `from` of the topic tells. `capture` is asked for the features of a new impression;
    /// a group of new samples is appended to `groups`.
    pub(crate) fn hear(
        &mut self,
        from: i32,
        told: &JoinRecord,
        capture: impl FnOnce(&Impression) -> Captured,
        groups: &mut Vec<Vec<Sample>>,
    ) -> ReceiveEffect {
        let unit = told.at.partition.partition;
        self.let_go((from, unit), told.now);
        let key = (unit, told.at.offset);
        match &told.event {
            JoinEvent::Shown {
                impression,
                late,
                until,
            } => {
                let lane = lane(&mut self.lanes, (from, unit));
                if told.at.offset < lane.shown || self.open.contains_key(&key) {
                    return stale("shown");
                }
                lane.shown = told.at.offset + 1;
                lane.until.insert((*until, told.at.offset));
                self.shown(key, capture(impression), from, *late, *until);
                ReceiveEffect::Shown
            }
            JoinEvent::Late { n_items } => {
                // Two runs of the unit may differ on an impression that came very late: then this ends it.
                if self.open.contains_key(&key) {
                    self.end(key, false);
                    return ReceiveEffect::Nothing;
                }
                let lane = lane(&mut self.lanes, (from, unit));
                if told.at.offset < lane.shown {
                    return stale("late");
                }
                lane.shown = told.at.offset + 1;
                self.counters.impressions += 1;
                self.counters.late_impressions += 1;
                self.counters.items += n_items;
                for task in &mut self.counters.tasks {
                    task.late += n_items;
                }
                ReceiveEffect::Nothing
            }
            JoinEvent::Outcome {
                acted,
                made,
                is_closed,
                settled,
            } => {
                let Some(slate) = self.open.get_mut(&key) else {
                    return stale("outcome");
                };
                let request = Arc::clone(&slate.request);
                let mut group = Vec::with_capacity(made.len());
                for made in made {
                    match slate.sample(told, made) {
                        Some(Sampled::New(sample)) => group.push(sample),
                        Some(Sampled::Held) => {}
                        None => {
                            stale("sample");
                        }
                    }
                }
                let told_actions = &mut lane(&mut self.lanes, (from, unit)).actions;
                let actions: Vec<Action> = acted
                    .iter()
                    .filter_map(|acted| slate.act(acted, told_actions, &mut self.counters))
                    .collect();
                told_actions.settle(*settled);
                if actions.len() < acted.len() {
                    stale("action");
                }
                for sample in &group {
                    self.counters.samples[sample.kind as usize] += 1;
                }
                let group = if *is_closed && slate.is_held {
                    slate.release(told, group)
                } else {
                    group
                };
                if !group.is_empty() {
                    groups.push(group);
                }
                if *is_closed {
                    self.is_started = true;
                    self.end(key, true);
                }
                ReceiveEffect::AttributedAction(actions, Some(request))
            }
            JoinEvent::LateAction { action, settled } => {
                let told_actions = &mut lane(&mut self.lanes, (from, unit)).actions;
                let is_new = told_actions.is_new(told.at.offset);
                told_actions.settle(*settled);
                if !is_new {
                    return stale("late_action");
                }
                self.counters.actions += 1;
                self.counters.late_actions += 1;
                ReceiveEffect::AttributedAction(vec![*action], None)
            }
        }
    }

    fn shown(&mut self, key: (i32, i64), captured: Captured, lane: i32, late: u8, until: EventTime) {
        let n_items = captured.candidates.len() as u64;
        let items = captured.candidates.into_iter().map(|candidate| Shown {
            candidate,
            first: 0,
            second: 0,
            positive: 0,
            held: 0,
        });
        let slate = Slate {
            request: captured.request,
            items: items.collect(),
            until,
            lane,
            late,
            is_held: !self.is_started,
        };
        self.counters.impressions += 1;
        self.counters.accepted += 1;
        self.counters.items += n_items;
        self.counters.pending_items += n_items;
        for (task, of) in (0..TaskId::MAX).zip(&mut self.counters.tasks) {
            if late & (1 << task) != 0 {
                of.late += n_items;
            } else {
                of.pending += n_items;
            }
        }
        self.open.insert(key, slate);
    }

    /// Nothing more is to be told of an impression. What was not positive is negative if its windows closed, and
    /// late if they never will.
    fn end(&mut self, key: (i32, i64), is_closed: bool) {
        let Some(slate) = self.open.remove(&key) else {
            return;
        };
        if let Some(lane) = self.lanes.get_mut(&(slate.lane, key.0)) {
            lane.until.remove(&(slate.until, key.1));
        }
        let n_tasks = TaskId::try_from(self.counters.tasks.len()).unwrap_or(TaskId::MAX);
        for item in &slate.items {
            for task in (0..n_tasks).filter(|task| (item.positive | slate.late) & (1 << task) == 0) {
                if is_closed {
                    self.counters.decide(task, false);
                } else {
                    let of = &mut self.counters.tasks[usize::from(task)];
                    of.pending = of.pending.wrapping_sub(1);
                    of.late += 1;
                }
            }
        }
        self.counters.pending_items -= slate.items.len() as u64;
    }

    /// Notes the time of a unit, and lets go of impressions whose end should have been told by then.
    fn let_go(&mut self, key: (i32, i32), now: EventTime) {
        let lane = lane(&mut self.lanes, key);
        lane.now = lane.now.max(now);
        let now = lane.now;
        while let Some((until, offset)) = self.lanes.get(&key).and_then(|lane| lane.until.first().copied())
            && until <= now
        {
            let open = self.open.get(&(key.1, offset));
            counter!(TIER_ABANDONED).increment(open.map_or(0, |slate| slate.items.len() as u64));
            self.end((key.1, offset), false);
            // It is gone from there already, unless it was never open.
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.until.remove(&(until, offset));
            }
        }
    }
}

impl Slate {
    /// The sample of what is new in `made`.
    fn sample(&mut self, told: &JoinRecord, made: &LabeledItem) -> Option<Sampled> {
        let item = find(&mut self.items, made.item)?;
        let seen = match made.kind {
            SampleKind::Final | SampleKind::EarlyNegative => &mut item.first,
            SampleKind::LatePositive | SampleKind::RealCopy | SampleKind::Correction => &mut item.second,
        };
        let labels = made.labels.masked(!*seen);
        *seen |= labels.known();
        if labels.is_unknown() {
            return None;
        }
        if self.is_held
            && made.kind == SampleKind::Final
            && labels == Labels::from_masks(labels.known(), u8::MAX)
        {
            item.held |= labels.known();
            return Some(Sampled::Held);
        }
        let candidate = Arc::clone(&item.candidate);
        let mut sample = self.bare(told, candidate, labels);
        sample.kind = made.kind;
        sample.action_record_ms = made.action_record_ms;
        Some(Sampled::New(sample))
    }

    /// The last group with the positives that were held back, in slate order, as one that waited would be.
    fn release(&self, told: &JoinRecord, mut group: Vec<Sample>) -> Vec<Sample> {
        for item in self.items.iter().filter(|item| item.held != 0) {
            let ours = |sample: &&mut Sample| {
                sample.kind == SampleKind::Final && Arc::ptr_eq(&sample.candidate, &item.candidate)
            };
            let held = Labels::from_masks(item.held, item.held);
            match group.iter_mut().find(ours) {
                Some(sample) => sample.labels = sample.labels.updated_with(held),
                None => group.push(self.bare(told, Arc::clone(&item.candidate), held)),
            }
        }
        let place = |sample: &Sample| {
            let same = |item: &Shown| Arc::ptr_eq(&item.candidate, &sample.candidate);
            self.items.iter().position(same)
        };
        group.sort_by_key(place);
        group
    }

    fn bare(&self, told: &JoinRecord, candidate: Arc<Candidate>, labels: Labels) -> Sample {
        Sample {
            seq: 0,
            request: Arc::clone(&self.request),
            candidate,
            labels,
            kind: SampleKind::Final,
            weight: 1.0,
            shown_at: told.at,
            action_record_ms: None,
        }
    }

    /// The action, if it is new.
    fn act(
        &mut self,
        acted: &AttributedAction,
        told: &mut Actions,
        counters: &mut Counters,
    ) -> Option<Action> {
        let bit = 1u8 << acted.task;
        let item = find(&mut self.items, acted.item)?;
        let is_new = told.is_new(acted.offset);
        if item.positive & bit != 0 {
            return None;
        }
        // Its sample is told with it, whatever was said of the action before.
        item.positive |= bit;
        if self.late & bit == 0 {
            counters.decide(acted.task, true);
        }
        if !is_new {
            return None;
        }
        counters.actions += 1;
        counters.matched += 1;
        Some(Action {
            request: self.request.id,
            item: acted.item,
            user: self.request.user,
            ts: acted.ts,
            task: acted.task,
            value: None,
        })
    }
}

fn find(items: &mut [Shown], id: ouzel_sample::Id) -> Option<&mut Shown> {
    items.iter_mut().find(|shown| shown.candidate.item == id)
}

fn lane(lanes: &mut BTreeMap<(i32, i32), Lane>, key: (i32, i32)) -> &mut Lane {
    lanes.entry(key).or_insert_with(|| Lane {
        shown: i64::MIN,
        actions: Actions::default(),
        now: EventTime::MIN,
        until: BTreeSet::new(),
    })
}

/// Counts what was heard before.
fn stale(what: &'static str) -> ReceiveEffect {
    counter!(TIER_STALE, "what" => what).increment(1);
    ReceiveEffect::Nothing
}
