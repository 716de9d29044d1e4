//! The trainer: one pure step from a batch to the next weights.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use tch::Tensor;

use ouzel_model::{Inputs, Leaves, ModelConfig, Net, Weights};
use ouzel_sample::{Batch, Id, IdHasher, Sample, Shown, TaskId};

use crate::config::LearnerConfig;
use crate::error::Error;
use crate::loss;
use crate::optim::{ROW_STATE, WIDE_STATE, adagrad, ftrl, row_adagrad};

/// Slates predicted in one forward pass.
const PREDICT_SLATES: usize = 256;

/// The model with all that learning needs of it.
#[derive(Debug)]
pub struct Trainer {
    pub(crate) config: LearnerConfig,
    /// Rows and prior are current; `dense` is only as of the last [`Trainer::weights`].
    pub(crate) weights: Weights,
    pub(crate) net: Net,
    /// Adagrad accumulators, in the order of the net's parameters.
    pub(crate) accumulators: Vec<Tensor>,
    /// Per task: labels seen and positives among them, forgetting beyond `prior_samples`.
    pub(crate) seen: Vec<(f32, f32)>,
    pub(crate) next_batch: u64,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Logits before learning, `[n_samples, n_tasks]`.
    pub logits: Vec<f32>,
    /// Mean loss per sample, nats.
    pub loss: f32,
    /// False when the step was skipped because its loss or a gradient was not finite.
    pub is_learned: bool,
}

impl Trainer {
    /// A trainer with new weights.
    pub fn new(model: ModelConfig, config: LearnerConfig) -> Result<Self, Error> {
        let weights = Weights::new(model, ROW_STATE, config.row_accumulator, WIDE_STATE);
        Self::with(weights, config)
    }

