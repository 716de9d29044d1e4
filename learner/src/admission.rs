//! Admission counters: occurrences of ids that have no row yet, in memory of a fixed size.
//!
//! Each entry is an exact count of an id with a 16-bit hash of each of its users. Entries are in sets of eight, in order of
//! the last occurrence; a full set drops the id that occurred longest ago. So the error is one-sided: an id is never admitted
//! before it occurred as often, and by as many users, as its rule asks. It may be admitted later, when eight others of its
//! set occurred in between, or when two of its users share a hash (one pair in 65,535). Which ids are dropped is a function of
//! the occurrences in order, so a replay drops the same.

use ouzel_sample::Id;

/// Largest number of users that a rule may ask for.
pub(crate) const MAX_USERS: usize = KEPT_USERS;
/// Distinct users that an entry stores.
const KEPT_USERS: usize = 7;
/// Entries of a set (its associativity).
const WAYS: usize = 8;

/// Counts of one id, 24 bytes. An entry with count 0 is free; free entries come last in a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    id: u64,
    count: u16,
    users: [u16; KEPT_USERS],
}

/// The counters in a snapshot, set by set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AdmissionCounts {
    /// `[n]`
    pub(crate) ids: Vec<u64>,
    /// `[n]`
    pub(crate) counts: Vec<u16>,
    /// User hashes, `[n, KEPT_USERS]`, padded with zeros.
    pub(crate) users: Vec<u16>,
}

impl AdmissionCounts {
    /// Users stored per id.
    pub(crate) const USERS: usize = KEPT_USERS;
}

/// Counts of ids by the rules of admission.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionCounter {
    entries: Vec<Entry>,
    n_waiting: usize,
}

impl AdmissionCounter {
    /// Empty counters for about `n` ids.
    pub(crate) fn new(n: usize) -> Self {
        Self {
            entries: vec![Entry::default(); n.next_multiple_of(WAYS)],
            n_waiting: 0,
        }
    }

    /// Number of ids that wait for a row.
    pub(crate) fn len(&self) -> usize {
        self.n_waiting
    }

    /// Counts an occurrence of `id` with `user`. Returns whether `id` is admitted by it; its counts are dropped then.
    pub(crate) fn count(&mut self, id: Id, user: Id, min_count: u16, min_users: usize) -> bool {
        let set = self.set(id);
        let ways = &mut self.entries[set.clone()];
        let at = ways.iter().position(|entry| entry.count > 0 && entry.id == id.0);
        let mut entry = at.map_or_else(
            || Entry {
                id: id.0,
                ..Entry::default()
            },
            |at| ways[at],
        );
        entry.count = entry.count.saturating_add(1);
        let user = user_hash(user);
        let n_before = entry.users.iter().take_while(|kept| **kept != 0).count();
        let is_new = !entry.users[..n_before].contains(&user);
        if entry.count >= min_count && n_before + usize::from(is_new) >= min_users {
            if let Some(at) = at {
                self.remove(set.start, at);
            }
            return true;
        }
        if is_new && n_before < KEPT_USERS {
            entry.users[n_before] = user;
        }
        // Move to the front, over its own entry or else over the last one.
        let last = at.unwrap_or(WAYS - 1);
        if at.is_none() && ways[last].count == 0 {
            self.n_waiting += 1;
        }
        ways.copy_within(..last, 1);
        ways[0] = entry;
        false
    }

    /// Drops the counts of an id.
    pub(crate) fn forget(&mut self, id: Id) {
        if self.n_waiting == 0 {
            return;
        }
        let set = self.set(id);
        let at = self.entries[set.clone()]
            .iter()
            .position(|entry| entry.count > 0 && entry.id == id.0);
        if let Some(at) = at {
            self.remove(set.start, at);
        }
    }

    fn remove(&mut self, start: usize, at: usize) {
        let ways = &mut self.entries[start..start + WAYS];
        ways.copy_within(at + 1.., at);
        ways[WAYS - 1] = Entry::default();
        self.n_waiting -= 1;
    }

