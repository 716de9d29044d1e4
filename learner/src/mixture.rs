//! The shares of the models that learn side by side, by how well each has predicted.
//!
//! Exponentiated weights on the loss (Littlestone and Warmuth 1994; Freund and Schapire 1997): before each batch the share of
//! model `k` is `softmax(w)_k`, and after it `w_k -= rate * loss_k`, with the summed loss of the batch before it was learned.
//! A model whose share has been negligible for long falls asleep: it is neither computed nor learned any more.
//!
//! A log that has grown may want what it did not want before, so a model that sleeps is tried again when as many samples as
//! [`GROWTH`] says have come. On trial it learns beside the others without a share. It gets one if it predicts better than the
//! best of them for long enough, by the cumulative sum of Page (1954), and sleeps again otherwise.

use serde::{Deserialize, Serialize};

/// Share below which a model is negligible.
const NEGLIGIBLE: f64 = 1e-3;
/// Samples over which a model must have been negligible before it falls asleep.
const PATIENCE: u64 = 20_000;
/// A model is tried again when the log has so many times the samples that it had when the model fell asleep.
const GROWTH: u64 = 4;
/// A trial is as long as this part of the log, and at least [`PATIENCE`]: so each model that sleeps is computed for about a
/// thirteenth of the samples.
const TRIAL_PART: u64 = 16;

/// A model that learns beside the others without a share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Trial {
    /// Samples until it sleeps again.
    n_left: u64,
    /// By how much its loss is below that of the best model since it was last not below, nats.
    lead: f64,
}

/// What is known of one model of a mixture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Standing {
    /// Logarithm of its weight; the best model has 0.
    log_weight: f64,
    /// Samples since its share was last above [`NEGLIGIBLE`].
    negligible_for: u64,
    is_asleep: bool,
    /// Samples that the log had when it fell asleep last; 0 if it never did.
    #[serde(default, skip_serializing_if = "is_zero")]
    slept_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trial: Option<Trial>,
}

impl Standing {
    /// Whether it has a part in predictions.
    fn is_served(&self) -> bool {
        !self.is_asleep && self.trial.is_none()
    }

    /// Ends a trial that is decided: the model gets the weight of the best model if its lead is what would cost that one a
    /// factor e of its share, and sleeps if its samples have passed. Returns whether it sleeps.
    fn end_trial(&mut self, rate: f64, n_learned: u64) -> bool {
        let Some(trial) = self.trial else { return false };
        if trial.lead * rate >= 1.0 {
            self.trial = None;
            self.log_weight = 0.0;
            self.negligible_for = 0;
            return false;
        }
        if trial.n_left == 0 {
            self.fall_asleep(n_learned);
        }
        self.is_asleep
    }

