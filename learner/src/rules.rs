//! Row rules: when an id gets an embedding row, how fast the row learns, when it expires.

use serde::{Deserialize, Serialize};

use ouzel_model::Feature;

use crate::admission::MAX_USERS;

/// By feature, and for all rows together. The defaults give every id a row at once and keep it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RowRules {
    /// Of users.
    pub user: FeatureRules,
    /// Of items.
    pub item: FeatureRules,
    /// Of categorical values.
    pub attribute: FeatureRules,
    /// Ids without a row whose sightings are counted, count.
    pub waiting: usize,
    /// A row not seen for so long, event time in ms, is forgotten; 0 for never.
    pub expire_ms: i64,
}

/// The rules of one feature.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureRules {
    /// AdmissionCounter before an id gets a row, count.
    pub sightings: u16,
    /// Distinct users among them, count.
    pub users: usize,
    /// Learning rate of its rows, where it is not the one of all.
    pub rate: Option<f32>,
}

impl Default for FeatureRules {
    fn default() -> Self {
        Self {
            sightings: 1,
            users: 1,
            rate: None,
        }
    }
}

impl Default for RowRules {
    fn default() -> Self {
        Self {
            user: FeatureRules::default(),
            item: FeatureRules::default(),
            attribute: FeatureRules::default(),
            waiting: 262_144,
            expire_ms: 0,
        }
    }
}

impl FeatureRules {
    /// Whether an id must wait for its row.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.sightings > 1 || self.users > 1
    }
}

impl RowRules {
    /// The rules of a feature.
    #[must_use]
    pub fn of(&self, feature: Feature) -> &FeatureRules {
        match feature {
            Feature::User => &self.user,
            Feature::Item => &self.item,
            Feature::Attribute => &self.attribute,
        }
    }

    /// Which features have ids that wait for a row.
    #[must_use]
    pub fn waits(&self) -> [bool; Feature::N] {
        Feature::ALL.map(|feature| self.of(feature).waits())
    }

    /// The first rule with a value that is not allowed: its key below the section of rows, and why.
    #[must_use]
    pub fn fault(&self) -> Option<(String, String)> {
        for feature in Feature::ALL {
            let rules = self.of(feature);
            let fault = |key: &str, why: String| Some((format!("{}.{key}", feature.name()), why));
            if rules.sightings == 0 {
                return fault("sightings", "must be at least 1".to_owned());
            }
            if feature == Feature::User && rules.users != 1 {
                return fault(
                    "users",
                    "must be 1, since a user row has one user: set sightings instead".to_owned(),
                );
            }
            if !(1..=MAX_USERS).contains(&rules.users) {
                return fault("users", format!("must be from 1 to {MAX_USERS}"));
            }
            if rules.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
                return fault("rate", "must be more than 0".to_owned());
            }
        }
        if self.waiting == 0 {
            return Some(("waiting".to_owned(), "must be at least 1".to_owned()));
        }
        if self.expire_ms < 0 || (1..HOUR_MS).contains(&self.expire_ms) {
            return Some((
                "expire_after".to_owned(),
                "must be 0s, or at least 1h: rows are looked through once an hour of event time".to_owned(),
            ));
        }
        None
    }
}

const HOUR_MS: i64 = 3_600_000;
