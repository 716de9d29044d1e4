//! Losses for delayed labels.
//!
//! A join that does not wait emits shown items as negatives before their outcome is known, and corrects them by further
//! samples. The share `q` of positives in the stream then differs from the true share `p`. Each policy corrects for the
//! stream of one join policy: by weights `p / q` of positives and `(1 - p) / (1 - q)` of negatives, so that the expected
//! gradient over the stream is that over the true labels, or for `fnc` by a transform of the output
//! ([`Output::FakeNegatives`]). Weights are computed from the model's own predictions, but not differentiated.
//!
//! In the formulas `f` is the predicted probability of the outcome, and `d` that of a positive which comes only
//! after its item was emitted as a negative. `d = f s` with one auxiliary logit a task for `s`, the share of positives
//! that come late. It is learned from positives alone, of which every stream tells the early and the late ones
//! once as such; the other way, a logit each for `d` and for the share of real negatives, has to learn `f` over
//! again, and where it does so less well than the primary logit, the weights are wrong by as much. With `d` made
//! of `f`, learning rests at the truth alone for any `s` that is right.

use ouzel_model::Output;
use serde::{Deserialize, Serialize};

use crate::loss::{Loss, binary, sigmoid};

/// The label policy: which stream of samples the learner gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Every label is certain, or treated as if it were: the join's `eager` and `wait`.
    #[default]
    Plain,
    /// A negative at once, a positive again at its action; fake negative weighted (Ktena et al. 2019).
    Fnw,
    /// The same stream without weights; fake negative calibration (Ktena et al. 2019).
    Fnc,
    /// The label after a wait, a late positive again at its action; ES-DFM (Yang et al. 2021).
    EsDfm,
    /// The label after a wait, and every sample again with its true label; DEFER (Gu et al. 2021).
    Defer,
}

/// Predicted probabilities of a label's delay; the default is that nothing is late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Late {
    /// `d`, the probability of a late positive: `p_dp` in ES-DFM and DEFER.
    pub positive: f32,
    /// The share of real negatives among items first emitted as negatives: `p_rn` in ES-DFM.
    pub real_negative: f32,
}

impl Default for Late {
    fn default() -> Self {
        Self {
            positive: 0.0,
            real_negative: 1.0,
        }
    }
}

impl Late {
    /// From the log-odds that a positive comes late, where `f` is the probability of the outcome.
    #[must_use]
    pub fn of(logit: f32, f: f32) -> Self {
        let positive = f * sigmoid(logit);
        Self {
            positive,
            real_negative: (1.0 - f) / (1.0 - f + positive).max(f32::MIN_POSITIVE),
        }
    }
}

impl Policy {
    /// What logits learned under this policy stand for.
    #[must_use]
    pub fn output(self) -> Output {
        match self {
            Policy::Fnc => Output::FakeNegatives,
            _ => Output::LogOdds,
        }
    }

    /// Whether the loss weighs a label by the model's own prediction.
    #[must_use]
    pub fn weighs_by_prediction(self) -> bool {
        matches!(self, Policy::Fnw | Policy::EsDfm | Policy::Defer)
    }

    /// Number of auxiliary logits per task: one, of a positive being late, where weights need it.
    #[must_use]
    pub fn auxiliary(self) -> usize {
        match self {
            Policy::Plain | Policy::Fnw | Policy::Fnc => 0,
            Policy::EsDfm | Policy::Defer => 1,
        }
    }

    /// The weight of a sample of the stream with label `y`.
    #[must_use]
    pub fn weight(self, y: bool, f: f32, late: Late) -> f32 {
        let Late {
            positive: d,
            real_negative,
        } = late;
        match (self, y) {
            (Policy::Plain | Policy::Fnc, _) => 1.0,
            (Policy::Fnw, true) => 1.0 + f,
            (Policy::Fnw, false) => (1.0 - f) * (1.0 + f),
            (Policy::EsDfm, true) => 1.0 + d,
            (Policy::EsDfm, false) => (1.0 + d) * real_negative,
            // `d <= f`, so neither has a pole; without the guard both would be 0/0 for a prediction of 0 or 1.
            (Policy::Defer, true) => f / (f - 0.5 * d).max(f32::MIN_POSITIVE),
            (Policy::Defer, false) => (1.0 - f) / (1.0 - f + 0.5 * d).max(f32::MIN_POSITIVE),
        }
    }

