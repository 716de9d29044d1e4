//! The long past of one user: lists of past actions by key, the index of SIM's general search unit.
//!
//! Hard search (Pi et al. 2020, arXiv 2006.05639, section 3.1): the key of an action is the item's
//! [`primary_attribute`](crate::primary_attribute) at the time of the action, and a candidate reads the list of its own.
//! What a search costs grows with the entries it returns and with the logarithm of the number of lists, not with the
//! length of the past.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize, Serializer};

use super::user::insert_in_order;
use crate::{EventTime, HistoryEntry, Id, TaskId, TaskMap};

/// Entries that a list holds beyond those that a model reads, so that a request that is older than the newest actions
/// still finds a full list.
pub(crate) const LATE_SLACK: usize = 32;

/// One action in a list, 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LongAction {
    pub(crate) item: Id,
    pub(crate) ts: EventTime,
    pub(crate) task: TaskId,
}

/// Largest sizes of a long past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LongLimits {
    /// Actions of one list.
    pub(crate) list: usize,
    /// Actions of all lists of a user.
    pub(crate) total: usize,
}

/// Lists of past actions by key. Serialised as its lists alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BTreeMap<Id, VecDeque<LongAction>>")]
pub(crate) struct LongPast {
    /// Actions, oldest first by event time, ties in log order. No list is empty.
    lists: BTreeMap<Id, VecDeque<LongAction>>,
    /// The oldest action of each list, by time and key: the order in which actions are dropped.
    oldest: BTreeSet<(EventTime, Id)>,
    /// Actions of all lists, count.
    n: usize,
}

impl Serialize for LongPast {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.lists.serialize(serializer)
    }
}

impl From<BTreeMap<Id, VecDeque<LongAction>>> for LongPast {
    fn from(mut lists: BTreeMap<Id, VecDeque<LongAction>>) -> Self {
        lists.retain(|_, list| !list.is_empty());
        let oldest = lists.iter();
        let oldest = oldest.filter_map(|(key, list)| Some((list.front()?.ts, *key)));
        Self {
            oldest: oldest.collect(),
            n: lists.values().map(VecDeque::len).sum(),
            lists,
        }
    }
}

impl LongPast {
    /// Inserts an action in event-time order. Drops the oldest of its list, then the oldest of all lists, beyond the limits.
    pub(crate) fn add(&mut self, key: Id, action: LongAction, limits: LongLimits) {
        let list = self.lists.entry(key).or_default();
        let (n_before, front) = (list.len(), list.front().map(|action| action.ts));
        insert_in_order(list, action, |action| action.ts, limits.list.max(1));
        self.n = self.n - n_before + list.len();
        let new_front = list.front().map(|action| action.ts);
        self.move_front(key, front, new_front);
        while self.n > limits.total && self.drop_oldest() {}
    }

    /// The newest `len` actions of a list strictly before `now`, oldest first; empty without any.
    pub(crate) fn search(&self, key: Id, now: EventTime, len: usize) -> Vec<HistoryEntry> {
        let Some(list) = self.lists.get(&key) else {
            return Vec::new();
        };
        // Nearly every request is newer than all past actions; only a late one needs the search.
        let end = match list.back() {
            Some(newest) if newest.ts < now => list.len(),
            _ => list.partition_point(|action| action.ts < now),
        };
        let newest = list.range(end.saturating_sub(len)..end);
        let entry = |action: &LongAction| HistoryEntry {
            item: action.item,
            ts: action.ts,
            attribute: key,
            task: action.task,
        };
        newest.map(entry).collect()
    }

    /// Gives the actions the present indexes of their tasks, and drops those of tasks that were removed. Returns the number
    /// of dropped actions.
    pub(crate) fn migrate(&mut self, tasks: &TaskMap) -> u64 {
        let before = self.n;
        let mut lists = std::mem::take(&mut self.lists);
        for list in lists.values_mut() {
            list.retain_mut(|action| {
                let present = tasks.present(action.task);
                action.task = present.unwrap_or(action.task);
                present.is_some()
            });
        }
        *self = Self::from(lists);
        (before - self.n) as u64
    }

