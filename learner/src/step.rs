//! One training step: a batch is scored, then learned from.

use std::borrow::Cow;

use ouzel_model::{ContrastLoss, Inputs, OutputGradients, Weights, add_scaled, uniform};
use ouzel_sample::{Batch, Id, N_DENSE, Sample, VectorMap};

use crate::clip::Clipped;
use crate::error::Error;
use crate::objective::Objective;
use crate::position::PositionBias;
use crate::prior::{RequestPriors, is_first};
use crate::retrieval::RetrievalReport;
use crate::trainer::Trainer;
use crate::update::Learned;

/// Lane of the random numbers that choose the requests whose slates are hidden.
const HIDE_LANE: u64 = 0x4849_4445;

/// Result of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Log-odds of each outcome before learning, `[n_samples, n_tasks]`. A sample that down-sampling dropped has only
    /// those of the primary task; the others are NaN.
    pub logits: Vec<f32>,
    /// Mean loss per sample learned from, nats.
    pub loss: f32,
    /// The same of the loss that the models of a mixture are compared by: where labels come late, that of the outcomes,
    /// which does not depend on how a model weighs a presumed negative.
    pub comparable_loss: f32,
    /// Number of samples learned from; the others are negatives beyond `negative_rate`.
    pub n_learned: usize,
    /// Number of rows evicted after the step because a table was full.
    pub n_forgotten: usize,
    /// Number of rows expired after the step.
    pub n_expired: usize,
    /// Number of rows removed before the step because their items were deleted.
    pub n_deleted: usize,
    /// Number of ids that got a row after they had waited for it.
    pub n_admitted: usize,
    /// Number of occurrences of ids that still wait for a row.
    pub n_waiting: usize,
    /// False when the step was skipped because its loss or a gradient was not finite.
    pub is_learned: bool,
    /// Tasks whose calibration has moved further within an hour of event time than preferences do.
    pub jumped: Vec<usize>,
    /// Which gradients were clipped.
    pub clipped: Clipped,
    /// The step of the towers of retrieval.
    pub retrieval: RetrievalReport,
}

impl Default for StepReport {
    fn default() -> Self {
        Self {
            logits: Vec::new(),
            loss: 0.0,
            comparable_loss: 0.0,
            n_learned: 0,
            n_forgotten: 0,
            n_expired: 0,
            n_deleted: 0,
            n_admitted: 0,
            n_waiting: 0,
            is_learned: true,
            jumped: Vec::new(),
            clipped: Clipped::default(),
            retrieval: RetrievalReport::default(),
        }
    }
}

impl StepReport {
    /// Loss of the batch before it was learned, as models are compared by it, nats.
    fn summed_loss(&self) -> f64 {
        if !self.is_learned {
            return f64::NAN;
        }
        #[expect(clippy::cast_precision_loss, reason = "a batch's size")]
        let n = self.n_learned as f64;
        f64::from(self.comparable_loss) * n
    }

    /// Adds what a member reports of its own rows and steps.
    fn add_member(&mut self, member: &Self) {
        self.n_learned = self.n_learned.max(member.n_learned);
        self.n_forgotten += member.n_forgotten;
        self.n_expired += member.n_expired;
        self.n_deleted += member.n_deleted;
        self.is_learned &= member.is_learned;
        self.clipped.dense |= member.clipped.dense;
        self.clipped.rows |= member.clipped.rows;
    }
}

impl Trainer {
    /// Scores a batch, then learns from it: every model of the mixture that is awake, each from its own loss.
    ///
    /// A step whose loss or gradients are not finite changes no weight of that model. It is reported, and the batch counts as
    /// learned, so that a replay skips it too.
    pub fn step(&mut self, batch: &Batch) -> Result<StepReport, Error> {
        let mut report = if self.mixture.len() == 1 {
            self.step_alone(batch, true)?
        } else {
            self.step_mixed(batch)?
        };
        report.retrieval = self.learn_retrieval(batch)?;
        let n_tasks = self.weights.config.n_tasks();
        for (sample, logits) in batch.samples.iter().zip(report.logits.chunks_exact(n_tasks)) {
            if sample.candidate.predicted.get(0).is_none() {
                sample.candidate.predicted.set(logits);
            }
        }
        Ok(report)
    }

