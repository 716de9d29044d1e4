//! The examination tower of PAL: an item is acted on when its place is examined and the item, once examined, is chosen.
//!
//! The probability of the outcome at a place is `p = r sigmoid(z)`, with the logit `z` of the item and the examination `r` of
//! the place. Only ratios of examination can be learned, since a common factor could as well belong to the items: `r` is
//! relative to the mean over the places where items were shown, so `sigmoid(z)` is the probability at an average place. With
//! `s = ln p = ln r + ln sigmoid(z)`, the log-odds are
//!
//! ```text
//! x = s - ln(1 - e^s)      dx/dz = (1 - sigmoid(z)) / (1 - p)      d x/d ln r = 1 / (1 - p)
//! ```
//!
//! Every loss of a logit applies to `x`, and its gradient by `x` times these slopes is that by `z` and by `ln r`. Above
//! `p = .9`, `x` continues as the tangent in `s`: an item predicted well at an average place may be predicted beyond 1 at the
//! first. Where a logit stands for `p / (1 + p)` ([`Output::FakeNegatives`]), it is `ln p`, so `ln r` is added to it.

use ouzel_model::Output;

use super::sigmoid;

/// Probability above which the log-odds continue as their tangent.
const STRAIGHT_FROM: f64 = 0.9;

/// A logit with its derivatives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Placed {
    /// The log-odds of the outcome at the place.
    pub(super) logit: f64,
    /// Its derivative by the logit of the item.
    pub(super) by_item: f64,
    /// Its derivative by the logarithm of the examination.
    pub(super) by_place: f64,
}

/// The logit of an item at a place, from the item's logit `z` and the logarithm of the place's examination.
pub(super) fn place(z: f64, ln_examination: f64, output: Output) -> Placed {
    match output {
        Output::LogOdds => {
            let ln_p = ln_examination + ln_sigmoid(z);
            let within = ln_p.min(STRAIGHT_FROM.ln());
            let not_acted = -within.exp_m1();
            Placed {
                logit: within - not_acted.ln() + (ln_p - within) / not_acted,
                by_item: sigmoid(-z) / not_acted,
                by_place: 1.0 / not_acted,
            }
        }
        Output::FakeNegatives => Placed {
            logit: z + ln_examination,
            by_item: 1.0,
            by_place: 1.0,
        },
    }
}

/// `ln sigmoid(z)`, to full relative precision.
fn ln_sigmoid(z: f64) -> f64 {
    z.min(0.0) - (-z.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    #[test]
    fn logits_and_slopes_are_those_of_autograd() {
        for z in [-30.0, -6.0, -1.5, -0.2, 0.0, 0.9, 4.0, 30.0] {
            for ln_r in [-5.0f64, -1.0, 0.0, 0.4, 1.1] {
                let leaf = |x: f64| {
                    Tensor::from_slice(&[x])
                        .to_kind(Kind::Double)
                        .set_requires_grad(true)
                };
                for output in [Output::LogOdds, Output::FakeNegatives] {
                    let (item, place_leaf) = (leaf(z), leaf(ln_r));
                    let p = place_leaf.exp() * item.sigmoid();
                    let is_straight = p.double_value(&[0]) >= STRAIGHT_FROM;
                    let expected = match output {
                        Output::LogOdds if is_straight => {
                            let start = (STRAIGHT_FROM / (1.0 - STRAIGHT_FROM)).ln();
                            (p.log() - STRAIGHT_FROM.ln()) / (1.0 - STRAIGHT_FROM) + start
                        }
                        Output::LogOdds => p.log() - (-&p).log1p(),
                        Output::FakeNegatives => &item + &place_leaf,
                    };
                    expected.backward();
                    let found = place(z, ln_r, output);
                    let grad = |of: &Tensor| of.grad().double_value(&[0]);
                    for (found, expected) in [
                        (found.logit, expected.double_value(&[0])),
                        (found.by_item, grad(&item)),
                        (found.by_place, grad(&place_leaf)),
                    ] {
                        let tolerance = 1e-9 * (1.0 + expected.abs());
                        assert!(
                            (found - expected).abs() < tolerance,
                            "{output:?} {z} {ln_r}: {found} {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn an_item_has_its_own_rate_on_average_over_the_places() {
        // Shares of the places, and their examination, .65 on average.
        let places: [(f64, f64); 3] = [(0.5, 0.95), (0.3, 0.5), (0.2, 0.125)];
        for z in [-6.0, -2.0, -0.5] {
            for output in [Output::LogOdds, Output::FakeNegatives] {
                let rate = |logit: f64| match output {
                    Output::LogOdds => sigmoid(logit),
                    Output::FakeNegatives => logit.exp(),
                };
                let rates = places.map(|(share, r)| share * rate(place(z, (r / 0.65).ln(), output).logit));
                let relative = rates.iter().sum::<f64>() / rate(z);
                assert!((relative - 1.0).abs() < 1e-9, "{output:?} {z}: {relative}");
            }
        }
    }

    #[test]
    fn any_logit_at_any_place_is_finite_and_grows_with_both() {
        let mut last = f64::NEG_INFINITY;
        for z in [-1e30, -700.0, -1.0, 2.0, 40.0] {
            let placed = place(z, 3.0, Output::LogOdds);
            assert!(placed.logit.is_finite() && placed.logit > last, "{z}: {placed:?}");
            assert!((0.0..=10.001).contains(&placed.by_place), "{z}: {placed:?}");
            last = placed.logit;
        }
        assert!(place(40.0, 3.1, Output::LogOdds).logit > last);
    }
}
