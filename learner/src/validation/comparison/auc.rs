//! The interval of the difference of two models' AUC on the same items.
//!
//! An AUC compares items of different users, so it is no mean over users: its error comes from the difference without one
//! group of users each (the delete-a-group jackknife). Each group has histograms of the logits of both models, so memory is
//! fixed, 512 KiB a task, and a late positive moves its item from the negatives to the positives.

use serde::{Deserialize, Serialize};

use ouzel_sample::Id;

use super::groups::{Difference, MIN_GROUPS, group_of, jackknife_error};
use crate::validation::score_log::ScoreChange;

/// Groups of users.
const GROUPS: usize = 64;
/// Bins of a histogram. The error of a difference needs no finer ones; the difference itself has those of the figures.
const BINS: usize = 512;
const BINS_PER_LOGIT: f32 = 16.0;

/// Negatives and positives by bin of the logit.
type Histogram = Vec<(u32, u32)>;

/// Histograms of one task by group of users.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "SavedAuc", into = "SavedAuc")]
pub(super) struct PairedAuc {
    serving: Vec<Histogram>,
    candidate: Vec<Histogram>,
}

/// The bins that are not empty, `[group, bin, negatives, positives]`.
#[derive(Serialize, Deserialize)]
struct SavedAuc {
    groups: usize,
    bins: usize,
    serving: Vec<[u32; 4]>,
    candidate: Vec<[u32; 4]>,
}

impl Default for PairedAuc {
    fn default() -> Self {
        let empty = vec![vec![(0, 0); BINS]; GROUPS];
        Self {
            serving: empty.clone(),
            candidate: empty,
        }
    }
}

impl PairedAuc {
    /// Adds what one sample of `user` changes in the scores of each model.
    pub(super) fn add(&mut self, user: Id, serving: &ScoreChange, candidate: &ScoreChange) {
        let group = group_of(user, GROUPS);
        count(&mut self.serving[group], serving);
        count(&mut self.candidate[group], candidate);
    }

    /// The difference `mean` with its interval; `None` while too few groups have items of both classes.
    pub(super) fn difference(&self, mean: f64) -> Option<Difference> {
        let [serving, candidate] = [&self.serving, &self.candidate].map(|groups| without_each(groups));
        let both = serving.iter().zip(&candidate);
        let without: Vec<f64> = both
            .filter_map(|(serving, candidate)| Some((*candidate)? - (*serving)?))
            .collect();
        (without.len() >= MIN_GROUPS).then(|| Difference::new(mean, jackknife_error(&without), without.len()))
    }
}

/// The AUC without each group that has items; `None` for a group without items, and where one class is missing.
fn without_each(groups: &[Histogram]) -> Vec<Option<f64>> {
    let mut total = vec![(0.0, 0.0); BINS];
    for group in groups {
        for (sum, one) in total.iter_mut().zip(group) {
            *sum = (sum.0 + f64::from(one.0), sum.1 + f64::from(one.1));
        }
    }
    let without = groups.iter().map(|group| {
        let is_empty = group
            .iter()
            .all(|(negatives, positives)| negatives + positives == 0);
        if is_empty {
            return None;
        }
        let rest = total.iter().zip(group);
        auc(rest.map(|(sum, one)| (sum.0 - f64::from(one.0), sum.1 - f64::from(one.1))))
    });
    without.collect()
}

/// The AUC of negatives and positives by ascending bin, ties counted half.
fn auc(bins: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (mut below, mut positives, mut wins) = (0.0, 0.0, 0.0);
    for (n, p) in bins {
        wins += p * (below + 0.5 * n);
        below += n;
        positives += p;
    }
    let pairs = below * positives;
    (pairs > 0.0).then(|| wins / pairs)
}

fn count(bins: &mut Histogram, change: &ScoreChange) {
    let (ScoreChange::Certain(scored) | ScoreChange::Presumed(scored) | ScoreChange::Late(scored)) = change;
    let (negatives, positives) = &mut bins[bin(scored.logit)];
    match change {
        ScoreChange::Certain(_) | ScoreChange::Presumed(_) if scored.label => *positives += 1,
        ScoreChange::Certain(_) | ScoreChange::Presumed(_) => *negatives += 1,
        ScoreChange::Late(_) => {
            // A restart loses predictions: the item may have been counted in a bin nearby.
            *negatives = negatives.saturating_sub(1);
            *positives += 1;
        }
    }
}

fn bin(z: f32) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the bins; NaN becomes 0"
    )]
    let bin = (z * BINS_PER_LOGIT + 256.0).clamp(0.0, 511.0) as usize;
    bin
}

impl From<PairedAuc> for SavedAuc {
    fn from(paired: PairedAuc) -> Self {
        let save = |groups: &[Histogram]| {
            let mut saved = Vec::new();
            for (group, bins) in (0u32..).zip(groups) {
                let filled = (0u32..).zip(bins).filter(|(_, (n, p))| n + p > 0);
                saved.extend(filled.map(|(bin, (n, p))| [group, bin, *n, *p]));
            }
            saved
        };
        Self {
            groups: GROUPS,
            bins: BINS,
            serving: save(&paired.serving),
            candidate: save(&paired.candidate),
        }
    }
}

impl TryFrom<SavedAuc> for PairedAuc {
    type Error = String;

    fn try_from(saved: SavedAuc) -> Result<Self, String> {
        if (saved.groups, saved.bins) != (GROUPS, BINS) {
            let (groups, bins) = (saved.groups, saved.bins);
            return Err(format!(
                "histograms of {groups} groups and {bins} bins are not those of this version"
            ));
        }
        let mut paired = Self::default();
        for (side, filled) in [
            (&mut paired.serving, &saved.serving),
            (&mut paired.candidate, &saved.candidate),
        ] {
            for [group, bin, negatives, positives] in filled {
                let place = side
                    .get_mut(*group as usize)
                    .and_then(|bins| bins.get_mut(*bin as usize));
                *place.ok_or_else(|| format!("there is no bin {bin} of group {group}"))? =
                    (*negatives, *positives);
            }
        }
        Ok(paired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_without_a_group_is_that_of_the_other_groups() {
        let mut groups = vec![vec![(0, 0); BINS]; 3];
        groups[0][10] = (3, 1);
        groups[0][20] = (1, 4);
        groups[1][15] = (2, 2);
        let without = without_each(&groups);
        let alone = auc(groups[0].iter().map(|(n, p)| (f64::from(*n), f64::from(*p))));
        // Positives of bin 20 are above three of four negatives and tie with one; that of bin 10 ties with three.
        let expected = (4.0 * 3.5 + 1.5) / (5.0 * 4.0);
        assert_eq!(without[1], alone);
        assert!((without[1].unwrap() - expected).abs() < 1e-12);
        assert_eq!(without[2], None, "it has no items");
    }

    #[test]
    fn a_saved_histogram_of_other_bins_is_refused() {
        let saved = serde_json::json!({ "groups": 2, "bins": 512, "serving": [], "candidate": [] });
        assert!(serde_json::from_value::<PairedAuc>(saved).is_err());
        let outside =
            serde_json::json!({ "groups": 64, "bins": 512, "serving": [[64, 0, 1, 1]], "candidate": [] });
        assert!(serde_json::from_value::<PairedAuc>(outside).is_err());
    }
}
