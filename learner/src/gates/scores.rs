//! Compares the scores of a version on the probe with those of the reference.
//!
//! Every measure is 0 for equal scores and grows with the batches between the two. So its limit is the configured one or,
//! where that is more, what the measure has been between earlier references, and it is wider for a greater distance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::compare::{mean_probability, rank_correlation, rank_within_slates, stability_index, top_overlap};
use super::config::GatesConfig;
use super::moments::Moments;
use super::signal::Breach;

/// Least number of candidates that scores are compared on.
pub(super) const MIN_CANDIDATES: usize = 32;
/// Least number of candidates whose distribution is compared.
const MIN_BINNED: usize = 128;
/// References before scores are compared: the first ones of a lineage are far apart, because everything is new to it.
const MIN_REFERENCES: u64 = 10;
/// Deviations beyond the mean of earlier changes that are usual.
const USUAL_DEVIATIONS: f64 = 6.0;
/// Most that earlier changes widen a limit: a log that always changes must not make the gate useless.
const MOST_WIDENING: f64 = 4.0;

/// Stands for a mean prediction of 0.
const LEAST_LEVEL: f64 = 1e-12;

/// Log-odds on the probe by number of the slate, `[n_candidates, n_tasks]` each.
pub(super) type ProbeLogits = BTreeMap<u64, Vec<f32>>;

/// How far the scores of a version are from those of the reference.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ScoreDistance {
    /// One less the rank correlation, over all candidates or within slates, whichever is larger: slates may change places.
    /// `None` without any spread.
    rank: Option<f64>,
    /// Logarithm of the factor between the mean predictions, by task.
    levels: Vec<f64>,
    /// Population stability index; `None` for few candidates, whose tenths are mostly chance.
    stability: Option<f64>,
    /// Share of the first items of long slates that are not among the first ones of the other; `None` without long slates.
    top: Option<f64>,
}

/// The distances between references so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct UsualDistances {
    n: u64,
    rank: Moments,
    levels: Vec<Moments>,
    stability: Moments,
    top: Moments,
}

/// The log-odds of one task.
pub(super) fn of_task(logits: &ProbeLogits, task: usize, n_tasks: usize) -> Vec<f32> {
    let slates = logits.values();
    slates
        .flat_map(|slate| slate.iter().skip(task).step_by(n_tasks))
        .copied()
        .collect()
}

impl ScoreDistance {
    /// Compares scores of the same slates; `None` for too few candidates, or slates of other lengths.
    pub(super) fn between(before: &ProbeLogits, after: &ProbeLogits, n_tasks: usize) -> Option<Self> {
        let [primary_before, primary] = [before, after].map(|logits| of_task(logits, 0, n_tasks));
        if primary.len() < MIN_CANDIDATES || primary.len() != primary_before.len() {
            return None;
        }
        let level = |logits: &ProbeLogits, task| {
            mean_probability(of_task(logits, task, n_tasks).into_iter()).max(LEAST_LEVEL)
        };
        let levels = (0..n_tasks).map(|task| (level(after, task) / level(before, task)).ln());
        let pair = |(before, after): (&Vec<f32>, &Vec<f32>)| {
            let primary = |logits: &[f32]| logits.iter().step_by(n_tasks).copied().collect::<Vec<f32>>();
            (primary(before), primary(after))
        };
        let pairs: Vec<_> = before.values().zip(after.values()).map(pair).collect();
        let rank = rank_correlation(&primary_before, &primary);
        let within = rank_within_slates(&pairs);
        Some(Self {
            rank: rank.map(|found| 1.0 - within.map_or(found, |within| found.max(within))),
            levels: levels.collect(),
            stability: (primary.len() >= MIN_BINNED).then(|| stability_index(&primary_before, &primary)),
            top: top_overlap(&pairs).map(|found| 1.0 - found),
        })
    }
}

impl UsualDistances {
    /// Adds the distance of a new reference from the one before.
    pub(super) fn add(&mut self, distance: &ScoreDistance) {
        self.n += 1;
        self.levels.resize(distance.levels.len(), Moments::default());
        for (usual, level) in self.levels.iter_mut().zip(&distance.levels) {
            usual.add(level.abs());
        }
        for (usual, found) in [
            (&mut self.rank, distance.rank),
            (&mut self.stability, distance.stability),
            (&mut self.top, distance.top),
        ] {
            if let Some(found) = found {
                usual.add(found);
            }
        }
    }

    /// Whether there are enough of them to judge by.
    fn is_known(&self) -> bool {
        self.n >= MIN_REFERENCES
    }

