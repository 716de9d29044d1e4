//! The loss that the models of a mixture are compared by.
//!
//! The weights of a delayed label depend on the prediction itself, so the value of such a loss is not that of a proper scoring
//! rule: under fake-negative weighting the least of it is below the true rate, and a mixture that compared models by it would
//! choose the one that predicts too low.

use ouzel_sample::Sample;

use super::{Objective, value_of};
use crate::loss::{ValueRole, binary};
use crate::prior::{is_first, is_late};

impl Objective {
    /// The cross-entropy of a label that is not weighted by the prediction: the first sample of an item counts with its label,
    /// and a late positive with the difference that it makes to its negative. So the samples of an item sum to the
    /// cross-entropy of its outcome. `z` is the logit, at the impression where it is known, and `own` the loss that is learned, which is taken where it has no such
    /// weights.
    pub(super) fn comparable(&self, (sample, task, y): (&Sample, usize, bool), z: f32, own: f32) -> f32 {
        if !self.policy.weighs_by_prediction() || self.values[task] == ValueRole::Target {
            return own;
        }
        let z = z + self.offset();
        let positive = || match self.values[task] {
            ValueRole::Weight => value_of(sample, task) * binary(z, true).value,
            ValueRole::Ignore | ValueRole::Target => binary(z, true).value,
        };
        match (is_first(sample), y) {
            (true, true) => positive(),
            (true, false) => binary(z, false).value,
            (false, _) if is_late(sample, y) && self.keeps_negatives(sample) => {
                positive() - binary(z, false).value
            }
            (false, _) if is_late(sample, y) => positive(),
            (false, _) => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LearnerConfig;
    use crate::loss::{Policy, sigmoid};
    use crate::testing::streams;

    #[test]
    fn the_samples_of_all_items_sum_to_the_cross_entropy_of_their_outcomes() {
        for (policy, samples) in streams().into_iter().filter(|(policy, _)| *policy != Policy::Fnc) {
            for negative_rate in [1.0, 0.4] {
                let config = LearnerConfig {
                    policy,
                    negative_sample_rate: negative_rate,
                    ..LearnerConfig::default()
                };
                let objective = Objective::new(&config, &ouzel_model::ModelConfig::default());
                for z in [-4.0f32, -0.3, 1.2] {
                    let labels = |sample| objective.labels(sample).map(move |(task, y)| (sample, task, y));
                    let own = |y| binary(z + objective.offset(), y).value;
                    let found: f32 = samples
                        .iter()
                        .flat_map(labels)
                        .map(|label| objective.comparable(label, z, own(label.2)))
                        .sum();
                    // Two of four items are positive; negatives are kept or not by a draw of their own.
                    let n_negative = samples[2..4]
                        .iter()
                        .filter(|s| objective.keeps_negatives(s))
                        .count();
                    let p = f64::from(sigmoid(z + objective.offset()));
                    let expected = -2.0 * p.ln() - n_negative as f64 * (1.0 - p).ln();
                    assert!(
                        (f64::from(found) - expected).abs() < 1e-4,
                        "{policy:?} {negative_rate} {z}: {found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_model_that_predicts_too_low_has_the_larger_loss() {
        // A fifth of the items are acted on, late. The weighted loss prefers .15.
        let (_, samples) = streams()
            .into_iter()
            .find(|(policy, _)| *policy == Policy::Fnw)
            .unwrap();
        let config = LearnerConfig {
            policy: Policy::Fnw,
            ..LearnerConfig::default()
        };
        let objective = Objective::new(&config, &ouzel_model::ModelConfig::default());
        let of_rate = |f: f32| {
            let z = (f / (1.0 - f)).ln();
            let own = |y| Policy::Fnw.loss(z, 0.0, y, Default::default()).value;
            let (negative, late) = ((&samples[0], 0, false), (&samples[4], 0, true));
            let compared = [negative, late].map(|label| objective.comparable(label, z, own(label.2)));
            (own(false) + 0.2 * own(true), compared[0] + 0.2 * compared[1])
        };
        let [(low, low_compared), (right, right_compared)] = [0.15, 0.2].map(of_rate);
        assert!(low < right && right_compared < low_compared);
    }
}