    /// Drops the oldest action of all lists, of equally old ones that of the smallest key. False without any.
    fn drop_oldest(&mut self) -> bool {
        let Some((ts, key)) = self.oldest.first().copied() else {
            return false;
        };
        let Some(list) = self.lists.get_mut(&key) else {
            return false;
        };
        list.pop_front();
        self.n -= 1;
        let front = list.front().map(|action| action.ts);
        if front.is_none() {
            self.lists.remove(&key);
        }
        self.move_front(key, Some(ts), front);
        true
    }

    /// Keeps `oldest` up to date when the oldest action of a list changes.
    fn move_front(&mut self, key: Id, before: Option<EventTime>, after: Option<EventTime>) {
        if before == after {
            return;
        }
        if let Some(ts) = before {
            self.oldest.remove(&(ts, key));
        }
        if let Some(ts) = after {
            self.oldest.insert((ts, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All actions of the log that no limit has dropped, with the number of their event: slow and plain.
    #[derive(Default)]
    struct Scan(Vec<(EventTime, Id, usize, LongAction)>);

    impl Scan {
        fn add(&mut self, key: Id, number: usize, action: LongAction, limits: LongLimits) {
            self.0.push((action.ts, key, number, action));
            self.0.sort_by_key(|(ts, key, number, _)| (*ts, *key, *number));
            let of_key = self.0.iter().filter(|(_, of, ..)| *of == key).count();
            if of_key > limits.list {
                let first = self.0.iter().position(|(_, of, ..)| *of == key);
                self.0.remove(first.unwrap());
            }
            if self.0.len() > limits.total {
                self.0.remove(0);
            }
        }

        fn search(&self, key: Id, now: EventTime, len: usize) -> Vec<HistoryEntry> {
            let before = self.0.iter().filter(|(ts, of, ..)| *of == key && *ts < now);
            let mut entries: Vec<HistoryEntry> = before
                .map(|(ts, key, _, action)| HistoryEntry {
                    item: action.item,
                    ts: *ts,
                    attribute: *key,
                    task: action.task,
                })
                .collect();
            entries.drain(..entries.len().saturating_sub(len));
            entries
        }
    }

    proptest! {
        /// The index finds what a scan over all events finds, whatever comes late, at any limits, and after a restart.
        #[test]
        fn a_search_is_a_scan_over_all_actions(
            events in prop::collection::vec((0u64..5, 0u64..9, 0i64..40, 0u8..3), 0..120),
            list in 1usize..12,
            total in 1usize..40,
            len in 0usize..8,
            restart_every in 1usize..50,
        ) {
            let limits = LongLimits { list, total };
            let (mut past, mut scan) = (LongPast::default(), Scan::default());
            for (number, (key, item, late, task)) in events.into_iter().enumerate() {
                let now = i64::try_from(number).unwrap() / 2;
                let action = LongAction { item: Id(item), ts: EventTime(now - late), task };
                past.add(Id(key), action, limits);
                scan.add(Id(key), number, action, limits);
                if number % restart_every == 0 {
                    let bytes = postcard::to_stdvec(&past).unwrap();
                    let restored: LongPast = postcard::from_bytes(&bytes).unwrap();
                    prop_assert_eq!(&restored, &past);
                    past = restored;
                }
                for key in 0..5 {
                    for ts in [now - 20, now - 1, now, now + 1] {
                        let found = past.search(Id(key), EventTime(ts), len);
                        prop_assert_eq!(found, scan.search(Id(key), EventTime(ts), len));
                    }
                }
            }
            prop_assert!(past.n <= total);
        }
    }

    #[test]
    fn a_removed_task_takes_its_actions() {
        let mut past = LongPast::default();
        for (key, task) in [(1, 0), (1, 1), (2, 1)] {
            let action = LongAction {
                item: Id(7),
                ts: EventTime(5),
                task,
            };
            past.add(Id(key), action, LongLimits { list: 9, total: 9 });
        }
        let names = |tasks: &[&str]| tasks.iter().map(|task| (*task).to_owned()).collect::<Vec<_>>();
        let tasks = TaskMap::new(&names(&["click", "like"]), &names(&["click"]));
        assert_eq!(past.migrate(&tasks), 2);
        assert_eq!(past.search(Id(1), EventTime(6), 9).len(), 1);
        assert_eq!((past.lists.len(), past.oldest.len(), past.n), (1, 1, 1));
    }
}
