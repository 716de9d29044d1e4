//! The softmax over all items, estimated from a sample of them.
//!
//! A user's loss is `-log(exp(s_p) / Z)`, `Z = exp(s_p) + sum over other items of exp(s_j)`. The sum is estimated by importance
//! sampling (Bengio and Senecal 2008): an item that was drawn `c` times in `n` draws, each with probability `q`, stands for
//! `c exp(s_j) / (n q)`, so its logit is corrected by `ln c - ln(n q)` (log-Q, Yi et al. 2019, eq. 4). The positive has no
//! correction: it is always there, so its term is exact.

/// Which items are sampled, and how each stands for others.
#[derive(Clone, Debug, Default)]
pub struct SampledSoftmax {
    /// The item of each user's positive, `[n_users]`.
    pub positives: Vec<usize>,
    /// What is added to the logit of each item where it is not the positive, `[n_items]`.
    pub corrections: Vec<f32>,
    /// The items that are no negatives of a user: those that the user acted on, `[n_users]`.
    pub masked: Vec<Vec<usize>>,
}

impl SampledSoftmax {
    /// Replaces logits `[n_users, n_items]` by the gradients of the mean loss by them. Returns the mean loss, nats.
    pub(super) fn gradient(&self, logits: &mut [f32], n_items: usize) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a batch's size")]
        let share = 1.0 / self.positives.len().max(1) as f32;
        let mut loss = 0.0;
        let users = self.positives.iter().zip(&self.masked);
        for (logits, (positive, masked)) in logits.chunks_exact_mut(n_items.max(1)).zip(users) {
            let own = logits[*positive];
            for (logit, correction) in logits.iter_mut().zip(&self.corrections) {
                *logit += correction;
            }
            for item in masked {
                logits[*item] = f32::NEG_INFINITY;
            }
            logits[*positive] = own;
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0f64;
            for logit in logits.iter_mut() {
                *logit = (*logit - largest).exp();
                sum += f64::from(*logit);
            }
            loss += sum.ln() - f64::from(own - largest);
            #[expect(clippy::cast_possible_truncation, reason = "gradients are f32")]
            let scale = (f64::from(share) / sum) as f32;
            logits.iter_mut().for_each(|weight| *weight *= scale);
            logits[*positive] -= share;
        }
        loss * f64::from(share)
    }
}
