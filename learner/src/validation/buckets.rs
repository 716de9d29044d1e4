//! Metrics by how often an item and a user had been seen at the impression.
//!
//! A model that learns ids has learned nothing about a new one: metrics of new ids show what content and context are worth,
//! those of hot ids what continued learning is worth. The number of earlier impressions is that of the live counters, so a
//! counter that expired (`features.expire`, `features.max_counters`) starts again at 0.

use serde::Serialize;

use ouzel_sample::{Candidate, dense_index};

use crate::validation::{Figures, Scored};

/// Impressions from which a user or an item is warm; the first twenty of an item are its cold start.
const WARM_FROM: f32 = 20.0;
/// Impressions from which it is hot: its own rate is then known to a few per cent.
const HOT_FROM: f32 = 1000.0;

/// How often an item or a user had been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// Fewer than 20 earlier impressions.
    New,
    /// 20 to 999.
    Warm,
    /// 1000 or more.
    Hot,
}

/// The buckets of an impression's item and user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The item.
    pub item: Bucket,
    /// The user.
    pub user: Bucket,
}

impl Bucket {
    /// All buckets with their names in metrics.
    pub const ALL: [(Bucket, &str); 3] = [(Bucket::New, "new"), (Bucket::Warm, "warm"), (Bucket::Hot, "hot")];

    /// The bucket of a live counter `ln(1 + n)`.
    fn of(counter: f32) -> Self {
        // Counts are whole numbers; the rest is rounding.
        let n = counter.exp_m1().round();
        if n < WARM_FROM {
            Bucket::New
        } else if n < HOT_FROM {
            Bucket::Warm
        } else {
            Bucket::Hot
        }
    }
}

impl Known {
    /// The buckets by the candidate's live features.
    #[must_use]
    pub fn of(candidate: &Candidate) -> Self {
        let bucket = |name| Bucket::of(candidate.dense[dense_index(name).expect("it is a live feature")]);
        Self {
            item: bucket("item_impressions"),
            user: bucket("user_impressions"),
        }
    }
}

/// Metrics by bucket, of items or of users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ByBucket {
    /// Fewer than 20 earlier impressions.
    pub new: Figures,
    /// 20 to 999.
    pub warm: Figures,
    /// 1000 or more.
    pub hot: Figures,
}

/// Metrics by bucket of the item and by bucket of the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Buckets {
    /// By the item's earlier impressions.
    pub item: ByBucket,
    /// By the user's earlier impressions.
    pub user: ByBucket,
}

impl ByBucket {
    fn of<'a>(scored: impl Iterator<Item = &'a Scored> + Clone, side: impl Fn(Known) -> Bucket) -> Self {
        let figures = |bucket| Figures::of(scored.clone().filter(|s| side(s.known) == bucket));
        Self {
            new: figures(Bucket::New),
            warm: figures(Bucket::Warm),
            hot: figures(Bucket::Hot),
        }
    }

    /// Metrics of one bucket.
    #[must_use]
    pub fn figures(&self, bucket: Bucket) -> &Figures {
        match bucket {
            Bucket::New => &self.new,
            Bucket::Warm => &self.warm,
            Bucket::Hot => &self.hot,
        }
    }
}

impl Buckets {
    /// Exact metrics of scored samples.
    pub fn of<'a>(scored: impl Iterator<Item = &'a Scored> + Clone) -> Self {
        Self {
            item: ByBucket::of(scored.clone(), |known| known.item),
            user: ByBucket::of(scored, |known| known.user),
        }
    }

    /// Items and users with their names in metrics.
    #[must_use]
    pub fn sides(&self) -> [(&'static str, &ByBucket); 2] {
        [("item", &self.item), ("user", &self.user)]
    }
}

#[cfg(test)]
mod tests {
    use ouzel_sample::{Dense, EventTime, N_DENSE, SampleKind};

    use super::*;
    use crate::testing::{again, batch, sample};
    use crate::validation::{Progressive, ScoreLog};

    /// A candidate whose item and user had been shown so often.
    fn shown(item: f32, user: f32) -> Candidate {
        let mut dense = [0.0; N_DENSE];
        dense[dense_index("item_impressions").unwrap()] = item.ln_1p();
        dense[dense_index("user_impressions").unwrap()] = user.ln_1p();
        Candidate {
            dense: Dense::new(dense),
            ..(*sample(1, 1, SampleKind::Final, true).candidate).clone()
        }
    }

    #[test]
    fn the_bounds_are_whole_impressions() {
        for (n, expected) in [
            (0.0, Bucket::New),
            (19.0, Bucket::New),
            (20.0, Bucket::Warm),
            (999.0, Bucket::Warm),
            (1000.0, Bucket::Hot),
            (1e9, Bucket::Hot),
        ] {
            assert_eq!(Known::of(&shown(n, 0.0)).item, expected, "{n}");
            assert_eq!(Known::of(&shown(0.0, n)).user, expected, "{n}");
            assert_eq!(Known::of(&shown(n, 0.0)).user, Bucket::New);
        }
    }

    #[test]
    fn each_item_counts_in_one_bucket_a_side_and_late_positives_revise_it_there() {
        let (mut log, mut progressive) = (ScoreLog::default(), Progressive::new(100, 1));
        let mut take = |sample| {
            let batch = batch(vec![sample]);
            log.add(&batch, &[0.0]);
            progressive.add(&batch, &[0.0]);
        };
        for (i, (item, user)) in (0u64..).zip([(0.0, 5000.0), (3.0, 20.0), (500.0, 0.0), (2000.0, 30.0)]) {
            let mut told = sample(1, i, SampleKind::EarlyNegative, false);
            let mut candidate = shown(item, user);
            candidate.item = told.candidate.item;
            candidate.predicted.set(&[if i == 1 { 1.0 } else { -1.0 }]);
            told.candidate = candidate.into();
            take(told.clone());
            if i == 1 {
                take(again(&told, SampleKind::LatePositive, true, true));
            }
        }
        let found = log.buckets(EventTime::MIN);
        let counts = |of: &ByBucket| Bucket::ALL.map(|(bucket, _)| of.figures(bucket).judged);
        assert_eq!(counts(&found.item), [2, 1, 1]);
        assert_eq!(counts(&found.user), [1, 2, 1]);
        assert_eq!((found.item.new.positives, found.user.warm.positives), (1, 1));
        assert_eq!(found.item.new.auc, Some(1.0));
        assert_eq!(
            found.item.hot.auc, None,
            "without a positive there is nothing to rank"
        );
        assert_eq!(progressive.window_buckets(), found);
        assert_eq!(log.buckets(EventTime(i64::MAX)), Buckets::default());
    }
}
