//! Shown items and primary actions by the size of their slate.

use serde::{Deserialize, Serialize};

use super::smoothing::{Smoothing, f32_of};

/// Buckets of the sizes up to 65,535, count.
const N_BUCKETS: usize = 45;
/// Prior weight of a bucket's rate: items at the global rate.
const PRIOR_ITEMS: f32 = 20.0;

/// Counts by the bucket `floor(4 ln size)`, 8 bytes per bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SlateSizes(Vec<SizeCount>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct SizeCount {
    impressions: u32,
    actions: u32,
}

impl Default for SlateSizes {
    fn default() -> Self {
        Self(vec![SizeCount::default(); N_BUCKETS])
    }
}

impl SlateSizes {
    /// Counts the items of a slate as shown.
    pub(crate) fn add_impression(&mut self, size: u16) {
        let count = &mut self.0[bucket(size)];
        count.impressions = count.impressions.saturating_add(u32::from(size));
    }

    /// Counts an action on an item of a slate.
    pub(crate) fn add_action(&mut self, size: u16) {
        let count = &mut self.0[bucket(size)];
        count.actions = count.actions.saturating_add(1);
    }

    /// The smoothed logit of the rate in slates of this size, minus the global logit.
    pub(crate) fn ctr(&self, size: u16, smoothing: &Smoothing) -> f32 {
        let count = self.0[bucket(size)];
        let (impressions, actions) = (f32_of(count.impressions), f32_of(count.actions));
        smoothing.ctr_with_prior(impressions, actions, PRIOR_ITEMS)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most 44, and not negative"
)]
fn bucket(size: u16) -> usize {
    (4.0 * f64::from(size.max(1)).ln()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_counted_by_quarter_powers_of_e() {
        let buckets = [0, 1, 2, 3, 4, 8, 300].map(bucket);
        assert_eq!(buckets, [0, 0, 2, 4, 5, 8, 22]);
        assert_eq!(bucket(u16::MAX), N_BUCKETS - 1);
    }
}
