//! What is kept of one user: bounded, time-ordered lists of actions and of shown items.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{EventTime, HistoryEntry, Id};

/// One user's recent past.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct UserState {
    /// Oldest first by event time, ties in log order.
    history: VecDeque<HistoryEntry>,
    /// What was shown, likewise.
    shown: VecDeque<(EventTime, Id)>,
}

impl UserState {
    /// Adds an action in event-time order, dropping the oldest beyond `kept`.
    pub(crate) fn act(&mut self, entry: HistoryEntry, kept: usize) {
        let after = self
            .history
            .iter()
            .rposition(|old| old.ts <= entry.ts)
            .map_or(0, |index| index + 1);
        self.history.insert(after, entry);
        while self.history.len() > kept {
            self.history.pop_front();
        }
    }

    /// Adds a shown item in event-time order, dropping the oldest beyond `kept`.
    pub(crate) fn show(&mut self, item: Id, ts: EventTime, kept: usize) {
        let newer = self.shown.iter().rev().take_while(|(old, _)| *old > ts).count();
        self.shown.insert(self.shown.len() - newer, (ts, item));
        while self.shown.len() > kept {
            self.shown.pop_front();
        }
    }

    /// When the newest event was.
    pub(crate) fn last(&self) -> EventTime {
        let acted = self.history.back().map_or(EventTime::MIN, |entry| entry.ts);
        acted.max(self.shown.back().map_or(EventTime::MIN, |(ts, _)| *ts))
    }

    /// The items shown strictly before `now`, newest first.
    pub(crate) fn shown_before(&self, now: EventTime) -> impl Iterator<Item = Id> {
        let before = self.shown.iter().rev().skip_while(move |(ts, _)| *ts >= now);
        before.map(|(_, item)| *item)
    }

    /// The newest `len` actions strictly before `now`, oldest first.
    pub(crate) fn before(&self, now: EventTime, len: usize) -> Vec<HistoryEntry> {
        // Nearly every event is newer than all the user did before; only a late one has to be placed.
        let end = match self.history.back() {
            Some(newest) if newest.ts < now => self.history.len(),
            _ => self.history.partition_point(|entry| entry.ts < now),
        };
        let start = end.saturating_sub(len);
        // The ring's two halves are copied whole.
        let (old, new) = self.history.as_slices();
        let mut before = Vec::with_capacity(end - start);
        before.extend_from_slice(&old[start.min(old.len())..end.min(old.len())]);
        before.extend_from_slice(&new[start.saturating_sub(old.len())..end.saturating_sub(old.len())]);
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(item: u64, ts: i64) -> HistoryEntry {
        HistoryEntry {
            item: Id(item),
            ts: EventTime(ts),
            about: Id(0),
            task: 0,
        }
    }

    #[test]
    fn history_is_cut_strictly_before_the_impression() {
        let mut user = UserState::default();
        for (item, ts) in [(1, 10), (3, 30), (2, 20), (4, 40)] {
            user.act(entry(item, ts), 3);
        }
        let items = |now, len| -> Vec<u64> {
            user.before(EventTime(now), len)
                .iter()
                .map(|entry| entry.item.0)
                .collect()
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
            user.show(Id(item), EventTime(ts), 3);
        }
        let items = |now| -> Vec<u64> { user.shown_before(EventTime(now)).map(|id| id.0).collect() };
        assert_eq!(items(41), [4, 3, 2]);
        assert_eq!(items(40), [3, 2]);
        assert_eq!(items(20), [0u64; 0]);
        assert_eq!(user.last(), EventTime(40));
    }
}
