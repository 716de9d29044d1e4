//! What the feature state keeps, and for how long.

use serde::{Deserialize, Serialize};

/// Sizes and rates of the feature state. Part of the schema: another value means other features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureConfig {
    /// Actions of a user that a request carries, newest kept, count.
    pub history_len: usize,
    /// Actions of a user whose contents a request carries too, newest kept, count; at most `history_len`. 0 where
    /// the model reads no content, and then candidates carry none either.
    pub history_contents: usize,
    /// Actions of a user that are kept, count; at least `history_len`.
    pub history_kept: usize,
    /// Shown items of a user that are kept to compare content with, count.
    pub shown_kept: usize,
    /// Time constant of the decayed impression and action counts of an item, ms of event time.
    pub decay_ms: i64,
    /// Rate of the fast moving average, per impression, in `(0, 1)`.
    pub fast_rate: f32,
    /// Rate of the slow moving average, per impression, in `(0, 1)`.
    pub slow_rate: f32,
    /// Strength of the prior in a smoothed rate, in actions: a counter without impressions has the global
    /// rate, and moves half-way to its own after `prior_actions / global rate` impressions.
    pub prior_actions: f32,
    /// Users with a history, count. Beyond it those without an action for longest are forgotten.
    pub max_users: usize,
    /// Live counters, count, 60 to 90 bytes each. Beyond it those untouched for longest are forgotten.
    pub max_counters: usize,
    /// The item catalog, bytes. Beyond it the items whose newest version is oldest are forgotten.
    pub max_catalog_bytes: u64,
    /// How long a user or counter is kept without an event, ms of event time; 0 for ever.
    pub expire_ms: i64,
}

impl Default for FeatureConfig {
    fn default() -> Self {
        Self {
            history_len: 100,
            history_contents: 0,
            history_kept: 200,
            shown_kept: 50,
            decay_ms: 3_600_000,
            fast_rate: 0.05,
            slow_rate: 0.01,
            prior_actions: 1.0,
            max_users: 2_000_000,
            max_counters: 20_000_000,
            max_catalog_bytes: 2 << 30,
            expire_ms: 0,
        }
    }
}

impl FeatureConfig {
    /// The configuration with all limits at their defaults: limits may change between two starts, the rest may not.
    #[must_use]
    pub fn without_limits(&self) -> Self {
        let Self {
            max_users,
            max_counters,
            max_catalog_bytes,
            expire_ms,
            ..
        } = Self::default();
        Self {
            max_users,
            max_counters,
            max_catalog_bytes,
            expire_ms,
            ..self.clone()
        }
    }
}
