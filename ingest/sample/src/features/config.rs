//! The `[features]` section: what the feature state stores, and for how long.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::long_past::{LATE_SLACK, LongLimits};
use crate::settings::{ByteSize, KeyError, Period, out_of_range};

/// What is stored of users and items between events. Part of a snapshot's schema except for the limits: other values make
/// other features.
///
/// The feature state stores this in postcard, so the order of the fields is part of its format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureConfig {
    /// Newest actions of a user that the model sees.
    ///
    /// Unit: actions. Raise it when users act often and older actions still say something; a request costs more.
    #[schemars(range(min = 1))]
    pub history_len: usize,
    /// Newest actions whose contents a request carries too; at most `history_len`. 0 where the model reads no content, and
    /// then candidates carry none either. Derived from the model, not a key.
    #[schemars(skip)]
    pub history_contents: usize,
    /// Actions stored for each user; at least `history_len`.
    ///
    /// Unit: actions. Raise it together with `history_len`.
    pub history_capacity: usize,
    /// Actions of a user that are stored by the attribute of their item, the long past that `model.long_history` searches.
    /// Beyond it the oldest is dropped; the newest `model.long_history.len` of an attribute and 32 for late events are
    /// stored. Without `model.long_history`, and at `0`, none are.
    ///
    /// Unit: actions, 24 to 48 bytes each and 130 bytes for each attribute. Raise it with the length of the past that
    /// says something.
    pub long_capacity: usize,
    /// Newest actions of a key that a request carries, `model.long_history.len`; 0 where the model reads none, and then
    /// none are stored. Derived from the model, not a key.
    #[schemars(skip)]
    pub long_len: usize,
    /// Shown items stored for each user. Content features compare candidates with those the user did not act on.
    ///
    /// Unit: items. Lower it to save memory; it matters only with content.
    pub shown_capacity: usize,
    /// Categorical values of a user whose actions are counted, for the shares of the user's actions by category, author
    /// and tag. Beyond it the value with the fewest actions is dropped. `0` counts none.
    ///
    /// Unit: values, 8 bytes each. Raise it when users act on items of more authors than that.
    pub value_capacity: usize,
    /// Title words of a user whose actions are counted, for the features that compare a candidate's title with the titles
    /// that the user acted on. Beyond it the word with the fewest actions is dropped. `0` counts none.
    ///
    /// Unit: words, 8 bytes each. Raise it when users act on more titles than a few dozen.
    pub word_capacity: usize,
    /// Time constant of the decayed impression and action counts, in event time.
    ///
    /// Raise it for catalogs whose popularity changes slowly.
    #[schemars(extend("x-minimum" = "1ms"))]
    pub counter_decay: Period,
    /// Rate of the fast moving average of outcomes, per impression.
    ///
    /// Raise it to follow the newest impressions more closely.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub fast_ema_rate: f32,
    /// Rate of the slow moving average of outcomes, per impression.
    ///
    /// Lower it for a longer memory.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub slow_ema_rate: f32,
    /// Strength of the prior in a smoothed action rate. A counter without impressions has the global rate, and moves
    /// half-way to its own after `prior_actions / global rate` impressions.
    ///
    /// Unit: actions. Raise it when rates of rarely shown items are too noisy.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub prior_actions: f32,
    /// Users with a stored history. Above it those without an action for longest are forgotten. And users with a profile:
    /// above it those whose newest version is oldest are forgotten.
    ///
    /// Unit: users. A history takes at most 650 bytes + 24 and 16 bytes times the powers of two above `history_capacity` and
    /// `shown_capacity` + 8 bytes times `value_capacity` and `word_capacity`, with a long past up to 180 bytes times
    /// `long_capacity` more (of one attribute an action; 50 with long lists), a profile 150 bytes + 16 for each value. Raise
    /// it to the number of active users, or lower it to save memory.
    #[schemars(range(min = 1))]
    pub max_users: usize,
    /// Live counters. Above it those untouched for longest are forgotten.
    ///
    /// Unit: counters, 60 to 130 bytes each. Raise it with the number of items and attribute values.
    #[schemars(range(min = 1))]
    pub max_counters: usize,
    /// Size of the item catalog. Above it the items whose newest version is oldest are forgotten.
    ///
    /// Raise it when the catalog with its texts is larger.
    pub max_catalog: ByteSize,
    /// How long a user or counter is stored without an event, in event time; `0s` is for ever.
    ///
    /// Set it to bound memory by age, or to comply with a retention rule.
    #[schemars(extend("x-maximum" = "3660d"))]
    pub expire_after: Period,
}

impl Default for FeatureConfig {
    fn default() -> Self {
        Self {
            history_len: 100,
            history_contents: 0,
            history_capacity: 200,
            long_capacity: 5_000,
            long_len: 0,
            shown_capacity: 50,
            value_capacity: 256,
            word_capacity: 512,
            counter_decay: Period::from_secs(3_600),
            fast_ema_rate: 0.05,
            slow_ema_rate: 0.01,
            prior_actions: 1.0,
            max_users: 2_000_000,
            max_counters: 20_000_000,
            max_catalog: ByteSize::from_bytes(2 << 30),
            expire_after: Period::from_ms(0),
        }
    }
}

impl FeatureConfig {
    /// Limits of a user's long past; none where none is stored.
    pub(crate) fn long_limits(&self) -> Option<LongLimits> {
        (self.long_len > 0 && self.long_capacity > 0).then_some(LongLimits {
            list: self.long_len + LATE_SLACK,
            total: self.long_capacity,
        })
    }

    /// Every value that cannot be used, by its key below `features`.
    #[must_use]
    pub fn validate(&self) -> Vec<KeyError> {
        let mut errors = out_of_range(self);
        if self.history_capacity < self.history_len {
            errors.push(KeyError::new(
                "history_capacity",
                format!(
                    "must be at least history_len, {}, not {}",
                    self.history_len, self.history_capacity
                ),
            ));
        }
        errors
    }

    /// The configuration with all limits at their defaults: limits may change between two starts, the rest may not.
    #[must_use]
    pub fn without_limits(&self) -> Self {
        let Self {
            max_users,
            max_counters,
            max_catalog,
            expire_after,
            ..
        } = Self::default();
        Self {
            max_users,
            max_counters,
            max_catalog,
            expire_after,
            // Without a reader it decides nothing.
            long_capacity: match self.long_len {
                0 => Self::default().long_capacity,
                _ => self.long_capacity,
            },
            ..self.clone()
        }
    }
}
