//! The join state of one request: the value that a join store keeps under the request's id.
//!
//! A request is shown by one or more impressions, each of which goes through `open -> closed -> forgotten` by its own
//! time. Actions on items that no impression has shown yet wait beside them. Slots of different requests never touch each
//! other, so the join state is a map. Each part of a slot has one due time, at which the watermark next concerns it; the
//! store keeps an index of the due times.

use std::collections::HashSet;
use std::sync::Arc;

use ouzel_sample::{Candidate, EventTime, Id, Impression, KnownAction, Labels, Position, Request, TaskId};
use serde::{Deserialize, Serialize};

use crate::join::remembered::RememberedImpression;

/// The state of one request. An empty slot is not stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestSlot {
    /// Impressions with at least one open window, in order of arrival.
    pub open: Box<[OpenImpression]>,
    /// Actions on items that no impression has shown yet.
    pub early: Option<Box<EarlyActions>>,
    /// Impressions whose every window is closed; kept to recognise duplicates and late actions.
    pub closed: Box<[RememberedImpression]>,
}

/// A part of a slot, for the store's indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum SlotClass {
    /// [`RequestSlot::early`].
    Early = 0,
    /// [`RequestSlot::open`].
    Open = 1,
    /// [`RequestSlot::closed`].
    Closed = 2,
}

impl SlotClass {
    /// Every class.
    pub const ALL: [SlotClass; 3] = [SlotClass::Early, SlotClass::Open, SlotClass::Closed];
}

impl RequestSlot {
    /// The watermark at which each part is due, in the order of [`SlotClass::ALL`].
    pub fn due(&self) -> [Option<EventTime>; SlotClass::ALL.len()] {
        [
            self.early.as_ref().map(|early| early.next),
            first_due(&self.open),
            self.closed.iter().map(|closed| closed.expires).min(),
        ]
    }

    /// True when nothing is known of the request.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.early.is_none() && self.closed.is_empty()
    }

    /// Number of items that it remembers as shown.
    pub(crate) fn n_items(&self) -> usize {
        let open = self.open.iter().map(|open| open.items.len());
        open.chain(self.closed.iter().map(RememberedImpression::n_items))
            .sum()
    }

    /// True for an item that an open or a remembered impression has shown.
    pub(crate) fn has_shown(&self, item: Id) -> bool {
        self.open.iter().any(|open| open.index_of(item).is_some())
            || self.closed.iter().any(|closed| closed.has_shown(item))
    }

    /// The part of `impression` that is new: each item once, without those shown before. `None` when that is all of it.
    pub(crate) fn new_part(&self, impression: &Impression) -> Option<Impression> {
        let is_first = self.open.is_empty() && self.closed.is_empty();
        if is_first && !repeats_an_item(impression) {
            return None;
        }
        let mut items = Vec::with_capacity(impression.items.len());
        let mut taken = HashSet::with_capacity(impression.items.len());
        for shown in &impression.items {
            if !self.has_shown(shown.item) && taken.insert(shown.item) {
                items.push(shown.clone());
            }
        }
        (items.len() < impression.items.len()).then(|| Impression {
            items,
            known_actions: impression.known_actions.as_ref().map(|actions| {
                let is_taken = |known: &&KnownAction| taken.contains(&known.item);
                actions.iter().filter(is_taken).copied().collect()
            }),
            context: impression.context.clone(),
            numbers: impression.numbers.clone(),
            ..*impression
        })
    }
}

/// The next end of a wait or a window of these impressions.
pub(crate) fn first_due(open: &[OpenImpression]) -> Option<EventTime> {
    open.iter().map(|open| open.next).min()
}

/// Appends to a boxed list. The first element takes one allocation and no copy.
pub(crate) fn append<T>(list: &mut Box<[T]>, element: T) {
    *list = if list.is_empty() {
        Box::new([element])
    } else {
        let mut elements = std::mem::take(list).into_vec();
        elements.reserve_exact(1);
        elements.push(element);
        elements.into_boxed_slice()
    };
}

/// True for an impression that shows an item twice.
fn repeats_an_item(impression: &Impression) -> bool {
    let items = &impression.items;
    // A slate of usual size is compared faster than sorted.
    if items.len() > 24 {
        let mut sorted: Vec<Id> = items.iter().map(|shown| shown.item).collect();
        sorted.sort_unstable();
        return sorted.windows(2).any(|pair| pair[0] == pair[1]);
    }
    (1..items.len()).any(|i| items[..i].iter().any(|earlier| earlier.item == items[i].item))
}

/// Actions that wait until their items are shown, in order of arrival.
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

/// One action that waits until its item is shown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Who acted, of an action without a request, which waits for any impression of the item.
    pub user: Option<Id>,
    /// The task of which it is the positive.
    pub task: TaskId,
    /// The value that it carried.
    pub value: Option<f32>,
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
    /// The values of its positives, in order of arrival.
    pub values: Box<[PositiveValue]>,
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

/// The value that the action of a positive carried, in `[0, 1]` of the cap of its task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PositiveValue {
    /// The item.
    pub item: Id,
    /// The task.
    pub task: TaskId,
    /// The value.
    pub value: f32,
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

impl OpenImpression {
    /// The place of `item` in the slate.
    pub(crate) fn index_of(&self, item: Id) -> Option<usize> {
        self.items.iter().position(|shown| shown.candidate.item == item)
    }

    /// The values of the positives in `labels` of an item, by task.
    pub(crate) fn values_of(&self, item: Id, labels: Labels) -> Vec<(TaskId, f32)> {
        let of_item = |known: &&PositiveValue| known.item == item && labels.get(known.task) == Some(true);
        let values = self.values.iter().filter(of_item);
        let mut values: Vec<(TaskId, f32)> = values.map(|known| (known.task, known.value)).collect();
        values.sort_by_key(|(task, _)| *task);
        values
    }

    /// What is remembered of it once it is closed. The actions of its positives were seen.
    pub(crate) fn remember(&self, expires: EventTime) -> RememberedImpression {
        let items = self.items.iter();
        let items = items.map(|item| (item.candidate.item, item.positive, item.positive));
        RememberedImpression::new(expires, items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_small() {
        assert!(size_of::<RequestSlot>() <= 40, "{}", size_of::<RequestSlot>());
        assert!(
            size_of::<OpenImpression>() <= 72,
            "{}",
            size_of::<OpenImpression>()
        );
        assert!(size_of::<OpenItem>() <= 16, "{}", size_of::<OpenItem>());
    }
}
