//! Softmax of a row of scores, `p_i = exp(x_i) / sum_j exp(x_j)`, and its gradient.

use super::activation::exp;
use super::kernel::total;

/// The score of a place that is not there: its share is 0.
pub(super) const MASKED: f32 = f32::MIN;

/// Replaces scores by shares that sum to 1.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32]) {
    let mut largest = MASKED;
    for score in scores.iter() {
        largest = largest.max(*score);
    }
    for score in scores.iter_mut() {
        // A NaN is not masked: the learner must see it.
        *score = if *score <= MASKED {
            0.0
        } else {
            exp(*score - largest)
        };
    }
    let sum = total(scores);
    for score in scores.iter_mut() {
        *score /= sum;
    }
}

/// Replaces the gradient of shares by that of scores, `p_i (g_i - mean)`; `mean` is `sum_j p_j g_j`.
#[inline(always)]
pub(super) fn softmax_backward(gradient: &mut [f32], shares: &[f32], mean: f32) {
    for (gradient, share) in gradient.iter_mut().zip(shares) {
        *gradient = share * (*gradient - mean);
    }
}
