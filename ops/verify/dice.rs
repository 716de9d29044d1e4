//! Seeded randomness: every choice that a verification makes follows from its seed and what the choice is for.
//!
//! Only moments are not repeatable: the same seed kills after the same delays, but what the daemon is doing by
//! then is the machine's matter.

use std::time::Duration;

/// A stream of random numbers (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// The stream of `seed` for one purpose; streams of different purposes have nothing to do with each other.
    #[must_use]
    pub fn new(seed: u64, purpose: &str) -> Self {
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

    /// A whole number in `[0, n)`; 0 when `n` is.
    pub fn below(&mut self, n: u64) -> u64 {
        // The bias is below n / 2^64.
        let wide = u128::from(self.next()) * u128::from(n);
        u64::try_from(wide >> 64).expect("the upper half of a product of two u64 is a u64")
    }

    /// As [`Dice::below`], for milliseconds.
    pub fn ms_below(&mut self, n: u32) -> i64 {
        i64::try_from(self.below(u64::from(n))).expect("a u32 is below 2^63")
    }

    /// As [`Dice::below`], for an index.
    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).expect("less than a usize")
    }

    /// A number in `(0, 1)`.
    pub fn unit(&mut self) -> f64 {
        let bits = u32::try_from(self.next() >> 32).expect("32 bits are left");
        (f64::from(bits) + 0.5) / (f64::from(u32::MAX) + 1.0)
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Milliseconds, distributed exponentially around `mean_ms`.
    pub fn exponential_ms(&mut self, mean_ms: f64) -> i64 {
        let seconds = -self.unit().ln() * mean_ms / 1000.0;
        // At most 23 times the mean.
        i64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(i64::MAX)
    }

    /// A duration in `[0, most)`.
    pub fn uniform(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.unit())
    }

    /// A duration between the two whose logarithm is distributed uniformly.
    pub fn log_uniform(&mut self, least: Duration, most: Duration) -> Duration {
        let (least, most) = (least.as_secs_f64().max(1e-6), most.as_secs_f64().max(1e-6));
        Duration::from_secs_f64(least * (most / least).max(1.0).powf(self.unit()))
    }

    /// Puts `values` into a random order.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.index(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_purpose_decide_every_throw() {
        let throws = |seed, purpose| {
            let mut dice = Dice::new(seed, purpose);
            (0..8).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(throws(1, "world"), throws(1, "world"));
        assert_ne!(throws(1, "world"), throws(2, "world"));
        assert_ne!(throws(1, "world"), throws(1, "kills"));
    }

    #[test]
    fn throws_stay_within_their_bounds() {
        let mut dice = Dice::new(7, "bounds");
        let (least, most) = (Duration::from_millis(5), Duration::from_secs(3));
        let mut seen = [false; 6];
        for _ in 0..1000 {
            seen[dice.index(6)] = true;
            assert!((0.0..1.0).contains(&dice.unit()));
            assert!(dice.exponential_ms(100.0) >= 0);
            let delay = dice.log_uniform(least, most);
            assert!(least <= delay && delay <= most, "{delay:?}");
        }
        assert_eq!(seen, [true; 6]);
        assert_eq!(dice.below(0), 0);
        let mut cards: Vec<usize> = (0..50).collect();
        dice.shuffle(&mut cards);
        assert_ne!(cards, (0..50).collect::<Vec<_>>());
        cards.sort_unstable();
        assert_eq!(cards, (0..50).collect::<Vec<_>>());
    }
}
