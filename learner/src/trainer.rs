//! The trainer: a model with all that learning needs of it.

use std::collections::HashSet;
use std::sync::Arc;

use ouzel_model::{
    Feature, FeatureNorm, Inputs, Model, ModelConfig, Table, WeightGroup, Weights, add_scaled,
};
use ouzel_sample::{Batch, Candidate, ShownSlate, VectorMap};
use tch::Device;

use crate::admission::AdmissionCounter;
use crate::calibration::Calibrator;
use crate::config::LearnerConfig;
use crate::error::Error;
use crate::lifecycle::RowClock;
use crate::mixture::Mixture;
use crate::optim::{DenseOptimizer, ROW_STATE, WIDE_STATE};
use crate::position::PositionBias;
use crate::prior::Prior;
use crate::retrieval::Retrieval;
use crate::shown_logits::ShownLogits;

/// Slates of one forward pass of predictions.
const PREDICT_SLATES: usize = 256;

/// Sets the number of threads of one libtorch operation for the calling thread.
///
/// libtorch and MKL store the number per calling thread. A thread that has not set it computes its first products with one
/// thread per core, and so with other bits than later: every thread that computes calls this before anything else.
pub fn set_intra_op_threads(threads: i32) {
    tch::set_num_threads(threads.max(1));
}

/// A model with its optimizers, label statistics and row rules.
#[derive(Debug)]
pub struct Trainer {
    pub(crate) config: LearnerConfig,
    /// Rows and prior are current; dense weights are those of the last [`Trainer::weights`].
    pub(crate) weights: Weights,
    pub(crate) model: Model,
    pub(crate) dense: DenseOptimizer,
    pub(crate) prior: Prior,
    pub(crate) calibrator: Calibrator,
    /// What positions are worth, if the model learns it.
    pub(crate) position: Option<PositionBias>,
    pub(crate) next_batch: u64,
    /// Number of samples learned from.
    pub(crate) n_samples: u64,
    /// Occurrences of ids that wait for a row.
    pub(crate) admission: AdmissionCounter,
    /// Event time, if rows expire.
    pub(crate) age: Option<RowClock>,
    /// The trainers of `model.members`; none for one that sleeps.
    pub(crate) members: Vec<Option<Trainer>>,
    /// Shares of this model and its members.
    pub(crate) mixture: Mixture,
    /// What this model, one of a mixture, predicted of items whose outcome may still change.
    pub(crate) shown_logits: ShownLogits,
    /// What learning the towers of retrieval needs, if the model has them.
    pub(crate) retrieval: Option<Retrieval>,
}

impl Trainer {
    /// A trainer with new weights.
    pub fn new(model: ModelConfig, config: LearnerConfig) -> Result<Self, Error> {
        let mut weights = Weights::new(
            model,
            ROW_STATE,
            config.optimizer.row_initial_accumulator,
            WIDE_STATE,
        );
        weights.prior = prior(&weights, &config).log_odds().collect();
        let mut trainer = Self::with(weights, config)?;
        let models = trainer.weights.config.member_models();
        let members = models
            .into_iter()
            .map(|model| Self::new(model, trainer.member_config()).map(Some));
        trainer.members = members.collect::<Result<_, _>>()?;
        trainer.keep_shown_logits();
        Ok(trainer)
    }

    /// Lets every model of a mixture keep what it predicts of items whose outcome may still change.
    pub(crate) fn keep_shown_logits(&mut self) {
        let n_tasks = self.weights.config.n_tasks();
        let is_kept = self.mixture.len() > 1 && self.config.policy.weighs_by_prediction();
        let capacity = if is_kept {
            self.config.optimizer.mixture_items
        } else {
            0
        };
        self.shown_logits = ShownLogits::new(capacity, n_tasks);
        for member in self.members.iter_mut().flatten() {
            member.shown_logits = ShownLogits::new(capacity, n_tasks);
        }
    }

