//! Items that were deleted on purpose: what a batch must be told of them.
//!
//! The learner forgets their rows with the next batch, and every batch says which items of its own have no rows, since
//! histories go on naming a deleted item and samples of it may still wait for their windows. Until an item event
//! brings it back: then it is a new item.

use std::collections::BTreeMap;

use ouzel_sample::{Batch, EventTime, Id};
use serde::{Deserialize, Serialize};

/// Deleted items that are remembered, 40 bytes each. Beyond it those deleted first are forgotten, a tenth at once; one
/// that is still named then gets a new row.
const MOST: usize = 1 << 20;

/// The items that are deleted as of the records taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Deleted {
    /// When, and as which of all.
    items: BTreeMap<Id, (EventTime, u64)>,
    /// Deletions so far, count.
    n: u64,
    /// Those of which no batch has been told yet.
    new: Vec<Id>,
}

impl Deleted {
    /// True as long as nothing was deleted.
    pub(crate) fn is_untouched(&self) -> bool {
        self.n == 0
    }

    pub(crate) fn has(&self, item: Id) -> bool {
        self.items.contains_key(&item)
    }

    /// An item is deleted by an event of this time.
    pub(crate) fn delete(&mut self, item: Id, ts: EventTime) {
        self.items.insert(item, (ts, self.n));
        self.n += 1;
        self.new.push(item);
        if self.items.len() > MOST {
            let mut order: Vec<u64> = self.items.values().map(|(_, n)| *n).collect();
            let (_, oldest_kept, _) = order.select_nth_unstable(MOST / 10);
            let oldest_kept = *oldest_kept;
            self.items.retain(|_, (_, n)| *n >= oldest_kept);
        }
    }

    /// An item event of this time brings an item back. False when it was deleted later than that.
    pub(crate) fn restore(&mut self, item: Id, ts: EventTime) -> bool {
        if self.items.get(&item).is_some_and(|(deleted, _)| *deleted > ts) {
            return false;
        }
        self.items.remove(&item);
        true
    }

    /// Tells a batch. True when items were deleted since the one before.
    pub(crate) fn tell(&mut self, batch: &mut Batch) -> bool {
        let is_new = !self.new.is_empty();
        batch.deleted = std::mem::take(&mut self.new);
        if !self.items.is_empty() {
            let named = batch.samples.iter().flat_map(|sample| {
                let history = sample.request.history.iter().map(|entry| entry.item);
                history.chain([sample.candidate.item])
            });
            batch
                .deleted
                .extend(named.filter(|item| self.items.contains_key(item)));
        }
        batch.deleted.sort_unstable();
        batch.deleted.dedup();
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_item_deleted_first_is_forgotten_first() {
        let mut deleted = Deleted::default();
        let n = MOST as u64 + 1;
        (0..n).for_each(|item| deleted.delete(Id(n - item), EventTime(1)));
        assert!(deleted.has(Id(1)) && !deleted.has(Id(n)));
        assert_eq!(deleted.items.len(), MOST + 1 - MOST / 10);
    }

    #[test]
    fn an_item_comes_back_by_an_event_that_is_not_older() {
        let mut deleted = Deleted::default();
        deleted.delete(Id(1), EventTime(10));
        assert!(!deleted.restore(Id(1), EventTime(9)) && deleted.has(Id(1)));
        assert!(deleted.restore(Id(1), EventTime(10)) && !deleted.has(Id(1)));
        assert!(deleted.restore(Id(2), EventTime(0)), "never deleted");
    }
}
