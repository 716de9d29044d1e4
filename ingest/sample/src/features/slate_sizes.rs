//! Shown items and primary actions by the size of their slate.

use serde::{Deserialize, Serialize};

use super::smoothing::{Smoothing, f32_of};

/// Buckets of the sizes up to 65,535, count.
const N_BUCKETS: usize = 45;
/// A size that fewer than one slate in so many reached is unusual.
const RARE: f64 = 100.0;
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

    /// Number of items that a reply to `n` candidates is taken to show, where the request does not say.
    ///
    /// `n` if at least one slate in [`RARE`] was as large, else the median slate size over all shown items. Sizes are known
    /// by bucket.
    pub(crate) fn shown_of(&self, n: u16) -> u16 {
        let n_slates = |of: usize| f64::from(self.0[of].impressions) / smallest(of);
        let all: f64 = (0..N_BUCKETS).map(n_slates).sum();
        let as_large: f64 = (bucket(n)..N_BUCKETS).map(n_slates).sum();
        if as_large * RARE >= all {
            return n;
        }
        let all: u64 = self.0.iter().map(|count| u64::from(count.impressions)).sum();
        let mut below = 0;
        let median = (0..N_BUCKETS).find(|of| {
            below += u64::from(self.0[*of].impressions);
            2 * below >= all
        });
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a size in u16"
        )]
        let size = smallest(median.unwrap_or_default()).ceil() as u16;
        size.min(n)
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

/// The smallest size of a bucket.
fn smallest(bucket: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "at most 44")]
    let quarters = bucket as f64;
    (quarters / 4.0).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_candidates_than_slates_ever_had_are_taken_to_show_the_median_size() {
        let mut sizes = SlateSizes::default();
        assert_eq!(sizes.shown_of(200), 200, "nothing was shown yet");
        for size in [1, 1, 1, 8, 12, 12, 12, 12, 40] {
            sizes.add_impression(size);
        }
        assert_eq!([1, 9, 40, 41].map(|n| sizes.shown_of(n)), [1, 9, 40, 41]);
        let median = sizes.shown_of(200);
        assert!((8..=12).contains(&median), "{median}");
        for _ in 0..1000 {
            sizes.add_impression(1);
        }
        assert_eq!(
            [2, 40, 200].map(|n| sizes.shown_of(n)),
            [1, 1, 1],
            "larger ones are rare"
        );
    }

    #[test]
    fn sizes_are_counted_by_quarter_powers_of_e() {
        let buckets = [0, 1, 2, 3, 4, 8, 300].map(bucket);
        assert_eq!(buckets, [0, 0, 2, 4, 5, 8, 22]);
        assert_eq!(bucket(u16::MAX), N_BUCKETS - 1);
    }
}
