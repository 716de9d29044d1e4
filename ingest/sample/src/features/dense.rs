//! The dense features: names, order and value type.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// Declares the dense features in the order of their vector.
macro_rules! dense_features {
    ($($name:ident)*) => {
        /// The index of each dense feature.
        #[expect(non_camel_case_types, reason = "variants are the feature names of the schema")]
        #[derive(Clone, Copy)]
        pub(crate) enum Feature { $($name),* }

        /// Names of the dense features, in order. The list is part of the schema.
        ///
        /// `*_ctr` is a smoothed logit minus the global logit; counts are `ln(1 + n)`; `slate_*` is the item's
        /// value minus the mean over its slate; `text_*` and `image_*` compare the item's content with the
        /// content of the user's past items.
        pub const DENSE_NAMES: [&str; N_DENSE] = [$(stringify!($name)),*];

        /// Number of dense features.
        pub const N_DENSE: usize = [$(Feature::$name),*].len();
    };
}

dense_features! {
    item_ctr item_impressions item_fast_ctr item_slow_ctr item_recent_impressions item_recent_actions item_age
    category_ctr category_impressions author_ctr author_impressions tag_ctr context_ctr
    user_ctr user_impressions user_fast_ctr user_slow_ctr user_gap
    user_category_ctr user_category_impressions user_author_ctr user_author_impressions user_tag_ctr
    user_item_ctr user_item_impressions user_item_actions
    slate_size slate_item_ctr slate_item_impressions hour_sin hour_cos history_len
    text_mean text_max text_top3 text_recent text_ctr text_passed
    slate_text_mean slate_text_max slate_text_top3 slate_text_recent slate_text_ctr slate_text_passed
    image_mean image_max image_top3 image_recent image_ctr image_passed
    slate_image_mean slate_image_max slate_image_top3 slate_image_recent slate_image_ctr slate_image_passed
    category_share author_share tag_share slate_category_share slate_author_share slate_tag_share
    slate_size_ctr global_recent_ctr user_recent_ctr user_10min_ctr user_ema5_ctr user_ema2_ctr
    user_outcome_1 user_outcome_2 user_outcome_3 session_impressions session_actions
    title_cosine title_max title_share slate_title_cosine slate_title_max slate_title_share
    item_action_age global_rate slate_item_fast_ctr slate_item_recent_impressions
}

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

    /// The features for writing.
    pub fn values_mut(&mut self) -> &mut [f32; N_DENSE] {
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
        let values = values.try_into().map(Self);
        values.map_err(|_| format!("{n} dense features, expected {N_DENSE}"))
    }
}

impl Deref for Dense {
    type Target = [f32; N_DENSE];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// The index of a feature in [`DENSE_NAMES`].
#[must_use]
pub fn dense_index(name: &str) -> Option<usize> {
    DENSE_NAMES.iter().position(|known| *known == name)
}

/// Log-odds of a probability, clamped to +-8.
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
        assert_eq!(
            (N_DENSE, Feature::slate_item_recent_impressions as usize),
            (83, 82)
        );
    }
}
