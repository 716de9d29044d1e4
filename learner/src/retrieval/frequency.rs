//! How often each item is a positive, estimated from the gaps between its positives (Yi et al. 2019, algorithm 2).
//!
//! A bucket of items has the number of the last positive and the mean gap between two of them, `B <- (1 - a) B + a (t - A)`; its
//! share of all positives is `1 / B`. An item has one bucket in each of two tables, and its gap is the longer one, so that items
//! which share a bucket rarely count for each other. The first gaps are averaged, `a = 1 / n`, down to `a = .01`.

use ouzel_sample::Id;

/// Buckets of a table.
pub(crate) const BUCKETS: usize = 1 << 16;
/// Tables.
pub(crate) const TABLES: usize = 2;
/// Gaps that are averaged before older ones are forgotten: the inverse of the paper's rate of .01.
const MEMORY: u16 = 100;

/// The estimate, of constant size.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FrequencyEstimator {
    /// Number of positives observed.
    pub(crate) n: u64,
    /// Number of the last positive of each bucket, from 1; 0 for none. `[TABLES, BUCKETS]`
    pub(crate) last: Vec<u64>,
    /// Mean gap, positives, `[TABLES, BUCKETS]`.
    pub(crate) gap: Vec<f32>,
    /// Gaps averaged, at most [`MEMORY`], `[TABLES, BUCKETS]`.
    pub(crate) n_gaps: Vec<u16>,
}

impl FrequencyEstimator {
    pub(crate) fn new() -> Self {
        Self {
            n: 0,
            last: vec![0; TABLES * BUCKETS],
            gap: vec![0.0; TABLES * BUCKETS],
            n_gaps: vec![0; TABLES * BUCKETS],
        }
    }

    /// Counts a positive of an item.
    pub(crate) fn observe(&mut self, item: Id) {
        self.n += 1;
        for at in buckets(item) {
            let gap = float(self.n - self.last[at]);
            self.n_gaps[at] = (self.n_gaps[at] + 1).min(MEMORY);
            self.gap[at] += (gap - self.gap[at]) / f32::from(self.n_gaps[at]);
            self.last[at] = self.n;
        }
    }

    /// The item's share of the positives, in `(0, 1]`; of an item without one, as if the next were its first.
    ///
    /// A gap that is not over counts once it is longer than the mean, so an item that nobody acts on any more fades.
    pub(crate) fn share(&self, item: Id) -> f32 {
        let gaps = buckets(item).map(|at| self.gap[at].max(float(self.n - self.last[at])));
        let gap = gaps.into_iter().fold(1.0, f32::max);
        1.0 / gap
    }
}

fn buckets(item: Id) -> [usize; TABLES] {
    [0u64, 1].map(|table| {
        let hash = Id(table).pair(item).0;
        // The tables are one behind the other.
        let table = usize::from(table == 1) * BUCKETS;
        table + usize::try_from(hash % BUCKETS as u64).unwrap_or(0)
    })
}

fn float(n: u64) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a gap needs no more digits")]
    let n = n as f32;
    n
}

#[cfg(test)]
mod tests {
    use ouzel_model::uniform;

    use super::*;

    #[test]
    fn shares_are_estimated_and_follow_a_change() {
        let mut frequency = FrequencyEstimator::new();
        let shares = [0.5f32, 0.3, 0.15, 0.05];
        let draw = |frequency: &mut FrequencyEstimator, from: u64, shares: &[f32; 4]| {
            for n in from..from + 20_000 {
                let mut left = uniform(3, n, 0);
                let drawn = shares.iter().position(|share| {
                    left -= share;
                    left < 0.0
                });
                frequency.observe(Id(drawn.unwrap_or(3) as u64));
            }
        };
        let check = |frequency: &FrequencyEstimator, shares: &[f32; 4]| {
            for (item, share) in (0u64..).zip(shares) {
                let found = frequency.share(Id(item));
                // 100 gaps: a standard error of a tenth.
                assert!(
                    (found / share - 1.0).abs() < 0.35,
                    "item {item}: {found}, {share}"
                );
            }
        };
        draw(&mut frequency, 0, &shares);
        check(&frequency, &shares);
        let changed = [0.05, 0.15, 0.3, 0.5];
        draw(&mut frequency, 20_000, &changed);
        check(&frequency, &changed);
        assert!(
            frequency.share(Id(99)) <= 1.0 / 40_000.0,
            "an item without a positive"
        );
    }

    #[test]
    fn items_that_share_one_bucket_do_not_count_for_each_other() {
        let mut frequency = FrequencyEstimator::new();
        let rare = Id(7);
        let shares_one = |item: &Id| buckets(*item)[0] == buckets(rare)[0] && *item != rare;
        let frequent = (8u64..).map(Id).find(shares_one).unwrap();
        assert_ne!(buckets(frequent)[1], buckets(rare)[1]);
        for n in 0..1000 {
            frequency.observe(if n % 100 == 0 { rare } else { frequent });
        }
        assert!((frequency.share(rare) - 0.01).abs() < 0.002);
        assert!((frequency.share(frequent) - 1.0).abs() < 0.05);
    }
}
