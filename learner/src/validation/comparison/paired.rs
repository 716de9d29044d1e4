//! The difference of two models' log-loss on the same items, with an interval.
//!
//! Items of one user are alike, so users, not items, are what varies by chance. They are split into [`GROUPS`] groups by
//! a hash; the spread of the groups' differences gives the interval (the method of random groups). So memory is fixed, a
//! late positive changes the sum of its group, and the result depends on the items alone, not on their order in time.

use serde::{Deserialize, Serialize};

use ouzel_sample::Id;

use crate::loss::binary;
use crate::validation::figures::float;
use crate::validation::score_log::{ScoreChange, Scored};

/// Groups of users.
const GROUPS: usize = 256;

/// Fewest groups with items for an interval.
const MIN_GROUPS: usize = 10;

/// Sets the grouping apart from every other use of the users' hashes.
const LANE: Id = Id(0x4752_4f55);

/// The normal deviate of a two-sided interval of 95 %.
const NORMAL_95: f64 = 1.959_964;

/// Log-loss of the candidate less that of the serving model, nats per item: below 0, the candidate is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The mean over the items.
    pub mean: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end of its 95 % interval.
    pub high: f64,
}

/// Sums of the differences of one task by group of users.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PairedLoss {
    /// Items and the sum of their differences.
    groups: Vec<(u64, f64)>,
}

impl Default for PairedLoss {
    fn default() -> Self {
        Self {
            groups: vec![(0, 0.0); GROUPS],
        }
    }
}

impl PairedLoss {
    /// Adds what one sample of `user` changes in the scores of each model.
    pub(super) fn add(&mut self, user: Id, serving: &ScoreChange, candidate: &ScoreChange) {
        let group = usize::try_from(user.pair(LANE).0 % GROUPS as u64).unwrap_or(0);
        let (n, sum) = &mut self.groups[group];
        let ((is_new, serving), (_, candidate)) = (loss(serving), loss(candidate));
        *n += u64::from(is_new);
        *sum += candidate - serving;
    }

    /// Whether it has every group.
    pub(super) fn is_whole(&self) -> bool {
        self.groups.len() == GROUPS
    }

    /// The mean difference with its interval, once [`MIN_GROUPS`] groups have items.
    pub(super) fn difference(&self) -> Option<Difference> {
        let known: Vec<(f64, f64)> = self
            .groups
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, sum)| (float(*n), *sum))
            .collect();
        if known.len() < MIN_GROUPS {
            return None;
        }
        let (n, sum) = known
            .iter()
            .fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
        let mean = sum / n;
        // The variance of a ratio of sums, by the groups' residuals.
        let residuals: f64 = known.iter().map(|(n, sum)| (sum - mean * n).powi(2)).sum();
        let n_groups = float(known.len() as u64);
        let error = (residuals * n_groups / (n_groups - 1.0)).sqrt() / n;
        let half = student_95(n_groups - 1.0) * error;
        Some(Difference {
            mean,
            low: mean - half,
            high: mean + half,
        })
    }
}

/// Whether a score change adds an item, and by how much it changes the sum of log-losses.
fn loss(change: &ScoreChange) -> (bool, f64) {
    let value = |scored: &Scored, label: bool| f64::from(binary(scored.logit, label).value);
    match change {
        ScoreChange::Certain(scored) | ScoreChange::Presumed(scored) => (true, value(scored, scored.label)),
        ScoreChange::Late(scored) => (false, value(scored, true) - value(scored, false)),
    }
}

/// The deviate of Student's distribution for a two-sided interval of 95 %: the expansion of Cornish and Fisher, within
/// 0.1 % from five degrees of freedom on (Abramowitz and Stegun, 26.7.5).
fn student_95(degrees: f64) -> f64 {
    let z = NORMAL_95;
    let terms = [
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
    ];
    terms.iter().rev().fold(0.0, |sum, term| (sum + term) / degrees) + z
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviate_is_that_of_the_tables() {
        for (degrees, expected) in [(9.0, 2.262_157), (24.0, 2.063_899), (255.0, 1.969_311)] {
            assert!(
                (student_95(degrees) - expected).abs() < 2e-3,
                "{degrees}: {}",
                student_95(degrees)
            );
        }
    }

    #[test]
    fn few_users_have_no_interval() {
        let mut paired = PairedLoss::default();
        for group in &mut paired.groups[..MIN_GROUPS - 1] {
            *group = (5, 0.1);
        }
        assert_eq!(paired.difference(), None);
        paired.groups[MIN_GROUPS] = (5, 0.1);
        let difference = paired.difference().unwrap();
        assert!((difference.mean - 0.02).abs() < 1e-12);
        assert!(difference.low <= difference.mean && difference.mean <= difference.high);
    }
}
