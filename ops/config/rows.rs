//! The life of embedding rows: when an id gets one, how fast it learns, when it is forgotten.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ouzel_learner::{FeatureRules, RowRules};

use super::Period;

/// When an id gets an embedding row of its own, and when it loses it. May be changed between two starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rows {
    /// A row, or a weight of the wide part, that no batch has read for this long, event time, is forgotten; `0s` never
    /// does that. At least `1h`: rows are looked through once an hour of event time.
    pub expire_after: Period,
    /// Ids without a row whose sightings are counted, count, 24 bytes each, where any feature asks for more than one.
    /// When there are more, those sighted longest ago begin again: an id may get its row late, never early.
    #[schemars(range(min = 1))]
    pub waiting: usize,
    /// Of users.
    pub user: UserRows,
    /// Of items.
    pub item: FeatureRows,
    /// Of categorical values of items and of requests.
    pub attribute: FeatureRows,
}

/// Of users, who are of one user each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UserRows {
    /// Sightings before an id gets a row, count: requests learned from. Until then it reads as zeros.
    #[schemars(range(min = 1, max = 65_535))]
    pub sightings: u16,
    /// Learning rate of these rows; 0 for `optimizer.row_rate`.
    pub rate: f64,
}

/// Of one feature.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureRows {
    /// Sightings before an id gets a row, count: samples learned from that name it, histories apart. Until then it
    /// reads as zeros.
    #[schemars(range(min = 1, max = 65_535))]
    pub sightings: u16,
    /// Distinct users among those sightings, count.
    #[schemars(range(min = 1, max = 7))]
    pub users: usize,
    /// Learning rate of these rows; 0 for `optimizer.row_rate`.
    pub rate: f64,
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            expire_after: Period::from_ms(0),
            waiting: 262_144,
            user: UserRows::default(),
            item: FeatureRows::default(),
            attribute: FeatureRows::default(),
        }
    }
}

impl Default for UserRows {
    fn default() -> Self {
        Self {
            sightings: 1,
            rate: 0.0,
        }
    }
}

impl Default for FeatureRows {
    fn default() -> Self {
        Self {
            sightings: 1,
            users: 1,
            rate: 0.0,
        }
    }
}

impl Rows {
    /// As the learner takes them.
    #[must_use]
    pub fn rules(&self) -> RowRules {
        let rules = |rows: FeatureRows| FeatureRules {
            sightings: rows.sightings,
            users: rows.users,
            rate: rate(rows.rate),
        };
        RowRules {
            user: rules(FeatureRows {
                sightings: self.user.sightings,
                users: 1,
                rate: self.user.rate,
            }),
            item: rules(self.item),
            attribute: rules(self.attribute),
            waiting: self.waiting,
            expire_ms: self.expire_after.ms(),
        }
    }
}

/// The rate that is stated, if any is. What is no rate is refused later by name.
fn rate(stated: f64) -> Option<f32> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a rate needs no more digits than an f32 has"
    )]
    let single = stated as f32;
    (stated != 0.0).then_some(single)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn an_unstated_rule_is_that_of_the_learner() {
        assert_eq!(Rows::default().rules(), RowRules::default());
        let config = Config::parse("rows.item = { sightings = 3, users = 2, rate = 0.1 }", "x").unwrap();
        let rules = config.learner_config().rows;
        let item = FeatureRules {
            sightings: 3,
            users: 2,
            rate: Some(0.1),
        };
        assert_eq!((rules.item, rules.user), (item, FeatureRules::default()));
    }

    #[test]
    fn a_rule_that_cannot_be_kept_is_refused_by_its_key() {
        for (text, expected) in [
            ("rows.item.users = 8", "rows.item.users: must be from 1 to 7"),
            (
                "rows.user.sightings = 0",
                "rows.user.sightings: must be at least 1",
            ),
            (
                "rows.attribute.rate = -0.1",
                "rows.attribute.rate: must be more than 0",
            ),
            (
                "rows.expire_after = \"30m\"",
                "rows.expire_after: must be 0s, or at least 1h",
            ),
            ("rows.waiting = 0", "rows.waiting: must be at least 1"),
            ("rows.user.users = 2", "rows.user.users"),
            ("model.dims.item = 9", "model.dims.item: must be at most dim"),
        ] {
            let refused = Config::parse(text, "x").unwrap_err().to_string();
            assert!(refused.contains(expected), "{text}: {refused}");
        }
    }
}
