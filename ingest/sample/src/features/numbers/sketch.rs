//! The buckets of one number, from a bounded sample of its values.
//!
//! The sample is that of Vitter 1985, algorithm R: the `n`-th value replaces a random one of the `SAMPLE` values with
//! probability `SAMPLE / n`. From `n = WINDOW` on the probability stays at `SAMPLE / WINDOW`, so older values fade
//! (Aggarwal 2006, section 2). Draws are a pure function of the name and `n`.

use serde::{Deserialize, Serialize};

use crate::Id;
use crate::id::mix;

/// Values in a sample: a quantile of it is off by 2 per cent of the values, a third of a fine bucket.
const SAMPLE: usize = 512;
/// Values after which an old value has faded to `1 / e`.
const WINDOW: u64 = 65_536;
/// Values before the first buckets; until then all values share one.
const FIRST: u64 = 32;
/// Buckets of equally many values, the fine ones; four of them make a coarse one.
const N_FINE: usize = 16;
/// Distinct values up to which each is a bucket of its own.
const MAX_DISTINCT: usize = 16;

/// Kinds of buckets, mixed into their ids.
const FINE: u64 = 1 << 32;
const COARSE: u64 = 2 << 32;
const EXACT: u64 = 3 << 32;

/// The buckets of a value: one, or a fine and a coarse one.
pub(crate) type Buckets = smallvec::SmallVec<[Id; 2]>;

/// A sample of the values of one number: at most 2.2 KiB.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sketch {
    /// Values counted.
    count: u64,
    /// Shown items or requests before the first value.
    since: u64,
    sample: Vec<f32>,
    /// Sorted boundaries of the buckets as of the last time they were read; see `is_exact`.
    bounds: Vec<f32>,
    /// Whether `bounds` are the distinct values themselves, not quantiles.
    is_exact: bool,
}

impl Sketch {
    /// A sketch whose first value comes after `since` shown items or requests.
    pub(crate) fn new(since: u64) -> Self {
        Self {
            since,
            ..Self::default()
        }
    }

    /// Counts a value.
    ///
    /// Buckets change when 32 values were counted and each time their number has doubled, or grown by `WINDOW`: between, a
    /// bucket means the same.
    pub(crate) fn add(&mut self, name: Id, value: f32) {
        // -0 and 0 are one value.
        let value = value + 0.0;
        self.count += 1;
        if self.sample.len() < SAMPLE {
            self.sample.push(value);
        } else {
            let draw = mix(name.0 ^ mix(self.count)) % self.count.min(WINDOW);
            if let Some(old) = usize::try_from(draw).ok().and_then(|at| self.sample.get_mut(at)) {
                *old = value;
            }
        }
        let is_due = match self.count {
            n if n >= WINDOW => n % WINDOW == 0,
            n => n >= FIRST && n.is_power_of_two(),
        };
        if is_due {
            self.read_bounds();
        }
    }

    /// Reads the boundaries from the sample: its distinct values if these are few, else its quantiles `i / 16`.
    fn read_bounds(&mut self) {
        let mut sorted = self.sample.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let mut distinct = sorted.clone();
        distinct.dedup_by_key(|value| value.to_bits());
        self.is_exact = distinct.len() <= MAX_DISTINCT;
        self.bounds = match self.is_exact {
            true => distinct,
            false => (1..N_FINE).map(|i| sorted[i * sorted.len() / N_FINE]).collect(),
        };
    }

    /// The buckets of a value.
    pub(crate) fn buckets(&self, name: Id, value: f32) -> Buckets {
        let value = value + 0.0;
        let bucket = |kind: u64, at: u64| name.pair(Id(kind | at));
        if self.is_exact {
            let at = self.bounds.partition_point(|bound| *bound <= value);
            let known = self.bounds.get(at.saturating_sub(1)).copied().unwrap_or_default();
            return [bucket(EXACT, u64::from(known.to_bits()))].into_iter().collect();
        }
        let below = self.bounds.partition_point(|bound| *bound < value) as u64;
        [bucket(FINE, below), bucket(COARSE, below / 4)]
            .into_iter()
            .collect()
    }