    fn fall_asleep(&mut self, n_learned: u64) {
        self.is_asleep = true;
        self.slept_at = n_learned;
        self.trial = None;
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
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

    /// Whether a model has a part in predictions: neither asleep nor on trial.
    pub(crate) fn is_served(&self, model: usize) -> bool {
        self.0.get(model).is_some_and(Standing::is_served)
    }

    /// The model with the largest share, the first of equals.
    pub(crate) fn best(&self) -> usize {
        let served = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, standing)| standing.is_served());
        let better =
            |best: (usize, f64), (model, standing): (usize, &Standing)| match standing.log_weight > best.1 {
                true => (model, standing.log_weight),
                false => best,
            };
        served.fold((0, f64::NEG_INFINITY), better).0
    }

    /// The next model to try after `n_learned` samples of the log, if none is on trial.
    pub(crate) fn due(&self, n_learned: u64) -> Option<usize> {
        if self.0.iter().any(|standing| standing.trial.is_some()) {
            return None;
        }
        let is_due = |standing: &Standing| {
            standing.is_asleep && n_learned >= standing.slept_at.saturating_mul(GROWTH).max(PATIENCE)
        };
        self.0.iter().position(is_due)
    }

    /// Wakes a model for a trial after `n_learned` samples of the log.
    pub(crate) fn start_trial(&mut self, model: usize, n_learned: u64) {
        if let Some(standing) = self.0.get_mut(model) {
            standing.is_asleep = false;
            standing.trial = Some(Trial {
                n_left: (n_learned / TRIAL_PART).max(PATIENCE),
                lead: 0.0,
            });
        }
    }

    /// Says that the models that sleep without a record of when they fell asleep did so after `n_learned` samples.
    pub(crate) fn date_sleep(&mut self, n_learned: u64) {
        let undated = |standing: &&mut Standing| standing.is_asleep && standing.slept_at == 0;
        for standing in self.0.iter_mut().filter(undated) {
            standing.slept_at = n_learned;
        }
    }

    /// The share of each model, sums to 1; 0 exactly for those asleep or on trial.
    pub(crate) fn shares(&self) -> Vec<f32> {
        let weight = |standing: &Standing| match standing.is_served() {
            true => standing.log_weight.exp(),
            false => 0.0,
        };
        let sum: f64 = self.0.iter().map(weight).sum();
        #[expect(clippy::cast_possible_truncation, reason = "logits are f32")]
        let share = |standing| (weight(standing) / sum) as f32;
        self.0.iter().map(share).collect()
    }

    /// Lowers the weight of each model by its summed loss on a batch of `n_samples`, in nats. A loss that is not finite counts
    /// as the largest of the others. `n_learned` is the number of samples of the log up to the end of the batch. Returns
    /// whether a model fell asleep.
    pub(crate) fn observe(&mut self, losses: &[f64], rate: f64, n_samples: u64, n_learned: u64) -> bool {
        let worst = losses
            .iter()
            .copied()
            .filter(|loss| loss.is_finite())
            .fold(0.0, f64::max);
        let counted = |loss: &f64| if loss.is_finite() { *loss } else { worst };
        let loss_of_best = losses.get(self.best()).map_or(worst, counted);
        for (standing, loss) in self.0.iter_mut().zip(losses) {
            match &mut standing.trial {
                Some(trial) => trial.lead = (trial.lead + loss_of_best - counted(loss)).max(0.0),
                None => standing.log_weight -= rate * counted(loss),
            }
        }
        let served = self.0.iter().filter(|standing| standing.is_served());
        let best = served
            .map(|standing| standing.log_weight)
            .fold(f64::NEG_INFINITY, f64::max);
        for standing in self.0.iter_mut().filter(|standing| standing.is_served()) {
            standing.log_weight -= best;
        }
        let shares = self.shares();
        let mut fell_asleep = false;
        for (standing, share) in self.0.iter_mut().zip(shares) {
            if let Some(trial) = &mut standing.trial {
                trial.n_left = trial.n_left.saturating_sub(n_samples);
                fell_asleep |= standing.end_trial(rate, n_learned);
                continue;
            }
            if standing.is_asleep || f64::from(share) >= NEGLIGIBLE {
                standing.negligible_for = 0;
                continue;
            }
            standing.negligible_for += n_samples;
            if standing.negligible_for >= PATIENCE {
                standing.fall_asleep(n_learned);
                fell_asleep = true;
            }
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
            mixture.observe(&[10.0, 11.0, 12.0], 0.1, 64, 64);
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
        while !mixture.observe(&[10.0, 10.5], 0.1, 64, 64 * (n_steps + 1)) {
            n_steps += 1;
            assert!(n_steps < 1000, "it never falls asleep");
        }
        assert!(mixture.is_asleep(1) && !mixture.is_asleep(0));
        assert_eq!(mixture.shares(), [1.0, 0.0]);
        // ln 1000 / (.1 * .5) steps until it is negligible, then 20,000 samples.
        assert_eq!(n_steps, 138 + 20_000 / 64);
        assert!(!mixture.observe(&[1e9, 0.0], 0.1, 64, 30_000));
        assert_eq!(mixture.shares(), [1.0, 0.0], "the last one awake stays awake");
    }

    /// A mixture of two whose second model fell asleep, and the samples of the log at that time.
    fn with_one_asleep() -> (Mixture, u64) {
        let (mut mixture, mut n) = (Mixture::new(2), 64);
        while !mixture.observe(&[10.0, 10.5], 0.1, 64, n) {
            n += 64;
        }
        (mixture, n)
    }

    #[test]
    fn a_model_is_tried_when_the_log_has_grown_and_earns_its_share_by_its_losses() {
        let (mut mixture, n) = with_one_asleep();
        assert_eq!(mixture.due(4 * n - 1), None);
        assert_eq!(mixture.due(4 * n), Some(1));
        mixture.start_trial(1, 4 * n);
        assert!(!mixture.is_asleep(1) && !mixture.is_served(1));
        assert_eq!((mixture.shares(), mixture.due(u64::MAX)), (vec![1.0, 0.0], None));
        // What it loses at first does not count against it.
        assert!(!mixture.observe(&[10.0, 90.0], 0.1, 64, 4 * n));
        for _ in 0..9 {
            assert!(!mixture.observe(&[10.0, 9.0], 0.1, 64, 4 * n));
            assert_eq!(mixture.shares(), [1.0, 0.0]);
        }
        assert!(!mixture.observe(&[10.0, 9.0], 0.1, 64, 4 * n));
        assert_eq!(mixture.shares(), [0.5; 2]);
    }

    #[test]
    fn a_model_that_is_no_better_sleeps_again_until_the_log_has_grown_again() {
        for part in [1, 16] {
            let (mut mixture, _) = with_one_asleep();
            let n = 20_000 * 16 * part;
            mixture.start_trial(1, n);
            let mut n_steps = 0;
            while !mixture.observe(&[10.0, 10.0], 0.1, 64, n) {
                n_steps += 1;
                assert!(n_steps < 10_000, "it never sleeps");
            }
            assert_eq!(n_steps, (20_000 * part).div_ceil(64) - 1);
            assert!(mixture.is_asleep(1));
            assert_eq!((mixture.due(4 * n - 1), mixture.due(4 * n)), (None, Some(1)));
        }
    }

    #[test]
    fn a_mixture_of_before_there_were_trials_is_tried_from_where_it_is_restored() {
        let text = r#"[{"log_weight":0.0,"negligible_for":0,"is_asleep":false},{"log_weight":-9.0,"negligible_for":20032,"is_asleep":true}]"#;
        let mut mixture: Mixture = serde_json::from_str(text).unwrap();
        assert_eq!(
            serde_json::to_string(&mixture).unwrap(),
            text,
            "nothing else is written"
        );
        mixture.date_sleep(50_000);
        assert_eq!((mixture.due(199_999), mixture.due(200_000)), (None, Some(1)));
    }

    #[test]
    fn a_loss_that_is_not_finite_counts_as_the_worst() {
        let mut mixture = Mixture::new(2);
        mixture.observe(&[2.0, f64::NAN], 0.1, 64, 64);
        assert_eq!(mixture.shares(), [0.5; 2]);
    }
}
