//! The shares of the models that learn side by side, by how well each has predicted.
//!
//! Exponentiated weights on the loss (Littlestone and Warmuth 1994; Freund and Schapire 1997): before each batch the share of
//! model `k` is `softmax(w)_k`, and after it `w_k -= rate * loss_k`, with the summed loss of the batch before it was learned.
//! A model whose share has been negligible for long falls asleep: it is neither computed nor learned any more.

use serde::{Deserialize, Serialize};

/// Share below which a model is negligible.
const NEGLIGIBLE: f64 = 1e-3;
/// Samples over which a model must have been negligible before it falls asleep.
const PATIENCE: u64 = 20_000;

/// What is known of one model of a mixture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Standing {
    /// Logarithm of its weight; the best model has 0.
    log_weight: f64,
    /// Samples since its share was last above [`NEGLIGIBLE`].
    negligible_for: u64,
    is_asleep: bool,
}

/// The weights of the models of a mixture, a function of the batches learned from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Mixture(Vec<Standing>);

impl Mixture {
    /// Equal shares of `n` models.
    pub(crate) fn new(n: usize) -> Self {
        Self(vec![Standing::default(); n])
    }

    /// Number of models.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a model is neither computed nor learned.
    pub(crate) fn is_asleep(&self, model: usize) -> bool {
        self.0.get(model).is_some_and(|standing| standing.is_asleep)
    }

    /// The share of each model, sums to 1; 0 exactly for those asleep.
    pub(crate) fn shares(&self) -> Vec<f32> {
        let weight = |standing: &Standing| match standing.is_asleep {
            true => 0.0,
            false => standing.log_weight.exp(),
        };
        let sum: f64 = self.0.iter().map(weight).sum();
        #[expect(clippy::cast_possible_truncation, reason = "logits are f32")]
        let share = |standing| (weight(standing) / sum) as f32;
        self.0.iter().map(share).collect()
    }

    /// Lowers the weight of each model by its summed loss on a batch of `n_samples`, in nats. A loss that is not finite counts
    /// as the largest of the others. Returns whether a model fell asleep.
    pub(crate) fn observe(&mut self, losses: &[f64], rate: f64, n_samples: u64) -> bool {
        let worst = losses
            .iter()
            .copied()
            .filter(|loss| loss.is_finite())
            .fold(0.0, f64::max);
        for (standing, loss) in self.0.iter_mut().zip(losses) {
            standing.log_weight -= rate * if loss.is_finite() { *loss } else { worst };
        }
        let awake = self.0.iter().filter(|standing| !standing.is_asleep);
        let best = awake
            .map(|standing| standing.log_weight)
            .fold(f64::NEG_INFINITY, f64::max);
        for standing in self.0.iter_mut().filter(|standing| !standing.is_asleep) {
            standing.log_weight -= best;
        }
        let shares = self.shares();
        let mut fell_asleep = false;
        for (standing, share) in self.0.iter_mut().zip(shares) {
            if standing.is_asleep || f64::from(share) >= NEGLIGIBLE {
                standing.negligible_for = 0;
                continue;
            }
            standing.negligible_for += n_samples;
            standing.is_asleep = standing.negligible_for >= PATIENCE;
            fell_asleep |= standing.is_asleep;
        }
        fell_asleep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_losses() {
        let mut mixture = Mixture::new(3);
        assert_eq!(mixture.shares(), [1.0 / 3.0; 3]);
        for _ in 0..4 {
            mixture.observe(&[10.0, 11.0, 12.0], 0.1, 64);
        }
        let weights: Vec<f64> = [4.0f64, 4.4, 4.8].iter().map(|loss| (-loss).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (share, weight) in mixture.shares().into_iter().zip(weights) {
            assert!((f64::from(share) - weight / sum).abs() < 1e-6);
        }
    }

    #[test]
    fn a_model_that_loses_for_long_falls_asleep_and_the_others_share_its_part() {
        let mut mixture = Mixture::new(2);
        let mut n_steps = 0;
        while !mixture.observe(&[10.0, 10.5], 0.1, 64) {
            n_steps += 1;
            assert!(n_steps < 1000, "it never falls asleep");
        }
        assert!(mixture.is_asleep(1) && !mixture.is_asleep(0));
        assert_eq!(mixture.shares(), [1.0, 0.0]);
        // ln 1000 / (.1 * .5) steps until it is negligible, then 20,000 samples.
        assert_eq!(n_steps, 138 + 20_000 / 64);
        assert!(!mixture.observe(&[1e9, 0.0], 0.1, 64));
        assert_eq!(mixture.shares(), [1.0, 0.0], "the last one awake stays awake");
    }

    #[test]
    fn a_loss_that_is_not_finite_counts_as_the_worst() {
        let mut mixture = Mixture::new(2);
        mixture.observe(&[2.0, f64::NAN], 0.1, 64);
        assert_eq!(mixture.shares(), [0.5; 2]);
    }
}