    /// The learner's configuration of a member, which has no base to freeze.
    pub(crate) fn member_config(&self) -> LearnerConfig {
        let mut config = self.config.clone();
        config.optimizer.freeze_after_samples = 0;
        config
    }

    /// A trainer of existing weights: keeps the optimizer state of rows, starts that of dense weights anew.
    pub(crate) fn with(mut weights: Weights, config: LearnerConfig) -> Result<Self, Error> {
        config.check(&weights.config)?;
        let waits = config.rows.waits();
        weights.rows.set_waits(waits);
        let n_waiting = if waits == [false; Feature::N] {
            0
        } else {
            config.rows.admission_capacity
        };
        set_intra_op_threads(config.threads);
        let device = config.device()?;
        let mut model = Model::new(&weights, device)?;
        if device != Device::Cpu {
            model.cache_rows(&weights.rows, config.device_rows)?;
        }
        let dense = DenseOptimizer::new(
            config.optimizer.dense,
            model
                .net()
                .weights()
                .map(|(spec, tensor)| (tensor, accumulator(spec.group, &config))),
        );
        let prior = prior(&weights, &config);
        let n_calibrated = if config.calibrate {
            weights.config.n_tasks()
        } else {
            0
        };
        let model_config = &weights.config;
        let position = PositionBias::new(model_config.position, model_config.n_tasks());
        let n_negatives = config.optimizer.retrieval_negatives;
        let retrieval = model_config
            .retrieval
            .is_on()
            .then(|| Retrieval::new(n_negatives));
        Ok(Self {
            mixture: Mixture::new(weights.config.members.len() + 1),
            members: Vec::new(),
            config,
            weights,
            model,
            dense,
            prior,
            calibrator: Calibrator::new(n_calibrated),
            position,
            next_batch: 0,
            n_samples: 0,
            admission: AdmissionCounter::new(n_waiting),
            age: None,
            shown_logits: ShownLogits::default(),
            retrieval,
        })
    }

    /// The number the next batch must have.
    #[must_use]
    pub fn next_batch(&self) -> u64 {
        self.next_batch
    }

    /// Continues with this batch number, after a rollback to older weights while the log goes on.
    pub fn resume_at(&mut self, next_batch: u64) {
        self.next_batch = next_batch;
        for member in self.members.iter_mut().flatten() {
            member.resume_at(next_batch);
        }
    }

    /// The model's configuration.
    #[must_use]
    pub fn model(&self) -> &ModelConfig {
        &self.weights.config
    }

    /// The learner's configuration.
    #[must_use]
    pub fn config(&self) -> &LearnerConfig {
        &self.config
    }

    /// Running statistics of the live features.
    #[must_use]
    pub fn norm(&self) -> &FeatureNorm {
        &self.weights.norm
    }

    /// Number of embedding rows, and of weights of the wide part.
    #[must_use]
    pub fn n_rows(&self) -> (usize, usize) {
        let rows: usize = self.weights.rows.tables().map(Table::n_live).sum();
        let members = self.members.iter().flatten().map(Self::n_rows);
        members.fold((rows, self.weights.wide.n_live()), |sum, n| {
            (sum.0 + n.0, sum.1 + n.1)
        })
    }

    /// The tables by name, each with its number of rows.
    pub fn tables(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let others = std::iter::once(&self.weights.wide).chain(&self.weights.retrieval);
        let tables = self.weights.rows.tables().chain(others);
        tables.map(|table| (table.name(), table.n_live()))
    }

