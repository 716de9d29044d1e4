//! Losses of logits in closed form, with their gradients.
//!
//! The network's backward pass starts from `dL/dlogit`, which is computed here; that keeps every loss testable
//! against its formula and its order of summation fixed.

mod bound;
mod delayed;
mod values;

pub use bound::{Divergence, TaskChain, conditioned, divergence};
pub use delayed::{Late, Policy};
pub use values::{ValueRole, soft_label};

/// A loss value with its derivative by the logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// The loss, nats.
    pub value: f32,
    /// Its derivative by the logit.
    pub gradient: f32,
}

impl Loss {
    /// The loss times a constant weight, which is not differentiated.
    #[must_use]
    pub fn times(self, weight: f32) -> Self {
        Self {
            value: weight * self.value,
            gradient: weight * self.gradient,
        }
    }
}

/// The logistic function.
#[must_use]
pub fn sigmoid(z: f32) -> f32 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        z.exp() / (1.0 + z.exp())
    }
}

/// Binary cross-entropy: `max(z, 0) - z y + ln(1 + exp(-|z|))`, finite for any finite logit.
#[must_use]
pub fn binary(z: f32, y: bool) -> Loss {
    let target = f32::from(u8::from(y));
    Loss {
        value: z.max(0.0) - z * target + (-z.abs()).exp().ln_1p(),
        gradient: sigmoid(z) - target,
    }
}

/// Softmax cross-entropy inside one slate: the mean over its positives of `-ln softmax(z)_i`.
///
/// # Shapes
/// `slate [n]` of (logit, label) -> value and `gradient [n]`; none without both a positive and a negative,
/// when there is nothing to rank.
#[must_use]
pub fn slate(slate: &[(f32, bool)]) -> Option<(f32, Vec<f32>)> {
    let n_positive = slate.iter().filter(|(_, y)| *y).count();
    if n_positive == 0 || n_positive == slate.len() {
        return None;
    }
    let top = slate.iter().map(|(z, _)| *z).fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = slate.iter().map(|(z, _)| (z - top).exp()).sum();
    let log_total = top + total.ln();
    #[expect(clippy::cast_precision_loss, reason = "a slate's size")]
    let share = 1.0 / n_positive as f32;
    let value = slate
        .iter()
        .filter(|(_, y)| *y)
        .map(|(z, _)| log_total - z)
        .sum::<f32>()
        * share;
    let gradient = slate
        .iter()
        .map(|(z, y)| (z - log_total).exp() - if *y { share } else { 0.0 })
        .collect();
    Some((value, gradient))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_equals_its_textbook_form() {
        for z in [-30.0f32, -3.0, -0.1, 0.0, 0.7, 4.0, 30.0] {
            let p = 1.0 / (1.0 + f64::from(-z).exp());
            let check = |y: bool, expected: f64, gradient: f64| {
                let loss = binary(z, y);
                assert!(
                    (f64::from(loss.value) - expected).abs() < 1e-5 * (1.0 + expected),
                    "{z} {y}"
                );
                assert!((f64::from(loss.gradient) - gradient).abs() < 1e-6, "{z} {y}");
            };
            check(true, -p.ln(), p - 1.0);
            check(false, f64::from(z) - p.ln(), p);
        }
        assert!(binary(1e30, false).value.is_finite());
    }

    #[test]
    fn slate_gradient_is_the_difference_quotient() {
        let base = [(0.3f32, true), (-1.0, false), (2.0, false), (0.1, true)];
        let (_, gradient) = slate(&base).unwrap();
        for i in 0..base.len() {
            let shifted = |by: f32| {
                let mut copy = base;
                copy[i].0 += by;
                slate(&copy).unwrap().0
            };
            let quotient = (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
            assert!(
                (quotient - gradient[i]).abs() < 1e-3,
                "{i}: {quotient} {}",
                gradient[i]
            );
        }
        assert!(
            gradient.iter().sum::<f32>().abs() < 1e-6,
            "a common shift of all logits changes nothing"
        );
    }

    #[test]
    fn a_slate_without_contrast_has_no_loss() {
        assert!(slate(&[(1.0, true)]).is_none());
        assert!(slate(&[(1.0, false), (2.0, false)]).is_none());
        assert!(slate(&[]).is_none());
    }
}
