//! Seeded random numbers: the seed and the purpose of a stream decide every choice of a verification.
//!
//! What a daemon does at the moment of a kill is not repeatable: it depends on the machine.

use std::time::Duration;

/// A stream of random numbers (`SplitMix64`).
#[derive(Clone, Debug)]
pub(crate) struct SeededRng {
    state: u64,
}

impl SeededRng {
    /// The stream of `seed` for one purpose; streams of different purposes are independent.
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(purpose.as_bytes());
        let mut state = [0; 8];
        hasher.finalize_xof().fill(&mut state);
        Self {
            state: u64::from_le_bytes(state),
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A whole number in `[0, n)`, or 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        // The bias is below n / 2^64.
        let wide = u128::from(self.next()) * u128::from(n);
        u64::try_from(wide >> 64).expect("the upper half of a product of two u64 is a u64")
    }

    /// A number of milliseconds in `[0, n)`.
    pub(crate) fn ms_below(&mut self, n: u32) -> i64 {
        i64::try_from(self.below(u64::from(n))).expect("a u32 is below 2^63")
    }

    /// An index in `[0, n)`.
    pub(crate) fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).expect("less than a usize")
    }

    /// A number in `(0, 1)`.
    pub(crate) fn fraction(&mut self) -> f64 {
        let bits = u32::try_from(self.next() >> 32).expect("32 bits are left");
        (f64::from(bits) + 0.5) / (f64::from(u32::MAX) + 1.0)
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    /// A number of milliseconds, exponentially distributed with this mean.
    pub(crate) fn exponential_ms(&mut self, mean_ms: f64) -> i64 {
        let seconds = -self.fraction().ln() * mean_ms / 1000.0;
        // At most 23 times the mean.
        i64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(i64::MAX)
    }

    /// A duration in `[0, max)`.
    pub(crate) fn uniform(&mut self, max: Duration) -> Duration {
        max.mul_f64(self.fraction())
    }

    /// A duration in `[min, max)` with a uniformly distributed logarithm.
    pub(crate) fn log_uniform(&mut self, min: Duration, max: Duration) -> Duration {
        let (min, max) = (min.as_secs_f64().max(1e-6), max.as_secs_f64().max(1e-6));
        Duration::from_secs_f64(min * (max / min).max(1.0).powf(self.fraction()))
    }

    /// Shuffles `values`.
    pub(crate) fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.index(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_and_purpose_decide_every_number() {
        let numbers = |seed, purpose| {
            let mut rng = SeededRng::new(seed, purpose);
            (0..8).map(|_| rng.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1, "workload"), numbers(1, "workload"));
        assert_ne!(numbers(1, "workload"), numbers(2, "workload"));
        assert_ne!(numbers(1, "workload"), numbers(1, "kills"));
    }

    #[test]
    fn numbers_stay_within_their_bounds() {
        let mut rng = SeededRng::new(7, "bounds");
        let (min, max) = (Duration::from_millis(5), Duration::from_secs(3));
        let mut seen = [false; 6];
        for _ in 0..1000 {
            seen[rng.index(6)] = true;
            assert!((0.0..1.0).contains(&rng.fraction()));
            assert!(rng.exponential_ms(100.0) >= 0);
            let delay = rng.log_uniform(min, max);
            assert!(min <= delay && delay <= max, "{delay:?}");
        }
        assert_eq!(seen, [true; 6]);
        assert_eq!(rng.below(0), 0);
        let sorted: Vec<usize> = (0..50).collect();
        let mut shuffled = sorted.clone();
        rng.shuffle(&mut shuffled);
        assert_ne!(shuffled, sorted);
        shuffled.sort_unstable();
        assert_eq!(shuffled, sorted);
    }
}
