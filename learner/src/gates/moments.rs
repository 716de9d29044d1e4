//! A slow moving average with its deviation.

use serde::{Deserialize, Serialize};

/// Values that the averages reach back over.
const REACH: f64 = 50.0;

/// Exponential moving mean and variance; a plain mean and variance over the first values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Moments {
    n: u64,
    mean: f64,
    variance: f64,
}

impl Moments {
    /// Number of values added.
    pub(super) fn n(&self) -> u64 {
        self.n
    }

    pub(super) fn mean(&self) -> f64 {
        self.mean
    }

    /// Standard deviation of the values.
    pub(super) fn deviation(&self) -> f64 {
        self.variance.max(0.0).sqrt()
    }

    pub(super) fn add(&mut self, value: f64) {
        self.n += 1;
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        let rate = (1.0 / self.n as f64).max(1.0 / REACH);
        let distance = value - self.mean;
        self.mean += rate * distance;
        self.variance = (1.0 - rate) * (self.variance + rate * distance * distance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_values_are_averaged_plainly_and_later_ones_exponentially() {
        let mut moments = Moments::default();
        for value in [1.0, 3.0, 5.0, 7.0] {
            moments.add(value);
        }
        assert!((moments.mean() - 4.0).abs() < 1e-12);
        assert!((moments.deviation() - 5.0f64.sqrt()).abs() < 1e-12);
        for _ in 0..500 {
            moments.add(9.0);
        }
        assert!((moments.mean() - 9.0).abs() < 1e-3 && moments.deviation() < 0.1);
    }
}
