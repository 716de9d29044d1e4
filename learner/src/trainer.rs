//! The trainer: one pure step from a batch to the next weights.

use std::collections::HashSet;
use std::sync::Arc;

use ouzel_model::host_slice::to_vec;
use ouzel_model::{DeviceRows, Feature, Inputs, ModelConfig, Net, Table, Weights};
use ouzel_sample::{Batch, Candidate, Sample, ShownSlate, VectorMap};
use tch::Device;

use crate::admission::AdmissionCounter;
use crate::admit::Age;
use crate::backward;
use crate::calibration::Calibrator;
use crate::clip::Clipped;
use crate::config::LearnerConfig;
use crate::error::Error;
use crate::objective::{Objective, Predicted};
use crate::optim::{DenseOptimizer, ROW_STATE, WIDE_STATE};
use crate::prior::Prior;
use crate::update::Gradient;

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
    pub(crate) net: Net,
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
    /// Rows on the device, where that has memory of its own.
    pub(crate) hot: Option<DeviceRows>,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Log-odds of each outcome before learning, `[n_samples, n_tasks]`. Of a sample that down-sampling dropped
    /// only that of the primary task, the others are NaN.
    pub logits: Vec<f32>,
    /// Mean loss per sample learned from, nats.
    pub loss: f32,
    /// Samples learned from, count; the others were negatives beyond `negative_rate`.
    pub n_learned: usize,
    /// Rows forgotten after it because a table was full, count.
    pub n_forgotten: usize,
    /// Rows forgotten after it because they were not seen for too long, count.
    pub n_expired: usize,
    /// Rows forgotten before it because their items were deleted, count.
    pub n_deleted: usize,
    /// Ids that had waited for a row and got it, count.
    pub n_admitted: usize,
    /// AdmissionCounter of ids that wait on, count.
    pub n_waiting: usize,
    /// False when the step was skipped because its loss or a gradient was not finite.
    pub is_learned: bool,
    /// Tasks whose calibration has moved further within an hour of event time than preferences do.
    pub jumped: Vec<usize>,
    /// Which gradients were longer than allowed, and were shortened.
    pub clipped: Clipped,
}

