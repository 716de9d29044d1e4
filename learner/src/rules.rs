//! The `[rows]` section: when an id gets an embedding row, and when it loses it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ouzel_model::Feature;
use ouzel_sample::settings::{KeyError, Period, out_of_range};

use crate::admission::MAX_USERS;

/// When an id gets an embedding row, how fast it learns, and when it is forgotten. May change between two starts. The
/// defaults give every id a row at once and keep it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RowRules {
    /// How long a row, or a weight of the wide part, may go unread by any batch before it is forgotten, in event time; `0s`
    /// for ever, otherwise at least `1h`, because rows are scanned once an hour of event time.
    ///
    /// Set it to forget ids that are gone.
    #[schemars(extend("x-maximum" = "3660d"))]
    pub expire_after: Period,
    /// Ids without a row whose samples are counted, where `min_samples` or `min_users` is more than 1. Above it the ids seen
    /// longest ago start again: an id may get its row late, never early.
    ///
    /// Unit: ids, 24 bytes each. Raise it when many new ids appear at once.
    #[schemars(range(min = 1))]
    pub admission_capacity: usize,
    /// Rows of users.
    pub user: UserRules,
    /// Rows of items.
    pub item: FeatureRules,
    /// Rows of categorical values of items and requests.
    pub attribute: FeatureRules,
}

/// Rules of the rows of users.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UserRules {
    /// Requests of a user that are learned from before the user gets a row. Until then it reads as zeros.
    ///
    /// Unit: requests. Raise it to save memory on users who come once.
    #[schemars(range(min = 1))]
    pub min_samples: u16,
    /// Learning rate of these rows; 0 for `optimizer.row_rate`.
    ///
    /// Set it to learn users faster or slower than items.
    #[schemars(range(min = 0))]
    pub rate: f32,
}

/// Rules of the rows of one feature.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureRules {
    /// Samples naming an id, histories not counted, that are learned from before it gets a row. Until then it reads as zeros.
    ///
    /// Unit: samples. Raise it to save memory on ids that appear once.
    #[schemars(range(min = 1))]
    pub min_samples: u16,
    /// Distinct users among those samples.
    ///
    /// Unit: users. Raise it so that no id gets a row because of one user.
    #[schemars(range(min = 1, max = MAX_USERS))]
    pub min_users: usize,
    /// Learning rate of these rows; 0 for `optimizer.row_rate`.
    ///
    /// Set it to learn these ids faster or slower than others.
    #[schemars(range(min = 0))]
    pub rate: f32,
}

impl Default for UserRules {
    fn default() -> Self {
        Self {
            min_samples: 1,
            rate: 0.0,
        }
    }
}

impl Default for FeatureRules {
    fn default() -> Self {
        Self {
            min_samples: 1,
            min_users: 1,
            rate: 0.0,
        }
    }
}

impl Default for RowRules {
    fn default() -> Self {
        Self {
            expire_after: Period::from_ms(0),
            admission_capacity: 262_144,
            user: UserRules::default(),
            item: FeatureRules::default(),
            attribute: FeatureRules::default(),
        }
    }
}

impl RowRules {
    /// The rules of a feature. A user is one distinct user.
    #[must_use]
    pub fn rules(&self, feature: Feature) -> FeatureRules {
        match feature {
            Feature::User => FeatureRules {
                min_samples: self.user.min_samples,
                min_users: 1,
                rate: self.user.rate,
            },
            Feature::Item => self.item,
            Feature::Attribute => self.attribute,
        }
    }

    /// Whether the ids of each feature must wait for their rows.
    #[must_use]
    pub fn waits(&self) -> [bool; Feature::N] {
        Feature::ALL.map(|feature| {
            let rules = self.rules(feature);
            rules.min_samples > 1 || rules.min_users > 1
        })
    }

    /// Every value that cannot be used, by its key below `rows`.
    #[must_use]
    pub fn validate(&self) -> Vec<KeyError> {
        let mut errors = out_of_range(self);
        if (1..HOUR_MS).contains(&self.expire_after.ms()) {
            let message = format!("must be 0s or at least 1h, not {}", self.expire_after);
            errors.push(KeyError::new("expire_after", message));
        }
        errors
    }
}

const HOUR_MS: i64 = 3_600_000;
