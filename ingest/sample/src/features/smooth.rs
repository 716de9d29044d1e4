//! Counters as features: smoothed towards the global rate, and on scales a small network can take.

use crate::features::counter::Counter;
use crate::features::dense::logit;

/// Sums over an item's values in one slot.
#[derive(Clone, Copy, Default)]
pub(crate) struct SlotSums {
    pub(crate) n: f32,
    pub(crate) everyone: Sums,
    pub(crate) user: Sums,
}

/// Smoothed logits and log-counts.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sums {
    pub(crate) ctr: f32,
    pub(crate) count: f32,
}

impl Sums {
    pub(crate) fn add(&mut self, smooth: &Smooth, counter: Option<&Counter>) {
        self.ctr += smooth.ctr(counter);
        self.count += counter.map_or(0.0, |c| ln1p(f32_of(c.impressions)));
    }

    pub(crate) fn mean(&self, n: f32) -> [f32; 2] {
        if n > 0.0 {
            [self.ctr / n, self.count / n]
        } else {
            [0.0; 2]
        }
    }
}

/// Smoothing towards the global rate.
pub(crate) struct Smooth {
    pub(crate) rate: f32,
    pub(crate) global: f32,
    pub(crate) prior: f32,
    pub(crate) prior_impressions: f32,
}

impl Smooth {
    /// Smoothed logit of a counter minus the global logit; 0 for a counter without events.
    pub(crate) fn ctr(&self, counter: Option<&Counter>) -> f32 {
        let Some(counter) = counter else { return 0.0 };
        let rate =
            (f32_of(counter.actions) + self.prior) / (f32_of(counter.impressions) + self.prior_impressions);
        logit(rate) - self.global
    }

    /// Logit of a moving average, mixed with a tenth of the global rate, minus the global logit.
    pub(crate) fn average(&self, average: f32) -> f32 {
        logit(0.9 * average + 0.1 * self.rate) - self.global
    }
}

pub(crate) fn mean(values: impl Iterator<Item = f32>) -> f32 {
    let (mut n, mut sum) = (0.0, 0.0);
    for value in values {
        n += 1.0;
        sum += value;
    }
    if n > 0.0 { sum / n } else { 0.0 }
}

pub(crate) fn ln1p(x: f32) -> f32 {
    x.max(0.0).ln_1p()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and gaps enter through a logarithm"
)]
pub(crate) fn f32_of(count: u32) -> f32 {
    count as f32
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and gaps enter through a logarithm"
)]
pub(crate) fn seconds(ms: i64) -> f32 {
    ms as f32 / 1000.0
}