impl Default for StepReport {
    fn default() -> Self {
        Self {
            logits: Vec::new(),
            loss: 0.0,
            n_learned: 0,
            n_forgotten: 0,
            n_expired: 0,
            n_deleted: 0,
            n_admitted: 0,
            n_waiting: 0,
            is_learned: true,
            jumped: Vec::new(),
            clipped: Clipped::default(),
        }
    }
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
        let net = Net::new(&weights, config.device()?)?;
        backward::track_params(&net);
        let dense = DenseOptimizer::new(config.dense, net.params().map(|(_, tensor)| tensor));
        let prior = Prior::new(config.policy, weights.config.n_tasks());
        let n_calibrated = if config.calibrate {
            weights.config.n_tasks()
        } else {
            0
        };
        let mut trainer = Self {
            config,
            weights,
            net,
            dense,
            prior,
            calibrator: Calibrator::new(n_calibrated),
            next_batch: 0,
            n_samples: 0,
            sightings: AdmissionCounter::new(n_waiting),
            age: None,
            hot: None,
        };
        if trainer.net.device() != Device::Cpu {
            trainer.enable_device_cache()?;
        }
        Ok(trainer)
    }

    /// The same, as it runs on any other device than the CPU: everything left to libtorch, see [`Net::by_torch`], and
    /// rows kept on the device.
    pub fn by_torch(mut self) -> Result<Self, Error> {
        self.net = self.net.by_torch();
        self.enable_device_cache()?;
        Ok(self)
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

    /// Rows that the device keeps, and how many were carried there since this was asked last; none on the CPU.
    pub fn device_rows(&mut self) -> Option<(usize, u64)> {
        let hot = self.hot.as_mut()?;
        Some((hot.len(), hot.take_carried()))
    }

    /// Ids that wait for a row, count.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        self.sightings.len()
    }

    /// The current version: rows shared page by page, dense weights copied out.
    pub fn weights(&mut self) -> Result<Weights, Error> {
        self.weights.dense = self.net.export()?;
        self.flush_device_rows()?;
        Ok(self.weights.clone())
    }

    /// Predicts the slates shown while a batch filled, so that validation can compare the prediction of that moment
    /// with an outcome that comes later. Those that are in the batch itself the step predicts, before it learns.
    /// Changes no weight.
    pub fn predict(&self, batch: &Batch) -> Result<(), Error> {
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
    pub fn predict_shown(&self, shown: &[ShownSlate], vectors: &VectorMap) -> Result<(), Error> {
        // A replay that catches up can bring thousands of slates at once; pieces keep the tensors small.
        for piece in shown.chunks(PREDICT_SLATES) {
            let inputs = Inputs::of_shown(&self.weights.config, piece, vectors);
            let logits = self.score(&inputs)?;
            let primary = logits.iter().step_by(self.weights.config.n_tasks());
            for (candidate, logit) in piece.iter().flat_map(|slate| &slate.candidates).zip(primary) {
                candidate.predicted.set(*logit);
            }
        }
        Ok(())
    }

    /// Scores a batch, then learns from it.
    ///
    /// A step whose loss or gradients are not finite changes no weight; it is reported, and the batch counts
    /// as seen, so that a replay skips it too.
    pub fn step(&mut self, batch: &Batch) -> Result<StepReport, Error> {
        let n_tasks = self.weights.config.n_tasks();
        let objective = Objective::new(&self.config, &self.weights.config);
        let samples = objective.conditioned(&batch.samples);
        let n_deleted = self.forget(&batch.deleted)?;
        self.advance(batch);
        let is_taken: Vec<bool> = samples.iter().map(|s| objective.takes(s)).collect();
        let report = if is_taken.iter().all(|taken| *taken) {
            self.learn(batch, &samples, &objective)?
        } else {
            let of = |taken: bool| {
                let chosen = samples.iter().zip(&is_taken).filter(|(_, t)| **t == taken);
                chosen.map(|(sample, _)| sample.clone()).collect::<Vec<_>>()
            };
            let dropped = self.primary(&of(false), &batch.vectors)?;
            let learned = self.learn(batch, &of(true), &objective)?;
            let (mut taken, mut dropped) = (learned.logits.chunks_exact(n_tasks), dropped.into_iter());
            let mut logits = Vec::with_capacity(samples.len() * n_tasks);
            for is_taken in &is_taken {
                if *is_taken {
                    logits.extend_from_slice(taken.next().unwrap_or_default());
                } else {
                    logits.extend(dropped.next());
                    logits.resize(logits.len() + n_tasks - 1, f32::NAN);
                }
            }
            StepReport { logits, ..learned }
        };
        for (sample, logits) in samples.iter().zip(report.logits.chunks_exact(n_tasks)) {
            if sample.candidate.predicted.get().is_none() {
                sample.candidate.predicted.set(logits[0]);
            }
        }
        self.next_batch = batch.seq + 1;
        self.prior.observe(&samples, self.config.prior_samples);
        self.weights.prior = self.prior.log_odds().collect();
        self.net.set_prior(&self.weights.prior)?;
        self.freeze_when_due()?;
        self.weights.calibration = self.calibrator.served(n_tasks);
        Ok(StepReport {
            n_deleted,
            n_expired: self.expire()?,
            ..report
        })
    }

    /// Primary logits of samples that are not learned from: of the moment they were shown, where that is known.
    fn primary(&self, samples: &[Sample], vectors: &VectorMap) -> Result<Vec<f32>, Error> {
        let known: Option<Vec<f32>> = samples.iter().map(|s| s.candidate.predicted.get()).collect();
        if let Some(known) = known {
            return Ok(known);
        }
        let inputs = Inputs::of_samples(&self.weights.config, samples, vectors);
        let logits = self.score(&inputs)?;
        Ok(logits
            .into_iter()
            .step_by(self.weights.config.n_tasks())
            .collect())
    }

    /// One step of the optimizers.
    fn learn(
        &mut self,
        batch: &Batch,
        samples: &[Sample],
        objective: &Objective,
    ) -> Result<StepReport, Error> {
        if samples.is_empty() {
            return Ok(StepReport::default());
        }
        let at = |source| Error::Torch {
            batch: batch.seq,
            source,
        };
        let inputs = Inputs::of_samples(&self.weights.config, samples, &batch.vectors);
        let leaves = backward::track(self.gather(&inputs)?, &inputs);
        let output = self.net.forward(&inputs, &leaves)?;
        let logits = to_vec(&output.logits).map_err(at)?;
        let auxiliary = match &output.auxiliary {
            Some(auxiliary) => self.prior.beside(to_vec(auxiliary).map_err(at)?),
            None => Vec::new(),
        };
        let gradients = objective.gradients(
            samples,
            Predicted {
                logits: &logits,
                auxiliary: &auxiliary,
            },
        );
        let loss = gradients.loss;
        #[expect(clippy::cast_precision_loss, reason = "a batch's size")]
        let n = samples.len() as f32;
        let contrast = match self.config.contrast_weight {
            weight if weight > 0.0 => self
                .net
                .contrast(&leaves, &output, self.config.contrast_temperature)?
                .map(|contrast| contrast * (weight * f64::from(n))),
            _ => None,
        };
        let (dense, mut rows, wide_rows) = self
            .backward(&inputs, leaves, &output, &gradients, contrast)
            .map_err(at)?;
        let updated = self
            .update(Gradient {
                loss,
                inputs: &inputs,
                samples,
                deleted: &batch.deleted,
                dense: &dense,
                rows: &mut rows,
                wide: &wide_rows,
            })
            .map_err(at)?;
        let max = self.config.max_rows;
        let is_full = self.weights.tables_mut().any(|table| table.n_live() > max);
        let bound = |weights: &mut Weights| weights.tables_mut().map(|table| table.bound(max)).sum();
        let n_forgotten = if is_full { self.release(bound)? } else { 0 };
        let (logits, jumped) = self.calibrate(samples, objective, logits);
        Ok(StepReport {
            logits,
            jumped,
            loss: loss / n,
            n_learned: samples.len(),
            n_forgotten,
            n_admitted: updated.n_admitted,
            n_waiting: updated.n_waiting,
            is_learned: updated.is_learned,
            clipped: updated.clipped,
            ..StepReport::default()
        })
    }
}