    /// The breaches of a version that is `span` times as far from the reference in batches as a reference from the next.
    pub(super) fn judge(
        &self,
        config: &GatesConfig,
        distance: &ScoreDistance,
        span: f64,
        breaches: &mut Vec<Breach>,
    ) {
        if !self.is_known() {
            return;
        }
        // What adds up by chance grows with the root of the batches, its square in proportion to them.
        let by_square = |least: f64, usual: &Moments| widened(least, usual) * span;
        let by_root = |least: f64, usual: &Moments| widened(least, usual) * span.sqrt();
        let most = by_square(1.0 - config.min_rank_correlation, &self.rank);
        if let Some(found) = distance.rank.filter(|found| *found > most) {
            breaches.push(Breach::below("rank_correlation", 1.0 - found, 1.0 - most));
        }
        for (found, usual) in distance.levels.iter().zip(&self.levels) {
            let most = by_root(config.max_level_change.ln(), usual);
            if found.abs() > most {
                breaches.push(Breach::outside("level", found.exp(), (-most).exp(), most.exp()));
            }
        }
        let most = by_square(config.max_stability_index, &self.stability);
        if let Some(found) = distance.stability.filter(|found| *found > most) {
            breaches.push(Breach::above("stability_index", found, most));
        }
        let most = by_root(1.0 - config.min_top_overlap, &self.top);
        if let Some(found) = distance.top.filter(|found| *found > most) {
            breaches.push(Breach::below("top_overlap", 1.0 - found, 1.0 - most));
        }
    }
}

/// The configured limit or, if that is more, what is usual, up to [`MOST_WIDENING`] times the configured one.
fn widened(configured: f64, usual: &Moments) -> f64 {
    let usual = usual.mean() + USUAL_DEVIATIONS * usual.deviation();
    usual.clamp(configured, configured * MOST_WIDENING)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores of twelve slates of twelve, whose log-odds change by up to `noise`, and by `shift`.
    fn logits(seed: u64, noise: f32, shift: f32) -> ProbeLogits {
        let logit = |slate: u64, item: u64| {
            let n = slate * 12 + item;
            ouzel_model::uniform(1, n, 0) * 2.0 - 3.0 + shift + ouzel_model::uniform(seed, n, 1) * noise
        };
        let slate = |slate| (slate, (0..12).map(|item| logit(slate, item)).collect());
        (0..12).map(slate).collect()
    }

    fn judge(usual: &UsualDistances, distance: &ScoreDistance, span: f64) -> Vec<String> {
        let mut breaches = Vec::new();
        usual.judge(&GatesConfig::default(), distance, span, &mut breaches);
        breaches.into_iter().map(|breach| breach.gate).collect()
    }

    fn usual(noise: f32) -> UsualDistances {
        let mut usual = UsualDistances::default();
        for seed in 2..2 + MIN_REFERENCES {
            let distance =
                ScoreDistance::between(&logits(seed, noise, 0.0), &logits(seed + 1, noise, 0.0), 1);
            usual.add(&distance.unwrap());
        }
        usual
    }

    #[test]
    fn a_version_as_far_as_usual_passes_and_a_shifted_or_reversed_one_does_not() {
        let before = logits(1, 0.0, 0.0);
        let same = ScoreDistance::between(&before, &before, 1).unwrap();
        assert_eq!((same.rank, same.top), (Some(0.0), Some(0.0)));
        assert!(same.stability.unwrap().abs() < 1e-12 && same.levels[0].abs() < 1e-12);
        let usual = usual(0.2);
        assert_eq!(judge(&usual, &same, 1.0), Vec::<String>::new());
        let shifted = ScoreDistance::between(&before, &logits(1, 0.0, 1.5), 1).unwrap();
        assert_eq!(judge(&usual, &shifted, 1.0), ["level", "stability_index"]);
        let reversed = before
            .iter()
            .map(|(number, slate)| (*number, slate.iter().map(|z| -z).collect()));
        let reversed = ScoreDistance::between(&before, &reversed.collect(), 1).unwrap();
        let found = judge(&usual, &reversed, 1.0);
        assert!(found.contains(&"rank_correlation".to_owned()), "{found:?}");
        assert!(found.contains(&"top_overlap".to_owned()), "{found:?}");
    }

    #[test]
    fn a_limit_grows_with_the_distance_and_nothing_is_judged_before_there_is_a_usual_one() {
        let before = logits(1, 0.0, 0.0);
        let shifted = ScoreDistance::between(&before, &logits(1, 0.0, 1.5), 1).unwrap();
        assert_eq!(
            judge(&UsualDistances::default(), &shifted, 1.0),
            Vec::<String>::new()
        );
        let found = judge(&usual(0.2), &shifted, 9.0);
        assert!(
            !found.contains(&"level".to_owned()),
            "nine times as far: {found:?}"
        );
    }

    #[test]
    fn slates_that_are_short_or_few_have_no_overlap_and_few_candidates_no_distance() {
        let short: ProbeLogits = (0..16).map(|number| (number, vec![0.1, 0.2, 0.3])).collect();
        assert_eq!(ScoreDistance::between(&short, &short, 1).unwrap().top, None);
        let few: ProbeLogits = (0..2).map(|number| (number, vec![0.1; 12])).collect();
        assert_eq!(ScoreDistance::between(&few, &few, 1), None);
    }
}
