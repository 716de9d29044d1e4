//! What the join tier tells the learner: impressions as they are accepted, and what becomes of them.
//!
//! The tier joins and keeps no features; the learner captures those when it hears of the impression, so that they
//! are as of then. Everything is told at least once and names the source record that it is about, by which the
//! learner drops what it has heard before.

use crate::{Action, EventTime, Id, Impression, Labels, Position, SampleKind, TaskId};

/// One thing told.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinRecord {
    /// The record it is about: the impression's, or the action's for [`JoinEvent::LateAction`].
    pub at: Position,
    /// The tier's watermark before the record that made it say this. Every window over by then was told of.
    pub now: EventTime,
    /// Who saw or acted; the key of the record, so that what concerns one impression stays in order.
    pub user: Id,
    /// What.
    pub event: JoinEvent,
}

/// What is told.
#[derive(Clone, Debug, PartialEq)]
pub enum JoinEvent {
    /// An impression was accepted.
    Shown {
        /// It.
        impression: Impression,
        /// Tasks whose window was over already, one bit each: nothing more will be told of them.
        late: u8,
        /// The watermark at which everything about it will have been told.
        until: EventTime,
    },
    /// An impression whose every window was over; nothing more will be told of it.
    Late {
        /// How many items it showed.
        n_items: u64,
    },
    /// What became known of an impression that was told before.
    Outcome {
        /// Actions that were joined to it, for histories and counters.
        acted: Vec<AttributedAction>,
        /// Samples, of one group: the label policy says when each is made.
        made: Vec<LabeledItem>,
        /// Its last window is closed: the rest is negative, and nothing more will be told.
        is_closed: bool,
        /// With `acted`: every action before this offset was told, unless it is one that nothing is told of.
        settled: i64,
    },
    /// An action after its window; its user did it all the same.
    LateAction {
        /// It.
        action: Action,
        /// As in [`JoinEvent::Outcome`].
        settled: i64,
    },
}

/// An action on an item of an impression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributedAction {
    /// On which item.
    pub item: Id,
    /// Which task's action it was.
    pub task: TaskId,
    /// When.
    pub ts: EventTime,
    /// Where its record is in the actions partition.
    pub offset: i64,
}

/// A sample without its features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabeledItem {
    /// Which item.
    pub item: Id,
    /// What became known.
    pub labels: Labels,
    /// Why it was made.
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
            JoinEvent::Outcome { acted, .. } => {
                acted.iter().map(|acted| acted.ts).max().unwrap_or(EventTime::MIN)
            }
            JoinEvent::LateAction { action, .. } => action.ts,
        }
    }
}