    /// Number of ids that wait for a row.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.admission.len()
    }

    /// The current version: rows shared page by page, dense weights copied.
    pub fn weights(&mut self) -> Result<Weights, Error> {
        self.weights.dense = self.model.net().export()?;
        self.flush_device_rows()?;
        let mut version = self.weights.clone();
        if self.mixture.len() > 1 {
            version.shares = self.mixture.shares();
            let models = version.config.member_models();
            let members = self.members.iter_mut().zip(models);
            version.members = members
                .zip(1..)
                .map(|((member, model), n)| match member {
                    Some(member) if self.mixture.is_served(n) => member.weights(),
                    _ => Ok(Weights::new(model, 0, 0.0, 0)),
                })
                .collect::<Result<_, _>>()?;
        }
        Ok(version)
    }

    /// Calibrated log-odds of a batch under the current weights, `[n_candidates, n_tasks]`, as a scorer computes them.
    pub(crate) fn score(&mut self, inputs: &Inputs) -> Result<Vec<f32>, Error> {
        if self.mixture.len() == 1 {
            return Ok(self.model.score(inputs, &self.weights)?);
        }
        let mut mixed = vec![0.0; inputs.n_candidates() * self.weights.config.n_tasks()];
        let shares = self.mixture.shares();
        if self.mixture.is_served(0) {
            add_scaled(&mut mixed, shares[0], &self.model.score(inputs, &self.weights)?);
        }
        let plain = inputs.without_blocks();
        let members = self.members.iter_mut().zip(&shares[1..]);
        for ((member, share), n) in members.zip(1..) {
            if let Some(member) = member.as_mut().filter(|_| self.mixture.is_served(n)) {
                add_scaled(&mut mixed, *share, &member.model.score(&plain, &member.weights)?);
            }
        }
        Ok(mixed)
    }

    /// Each model of the mixture by its widths, with its share; empty for a model of one.
    pub fn shares(&self) -> Vec<(String, f32)> {
        let config = &self.weights.config;
        if config.members.is_empty() {
            return Vec::new();
        }
        let members = config.member_models();
        let names = std::iter::once(config)
            .chain(&members)
            .map(ModelConfig::width_name);
        names.zip(self.mixture.shares()).collect()
    }

    /// Predicts the slates shown while a batch was filled, so that validation can compare predictions at the impression with
    /// later outcomes. Slates that are in the batch are predicted by the step. Changes no weight.
    pub fn predict(&mut self, batch: &Batch) -> Result<(), Error> {
        let in_batch: HashSet<*const Candidate> =
            batch.samples.iter().map(|s| Arc::as_ptr(&s.candidate)).collect();
        let is_in_batch = |candidate: &Arc<Candidate>| in_batch.contains(&Arc::as_ptr(candidate));
        let others = batch
            .shown
            .iter()
            .filter(|slate| !slate.candidates.iter().all(is_in_batch));
        let others: Vec<ShownSlate> = others.cloned().collect();
        self.predict_shown(&others, &batch.vectors)
    }

    /// Predicts slates with the current weights. Changes no weight.
    pub fn predict_shown(&mut self, shown: &[ShownSlate], vectors: &VectorMap) -> Result<(), Error> {
        // A replay that catches up may bring thousands of slates at once; chunks bound the memory.
        for piece in shown.chunks(PREDICT_SLATES) {
            let inputs = Inputs::of_shown(&self.weights.config, piece, vectors);
            let logits = self.score(&inputs)?;
            let candidates = piece.iter().flat_map(|slate| &slate.candidates);
            for (candidate, logits) in candidates.zip(logits.chunks_exact(self.weights.config.n_tasks())) {
                candidate.predicted.set(logits);
            }
        }
        Ok(())
    }
}

/// The prior before any label.
fn prior(weights: &Weights, config: &LearnerConfig) -> Prior {
    Prior::new(
        config.policy,
        config.optimizer.prior_rate,
        weights.config.n_tasks(),
    )
}

/// What Adagrad's sums start from. Gradients inside the blocks are far smaller than those of the heads, so what damps the heads'
/// first steps would stop the blocks: theirs start from 0.
fn accumulator(group: WeightGroup, config: &LearnerConfig) -> f64 {
    match group {
        WeightGroup::Head | WeightGroup::Retrieval => config.optimizer.dense_initial_accumulator,
        WeightGroup::Base | WeightGroup::Adapter | WeightGroup::Readout | WeightGroup::Contrast => 0.0,
    }
}
