//! A bound between tasks: an outcome that needs two others is as likely as both together.
//!
//! An order is a click and then a conversion. A model with a logit each for the click, for the conversion of what
//! was clicked, and for the order may contradict itself; the symmetric Kullback-Leibler divergence between the
//! product of the first two and the third, `J = KL(p || q) + KL(q || p)`, draws them together (Meituan's multi-task
//! ranker). Of two Bernoulli variables it is `(p - q) (logit p - logit q)`.
//!
//! The second is a probability among items of which the first happened, and must be taught as one: see
//! [`conditioned`].

use ouzel_sample::{Labels, TaskId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Three tasks tied by the chain rule: `both` is as likely as `first` and then `then`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskChain {
    /// The task that comes first, such as a click. A task of `join.tasks`, as the other two.
    ///
    /// Set it to the earlier action.
    pub first: String,
    /// The task that follows among items with the first, such as a conversion; not the primary task. Its own labels are not
    /// used: it learns the outcome of `both` where a sample says that `first` happened, as under
    /// `join.label_policy = "wait"` with equal windows, and otherwise from this chain alone.
    ///
    /// Set it to the later action.
    pub then: String,
    /// The task of both actions among all shown items, such as an order.
    ///
    /// Set it to the combined action.
    pub both: String,
    /// Weight of the divergence in the loss, beside the log-loss.
    ///
    /// Set it from .01 to .1; raise it when the three predictions disagree.
    #[serde(default = "TaskChain::default_weight")]
    #[schemars(range(min = 0))]
    pub weight: f32,
}

impl TaskChain {
    fn default_weight() -> f32 {
        0.05
    }
}

/// Labels of a sample with that of `then` replaced by its conditional label.
///
/// The label of `then` is that of `both` where `first` is positive, and unknown elsewhere: its own label, among all shown
/// items, is of another probability. A sample with a label of one task only has none of `then`, which the bound teaches.
#[must_use]
pub fn conditioned(labels: Labels, [first, then, both]: [TaskId; 3]) -> Labels {
    let others = labels.masked(!(1 << then));
    match (labels.get(first), labels.get(both)) {
        (Some(true), Some(y)) => others.with(then, y),
        _ => others,
    }
}

/// The divergence with its derivatives by the logits of `first`, `then` and `both`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Nats, at least 0.
    pub value: f64,
    /// By the logits of `first`, `then` and `both`.
    pub gradient: [f64; 3],
}

/// The divergence between `p = sigmoid(first) sigmoid(then)` and `q = sigmoid(both)`.
///
/// `1 / p - 1 = exp(-first) + exp(-then) + exp(-first - then)`, so the log-odds of the product are a log-sum-exp of
/// logits: nothing is lost where a probability is close to 0 or to 1, and everything is finite for finite logits.
#[must_use]
pub fn divergence(first: f32, then: f32, both: f32) -> Divergence {
    let [first, then, both] = [first, then, both].map(f64::from);
    let terms = [-first, -then, -first - then];
    let top = terms.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let parts = terms.map(|term| (term - top).exp());
    let total: f64 = parts.iter().sum();
    let product = -(top + total.ln());
    let shares = parts.map(|part| part / total);

    let apart = product - both;
    let gap = difference(product, both);
    let by_product = slope(product) * apart + gap;
    Divergence {
        value: gap * apart,
        gradient: [
            by_product * (shares[0] + shares[2]),
            by_product * (shares[1] + shares[2]),
            -slope(both) * apart - gap,
        ],
    }
}

/// `sigmoid(a) - sigmoid(b)` to full relative precision, also where both are close to 1.
fn difference(a: f64, b: f64) -> f64 {
    // sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
    if a >= b {
        -sigmoid(a) * sigmoid(-b) * (b - a).exp_m1()
    } else {
        -difference(b, a)
    }
}

/// The derivative of the logistic function.
fn slope(z: f64) -> f64 {
    sigmoid(z) * sigmoid(-z)
}

fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        z.exp() / (1.0 + z.exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases() -> impl Iterator<Item = [f32; 3]> {
        const LOGITS: [f32; 7] = [-6.0, -2.5, -0.7, 0.0, 0.3, 1.9, 5.0];
        let each = LOGITS.into_iter();
        each.clone().flat_map(move |a| {
            let each = each.clone();
            each.clone()
                .flat_map(move |b| each.clone().map(move |c| [a, b, c]))
        })
    }

    #[test]
    fn the_divergence_is_symmetric_kl_between_product_and_joint() {
        for [a, b, c] in cases() {
            let p = sigmoid(f64::from(a)) * sigmoid(f64::from(b));
            let q = sigmoid(f64::from(c));
            let kl = |p: f64, q: f64| p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln();
            let expected = kl(p, q) + kl(q, p);
            let found = divergence(a, b, c).value;
            assert!(
                (found - expected).abs() < 1e-12 * (1.0 + expected),
                "{a} {b} {c}: {found} {expected}"
            );
        }
    }

    #[test]
    fn a_conditional_label_is_the_joint_label_where_the_first_is_positive() {
        let labels = |tasks: [Option<bool>; 4]| {
            let known = (0u8..).zip(tasks).filter_map(|(task, y)| Some((task, y?)));
            known.fold(Labels::UNKNOWN, |labels, (task, y)| labels.with(task, y))
        };
        let (yes, no) = (Some(true), Some(false));
        // Tasks: click, another, conversion, order.
        for (told, then) in [
            ([yes, no, None, yes], yes),
            ([yes, None, yes, no], no),
            ([no, yes, no, no], None),
            ([yes, no, no, None], None),
            ([None, no, yes, yes], None),
            ([None, None, no, None], None),
        ] {
            let [click, other, _, order] = told;
            let found = conditioned(labels(told), [0, 2, 3]);
            assert_eq!(found, labels([click, other, then, order]), "{told:?}");
        }
    }

    #[test]
    fn the_gradient_is_the_difference_quotient() {
        for logits in cases() {
            let found = divergence(logits[0], logits[1], logits[2]).gradient;
            for (i, found) in found.into_iter().enumerate() {
                let h = 1.0 / 256.0; // Whole in f32, added to these logits.
                let at = |by: f32| {
                    let mut moved = logits.map(|z| (z * 256.0).round() / 256.0);
                    moved[i] += by;
                    divergence(moved[0], moved[1], moved[2])
                };
                let quotient = (at(h).value - at(-h).value) / (2.0 * f64::from(h));
                let exact = at(0.0).gradient[i];
                assert!(
                    (quotient - exact).abs() < 1e-4,
                    "{logits:?} {i}: {exact} {quotient}"
                );
                assert!((found - exact).abs() < 1e-2, "{logits:?} {i}");
            }
        }
    }

    #[test]
    fn consistent_tasks_have_no_divergence() {
        for (p, r) in [(0.5f64, 0.25f64), (0.01, 0.3), (0.9, 0.999), (1e-6, 1e-6)] {
            let logit = |p: f64| (p / (1.0 - p)).ln();
            #[expect(clippy::cast_possible_truncation, reason = "logits are f32")]
            let [a, b, c] = [logit(p), logit(r), logit(p * r)].map(|z| z as f32);
            let found = divergence(a, b, c);
            assert!(found.value.abs() < 1e-12, "{found:?}");
            assert!(found.gradient.iter().all(|g| g.abs() < 1e-5), "{found:?}");
        }
    }

    #[test]
    fn the_divergence_is_finite_and_points_downhill_at_logits_of_40() {
        for logits in [[40.0f32; 3], [-40.0; 3]]
            .into_iter()
            .chain(cases().map(|c| c.map(|z| z.signum() * 40.0)))
        {
            let Divergence { value, gradient } = divergence(logits[0], logits[1], logits[2]);
            assert!(value.is_finite() && value >= 0.0, "{logits:?} {value}");
            assert!(gradient.iter().all(|g| g.is_finite()), "{logits:?} {gradient:?}");
        }
        // An order that is certain without a click: the click must go up and the order down.
        let Divergence { value, gradient } = divergence(-40.0, 40.0, 40.0);
        assert!((value - 80.0).abs() < 1e-9, "{value}");
        assert!(gradient[0] < -0.9 && gradient[2] > 0.9, "{gradient:?}");
        // All certain: p is 1 - 2 exp(-40), q is 1 - exp(-40).
        let value = divergence(40.0, 40.0, 40.0).value;
        let expected = (-40.0f64).exp() * 2.0f64.ln();
        assert!((value / expected - 1.0).abs() < 1e-9, "{value} {expected}");
    }
}