    /// Entries of the set of an id.
    fn set(&self, id: Id) -> std::ops::Range<usize> {
        let n_sets = self.entries.len() / WAYS;
        // The high bits of the product are uniform below `n_sets`, whatever that is.
        let product = u128::from(id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * n_sets as u128;
        let set = usize::try_from(product >> 64).expect("a set below the number of sets");
        set * WAYS..(set + 1) * WAYS
    }

    /// The counts of all ids.
    pub(crate) fn export(&self) -> AdmissionCounts {
        let mut waiting = AdmissionCounts::default();
        for entry in self.entries.iter().filter(|entry| entry.count > 0) {
            waiting.ids.push(entry.id);
            waiting.counts.push(entry.count);
            waiting.users.extend(entry.users);
        }
        waiting
    }

    /// Fills empty counters: exactly if the capacity is the same, otherwise as far as there is room.
    pub(crate) fn import(&mut self, waiting: &AdmissionCounts) {
        let users = waiting.users.chunks_exact(KEPT_USERS);
        for ((id, count), kept) in waiting.ids.iter().zip(&waiting.counts).zip(users) {
            let set = self.set(Id(*id));
            let free = self.entries[set].iter_mut().find(|entry| entry.count == 0);
            if let (Some(entry), 1..) = (free, *count) {
                entry.id = *id;
                entry.count = *count;
                entry.users.copy_from_slice(kept);
                self.n_waiting += 1;
            }
        }
    }
}

/// A hash of a user in 16 bits, never 0.
fn user_hash(user: Id) -> u16 {
    let hash = user.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    u16::try_from(hash % 0xffff).map_or(1, |hash| hash + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// The same by a map without a bound.
    #[derive(Default)]
    struct Oracle(BTreeMap<u64, (u16, BTreeSet<u64>)>);

    impl Oracle {
        fn count(&mut self, id: u64, user: u64, min_count: u16, min_users: usize) -> bool {
            let (count, seen) = self.0.entry(id).or_default();
            *count += 1;
            seen.insert(user);
            let is_enough = *count >= min_count && seen.len() >= min_users;
            if is_enough {
                self.0.remove(&id);
            }
            is_enough
        }
    }

    proptest! {
        #[test]
        fn with_room_for_all_ids_are_admitted_exactly_as_by_a_map(
            events in prop::collection::vec((0u64..8, 0u64..12, prop::bool::weighted(0.02)), 0..400),
            (sightings, users) in (1u16..12, 1usize..=MAX_USERS),
        ) {
            // One set, so that a place is where it should be or nowhere.
            let (mut counters, mut oracle) = (AdmissionCounter::new(8), Oracle::default());
            for (id, user, is_dropped) in events {
                if is_dropped {
                    counters.forget(Id(id));
                    oracle.0.remove(&id);
                } else {
                    let found = counters.count(Id(id), Id(user), sightings, users);
                    prop_assert_eq!(found, oracle.count(id, user, sightings, users));
                }
                prop_assert_eq!(counters.len(), oracle.0.len());
            }
        }

        #[test]
        fn without_room_an_id_is_admitted_later_and_never_earlier(
            events in prop::collection::vec((0u64..60, 0u64..6), 0..600),
            (sightings, users) in (1u16..6, 1usize..4),
            cut in 0usize..600,
        ) {
            let mut counters = AdmissionCounter::new(16);
            // Of every sighting since an id was admitted last.
            let mut oracle: BTreeMap<u64, (u16, BTreeSet<u64>)> = BTreeMap::new();
            for (n, (id, user)) in events.into_iter().enumerate() {
                let (count, seen) = oracle.entry(id).or_default();
                *count += 1;
                seen.insert(user);
                if counters.count(Id(id), Id(user), sightings, users) {
                    prop_assert!(*count >= sightings && seen.len() >= users, "{} {:?}", count, seen);
                    oracle.remove(&id);
                }
                if n == cut {
                    let mut restored = AdmissionCounter::new(16);
                    restored.import(&counters.export());
                    prop_assert_eq!(&restored.entries, &counters.entries);
                    prop_assert_eq!(restored.n_waiting, counters.n_waiting);
                    counters = restored;
                }
                prop_assert!(counters.len() <= 16);
            }
        }
    }

    #[test]
    fn a_full_set_drops_the_id_that_occurred_longest_ago() {
        let mut counters = AdmissionCounter::new(8);
        (0..8).for_each(|id| assert!(!counters.count(Id(id), Id(1), 2, 1)));
        // The ninth takes the place of 0, and 0 that of 1.
        assert!(!counters.count(Id(8), Id(1), 2, 1));
        assert!(!counters.count(Id(0), Id(1), 2, 1));
        assert!(counters.count(Id(2), Id(1), 2, 1));
        assert!(!counters.count(Id(1), Id(1), 2, 1));
        assert_eq!(counters.len(), 8);
    }

    #[test]
    fn smaller_counters_restore_what_there_is_room_for() {
        let mut many = AdmissionCounter::new(64);
        (0..64).for_each(|id| _ = many.count(Id(id), Id(1), 3, 1));
        let mut few = AdmissionCounter::new(8);
        few.import(&many.export());
        assert_eq!(few.len(), 8);
        let mut again = AdmissionCounter::new(64);
        again.import(&few.export());
        assert_eq!(again.len(), 8);
    }
}
