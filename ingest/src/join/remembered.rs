//! The memory of a closed impression: what it showed, and which of that was positive.
//!
//! It takes 32 bytes, 4 for each shown item and 8 for each positive one. Items are recognised by half of their hash: an
//! item that was not shown passes for one that was with a probability of 2^-32 for each item that was.

use ouzel_sample::{EventTime, Id, TaskId};
use serde::{Deserialize, Serialize};

/// An impression whose every window is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedImpression {
    /// The watermark at which it is forgotten.
    pub expires: EventTime,
    n_items: u32,
    /// The fingerprints of all items, sorted; then for each positive item its place among them and its tasks.
    words: Box<[u32]>,
}

/// What became of an action on an item of a closed impression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LateMatch {
    /// The item has no positive of its task.
    NotPositive,
    /// The action of its positive had been seen.
    SeenBefore,
    /// The action of a positive that was known with the impression.
    FirstSeen,
}

impl RememberedImpression {
    /// The memory of `items`: each with its positive tasks, and those of them whose action was seen.
    pub(crate) fn new(expires: EventTime, items: impl Iterator<Item = (Id, u8, u8)>) -> Self {
        let mut items: Vec<(u32, u8, u8)> = items
            .map(|(item, positive, seen)| (fingerprint(item), positive, seen))
            .collect();
        items.sort_unstable();
        let n_positive = items.iter().filter(|(_, positive, _)| *positive != 0).count();
        let mut words = Vec::with_capacity(items.len() + 2 * n_positive);
        words.extend(items.iter().map(|(fingerprint, _, _)| *fingerprint));
        for (place, (_, positive, seen)) in (0u32..).zip(&items) {
            if *positive != 0 {
                words.extend([place, tasks_of(*positive, *seen)]);
            }
        }
        Self {
            expires,
            n_items: u32::try_from(items.len()).unwrap_or(u32::MAX),
            words: words.into_boxed_slice(),
        }
    }

    /// Number of items that it showed.
    pub(crate) fn n_items(&self) -> usize {
        self.place_of_positives()
    }

    /// True for an item that it showed.
    pub(crate) fn has_shown(&self, item: Id) -> bool {
        self.find(item).is_some()
    }

    /// Matches an action on an item that it showed with the positive of `task`.
    pub(crate) fn see(&mut self, item: Id, task: TaskId) -> LateMatch {
        let bit = 1u8 << task;
        let first = self.place_of_positives();
        let Some(place) = self.find(item) else {
            return LateMatch::NotPositive;
        };
        let mut positives = self.words[first..].chunks_exact_mut(2);
        let Some(positive) = positives.find(|positive| positive[0] as usize == place) else {
            return LateMatch::NotPositive;
        };
        let [tasks, seen, ..] = positive[1].to_le_bytes();
        if tasks & bit == 0 {
            return LateMatch::NotPositive;
        }
        if seen & bit != 0 {
            return LateMatch::SeenBefore;
        }
        positive[1] = tasks_of(tasks, seen | bit);
        LateMatch::FirstSeen
    }

    /// The memory under other tasks; `set` gives the present tasks of a set of former ones.
    pub(crate) fn migrate(&self, set: impl Fn(u8) -> u8) -> Self {
        let (shown, positives) = self.words.split_at(self.place_of_positives());
        let mut words = shown.to_vec();
        for pair in positives.chunks_exact(2) {
            let [positive, seen, ..] = pair[1].to_le_bytes();
            if set(positive) != 0 {
                words.extend([pair[0], tasks_of(set(positive), set(seen))]);
            }
        }
        Self {
            expires: self.expires,
            n_items: self.n_items,
            words: words.into_boxed_slice(),
        }
    }

    fn find(&self, item: Id) -> Option<usize> {
        self.words[..self.place_of_positives()]
            .binary_search(&fingerprint(item))
            .ok()
    }

    fn place_of_positives(&self) -> usize {
        (self.n_items as usize).min(self.words.len())
    }
}

/// Half of the item's hash.
fn fingerprint(item: Id) -> u32 {
    let [a, b, c, d, ..] = item.0.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn tasks_of(positive: u8, seen: u8) -> u32 {
    u32::from_le_bytes([positive, seen, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shown_item_is_recognised_and_each_positive_is_seen_once() {
        let items = [(Id(9), 0, 0), (Id(3), 0b10, 0), (Id(7), 0b11, 0b01)];
        let mut memory = RememberedImpression::new(EventTime(1), items.into_iter());
        assert_eq!(memory.n_items(), 3);
        assert!([3, 7, 9].iter().all(|item| memory.has_shown(Id(*item))));
        assert!(!memory.has_shown(Id(1)), "a place is not a fingerprint");
        for (item, task, expected) in [
            (9, 0, LateMatch::NotPositive),
            (3, 0, LateMatch::NotPositive),
            (3, 1, LateMatch::FirstSeen),
            (3, 1, LateMatch::SeenBefore),
            (7, 0, LateMatch::SeenBefore),
            (7, 1, LateMatch::FirstSeen),
            (7, 1, LateMatch::SeenBefore),
        ] {
            assert_eq!(memory.see(Id(item), task), expected, "item {item}, task {task}");
        }
        assert!(size_of::<RememberedImpression>() <= 32);
    }
}
