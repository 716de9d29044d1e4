//! A model with fixed weights, which scores samples and learns nothing.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use ouzel_model::{Inputs, Model, Weights};
use ouzel_sample::{Batch, Id, IdHasher, Sample, SampleKind, ShownSlate, VectorMap};
use tch::Device;

use crate::error::Error;

/// Most presumed negatives whose scores are remembered.
const MAX_PRESUMED: usize = 65_536;

/// Fixed weights with the model that runs them.
#[derive(Debug)]
pub struct FixedModel {
    weights: Weights,
    model: Model,
    /// Log-odds of presumed negatives by item: a late positive has the score of its slate, not of the item alone.
    presumed: HashMap<Id, Vec<f32>, BuildHasherDefault<IdHasher>>,
    /// Their items, the oldest first.
    order: VecDeque<Id>,
}

impl FixedModel {
    /// A model with these weights.
    ///
    /// # Errors
    /// When the weights do not fit their configuration.
    pub fn new(weights: Weights, device: Device) -> Result<Self, Error> {
        Ok(Self {
            model: Model::for_inference(&weights, device)?,
            weights,
            presumed: HashMap::default(),
            order: VecDeque::new(),
        })
    }

    /// Calibrated log-odds of the samples of a batch, `[n_samples, n_tasks]`, by their features as of the impression.
    ///
    /// # Errors
    /// When the model cannot compute.
    pub fn score(&mut self, batch: &Batch) -> Result<Vec<f32>, Error> {
        let known: Vec<Option<Vec<f32>>> = batch
            .samples
            .iter()
            .map(|sample| self.presumed.get(&item(sample)).cloned())
            .collect();
        let unknown = batch
            .samples
            .iter()
            .zip(&known)
            .filter(|(_, known)| known.is_none());
        let unknown: Vec<Sample> = unknown.map(|(sample, _)| sample.clone()).collect();
        let scored = match unknown.is_empty() {
            true => Vec::new(),
            false => {
                let inputs = Inputs::of_samples(&self.weights.config, &unknown, &batch.vectors);
                self.model.score(&inputs, &self.weights)?
            }
        };
        let n_tasks = self.weights.config.n_tasks();
        let mut scored_rows = scored.chunks_exact(n_tasks);
        let mut logits = Vec::with_capacity(batch.samples.len() * n_tasks);
        for known in known {
            match known {
                Some(known) => logits.extend(known),
                None => logits.extend_from_slice(scored_rows.next().unwrap_or_default()),
            }
        }
        for (sample, logits) in unknown.iter().zip(scored.chunks_exact(n_tasks)) {
            self.remember(sample, logits);
        }
        Ok(logits)
    }

    /// Calibrated log-odds of a slate, `[n_candidates, n_tasks]`.
    ///
    /// # Errors
    /// When the model cannot compute.
    pub fn score_slate(&mut self, slate: &ShownSlate, vectors: &VectorMap) -> Result<Vec<f32>, Error> {
        let inputs = Inputs::of_shown(&self.weights.config, std::slice::from_ref(slate), vectors);
        Ok(self.model.score(&inputs, &self.weights)?)
    }

    fn remember(&mut self, sample: &Sample, logits: &[f32]) {
        if sample.kind != SampleKind::EarlyNegative {
            return;
        }
        if self.presumed.insert(item(sample), logits.to_vec()).is_none() {
            self.order.push_back(item(sample));
        }
        while self.order.len() > MAX_PRESUMED
            && let Some(oldest) = self.order.pop_front()
        {
            self.presumed.remove(&oldest);
        }
    }
}

/// The item of a sample within its request.
fn item(sample: &Sample) -> Id {
    sample.request.id.pair(sample.candidate.item)
}

#[cfg(test)]
mod tests {
    use ouzel_model::ModelConfig;

    use super::*;
    use crate::testing::{again, batch, sample};
    use crate::{LearnerConfig, Trainer};

    #[test]
    fn samples_are_scored_as_a_trainer_predicts_them_and_later_ones_keep_the_score() {
        let config = LearnerConfig::default();
        let mut trainer = Trainer::new(ModelConfig::default(), config).unwrap();
        let mut fixed = FixedModel::new(trainer.weights().unwrap(), Device::Cpu).unwrap();
        let samples: Vec<Sample> = (0..3)
            .map(|item| sample(1, item, SampleKind::EarlyNegative, false))
            .collect();
        let scored = fixed.score(&batch(samples.clone())).unwrap();
        let inputs = Inputs::of_samples(trainer.model(), &samples, &Default::default());
        assert_eq!(scored, trainer.score(&inputs).unwrap());
        let late = again(&samples[1], SampleKind::LatePositive, true, true);
        let other = sample(2, 7, SampleKind::Final, false);
        let later = fixed.score(&batch(vec![late, other.clone()])).unwrap();
        assert_eq!(later[..1], scored[1..2]);
        assert_eq!(later[1..], fixed.score(&batch(vec![other])).unwrap()[..]);
        assert_eq!(fixed.order.len(), 3, "a final sample is not remembered");
    }
}
