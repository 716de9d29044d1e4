//! Join records: what the join tier reports to the learner.
//!
//! The tier joins and keeps no features; the learner captures those when the impression is reported, as of then. Records
//! are delivered at least once, and each names the source record that it is about, by which the learner drops what was
//! reported before.

use crate::{Action, EventTime, Id, Impression, Labels, Position, SampleKind, TaskId};

/// One report of the join tier.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinRecord {
    /// The source record that it is about: the impression's, or the action's for [`JoinEvent::LateAction`].
    pub at: Position,
    /// The tier's watermark before the record that caused it. Every window that was over by then was reported.
    pub watermark: EventTime,
    /// The user, who is the key of the record, so that reports about one impression stay in order.
    pub user: Id,
    /// The report.
    pub event: JoinEvent,
}

/// The content of a report.
#[derive(Clone, Debug, PartialEq)]
pub enum JoinEvent {
    /// An impression was accepted.
    Shown {
        /// The impression.
        impression: Impression,
        /// Tasks whose window was over already, one bit each: no report on them follows.
        late: u8,
        /// The watermark by which every outcome of it is reported.
        deadline: EventTime,
    },
    /// An impression arrived after every window was over; no report on it follows.
    Late {
        /// Number of items it showed.
        n_items: u64,
    },
    /// New outcomes of an impression that was reported before.
    Outcome {
        /// Actions that were attributed to it, for histories and counters.
        actions: Vec<AttributedAction>,
        /// Samples of one group: the label policy says when each is made.
        samples: Vec<LabeledItem>,
        /// Its last window is closed: what is not positive is negative, and no report follows.
        is_closed: bool,
        /// With `actions`: every action before this offset has its outcome.
        resolved_before: i64,
    },
    /// An action after its window, or without a request and an impression, which counts in its user's history.
    LateAction {
        /// The action.
        action: Action,
        /// As in [`AttributedAction`].
        part: u16,
        /// As in [`JoinEvent::Outcome`].
        resolved_before: i64,
    },
}

/// An action on an item of an impression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttributedAction {
    /// The item.
    pub item: Id,
    /// The task of which it is the positive.
    pub task: TaskId,
    /// Its event time.
    pub ts: EventTime,
    /// Offset of its record in the actions partition.
    pub offset: i64,
    /// Its place among the actions of the record, from 0.
    pub part: u16,
    /// As in [`Action`].
    pub value: Option<f32>,
}

/// A sample without its features.
#[derive(Clone, Debug, PartialEq)]
pub struct LabeledItem {
    /// The item.
    pub item: Id,
    /// The labels that became known.
    pub labels: Labels,
    /// The values of its positives, as in [`Sample`](crate::Sample).
    pub values: Vec<(TaskId, f32)>,
    /// Why the sample was made.
    pub kind: SampleKind,
    /// Record timestamp of the action that decided it, ms.
    pub action_record_ms: Option<i64>,
}

impl JoinRecord {
    /// The newest event time in it; the beginning of time where a closing window names none.
    #[must_use]
    pub fn ts(&self) -> EventTime {
        match &self.event {
            JoinEvent::Shown { impression, .. } => impression.ts,
            JoinEvent::Late { .. } => EventTime::MIN,
            JoinEvent::Outcome { actions, .. } => actions
                .iter()
                .map(|action| action.ts)
                .max()
                .unwrap_or(EventTime::MIN),
            JoinEvent::LateAction { action, .. } => action.ts,
        }
    }
}
