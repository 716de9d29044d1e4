//! Actions from before the log, and those that wait for their item's first event.
//!
//! Histories are seeded before the first record, when the catalog is empty. An action then counts for its user and in
//! the total at once, and for the item's values and words when the item becomes known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{EventTime, Id};

/// Largest number of waiting actions, 8 bytes each and 60 per item. Those beyond count for no values and words.
const MAX_WAITING: usize = 1 << 23;

/// The seeded actions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seeds {
    /// Number of all seeded actions, saturating.
    n_actions: u32,
    /// Event time of the newest.
    ts: EventTime,
    /// Users whose actions wait, by item, in the order of seeding.
    waiting: BTreeMap<Id, Vec<Id>>,
    n_waiting: usize,
}

impl Seeds {
    /// Counts a seeded action.
    pub(crate) fn add(&mut self, ts: EventTime) {
        self.n_actions = self.n_actions.saturating_add(1);
        self.ts = if self.n_actions == 1 { ts } else { self.ts.max(ts) };
    }

    /// Lets an action wait for its item.
    pub(crate) fn wait(&mut self, user: Id, item: Id) {
        if self.n_waiting < MAX_WAITING {
            self.waiting.entry(item).or_default().push(user);
            self.n_waiting += 1;
        }
    }

    /// Removes the actions that wait for an item. Returns their users.
    pub(crate) fn take(&mut self, item: Id) -> Vec<Id> {
        let users = self.waiting.remove(&item).unwrap_or_default();
        self.n_waiting -= users.len();
        users
    }

    /// Number of all seeded actions.
    pub(crate) fn n_actions(&self) -> u32 {
        self.n_actions
    }

    /// Event time of the newest seeded action.
    pub(crate) fn ts(&self) -> EventTime {
        self.ts
    }
}
