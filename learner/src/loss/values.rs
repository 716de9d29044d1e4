//! What the value of an action does in the loss: an amount, dwell time or rating, scaled to `[0, 1]`.
//!
//! As a target, a value replaces the label in the cross-entropy, whose least is at `p = E[v y]` then: a regression between 0
//! and the cap that values were scaled by. Where a positive comes after its item was learned as a negative, it turns the
//! gradient `p` of that negative into `p - v`. So the gradients of all samples of an item sum to that of its soft label, and
//! negatives need no weight.

use ouzel_sample::SampleKind;
use serde::{Deserialize, Serialize};

use crate::loss::{Loss, Policy, binary};

/// How the values of a task's actions are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueRole {
    /// Values are not read.
    #[default]
    Ignore,
    /// The loss of a positive is multiplied by its value.
    Weight,
    /// The value is the label: the prediction times the cap of values is the expected value.
    Target,
}

/// The loss of one label whose task has [`ValueRole::Target`].
///
/// `z` is the logit, `offset` the correction for negatives that are kept at the rate `negative_rate`, and `value` the value of
/// a positive, 0 for a negative. In a stream with a certain copy of each sample, the copy alone is learned.
#[must_use]
pub fn soft_label(
    (policy, kind): (Policy, SampleKind),
    z: f32,
    (offset, negative_rate): (f32, f32),
    value: f32,
) -> Loss {
    let (one, zero) = (binary(z + offset, true), binary(z + offset, false));
    let sum = |of_zero: f32| Loss {
        value: value * one.value + of_zero * zero.value,
        gradient: value * one.gradient + of_zero * zero.gradient,
    };
    let is_positive = value > 0.0;
    match (policy, kind) {
        (Policy::Defer, SampleKind::Final | SampleKind::EarlyNegative) => zero.times(0.0),
        // A logit of fake negatives stands for a stream in which each positive is also a negative.
        (Policy::Fnc, SampleKind::Final) if is_positive => sum(negative_rate),
        (Policy::Fnc, _) if is_positive => sum(0.0),
        (_, SampleKind::LatePositive | SampleKind::Correction) => Loss {
            value: -value * z,
            gradient: -value,
        },
        // The part of a positive that counts as a negative is kept always, other negatives at their rate.
        _ if is_positive => sum(negative_rate * (1.0 - value)),
        _ => zero,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::sigmoid;
    use crate::testing::streams;

    #[test]
    fn the_samples_of_an_item_have_the_gradient_of_its_soft_label() {
        for (policy, samples) in streams().into_iter().filter(|(policy, _)| *policy != Policy::Fnc) {
            for z in [-3.0f32, -0.4, 0.0, 1.5] {
                for item in 0..4u16 {
                    let value = if item < 2 {
                        0.25 + 0.5 * f32::from(item)
                    } else {
                        0.0
                    };
                    let of_item = samples.iter().filter(|s| s.candidate.item.0 == u64::from(item));
                    let gradient: f32 = of_item
                        .map(|sample| {
                            let value = if sample.labels.get(0) == Some(true) {
                                value
                            } else {
                                0.0
                            };
                            soft_label((policy, sample.kind), z, (0.0, 1.0), value).gradient
                        })
                        .sum();
                    let expected = sigmoid(z) - value;
                    assert!(
                        (gradient - expected).abs() < 1e-6,
                        "{policy:?} {z} {item}: {gradient}"
                    );
                }
            }
        }
    }

    #[test]
    fn fake_negative_calibration_rests_at_the_expected_value() {
        // An item of expected value .3: a negative, and with probability .6 a positive of value .5.
        let b = 0.3f32 / 1.3;
        let z = (b / (1.0 - b)).ln();
        let of = |kind, value| soft_label((Policy::Fnc, kind), z, (0.0, 1.0), value).gradient;
        let stream = of(SampleKind::EarlyNegative, 0.0) + 0.6 * of(SampleKind::LatePositive, 0.5);
        assert!(stream.abs() < 1e-6, "{stream}");
        let certain = 0.6 * of(SampleKind::Final, 0.5) + 0.4 * of(SampleKind::Final, 0.0);
        assert!(certain.abs() < 1e-6, "{certain}");
    }

    #[test]
    fn thinned_negatives_leave_the_expected_value() {
        // Probability .6 of a value of .5, else a negative, of which one in ten is kept.
        let (rate, z) = (0.1f32, (0.3f32 / 0.7).ln());
        let of =
            |value| soft_label((Policy::Plain, SampleKind::Final), z, (-rate.ln(), rate), value).gradient;
        let gradient = 0.6 * of(0.5) + 0.4 * rate * of(0.0);
        assert!(gradient.abs() < 1e-6, "{gradient}");
    }
}
