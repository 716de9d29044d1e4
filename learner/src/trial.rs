//! Members of a mixture that fall asleep, and that are tried again when the log has grown.
//!
//! A member that sleeps has no state. For its trial it is made anew from the best model: the leading floats of its rows and the
//! leading units of its layers are those of that model, with their optimizer state, and the rest is new, see [`Growth`]. The
//! first model keeps its state while it sleeps, since its blocks are its own, and continues from there. Until a trial has been
//! won no score depends on the model, and all of it is a function of the batches.

use ouzel_model::{Growth, ModelConfig, Weights};
use ouzel_sample::Batch;

use crate::config::LearnerConfig;
use crate::error::Error;
use crate::mixture::Mixture;
use crate::optim::{OptimizerState, ROW_STATE, WIDE_STATE};
use crate::trainer::Trainer;

impl Trainer {
    /// Samples of the log that a model has learned from: those of the model that has learned from most.
    pub(crate) fn n_learned(&self) -> u64 {
        let members = self.members.iter().flatten();
        members
            .map(|member| member.n_samples)
            .fold(self.n_samples, u64::max)
    }

    /// Moves the shares of a mixture by the losses of a batch, drops the members that fall asleep, and starts
    /// the trial that is due.
    pub(crate) fn move_shares(&mut self, losses: &[f64], batch: &Batch) -> Result<(), Error> {
        let n_learned = self.n_learned();
        let rate = self.config.optimizer.mixture_rate;
        let before = self.mixture.clone();
        if self
            .mixture
            .observe(losses, rate, batch.samples.len() as u64, n_learned)
        {
            for (member, n) in self.members.iter_mut().zip(1..) {
                if self.mixture.is_asleep(n) {
                    *member = None;
                }
            }
        }
        self.log_changes(&before, n_learned);
        match self.mixture.due(n_learned) {
            Some(model) => self.start_trial(model, n_learned),
            None => Ok(()),
        }
    }

    /// Logs which models have fallen asleep or won their trials.
    fn log_changes(&self, before: &Mixture, n_learned: u64) {
        for (n, (name, _)) in self.shares().into_iter().enumerate() {
            if self.mixture.is_asleep(n) && !before.is_asleep(n) {
                tracing::info!(
                    model = name,
                    samples = n_learned,
                    "a model of the mixture sleeps: its share has stayed below .001"
                );
            } else if self.mixture.is_served(n) && !before.is_served(n) {
                tracing::info!(
                    model = name,
                    samples = n_learned,
                    "a model of the mixture has won its trial and has a share"
                );
            }
        }
    }

    /// Wakes a model that sleeps for a trial.
    fn start_trial(&mut self, model: usize, n_learned: u64) -> Result<(), Error> {
        if let Some(place) = model.checked_sub(1) {
            let configs = self.weights.config.member_models();
            let Some(target) = configs.into_iter().nth(place) else {
                return Ok(());
            };
            let config = self.member_config();
            let best = match self.mixture.best().checked_sub(1) {
                Some(best) => self.members[best].as_mut(),
                None => None,
            };
            let grown = match best {
                Some(best) => best.grown(target, config)?,
                None => self.grown(target, config)?,
            };
            self.members[place] = Some(grown);
        } else if let Some(best) = self.mixture.best().checked_sub(1)
            && let Some(best) = &self.members[best]
        {
            // While it slept it predicted nothing.
            self.shown_logits.clone_from(&best.shown_logits);
        }
        self.mixture.start_trial(model, n_learned);
        if let Some((name, _)) = self.shares().get(model) {
            tracing::info!(
                model = name,
                samples = n_learned,
                "a model of the mixture that slept is on trial"
            );
        }
        Ok(())
    }

    /// A trainer of another width that starts where this one is.
    fn grown(&mut self, target: ModelConfig, config: LearnerConfig) -> Result<Self, Error> {
        self.weights.dense = self.model.net().export()?;
        self.flush_device_rows()?;
        let source = &self.weights;
        let growth = Growth::new(&source.config, &target);
        let mut weights = Weights::new(
            target,
            ROW_STATE,
            config.optimizer.row_initial_accumulator,
            WIDE_STATE,
        );
        weights.rows.copy_from(&source.rows);
        weights.wide.copy_from(&source.wide);
        for (name, array) in &mut weights.dense {
            let mut values = array.values.to_vec();
            let from = source.dense.get(name);
            let from = from.map(|array| (array.shape.as_slice(), &*array.values));
            growth.weight(name, from, (&array.shape, &mut values));
            array.values = values.into();
        }
        weights.prior.clone_from(&source.prior);
        weights.norm.clone_from(&source.norm);
        weights.calibration.clone_from(&source.calibration);
        let mut trainer = Self::with(weights, config)?;
        trainer.grow_dense_state(self, &growth)?;
        trainer.prior.clone_from(&self.prior);
        trainer.calibrator.clone_from(&self.calibrator);
        trainer.position.clone_from(&self.position);
        trainer.admission.clone_from(&self.admission);
        trainer.shown_logits.clone_from(&self.shown_logits);
        trainer.age = self.age;
        trainer.next_batch = self.next_batch;
        trainer.n_samples = self.n_samples;
        Ok(trainer)
    }

    /// Takes over the state of the dense optimizer of `source`, entry by entry.
    fn grow_dense_state(&mut self, source: &Self, growth: &Growth) -> Result<(), Error> {
        let kept: Vec<(&str, &OptimizerState)> = source
            .model
            .net()
            .weights()
            .map(|(spec, _)| spec.name.as_str())
            .zip(&source.dense.states)
            .collect();
        for ((spec, _), state) in self.model.net().weights().zip(&mut self.dense.states) {
            if let Some((name, from)) = kept.iter().find(|(name, _)| *name == spec.name) {
                state.grow(name, from, growth).map_err(ouzel_model::Error::from)?;
            }
        }
        Ok(())
    }
}
