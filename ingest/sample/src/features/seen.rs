//! The items that a user has seen, which a recommender leaves out.

use super::state::FeatureState;
use crate::{EventTime, Id};

impl FeatureState {
    /// The items that the user acted on before `now`, as far as the history reaches (`features.history_capacity`).
    #[must_use]
    pub fn acted_items(&self, user: Id, now: EventTime) -> Vec<Id> {
        let capacity = self.config.history_capacity;
        let actions = self
            .users
            .get(&user)
            .map(|user| user.actions_before(now, capacity));
        actions
            .unwrap_or_default()
            .into_iter()
            .map(|entry| entry.item)
            .collect()
    }

    /// The items that were shown to the user before `now`, the newest `features.shown_capacity`.
    #[must_use]
    pub fn shown_items(&self, user: Id, now: EventTime) -> Vec<Id> {
        let shown = self.users.get(&user).map(|user| user.shown_before(now).collect());
        shown.unwrap_or_default()
    }
}
