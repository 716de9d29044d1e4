//! The trainer: a model with all that learning needs of it.

use std::collections::HashSet;
use std::sync::Arc;

use ouzel_model::{Feature, Inputs, Model, ModelConfig, Table, Weights};
use ouzel_sample::{Batch, Candidate, ShownSlate, VectorMap};
use tch::Device;

use crate::admission::AdmissionCounter;
use crate::admit::Age;
use crate::calibration::Calibrator;
use crate::config::LearnerConfig;
use crate::error::Error;
use crate::optim::{DenseOptimizer, ROW_STATE, WIDE_STATE};
use crate::prior::Prior;

/// Slates predicted in one forward pass.
const PREDICT_SLATES: usize = 256;

/// Sets how many threads one operation of the calling thread has.
///
/// libtorch and MKL keep that number by calling thread. One that has not set it computes its first products with as many
/// as there are cores, and so with other bits than a process has that is further on: every thread that computes calls
/// this before anything else.
pub fn set_intra_op_threads(threads: i32) {
    tch::set_num_threads(threads.max(1));
}

/// The model with all that learning needs of it.
#[derive(Debug)]
pub struct Trainer {
    pub(crate) config: LearnerConfig,
    /// Rows and prior are current; `dense` is only as of the last [`Trainer::weights`].
    pub(crate) weights: Weights,
    pub(crate) model: Model,
    pub(crate) dense: DenseOptimizer,
    pub(crate) prior: Prior,
    pub(crate) calibrator: Calibrator,
    pub(crate) next_batch: u64,
    /// Samples learned from, count.
    pub(crate) n_samples: u64,
    /// Ids that wait for their rows.
    pub(crate) sightings: AdmissionCounter,
    /// Event time, where rows expire.
    pub(crate) age: Option<Age>,
}

impl Trainer {
    /// A trainer with new weights.
    pub fn new(model: ModelConfig, config: LearnerConfig) -> Result<Self, Error> {
        let weights = Weights::new(model, ROW_STATE, config.row_accumulator, WIDE_STATE);
        Self::with(weights, config)
    }

    /// A trainer around weights, its optimizer state behind the rows kept, that of dense weights new.
    pub(crate) fn with(mut weights: Weights, config: LearnerConfig) -> Result<Self, Error> {
        config.check(&weights.config)?;
        let waits = config.rows.waits();
        weights.rows.set_waits(waits);
        let n_waiting = if waits == [false; Feature::N] {
            0
        } else {
            config.rows.waiting
        };
        set_intra_op_threads(config.threads);
        let device = config.device()?;
        let mut model = Model::new(&weights, device)?;
        if device != Device::Cpu {
            model.cache_rows(&weights.rows, config.device_rows)?;
        }
        let dense = DenseOptimizer::new(config.dense, model.net().weights().map(|(_, tensor)| tensor));
        let prior = Prior::new(config.policy, weights.config.n_tasks());
        let n_calibrated = if config.calibrate {
            weights.config.n_tasks()
        } else {
            0
        };
        Ok(Self {
            config,
            weights,
            model,
            dense,
            prior,
            calibrator: Calibrator::new(n_calibrated),
            next_batch: 0,
            n_samples: 0,
            sightings: AdmissionCounter::new(n_waiting),
            age: None,
        })
    }

    /// The number the next batch must have.
    #[must_use]
    pub fn next_batch(&self) -> u64 {
        self.next_batch
    }

    /// Goes on with this batch number: for weights put in place of newer ones while the log goes on.
    pub fn resume_at(&mut self, next_batch: u64) {
        self.next_batch = next_batch;
    }

    /// The shape of the model.
    #[must_use]
    pub fn model(&self) -> &ModelConfig {
        &self.weights.config
    }

    /// How it learns.
    #[must_use]
    pub fn config(&self) -> &LearnerConfig {
        &self.config
    }

    /// Embedding rows, and weights of the wide part.
    #[must_use]
    pub fn n_rows(&self) -> (usize, usize) {
        let rows = self.weights.rows.tables().map(Table::n_live).sum();
        (rows, self.weights.wide.n_live())
    }

    /// The tables by name, each with its rows.
    pub fn tables(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let tables = self.weights.rows.tables().chain([&self.weights.wide]);
        tables.map(|table| (table.name(), table.n_live()))
    }

    /// Ids that wait for a row, count.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.sightings.len()
    }

    /// The current version: rows shared page by page, dense weights copied out.
    pub fn weights(&mut self) -> Result<Weights, Error> {
        self.weights.dense = self.model.net().export()?;
        self.flush_device_rows()?;
        Ok(self.weights.clone())
    }

    /// Predicts the slates shown while a batch filled, so that validation can compare the prediction of that moment
    /// with an outcome that comes later. Those that are in the batch itself the step predicts, before it learns.
    /// Changes no weight.
    pub fn predict(&mut self, batch: &Batch) -> Result<(), Error> {
        let told: HashSet<*const Candidate> =
            batch.samples.iter().map(|s| Arc::as_ptr(&s.candidate)).collect();
        let is_told = |candidate: &Arc<Candidate>| told.contains(&Arc::as_ptr(candidate));
        let untold = batch
            .shown
            .iter()
            .filter(|slate| !slate.candidates.iter().all(is_told));
        let untold: Vec<ShownSlate> = untold.cloned().collect();
        self.predict_shown(&untold, &batch.vectors)
    }

    /// Predicts slates of any time as of now. Changes no weight.
    pub fn predict_shown(&mut self, shown: &[ShownSlate], vectors: &VectorMap) -> Result<(), Error> {
        // A replay that catches up can bring thousands of slates at once; pieces keep the tensors small.
        for piece in shown.chunks(PREDICT_SLATES) {
            let inputs = Inputs::of_shown(&self.weights.config, piece, vectors);
            let logits = self.model.score(&inputs, &self.weights)?;
            let primary = logits.iter().step_by(self.weights.config.n_tasks());
            for (candidate, logit) in piece.iter().flat_map(|slate| &slate.candidates).zip(primary) {
                candidate.predicted.set(*logit);
            }
        }
        Ok(())
    }
}
