//! Counts by key in bounded memory.

use serde::{Deserialize, Serialize};

/// Counts of the newest and most frequent keys, in a sorted list of 8 bytes per key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BoundedCounts(Vec<Entry>);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    key: u32,
    /// Saturating.
    count: u16,
    /// When the key was last counted, as a running number.
    last: u16,
}

impl BoundedCounts {
    /// Counts `key` at the running number `now`. A new key beyond `capacity` replaces that with the smallest count:
    /// among equals the one counted longest ago, then the smallest.
    pub(crate) fn add(&mut self, key: u32, now: u16, capacity: usize) {
        if capacity == 0 {
            return;
        }
        if let Ok(at) = self.find(key) {
            let entry = &mut self.0[at];
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
            return;
        }
        if self.0.len() >= capacity {
            self.drop_least();
        }
        let entry = Entry {
            key,
            count: 1,
            last: now,
        };
        let at = self.find(key).unwrap_or_else(|at| at);
        self.0.insert(at, entry);
    }

    /// The count of a key.
    pub(crate) fn get(&self, key: u32) -> u16 {
        self.find(key).map_or(0, |at| self.0[at].count)
    }

    /// The counted keys in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u16)> + '_ {
        self.0.iter().map(|entry| (entry.key, entry.count))
    }

    /// The index of a key, or that of its place.
    fn find(&self, key: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&key, |entry| entry.key)
    }

    fn drop_least(&mut self) {
        let entries = self.0.iter().enumerate();
        let least = entries.min_by_key(|(_, entry)| (entry.count, entry.last, entry.key));
        if let Some((at, _)) = least {
            self.0.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rarest_key_is_dropped_and_among_equals_the_oldest() {
        let mut counts = BoundedCounts::default();
        for (now, key) in (0..).zip([7, 7, 3, 9, 5, 9]) {
            counts.add(key, now, 3);
        }
        let found = [3, 5, 7, 9].map(|key| counts.get(key));
        assert_eq!(found, [0, 1, 2, 2]);
        counts.add(4, 9, 3);
        assert_eq!([4, 5].map(|key| counts.get(key)), [1, 0]);
        counts.add(4, 9, 0);
        assert_eq!(counts.get(4), 1, "a capacity of 0 counts nothing");
    }

    #[test]
    fn a_list_of_one_key_keeps_the_newest() {
        let mut counts = BoundedCounts::default();
        counts.add(1, 0, 1);
        counts.add(2, 1, 1);
        assert_eq!((counts.get(1), counts.get(2)), (0, 1));
    }
}
