//! The past of one user: bounded, time-ordered lists of actions and shown items, newest outcomes and click counts.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::clicks::ClickCounts;
use super::long_past::{LongAction, LongLimits, LongPast};
use super::outcomes::Outcomes;
use crate::{EventTime, HistoryEntry, Id, TaskMap};

/// The past of one user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct UserState {
    /// Actions, oldest first by event time, ties in log order.
    history: VecDeque<HistoryEntry>,
    /// Shown items in the same order.
    shown: VecDeque<(EventTime, Id)>,
    /// Actions by key; none while there is none, or the model reads no long past.
    long: Option<Box<LongPast>>,
    pub(crate) outcomes: Outcomes,
    pub(crate) clicks: ClickCounts,
}

impl UserState {
    /// Inserts an action in event-time order and drops the oldest beyond `max`.
    pub(crate) fn add_action(&mut self, entry: HistoryEntry, max: usize) {
        insert_in_order(&mut self.history, entry, |entry| entry.ts, max);
    }

    /// Inserts an action into the list of `key`, see [`LongPast::add`].
    pub(crate) fn add_long(&mut self, key: Id, action: LongAction, limits: LongLimits) {
        self.long.get_or_insert_default().add(key, action, limits);
    }

    /// The actions by key; none while there is none.
    pub(crate) fn long(&self) -> Option<&LongPast> {
        self.long.as_deref()
    }

    /// Drops the actions by key.
    pub(crate) fn clear_long(&mut self) {
        self.long = None;
    }

    /// Inserts a shown item in event-time order and drops the oldest beyond `max`.
    pub(crate) fn add_shown(&mut self, item: Id, ts: EventTime, max: usize) {
        insert_in_order(&mut self.shown, (ts, item), |(ts, _)| *ts, max);
    }

    /// Gives the actions the present indexes of their tasks, and drops those of tasks that were removed. Returns the number
    /// of dropped actions.
    pub(crate) fn migrate(&mut self, tasks: &TaskMap) -> u64 {
        let before = self.history.len();
        self.history.retain_mut(|entry| {
            let present = tasks.present(entry.task);
            entry.task = present.unwrap_or(entry.task);
            present.is_some()
        });
        let of_long = self.long.as_mut().map_or(0, |long| long.migrate(tasks));
        (before - self.history.len()) as u64 + of_long
    }

    /// Event time of the newest event.
    pub(crate) fn last(&self) -> EventTime {
        let acted = self.history.back().map_or(EventTime::MIN, |entry| entry.ts);
        let shown = self.shown.back().map_or(EventTime::MIN, |(ts, _)| *ts);
        acted.max(shown).max(self.outcomes.last_shown())
    }

    /// The items of the newest `n` actions and of the newest `n` shown items.
    pub(crate) fn newest_items(&self, n: usize) -> impl Iterator<Item = Id> {
        let acted = self.history.iter().rev().take(n).map(|entry| entry.item);
        acted.chain(self.shown.iter().rev().take(n).map(|(_, item)| *item))
    }

    /// The items shown strictly before `now`, newest first.
    pub(crate) fn shown_before(&self, now: EventTime) -> impl Iterator<Item = Id> {
        let before = self.shown.iter().rev().skip_while(move |(ts, _)| *ts >= now);
        before.map(|(_, item)| *item)
    }

    /// The newest `len` actions strictly before `now`, oldest first.
    pub(crate) fn actions_before(&self, now: EventTime, len: usize) -> Vec<HistoryEntry> {
        // Nearly every request is newer than all past actions; only a late one needs the search.
        let end = match self.history.back() {
            Some(newest) if newest.ts < now => self.history.len(),
            _ => self.history.partition_point(|entry| entry.ts < now),
        };
        let start = end.saturating_sub(len);
        // Copies the two slices of the ring buffer instead of single entries.
        let (old, new) = self.history.as_slices();
        let mut before = Vec::with_capacity(end - start);
        before.extend_from_slice(&old[start.min(old.len())..end.min(old.len())]);
        before.extend_from_slice(&new[start.saturating_sub(old.len())..end.saturating_sub(old.len())]);
        before
    }
}

/// Inserts `entry` behind all entries that are not newer, then drops the oldest beyond `max`.
pub(super) fn insert_in_order<T>(list: &mut VecDeque<T>, entry: T, ts: impl Fn(&T) -> EventTime, max: usize) {
    let n_newer = list.iter().rev().take_while(|old| ts(old) > ts(&entry)).count();
    list.insert(list.len() - n_newer, entry);
    while list.len() > max {
        list.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(item: u64, ts: i64) -> HistoryEntry {
        HistoryEntry {
            item: Id(item),
            ts: EventTime(ts),
            attribute: Id(0),
            task: 0,
        }
    }

    #[test]
    fn history_ends_strictly_before_the_impression() {
        let mut user = UserState::default();
        for (item, ts) in [(1, 10), (3, 30), (2, 20), (4, 40)] {
            user.add_action(entry(item, ts), 3);
        }
        let items = |now, len| -> Vec<u64> {
            let history = user.actions_before(EventTime(now), len);
            history.iter().map(|entry| entry.item.0).collect()
        };
        assert_eq!(items(40, 9), [2, 3]);
        assert_eq!(items(41, 9), [2, 3, 4]);
        assert_eq!(items(41, 2), [3, 4]);
        assert_eq!(items(5, 9), [0u64; 0]);
    }

    #[test]
    fn shown_items_are_kept_in_order_of_time_and_bounded() {
        let mut user = UserState::default();
        for (item, ts) in [(1, 10), (3, 30), (2, 20), (4, 40)] {
            user.add_shown(Id(item), EventTime(ts), 3);
        }
        let items = |now| -> Vec<u64> { user.shown_before(EventTime(now)).map(|id| id.0).collect() };
        assert_eq!(items(41), [4, 3, 2]);
        assert_eq!(items(40), [3, 2]);
        assert_eq!(items(20), [0u64; 0]);
        assert_eq!(user.last(), EventTime(40));
    }
}
