//! The join state of one request: the value that a join store keeps under the request's id.
//!
//! A request goes through `nothing -> early -> open -> closed -> nothing`, skipping any of the middle ones. Slots of
//! different requests never touch each other, so the join state is a map. Each slot has one due time, at which the
//! watermark next concerns it; the store keeps an index of the due times.

use std::sync::Arc;

use ouzel_sample::{Candidate, EventTime, Id, Position, Request, TaskId};
use serde::{Deserialize, Serialize};

/// The state of one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RequestSlot {
    /// Actions arrived, their impression did not yet.
    Early(Box<EarlyActions>),
    /// The impression arrived, and at least one window is open.
    Open(Box<OpenImpression>),
    /// Every window is closed; kept to recognise duplicates and late actions.
    Closed(ClosedRequest),
}

/// The kind of a slot, for the store's indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum SlotClass {
    /// [`RequestSlot::Early`].
    Early = 0,
    /// [`RequestSlot::Open`].
    Open = 1,
    /// [`RequestSlot::Closed`].
    Closed = 2,
}

impl SlotClass {
    /// Every class.
    pub const ALL: [SlotClass; 3] = [SlotClass::Early, SlotClass::Open, SlotClass::Closed];
}

impl RequestSlot {
    /// Its class, and the watermark at which it is due.
    pub fn due(&self) -> (SlotClass, EventTime) {
        match self {
            RequestSlot::Early(early) => (SlotClass::Early, early.next),
            RequestSlot::Open(open) => (SlotClass::Open, open.next),
            RequestSlot::Closed(closed) => (SlotClass::Closed, closed.expires),
        }
    }
}

/// Actions waiting for their impression, in order of arrival.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EarlyActions {
    /// The least `expires`.
    pub next: EventTime,
    /// The actions.
    pub actions: Vec<EarlyAction>,
}

impl EarlyActions {
    /// Recomputes `next`. Returns false when no action is left.
    pub(crate) fn update_next(&mut self) -> bool {
        match self.actions.iter().map(|action| action.expires).min() {
            Some(next) => {
                self.next = next;
                true
            }
            None => false,
        }
    }
}

/// One action waiting for its impression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyAction {
    /// The item.
    pub item: Id,
    /// Its event time.
    pub ts: EventTime,
    /// The watermark at which it is given up as an orphan.
    pub expires: EventTime,
    /// Timestamp of its record, ms; its own where the record has none.
    pub record_ms: i64,
    /// Offset of its record in its partition.
    pub offset: i64,
    /// The task of which it is the positive.
    pub task: TaskId,
}

/// An impression with at least one open window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenImpression {
    /// The user side, as captured when the impression was joined.
    pub request: Arc<Request>,
    /// Position of the impression's record.
    pub shown_at: Position,
    /// The shown items, in slate order.
    pub items: Box<[OpenItem]>,
    /// The next end of a wait or a window.
    pub next: EventTime,
    /// Tasks whose window is closed, one bit each.
    pub closed: u8,
    /// Tasks whose sample with the labels seen so far was made, one bit each.
    pub sampled: u8,
    /// Tasks whose positives wait for the window like its negatives, one bit each: those that were still
    /// starting up when it was shown.
    pub held: u8,
}

/// One item of an open impression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenItem {
    /// The item side, as captured.
    pub candidate: Arc<Candidate>,
    /// Tasks whose action arrived, one bit each.
    pub positive: u8,
    /// Tasks whose true label was emitted before the window closed, one bit each.
    pub copied: u8,
}

/// A request whose every window is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedRequest {
    /// The watermark at which it is forgotten.
    pub expires: EventTime,
    /// Its positives, by item: an action on one of them is a duplicate, on any other item it is late.
    pub positives: Box<[PositiveItem]>,
}

/// A positive item of a closed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositiveItem {
    /// The item.
    pub item: Id,
    /// Tasks with a positive, one bit each.
    pub tasks: u8,
    /// Those of them whose action has arrived; an action known with the impression precedes its record.
    pub seen: u8,
}

impl OpenImpression {
    /// The closed form of this request.
    pub(crate) fn close(&self, expires: EventTime) -> ClosedRequest {
        let positives = self
            .items
            .iter()
            .filter(|item| item.positive != 0)
            .map(|item| PositiveItem {
                item: item.candidate.item,
                tasks: item.positive,
                seen: item.positive,
            })
            .collect();
        ClosedRequest { expires, positives }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_small() {
        assert!(size_of::<RequestSlot>() <= 32, "{}", size_of::<RequestSlot>());
        assert!(
            size_of::<OpenImpression>() <= 64,
            "{}",
            size_of::<OpenImpression>()
        );
        assert!(size_of::<OpenItem>() <= 16, "{}", size_of::<OpenItem>());
    }
}