    /// A trainer around weights, its optimizer state behind the rows kept, that of dense weights new.
    pub(crate) fn with(weights: Weights, config: LearnerConfig) -> Result<Self, Error> {
        tch::set_num_threads(config.threads.max(1));
        let net = Net::new(&weights, config.device()?)?;
        let mut accumulators = Vec::new();
        for (_, tensor) in net.params() {
            let _tracked = tensor.set_requires_grad(true);
            accumulators.push(tensor.zeros_like().set_requires_grad(false));
        }
        let seen = vec![(0.0, 0.0); weights.config.n_tasks()];
        Ok(Self {
            config,
            weights,
            net,
            accumulators,
            seen,
            next_batch: 0,
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

    /// Rows of the embedding table and of the wide table.
    #[must_use]
    pub fn n_rows(&self) -> (usize, usize) {
        (self.weights.rows.len(), self.weights.wide.len())
    }

    /// The current version: rows shared page by page, dense weights copied out.
    pub fn weights(&mut self) -> Result<Weights, Error> {
        self.weights.dense = self.net.export()?;
        Ok(self.weights.clone())
    }

    /// Predicts slates that were just shown, so that validation can compare the prediction of that moment with
    /// an outcome that comes later. Changes no weight.
    pub fn predict(&self, shown: &[Shown]) -> Result<(), Error> {
        // A replay that catches up can bring thousands of slates at once; pieces keep the tensors small.
        for piece in shown.chunks(PREDICT_SLATES) {
            let inputs = Inputs::of_shown(&self.weights.config, piece);
            let logits = self.net.score(&inputs, &self.weights)?;
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
        let at = |source| Error::Torch {
            batch: batch.seq,
            source,
        };
        let inputs = Inputs::of_samples(&self.weights.config, &batch.samples);
        let mut leaves = Leaves::gather(&inputs, &self.weights, self.net.device())?;
        for leaf in [&mut leaves.user, &mut leaves.candidate, &mut leaves.wide] {
            *leaf = leaf.set_requires_grad(true);
        }
        let output = self.net.forward(&leaves)?;
        let logits = Vec::<f32>::try_from(output.detach().flatten(0, -1)).map_err(at)?;
        let (loss, gradient) = self.losses(&batch.samples, &logits);
        self.next_batch = batch.seq + 1;

        let start = Tensor::from_slice(&gradient)
            .to_device(self.net.device())
            .view_as(&output);
        let surrogate = (output * start).f_sum(tch::Kind::Float).map_err(at)?;
        let mut targets: Vec<&Tensor> = self.net.params().map(|(_, tensor)| tensor).collect();
        targets.extend([&leaves.user, &leaves.candidate, &leaves.wide]);
        let gradients = Tensor::f_run_backward(&[&surrogate], &targets, false, false).map_err(at)?;
        let [dense @ .., user, candidate, wide] = gradients.as_slice() else {
            unreachable!("one gradient comes back for each tensor asked for")
        };

        let dim = self.weights.rows.dim();
        let mut rows = vec![0.0; inputs.rows.len() * dim];
        inputs.user.scatter(&plain(user).map_err(at)?, dim, &mut rows);
        inputs
            .candidate
            .scatter(&plain(candidate).map_err(at)?, dim, &mut rows);
        let mut wide_rows = vec![0.0; inputs.wide.len()];
        inputs
            .wide_sum
            .scatter(&plain(wide).map_err(at)?, 1, &mut wide_rows);

        let is_learned = loss.is_finite()
            && rows.iter().chain(&wide_rows).all(|g| g.is_finite())
            && dense
                .iter()
                .all(|g| f64::try_from(g.square().sum(tch::Kind::Float)).is_ok_and(f64::is_finite));
        if is_learned {
            for key in &inputs.rows {
                self.weights.rows.insert(*key);
            }
            row_adagrad(&mut self.weights.rows, &inputs.rows, &rows, &self.config);
            ftrl(&mut self.weights.wide, &inputs.wide, &wide_rows, &self.config);
            let rate = self.config.dense_rate;
            let params = self.net.params().zip(&mut self.accumulators).zip(dense);
            tch::no_grad(|| -> Result<(), tch::TchError> {
                for (((_, weight), accumulator), gradient) in params {
                    adagrad(weight, accumulator, gradient, rate)?;
                }
                Ok(())
            })
            .map_err(at)?;
        }
        self.observe(&batch.samples)?;
        #[expect(clippy::cast_precision_loss, reason = "a batch's size")]
        let n = batch.samples.len().max(1) as f32;
        Ok(StepReport {
            logits,
            loss: loss / n,
            is_learned,
        })
    }

    /// Total loss and its gradient by each logit, `[n_samples * n_tasks]`.
    fn losses(&self, samples: &[Sample], logits: &[f32]) -> (f32, Vec<f32>) {
        let n_tasks = self.weights.config.n_tasks();
        let mut total = 0.0;
        let mut gradient = vec![0.0; logits.len()];
        let mut slates: Vec<Vec<usize>> = Vec::new();
        let mut slate_of: HashMap<Id, usize, BuildHasherDefault<IdHasher>> = HashMap::default();
        for (index, sample) in samples.iter().enumerate() {
            for task in 0..n_tasks {
                let Some(y) = label(sample, task) else { continue };
                let at = index * n_tasks + task;
                let loss = loss::binary(logits[at], y);
                total += sample.weight * loss.value;
                gradient[at] += sample.weight * loss.gradient;
            }
            let slate = *slate_of.entry(sample.request.id).or_insert_with(|| {
                slates.push(Vec::new());
                slates.len() - 1
            });
            slates[slate].push(index);
        }
        for slate in slates.iter().filter(|slate| slate.len() > 1) {
            let scored: Vec<_> = slate
                .iter()
                .filter_map(|i| label(&samples[*i], 0).map(|y| (*i, logits[i * n_tasks], y)))
                .collect();
            let pairs: Vec<_> = scored.iter().map(|(_, z, y)| (*z, *y)).collect();
            if let Some((value, slate_gradient)) = loss::slate(&pairs) {
                total += self.config.slate_loss * value;
                for ((index, _, _), g) in scored.iter().zip(slate_gradient) {
                    gradient[index * n_tasks] += self.config.slate_loss * g;
                }
            }
        }
        (total, gradient)
    }

    /// Moves the prior by a batch's labels.
    fn observe(&mut self, samples: &[Sample]) -> Result<(), Error> {
        for (task, (n, positive)) in self.seen.iter_mut().enumerate() {
            for y in samples.iter().filter_map(|sample| label(sample, task)) {
                *n += 1.0;
                *positive += f32::from(u8::from(y));
            }
            if *n > self.config.prior_samples {
                let keep = self.config.prior_samples / *n;
                *n *= keep;
                *positive *= keep;
            }
            self.weights.prior[task] = ((*positive + 0.5) / (*n - *positive + 0.5)).ln();
        }
        Ok(self.net.set_prior(&self.weights.prior)?)
    }
}

fn label(sample: &Sample, task: usize) -> Option<bool> {
    TaskId::try_from(task)
        .ok()
        .and_then(|task| sample.labels.get(task))
}

/// A tensor's values in row-major order.
fn plain(tensor: &Tensor) -> Result<Vec<f32>, tch::TchError> {
    Vec::<f32>::try_from(tensor.f_contiguous()?.f_view(-1)?)
}
