//! The account of what was reported, which makes at-least-once join records count once.
//!
//! A process that takes over a source partition reports again from the last commit on, in the order of the source. The
//! receiver drops what it has: impressions by the offset of the newest one, actions by offset, labels by item, task
//! and stage. Of actions it must remember single offsets, since two owners may have read an action before and after its
//! impression and report it in another order; the sender says below which offset every action has its outcome, so that
//! these offsets stay few.

use std::collections::{BTreeSet, VecDeque};

use ouzel_sample::{EventTime, Labels, SampleKind};
use serde::{Deserialize, Serialize};

/// Bits of the place of an action in its record.
const PART_BITS: u32 = 16;

/// The offset of a record and the place of an action in it as one number, in their order. Offsets need less than 48 bits.
pub(super) fn action_key(offset: i64, part: u16) -> i64 {
    (offset << PART_BITS) | i64::from(part)
}

/// The offset and the place of an action.
pub(super) fn offset_and_part(key: i64) -> (i64, u16) {
    let part = u16::try_from(key & i64::from(u16::MAX)).unwrap_or(u16::MAX);
    (key >> PART_BITS, part)
}

/// The sender's side: actions of one source partition that may still be reported.
#[derive(Debug)]
pub(super) struct UnresolvedActions {
    /// Offset of the next action to join.
    next: i64,
    /// Offset and expiry of actions that came before their impression, in order of offset. Some were joined since.
    early: VecDeque<(i64, EventTime)>,
}

impl UnresolvedActions {
    pub(super) fn new(next: i64) -> Self {
        Self {
            next,
            early: VecDeque::new(),
        }
    }

    pub(super) fn read(&mut self, offset: i64) {
        self.next = offset + 1;
    }

    /// Notes that the action at `offset` waits for its impression until `expires`.
    pub(super) fn wait(&mut self, offset: i64, expires: EventTime) {
        self.early.push_back((offset, expires));
    }

    /// The offset before which every action has its outcome.
    pub(super) fn resolved_before(&mut self, watermark: EventTime) -> i64 {
        while self
            .early
            .front()
            .is_some_and(|(_, expires)| *expires <= watermark)
        {
            self.early.pop_front();
        }
        self.early.front().map_or(self.next, |(offset, _)| *offset)
    }
}

/// The receiver's side: what one partition of the samples topic reported of one source partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SourceLedger {
    /// One past the newest impression reported.
    next_impression: i64,
    /// Every action before this offset counts as reported.
    actions_before: i64,
    /// Reported actions from there on, as [`action_key`].
    actions: BTreeSet<i64>,
    watermark: EventTime,
    /// Deadline and offset of every open impression.
    deadlines: BTreeSet<(EventTime, i64)>,
}

impl Default for SourceLedger {
    fn default() -> Self {
        Self {
            next_impression: i64::MIN,
            actions_before: 0,
            actions: BTreeSet::new(),
            watermark: EventTime::MIN,
            deadlines: BTreeSet::new(),
        }
    }
}

impl SourceLedger {
    pub(super) fn watermark(&self) -> EventTime {
        self.watermark
    }

    pub(super) fn advance_watermark(&mut self, watermark: EventTime) {
        self.watermark = self.watermark.max(watermark);
    }

    /// Enters an impression. False when it was reported before.
    pub(super) fn enter_impression(&mut self, offset: i64) -> bool {
        let is_new = offset >= self.next_impression;
        if is_new {
            self.next_impression = offset + 1;
        }
        is_new
    }

    /// Enters an action. False when it was reported before.
    pub(super) fn enter_action(&mut self, offset: i64, part: u16) -> bool {
        offset >= self.actions_before && self.actions.insert(action_key(offset, part))
    }

    /// Notes that every action before `offset` has its outcome.
    pub(super) fn resolve_actions(&mut self, offset: i64) {
        if offset > self.actions_before {
            self.actions_before = offset;
            self.actions = self.actions.split_off(&action_key(offset, 0));
        }
    }

    /// Notes the watermark by which every outcome of an impression must have been reported.
    pub(super) fn expect(&mut self, offset: i64, deadline: EventTime) {
        self.deadlines.insert((deadline, offset));
    }

    /// Expects no more outcomes of an impression.
    pub(super) fn close(&mut self, offset: i64, deadline: EventTime) {
        self.deadlines.remove(&(deadline, offset));
    }

    /// An impression whose deadline the watermark has reached.
    pub(super) fn take_overdue(&mut self) -> Option<i64> {
        let (deadline, _) = self.deadlines.first()?;
        if *deadline > self.watermark {
            return None;
        }
        self.deadlines.pop_first().map(|(_, offset)| offset)
    }
}

/// Labels that were reported of one item, one bit for each task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ReportedLabels {
    /// By a first sample.
    first: u8,
    /// By a sample that follows the first.
    second: u8,
}

impl ReportedLabels {
    /// Enters the labels of a sample. Returns those that were not reported before.
    pub(super) fn enter(&mut self, kind: SampleKind, labels: Labels) -> Labels {
        let reported = match kind {
            SampleKind::Final | SampleKind::EarlyNegative => &mut self.first,
            SampleKind::LatePositive | SampleKind::RealCopy | SampleKind::Correction => &mut self.second,
        };
        let new = labels.masked(!*reported);
        *reported |= new.known();
        new
    }
}