    /// The loss of one label of the stream.
    ///
    /// `z` is the logit and `offset` the correction for down-sampling, in training only: the loss is that of `z + offset`, the
    /// weight that of `z`, which stays calibrated.
    #[must_use]
    pub fn loss(self, z: f32, offset: f32, y: bool, late: Late) -> Loss {
        binary(z + offset, y).times(self.weight(y, sigmoid(z), late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items of one kind: outcome `p`, a late positive `d` of it.
    const ITEMS: [(f32, f32); 6] = [
        (0.5, 0.25),
        (0.3, 0.3),
        (0.3, 0.0),
        (0.01, 0.008),
        (0.9, 0.2),
        (0.002, 0.0005),
    ];
    const POLICIES: [Policy; 4] = [Policy::Fnw, Policy::Fnc, Policy::EsDfm, Policy::Defer];

    /// Samples of the stream per shown item: (positives, negatives).
    fn stream(policy: Policy, p: f32, d: f32) -> (f32, f32) {
        match policy {
            Policy::Plain => (p, 1.0 - p),
            Policy::Fnw | Policy::Fnc => (p, 1.0),
            Policy::EsDfm => (p, 1.0 - p + d),
            Policy::Defer => (2.0 * p - d, 2.0 * (1.0 - p) + d),
        }
    }

    fn logit(p: f32) -> f32 {
        (p / (1.0 - p)).ln()
    }

    /// What an auxiliary logit that has learned the stream says to a prediction of `f`.
    fn late(p: f32, d: f32, f: f32) -> Late {
        Late::of(logit(d / p), f)
    }

    #[test]
    fn a_right_share_of_late_positives_gives_the_rates_that_the_stream_was_made_with() {
        for (p, d) in ITEMS {
            let found = late(p, d, p);
            assert!((found.positive - d).abs() < 1e-6, "{p} {d} {found:?}");
            let expected = (1.0 - p) / (1.0 - p + d);
            assert!((found.real_negative - expected).abs() < 1e-6, "{p} {d} {found:?}");
        }
        // Whatever they say, a weight is finite and not negative.
        for policy in POLICIES {
            for (f, logit) in [(0.0, -90.0), (0.0, 90.0), (1.0, 90.0), (1.0, -90.0), (0.5, 0.0)] {
                for y in [false, true] {
                    let weight = policy.weight(y, f, Late::of(logit, f));
                    assert!(
                        (0.0..=2.0).contains(&weight),
                        "{policy:?} {f} {logit} {y}: {weight}"
                    );
                }
            }
        }
    }

    /// The identity behind each policy: weighted by `f = p`, the mean gradient over the stream is the mean
    /// gradient over true labels, at any logit.
    #[test]
    fn the_mean_gradient_over_the_stream_is_that_over_the_truth() {
        for (p, d) in ITEMS {
            for policy in [Policy::Plain, Policy::Fnw, Policy::EsDfm, Policy::Defer] {
                let (positives, negatives) = stream(policy, p, d);
                let [one, zero] = [true, false].map(|y| policy.weight(y, p, late(p, d, p)));
                for z in [-6.0f32, -1.0, 0.0, 0.4, 3.0] {
                    let [up, down] = [true, false].map(|y| f64::from(binary(z, y).gradient));
                    let biased = f64::from(positives * one) * up + f64::from(negatives * zero) * down;
                    let found = biased / f64::from(positives + negatives);
                    let expected = f64::from(p) * up + f64::from(1.0 - p) * down;
                    assert!(
                        (found - expected).abs() < 1e-6,
                        "{policy:?} {p} {d} {z}: {found} {expected}"
                    );
                }
            }
        }
    }

    /// As learned: the weights are those of the model's own `f`, and it comes to rest at the truth only.
    #[test]
    fn the_truth_is_the_point_where_learning_rests() {
        let gradient = |policy: Policy, p: f32, d: f32, z: f32, kept: f32| {
            let (positives, negatives) = stream(policy, p, d);
            let late = late(p, d, sigmoid(z));
            let [up, down] = [true, false].map(|y| policy.loss(z, -kept.ln(), y, late).gradient);
            f64::from(positives) * f64::from(up) + f64::from(kept * negatives) * f64::from(down)
        };
        for (p, d) in ITEMS {
            for policy in POLICIES {
                // Negatives dropped or not.
                for kept in [1.0, 0.1, 0.01] {
                    let truth = match policy {
                        Policy::Fnc => p.ln(),
                        _ => logit(p),
                    };
                    let at = |z| gradient(policy, p, d, z, kept);
                    let scale = f64::from(kept.min(p));
                    assert!(
                        at(truth).abs() < 1e-4 * scale,
                        "{policy:?} {p} {d} {kept}: {}",
                        at(truth)
                    );
                    assert!(at(truth + 0.3) > 1e-3 * scale, "{policy:?} {p} {d} {kept}");
                    assert!(at(truth - 0.3) < -1e-3 * scale, "{policy:?} {p} {d} {kept}");
                    let found = policy.output().log_odds(truth);
                    assert!((found - logit(p)).abs() < 1e-4, "{policy:?} {p}: {found}");
                }
            }
        }
    }

    #[test]
    fn the_closed_forms_are_those_of_the_papers() {
        for (z, d) in [(-3.0f32, 0.01f32), (0.2, 0.4), (1.5, 0.0)] {
            let f = sigmoid(z);
            let late = Late {
                positive: d,
                real_negative: 0.7,
            };
            let [one, zero] = [-f.ln(), -(1.0 - f).ln()];
            let check = |policy: Policy, y: bool, expected: f32| {
                let found = policy.loss(z, 0.0, y, late).value;
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{policy:?} {z} {y}: {found} {expected}"
                );
            };
            check(Policy::Fnw, true, (1.0 + f) * one);
            check(Policy::Fnw, false, (1.0 - f) * (1.0 + f) * zero);
            check(Policy::Fnc, true, one);
            check(Policy::Fnc, false, zero);
            check(Policy::EsDfm, true, (1.0 + d) * one);
            check(Policy::EsDfm, false, (1.0 + d) * 0.7 * zero);
            check(Policy::Defer, true, f / (f - d / 2.0) * one);
            check(Policy::Defer, false, (1.0 - f) / (1.0 - f + d / 2.0) * zero);
        }
        // DEFER without a wait: every positive is late.
        for f in [0.01f32, 0.3, 0.8] {
            let late = Late {
                positive: f,
                ..Late::default()
            };
            assert!((Policy::Defer.weight(true, f, late) - 2.0).abs() < 1e-6);
            let expected = 2.0 * (1.0 - f) / (2.0 - f);
            assert!((Policy::Defer.weight(false, f, late) - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn a_gradient_is_that_of_its_loss_with_the_weight_held_fast() {
        let late = Late {
            positive: 0.1,
            real_negative: 0.8,
        };
        for policy in POLICIES {
            for (z, y) in [(-1.0f32, true), (0.5, false)] {
                let weight = policy.weight(y, sigmoid(z), late);
                let (value, h) = (|z: f32| weight * binary(z + 1.0, y).value, 1e-2);
                let quotient = (value(z + h) - value(z - h)) / (2.0 * h);
                let found = policy.loss(z, 1.0, y, late).gradient;
                assert!(
                    (found - quotient).abs() < 1e-4,
                    "{policy:?} {z} {y}: {found} {quotient}"
                );
            }
        }
    }
}
