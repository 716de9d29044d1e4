//! The difference of two models' log-loss on the same items, with an interval.
//!
//! Users are split into [`GROUPS`] groups, whose spread gives the interval. So memory is fixed, a late positive changes the
//! sum of its group, and the result depends on the items alone, not on their order in time.

use serde::{Deserialize, Serialize};

use ouzel_sample::Id;

use super::groups::{Difference, group_of, ratio};
use crate::loss::binary;
use crate::validation::figures::float;
use crate::validation::score_log::{ScoreChange, Scored};

/// Groups of users.
const GROUPS: usize = 256;

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
        let (n, sum) = &mut self.groups[group_of(user, GROUPS)];
        let ((is_new, serving), (_, candidate)) = (loss(serving), loss(candidate));
        *n += u64::from(is_new);
        *sum += candidate - serving;
    }

    /// Whether it has every group.
    pub(super) fn is_whole(&self) -> bool {
        self.groups.len() == GROUPS
    }

    /// The mean difference with its interval, once enough groups have items.
    pub(super) fn difference(&self) -> Option<Difference> {
        let known = self.groups.iter().filter(|(n, _)| *n > 0);
        let known: Vec<(f64, f64)> = known.map(|(n, sum)| (float(*n), *sum)).collect();
        ratio(&known)
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

#[cfg(test)]
mod tests {
    use super::super::groups::MIN_GROUPS;
    use super::*;

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