    /// The batch with the labels that its tasks are taught, which validation compares with the predictions.
    ///
    /// The conditional task of a chain has a label only among items with the first task, see [`crate::loss::conditioned`].
    pub fn taught<'a>(&self, batch: &'a Batch) -> Cow<'a, Batch> {
        let objective = Objective::new(&self.config, &self.weights.config);
        match objective.conditioned(&batch.samples) {
            Cow::Borrowed(_) => Cow::Borrowed(batch),
            Cow::Owned(samples) => Cow::Owned(Batch {
                samples,
                ..batch.clone()
            }),
        }
    }

    /// Steps every model that is awake, mixes their logits, and moves their shares by their losses.
    fn step_mixed(&mut self, batch: &Batch) -> Result<StepReport, Error> {
        let shares = self.mixture.shares();
        let is_awake = !self.mixture.is_asleep(0);
        let is_served: Vec<bool> = (0..shares.len()).map(|n| self.mixture.is_served(n)).collect();
        let mut report = self.step_alone(batch, is_awake)?;
        let mut losses = vec![report.summed_loss()];
        let mut mixed = vec![0.0; batch.samples.len() * self.weights.config.n_tasks()];
        if is_served[0] {
            add_scaled(&mut mixed, shares[0], &report.logits);
        }
        let members = self.members.iter_mut().zip(&shares[1..]);
        for ((member, share), is_served) in members.zip(&is_served[1..]) {
            let Some(member) = member else {
                losses.push(0.0);
                continue;
            };
            let own = member.step_alone(batch, true)?;
            losses.push(own.summed_loss());
            if *is_served {
                add_scaled(&mut mixed, *share, &own.logits);
            }
            report.add_member(&own);
        }
        report.logits = mixed;
        self.move_shares(&losses, batch)?;
        Ok(report)
    }

    /// The step of this model without its members; scores and learns nothing if it sleeps.
    fn step_alone(&mut self, batch: &Batch, is_awake: bool) -> Result<StepReport, Error> {
        let n_tasks = self.weights.config.n_tasks();
        let objective = Objective::new(&self.config, &self.weights.config);
        let samples = objective.conditioned(&batch.samples);
        let n_deleted = self.delete_items(&batch.deleted)?;
        self.advance(batch);
        let mut prior = self.prior.clone();
        let priors = prior.observe(&samples, self.config.optimizer.prior_samples);
        let report = match is_awake {
            true => self.learn_some(batch, &samples, (&objective, &priors))?,
            false => StepReport::default(),
        };
        self.next_batch = batch.seq + 1;
        self.prior = prior;
        self.weights.prior = self.prior.log_odds().collect();
        self.model.set_prior(&self.weights.prior);
        if report.is_learned {
            self.observe_features(&samples);
        }
        self.freeze_when_due()?;
        self.weights.calibration = self.calibrator.served(n_tasks);
        Ok(StepReport {
            n_deleted,
            n_expired: self.expire()?,
            ..report
        })
    }

    /// Adds a batch to the statistics of the live features. Each shown item counts once, with its first sample, whether or
    /// not down-sampling keeps it.
    fn observe_features(&mut self, samples: &[Sample]) {
        let first = samples.iter().filter(|sample| is_first(sample));
        self.weights
            .norm
            .observe(first.map(|sample| sample.candidate.dense.as_slice()));
        self.model.set_norm(&self.weights.norm);
    }

    /// Learns from the samples that down-sampling keeps, and scores the others.
    fn learn_some(
        &mut self,
        batch: &Batch,
        samples: &[Sample],
        (objective, priors): (&Objective, &RequestPriors),
    ) -> Result<StepReport, Error> {
        let is_kept: Vec<bool> = samples.iter().map(|s| objective.takes(s)).collect();
        if is_kept.iter().all(|kept| *kept) {
            return self.learn(batch, samples, (objective, priors));
        }
        let n_tasks = self.weights.config.n_tasks();
        let select = |wanted: bool| -> Vec<Sample> {
            let chosen = samples.iter().zip(&is_kept).filter(|(_, kept)| **kept == wanted);
            chosen.map(|(sample, _)| sample.clone()).collect()
        };
        let dropped = self.known_logits(&select(false), &batch.vectors, priors)?;
        let mut dropped = dropped.chunks_exact(n_tasks);
        let report = self.learn(batch, &select(true), (objective, priors))?;
        let mut learned = report.logits.chunks_exact(n_tasks);
        let mut logits = Vec::with_capacity(samples.len() * n_tasks);
        for is_kept in &is_kept {
            let next = if *is_kept { learned.next() } else { dropped.next() };
            logits.extend_from_slice(next.unwrap_or_default());
        }
        Ok(StepReport { logits, ..report })
    }

    /// Logits of samples that are not learned from, `[n_samples, n_tasks]`: those predicted when they were shown, where
    /// these are known.
    fn known_logits(
        &mut self,
        samples: &[Sample],
        vectors: &VectorMap,
        priors: &RequestPriors,
    ) -> Result<Vec<f32>, Error> {
        let n_tasks = self.weights.config.n_tasks();
        let known = samples
            .iter()
            .flat_map(|s| (0..n_tasks).map(|task| s.candidate.predicted.get(task)));
        let known: Option<Vec<f32>> = known.collect();
        if let Some(known) = known {
            return Ok(known);
        }
        let mut inputs = Inputs::of_samples(&self.weights.config, samples, vectors);
        inputs.prior = priors.of(&inputs);
        self.score(&inputs)
    }

    /// Forward pass, loss, backward pass and one step of the optimizers.
    fn learn(
        &mut self,
        batch: &Batch,
        samples: &[Sample],
        (objective, priors): (&Objective, &RequestPriors),
    ) -> Result<StepReport, Error> {
        if samples.is_empty() {
            return Ok(StepReport::default());
        }
        let failed = |source| Error::Step {
            batch: batch.seq,
            source,
        };
        let mut inputs = Inputs::of_samples(&self.weights.config, samples, &batch.vectors);
        inputs.prior = priors.of(&inputs);
        let hidden = self.hide_slates(&mut inputs);
        let shown = self
            .forward_shown(&hidden, samples, batch, priors)
            .map_err(failed)?;
        let next_entry_weight = match self.is_frozen() {
            true => 0.0,
            false => self.config.optimizer.next_entry_weight,
        };
        let pass = self.model.forward(&inputs, &self.weights).map_err(failed)?;
        let mut outputs = pass.outputs().clone();
        self.prior.add_delay_prior(&mut outputs.auxiliary);
        let unplaced = outputs.logits.clone();
        let (prior, output) = (&self.weights.prior, self.weights.config.output);
        let place = |position: &PositionBias| position.place(&mut outputs.logits, samples, prior, output);
        let slopes = self.position.as_ref().map(place);
        let compared = self.shown_logits.compared(samples, &outputs.logits);
        let mut loss = objective.loss(samples, &outputs, &compared);
        let n_tasks = self.weights.config.n_tasks();
        let by_position = slopes.map(|slopes| slopes.split(n_tasks, &mut loss.logits));
        outputs.logits = unplaced;
        // Predictions leave the position out, and are those of the slate as it was shown.
        for (at, logits) in hidden.iter().zip(shown.chunks_exact(n_tasks)) {
            outputs.logits[at * n_tasks..][..n_tasks].copy_from_slice(logits);
        }
        #[expect(clippy::cast_precision_loss, reason = "a batch's size")]
        let n = samples.len() as f32;
        let contrast_weight = self.config.optimizer.contrast_weight;
        let gradients = pass.backward(OutputGradients {
            logits: &loss.logits,
            auxiliary: &loss.auxiliary,
            contrast: (contrast_weight > 0.0).then(|| ContrastLoss {
                weight: contrast_weight * f64::from(n),
                temperature: self.config.optimizer.contrast_temperature,
            }),
            next_entry: next_entry_weight * f64::from(n),
        });
        let learned = Learned {
            inputs: &inputs,
            samples,
            deleted: &batch.deleted,
            loss: loss.value,
        };
        let updated = self.update(learned, gradients.map_err(failed)?)?;
        let position = self.position.as_mut().filter(|_| updated.is_learned);
        if let Some((position, gradients)) = position.zip(by_position) {
            position.learn(samples, &gradients);
        }
        let max = self.config.max_rows;
        let is_full = self.weights.tables_mut().any(|table| table.n_live() > max);
        let evict = |weights: &mut Weights| weights.tables_mut().map(|table| table.bound(max)).sum();
        let n_forgotten = if is_full { self.remove_rows(evict)? } else { 0 };
        let (logits, jumped) = self.calibrate(samples, objective, outputs.logits);
        Ok(StepReport {
            logits,
            jumped,
            loss: loss.value / n,
            comparable_loss: loss.comparable / n,
            n_learned: samples.len(),
            n_forgotten,
            ..updated
        })
    }

    /// Hides the slates of some requests, so that they are learned as serving scores a request for many candidates.
    /// Returns the indices of their samples.
    fn hide_slates(&self, inputs: &mut Inputs) -> Vec<usize> {
        let rate = self.config.optimizer.hidden_slate_rate;
        if rate <= 0.0 || !self.weights.config.features.slate {
            return Vec::new();
        }
        let is_hidden = |request: &Id| uniform(self.config.seed, request.0, HIDE_LANE) < rate;
        let is_hidden: Vec<bool> = inputs.requests.iter().map(is_hidden).collect();
        let of_request = inputs
            .request_of
            .iter()
            .map(|request| usize::try_from(*request).unwrap_or(0));
        let hidden = of_request.enumerate().filter(|(_, request)| is_hidden[*request]);
        let hidden: Vec<usize> = hidden.map(|(at, _)| at).collect();
        for at in &hidden {
            let features = &mut inputs.dense[at * N_DENSE..][..N_DENSE];
            self.weights.norm.centre_on_means(features);
        }
        hidden
    }

    /// Logits of the samples at these indices with the features of their slates, `[n, n_tasks]`.
    fn forward_shown(
        &mut self,
        indices: &[usize],
        samples: &[Sample],
        batch: &Batch,
        priors: &RequestPriors,
    ) -> Result<Vec<f32>, ouzel_model::Error> {
        if indices.is_empty() {
            return Ok(Vec::new());
        }
        let samples: Vec<Sample> = indices.iter().map(|at| samples[*at].clone()).collect();
        let mut inputs = Inputs::of_samples(&self.weights.config, &samples, &batch.vectors);
        inputs.prior = priors.of(&inputs);
        let pass = self.model.forward(&inputs, &self.weights)?;
        Ok(pass.outputs().logits.clone())
    }
}
