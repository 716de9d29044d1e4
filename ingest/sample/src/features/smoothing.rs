//! Smoothed rates and log counts: counters on scales that a small network can use.

use super::counter::Counter;
use super::dense::logit;

/// Sums over an item's values in one attribute field.
#[derive(Clone, Copy, Default)]
pub(crate) struct FieldSums {
    pub(crate) n_values: f32,
    pub(crate) all_users: CounterSums,
    pub(crate) user: CounterSums,
    pub(crate) share: f32,
}

impl FieldSums {
    /// Mean of the shares over the values; 0 without any.
    pub(crate) fn mean_share(&self) -> f32 {
        if self.n_values > 0.0 {
            self.share / self.n_values
        } else {
            0.0
        }
    }
}

/// Sums of smoothed logits and log counts.
#[derive(Clone, Copy, Default)]
pub(crate) struct CounterSums {
    ctr: f32,
    count: f32,
}

impl CounterSums {
    pub(crate) fn add(&mut self, smoothing: &Smoothing, counter: Option<&Counter>) {
        self.ctr += smoothing.ctr(counter);
        self.count += counter.map_or(0.0, |c| ln1p(f32_of(c.impressions)));
    }

    /// Mean `[ctr, count]` over `n` values; zeros without any.
    pub(crate) fn mean(&self, n: f32) -> [f32; 2] {
        [self.ctr, self.count].map(|sum| if n > 0.0 { sum / n } else { 0.0 })
    }
}

/// Smoothing of rates towards the global rate.
pub(crate) struct Smoothing {
    /// The global rate.
    pub(crate) rate: f32,
    /// The logit of the global rate.
    pub(crate) log_odds: f32,
    prior_actions: f32,
    /// At least two impressions per action.
    prior_impressions: f32,
}

impl Smoothing {
    pub(crate) fn new(rate: f32, prior_actions: f32) -> Self {
        Self {
            rate,
            log_odds: logit(rate),
            prior_actions,
            prior_impressions: (prior_actions / rate).max(2.0 * prior_actions),
        }
    }

    /// Smoothed logit of a counter minus the global logit; 0 for a counter without events.
    pub(crate) fn ctr(&self, counter: Option<&Counter>) -> f32 {
        let Some(counter) = counter else { return 0.0 };
        let actions = f32_of(counter.actions) + self.prior_actions;
        logit(actions / (f32_of(counter.impressions) + self.prior_impressions)) - self.log_odds
    }

    /// Smoothed logit of decayed counts minus the global logit.
    pub(crate) fn decayed_ctr(&self, impressions: f32, actions: f32) -> f32 {
        logit((actions + self.prior_actions) / (impressions + self.prior_impressions)) - self.log_odds
    }

    /// Logit of a rate with `prior` impressions at the global rate, minus the global logit.
    pub(crate) fn ctr_with_prior(&self, impressions: f32, actions: f32, prior: f32) -> f32 {
        logit((actions + prior * self.rate) / (impressions + prior)) - self.log_odds
    }

    /// Logit of a moving average, mixed with this share of the global rate, minus the global logit.
    pub(crate) fn mixed(&self, average: f32, share: f32) -> f32 {
        logit((1.0 - share) * average + share * self.rate) - self.log_odds
    }

    /// Logit of a moving average, mixed with a tenth of the global rate, minus the global logit.
    pub(crate) fn average(&self, average: f32) -> f32 {
        self.mixed(average, 0.1)
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

#[expect(clippy::cast_precision_loss, reason = "counts enter through a logarithm")]
pub(crate) fn f32_of(count: u32) -> f32 {
    count as f32
}

#[expect(clippy::cast_precision_loss, reason = "gaps enter through a logarithm")]
pub(crate) fn seconds(ms: i64) -> f32 {
    ms as f32 / 1000.0
}