    /// Whether at least one in 16 of the `n` shown items or requests since the first value had one.
    pub(crate) fn is_common(&self, n: u64) -> bool {
        16 * self.count >= n.saturating_sub(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: Id = Id(77);

    fn sketch(values: impl IntoIterator<Item = f32>) -> Sketch {
        let mut sketch = Sketch::new(0);
        values.into_iter().for_each(|value| sketch.add(NAME, value));
        sketch
    }

    fn uniform(n: u64) -> impl Iterator<Item = f32> {
        (0..n).map(|i| (mix(i) >> 40) as f32 / (1u64 << 24) as f32)
    }

    #[test]
    fn buckets_hold_equally_many_values() {
        for n in [600, 5_000, 100_000, 400_000] {
            let sketch = sketch(uniform(n));
            assert_eq!(sketch.bounds.len(), N_FINE - 1);
            for (i, bound) in (1u8..).zip(&sketch.bounds) {
                let expected = f32::from(i) / 16.0;
                assert!(
                    (bound - expected).abs() < 0.08,
                    "{n}: {bound}, expected {expected}"
                );
            }
            assert!(sketch.sample.len() == SAMPLE);
        }
    }

    #[test]
    fn buckets_are_monotone_and_the_coarse_ones_join_four_fine_ones() {
        let sketch = sketch(uniform(3_000));
        let mut fine: Vec<Id> = Vec::new();
        let mut coarse: Vec<Id> = Vec::new();
        for i in 0..1_000u16 {
            let buckets = sketch.buckets(NAME, f32::from(i) / 1_000.0);
            fine.push(buckets[0]);
            coarse.push(buckets[1]);
        }
        fine.dedup();
        coarse.dedup();
        assert_eq!((fine.len(), coarse.len()), (16, 4));
        assert_eq!(sketch.buckets(NAME, f32::MAX)[0], fine[15]);
        assert_eq!(sketch.buckets(NAME, f32::MIN)[0], fine[0]);
    }

    #[test]
    fn few_distinct_values_are_a_bucket_each_whatever_their_shares() {
        let values = |n: u64, zeros: u64| (0..n).map(move |i| if i % 10 < zeros { 0.0 } else { 1.0 });
        let (even, skewed) = (sketch(values(64, 5)), sketch(values(4_096, 9)));
        let buckets = |sketch: &Sketch| [-0.0, 0.0, 0.5, 1.0, 2.0].map(|x| sketch.buckets(NAME, x)[0]);
        assert_eq!(buckets(&even), buckets(&skewed));
        let [negative_zero, zero, half, one, two] = buckets(&even);
        assert!(negative_zero == zero && zero == half && one == two && zero != one);
    }

    #[test]
    fn buckets_change_only_when_the_count_has_doubled() {
        let mut sketch = sketch([]);
        let (mut bounds, mut changed) = (Vec::new(), Vec::new());
        for (n, value) in (1..).zip(uniform(200_000)) {
            sketch.add(NAME, value);
            if sketch.bounds != bounds {
                changed.push(n);
                bounds.clone_from(&sketch.bounds);
            }
        }
        let doubled = (5..=16).map(|power| 1u64 << power);
        let expected: Vec<u64> = doubled.chain([2 * WINDOW, 3 * WINDOW]).collect();
        assert_eq!(changed, expected);
    }

    #[test]
    fn values_of_long_ago_fade() {
        let n = 5 * WINDOW;
        let sketch = sketch((0..2 * n).map(|i| {
            if i < n {
                i as f32 / n as f32
            } else {
                100.0 + (i % 97) as f32
            }
        }));
        assert!(sketch.bounds[0] > 99.0, "{:?}", sketch.bounds);
    }

    #[test]
    fn a_number_is_common_when_one_in_16_has_it() {
        let mut sketch = Sketch::new(1_000);
        sketch.add(NAME, 1.0);
        assert!(sketch.is_common(1_016) && !sketch.is_common(1_017));
    }
}
