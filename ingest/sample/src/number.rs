//! Numeric values of items, shown items, requests and users, as events carry them.

use serde::{Deserialize, Serialize};

use crate::Id;

/// The side of a sample that a number describes. Part of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum NumberScope {
    /// A number of an item, or of an item as one request showed it.
    Item = 1,
    /// A number of a request's context, or of the profile of its user.
    Context = 2,
}

/// One numeric value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Number {
    /// Hash of its scope and name, see [`IdSpace::number`](crate::IdSpace::number).
    pub name: Id,
    /// The value, finite.
    pub value: f32,
}

/// Names of numbers that are learned, of items and of requests with their users each. Later names are counted and not learned.
pub const MAX_NUMBER_NAMES: usize = 256;

/// Fields that describe a request wherever they are found, and never its outcome. Numbers in them are codes.
pub const REQUEST_FIELDS: [&str; 12] = [
    "scene",
    "surface",
    "placement",
    "channel",
    "device",
    "os",
    "platform",
    "browser",
    "country",
    "region",
    "language",
    "app_version",
];

/// Whether numbers of this name are categories: `genre_id` counts nothing, and neither does a code in [`REQUEST_FIELDS`].
#[must_use]
pub fn is_category_name(name: &str) -> bool {
    name.ends_with("_id") || REQUEST_FIELDS.contains(&name)
}

/// Sorts numbers by name. The first value of a name that occurs twice stays.
pub fn sort_numbers(numbers: &mut Vec<Number>) {
    numbers.sort_by_key(|number| number.name);
    numbers.dedup_by_key(|number| number.name);
}

/// The value as an f32; `None` beyond its range.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "numbers are stored as f32")]
pub fn finite_f32(value: f64) -> Option<f32> {
    let value = value as f32;
    value.is_finite().then_some(value)
}
