//! Groups of users by a hash, and 95 % intervals from the spread between them.
//!
//! Items of one user are alike, so users, not items, are what varies by chance.

use ouzel_sample::Id;
use serde::{Deserialize, Serialize};

use crate::validation::figures::float;

/// Fewest groups with items for an interval.
pub(super) const MIN_GROUPS: usize = 10;

/// Sets the grouping apart from every other use of the users' hashes.
const LANE: Id = Id(0x4752_4f55);

/// The normal deviate of a two-sided interval of 95 %.
const NORMAL_95: f64 = 1.959_964;

/// A figure of the candidate less that of the serving model, on the same items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The difference over all items.
    pub mean: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end of its 95 % interval.
    pub high: f64,
}

impl Difference {
    /// A difference whose standard error comes from `n_groups` groups.
    pub(super) fn new(mean: f64, error: f64, n_groups: usize) -> Self {
        let half = student_95(float(n_groups as u64) - 1.0) * error;
        Self {
            mean,
            low: mean - half,
            high: mean + half,
        }
    }
}

/// The group of a user, below `n_groups`.
pub(super) fn group_of(user: Id, n_groups: usize) -> usize {
    usize::try_from(user.pair(LANE).0 % n_groups as u64).unwrap_or(0)
}

/// The ratio of two sums, each by group, with its interval; `None` with fewer than [`MIN_GROUPS`] groups.
///
/// `groups` are (n, sum) of the groups with items. The variance of a ratio of sums comes from the groups' residuals (the
/// method of random groups, Wolter 2007, ch. 2).
pub(super) fn ratio(groups: &[(f64, f64)]) -> Option<Difference> {
    if groups.len() < MIN_GROUPS {
        return None;
    }
    let (n, sum) = groups
        .iter()
        .fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
    let mean = sum / n;
    let residuals: f64 = groups.iter().map(|(n, sum)| (sum - mean * n).powi(2)).sum();
    let n_groups = float(groups.len() as u64);
    let error = (residuals * n_groups / (n_groups - 1.0)).sqrt() / n;
    Some(Difference::new(mean, error, groups.len()))
}

/// The standard error of a figure from its values without one group each (the jackknife, Efron 1982, eq. 3.2).
pub(super) fn jackknife_error(without: &[f64]) -> f64 {
    let n_groups = float(without.len() as u64);
    let mean = without.iter().sum::<f64>() / n_groups;
    let squares: f64 = without.iter().map(|value| (value - mean).powi(2)).sum();
    (squares * (n_groups - 1.0) / n_groups).sqrt()
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
    fn the_jackknife_of_a_mean_is_its_standard_error() {
        let values: Vec<f64> = (0..20).map(|i| f64::from(i % 7)).collect();
        let sum: f64 = values.iter().sum();
        let without: Vec<f64> = values.iter().map(|value| (sum - value) / 19.0).collect();
        let mean = sum / 20.0;
        let variance: f64 = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 19.0;
        assert!((jackknife_error(&without) - (variance / 20.0).sqrt()).abs() < 1e-12);
    }
}
