//! The live dense features: their names, their order and their fixed transforms.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// Names of the features, in order. `ctr` is a smoothed logit minus the global logit; counts are `ln(1 + n)`;
/// `slate` features are the item's minus the mean over its slate; those of `text` and `image` compare the item's
/// content with that of the user's past. The list is part of the schema.
pub const DENSE_NAMES: [&str; N_DENSE] = [
    "item_ctr",
    "item_impressions",
    "item_fast_ctr",
    "item_slow_ctr",
    "item_recent_impressions",
    "item_recent_actions",
    "item_age",
    "category_ctr",
    "category_impressions",
    "author_ctr",
    "author_impressions",
    "tag_ctr",
    "context_ctr",
    "user_ctr",
    "user_impressions",
    "user_fast_ctr",
    "user_slow_ctr",
    "user_gap",
    "user_category_ctr",
    "user_category_impressions",
    "user_author_ctr",
    "user_author_impressions",
    "user_tag_ctr",
    "user_item_ctr",
    "user_item_impressions",
    "user_item_actions",
    "slate_size",
    "slate_item_ctr",
    "slate_item_impressions",
    "hour_sin",
    "hour_cos",
    "history_len",
    "text_mean",
    "text_max",
    "text_top3",
    "text_recent",
    "text_ctr",
    "text_passed",
    "slate_text_mean",
    "slate_text_max",
    "slate_text_top3",
    "slate_text_recent",
    "slate_text_ctr",
    "slate_text_passed",
    "image_mean",
    "image_max",
    "image_top3",
    "image_recent",
    "image_ctr",
    "image_passed",
    "slate_image_mean",
    "slate_image_max",
    "slate_image_top3",
    "slate_image_recent",
    "slate_image_ctr",
    "slate_image_passed",
];

/// How many there are.
pub const N_DENSE: usize = 56;

/// The dense features of one candidate, `[N_DENSE]`, in the order of [`DENSE_NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Vec<f32>", try_from = "Vec<f32>")]
pub struct Dense([f32; N_DENSE]);

impl Dense {
    /// Features from their values.
    #[must_use]
    pub fn new(values: [f32; N_DENSE]) -> Self {
        Self(values)
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32; N_DENSE] {
        &mut self.0
    }
}

impl From<Dense> for Vec<f32> {
    fn from(dense: Dense) -> Self {
        dense.0.to_vec()
    }
}

impl TryFrom<Vec<f32>> for Dense {
    type Error = String;

    fn try_from(values: Vec<f32>) -> Result<Self, String> {
        let n = values.len();
        values
            .try_into()
            .map(Self)
            .map_err(|_| format!("{n} dense features, expected {N_DENSE}"))
    }
}

impl Deref for Dense {
    type Target = [f32; N_DENSE];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// The place of a feature in [`DENSE_NAMES`].
#[must_use]
pub fn dense_index(name: &str) -> Option<usize> {
    DENSE_NAMES.iter().position(|known| *known == name)
}

/// Log-odds of a probability, kept within +-8.
pub(crate) fn logit(p: f32) -> f32 {
    let p = p.clamp(3.4e-4, 1.0 - 3.4e-4);
    (p / (1.0 - p)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_found() {
        for (index, name) in DENSE_NAMES.iter().enumerate() {
            assert_eq!(dense_index(name), Some(index));
        }
    }
}
