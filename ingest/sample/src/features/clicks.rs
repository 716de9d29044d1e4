//! What a user acted on, counted over all time.

use serde::{Deserialize, Serialize};

use super::bounded_counts::BoundedCounts;
use super::config::FeatureConfig;
use super::smoothing::f32_of;
use super::titles::title_words;
use crate::{AttributeField, Id, Item};

/// Primary actions of one user, by the categorical values and title words of their items. Seeded actions count too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClickCounts {
    n: u32,
    values: BoundedCounts,
    words: BoundedCounts,
}

impl ClickCounts {
    /// Counts an action; what it says of its item counts by [`add_item`](Self::add_item).
    pub(crate) fn add(&mut self) {
        self.n = self.n.saturating_add(1);
    }

    /// Counts the values and words of an item that the user acted on.
    pub(crate) fn add_item(&mut self, item: &Item, config: &FeatureConfig) {
        let now = u16::try_from(self.n).unwrap_or(u16::MAX);
        for value in counted_values(item) {
            self.values.add(key(value), now, config.value_capacity);
        }
        for word in title_words(item) {
            self.words.add(word, now, config.word_capacity);
        }
    }

    /// Number of all actions.
    pub(crate) fn n(&self) -> u32 {
        self.n
    }

    /// Number of actions on items with each word in the title.
    pub(crate) fn words(&self) -> &BoundedCounts {
        &self.words
    }

    /// Logarithm of the value's share of the user's actions over its share `expected` of all users', with two actions
    /// at the expected share as a prior.
    pub(crate) fn log_share(&self, value: Id, expected: f32) -> f32 {
        let of_value = f32::from(self.values.get(key(value)));
        let share = (of_value + 2.0 * expected) / (f32_of(self.n) + 2.0);
        (share / expected).ln()
    }
}

/// The values of an item that actions count by.
pub(crate) fn counted_values(item: &Item) -> impl Iterator<Item = Id> + '_ {
    let attributes = item.attributes.iter();
    let of_items = attributes.filter(|attribute| attribute.field != AttributeField::Context);
    of_items.map(|attribute| attribute.value)
}

fn key(value: Id) -> u32 {
    (value.0 >> 32) as u32
}
