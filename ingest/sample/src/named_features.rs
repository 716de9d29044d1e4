//! Features of an item or of a user by name, and changes of some of them.

use serde::{Deserialize, Serialize};

use crate::{Id, Number, sort_numbers};

/// The new value of a feature.
#[derive(Clone, Debug, PartialEq)]
pub enum FeatureChange {
    /// Categorical values; without any, the feature is removed.
    Values(Vec<Id>),
    /// A number.
    Number(f32),
}

/// Categorical and numeric values with the hashes of their names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Features {
    /// Name and value, sorted by value; each value once.
    pub(crate) values: Vec<(Id, Id)>,
    /// Sorted by name.
    pub(crate) numbers: Vec<Number>,
}

impl Features {
    /// The features with `changes`. Without `clears_all`, features that `changes` does not name stay.
    pub(crate) fn change(mut self, clears_all: bool, changes: Vec<(Id, FeatureChange)>) -> Self {
        let stays = |name: Id| !clears_all && changes.iter().all(|(new, _)| *new != name);
        self.values.retain(|(name, _)| stays(*name));
        self.numbers.retain(|number| stays(number.name));
        for (name, change) in changes {
            match change {
                FeatureChange::Values(values) => {
                    self.values.extend(values.into_iter().map(|value| (name, value)));
                }
                FeatureChange::Number(value) => self.numbers.push(Number { name, value }),
            }
        }
        self.values.sort_unstable_by_key(|(_, value)| *value);
        self.values.dedup_by_key(|(_, value)| *value);
        sort_numbers(&mut self.numbers);
        self
    }
}
