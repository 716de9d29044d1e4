//! The learning rate by samples: a linear warm-up, then decay by the inverse square root.

use crate::config::LearnerConfig;

/// Factor of the configured learning rates by samples learned from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    warmup: u64,
    decay: u64,
}

impl Schedule {
    pub(crate) fn new(config: &LearnerConfig) -> Self {
        Self {
            warmup: config.optimizer.warmup_samples,
            decay: config.optimizer.decay_samples,
        }
    }

    /// The factor of the step after which `n` samples are learned from:
    /// `min(1, n / warmup) / sqrt(1 + max(0, n - warmup) / decay)`; a length of 0 leaves its part out.
    pub(crate) fn factor(self, n: u64) -> f64 {
        let Self { warmup, decay } = self;
        let ramp = if n < warmup { share(n, warmup) } else { 1.0 };
        let decayed = match decay {
            0 => 1.0,
            _ => (1.0 + share(n.saturating_sub(warmup), decay)).sqrt(),
        };
        ramp / decayed
    }
}

fn share(n: u64, of: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
    let share = n as f64 / of as f64;
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(warmup: u64, decay: u64, expected: &[(u64, f64)]) {
        let schedule = Schedule { warmup, decay };
        for (n, expected) in expected {
            let found = schedule.factor(*n);
            assert!(
                (found - expected).abs() < 1e-12,
                "{schedule:?} at {n}: {found}, not {expected}"
            );
        }
    }

    #[test]
    fn the_factor_is_the_closed_form() {
        check(0, 0, &[(0, 1.0), (1, 1.0), (u64::MAX, 1.0)]);
        check(
            100,
            0,
            &[
                (0, 0.0),
                (1, 0.01),
                (50, 0.5),
                (100, 1.0),
                (101, 1.0),
                (1 << 40, 1.0),
            ],
        );
        check(0, 100, &[(0, 1.0), (100, 0.5f64.sqrt()), (300, 0.5), (9900, 0.1)]);
        check(
            100,
            300,
            &[(25, 0.25), (100, 1.0), (400, 0.5f64.sqrt()), (1000, 0.5)],
        );
    }

    #[test]
    fn a_rate_without_a_schedule_keeps_its_bits() {
        let schedule = Schedule::new(&LearnerConfig::default());
        assert_eq!(schedule.factor(12_345).to_bits(), 1.0f64.to_bits());
    }
}
