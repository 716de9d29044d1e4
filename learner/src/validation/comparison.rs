//! Compares two models on the same shown items, as their outcomes arrive.
//!
//! Both predictions are from before the item was learned from. An item counts once for both models or for neither.

mod auc;
mod gauc;
mod groups;
mod paired;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use ouzel_sample::{Batch, Candidate, EventTime, Sample, ShownSlate, UserShare};

use super::score_log::{n_tasks, score_change};
use super::{Figures, Progressive};
use auc::PairedAuc;
use gauc::{PairedGauc, PairedGaucState};
use paired::PairedLoss;

pub use groups::Difference;

/// The progressive metrics of a serving model and of a candidate, over the shown items of a share of the users.
#[derive(Clone, Debug)]
pub struct Comparison {
    share: UserShare,
    from: EventTime,
    /// Slates shown to users of the share.
    n_requests: u64,
    /// Predictions left out because one of the two is not finite.
    n_not_finite: u64,
    serving: Progressive,
    candidate: Progressive,
    /// By task.
    paired: Vec<Paired>,
}

/// The intervals of one task.
#[derive(Clone, Debug, Default)]
struct Paired {
    loss: PairedLoss,
    auc: PairedAuc,
    gauc: PairedGauc,
}

/// The figures of one task, since the start of the comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskComparison {
    /// Of the model that serves and learns.
    pub serving: Figures,
    /// Of the candidate.
    pub candidate: Figures,
    /// Log-loss of the candidate less that of the serving model, nats per item: below 0, the candidate is better. Absent
    /// while too few users have outcomes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
    /// AUC of the candidate less that of the serving model: above 0, the candidate is better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auc_difference: Option<Difference>,
    /// The same of the per-request AUC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gauc_difference: Option<Difference>,
}

/// The samples of a batch that are compared, apart from the predictions that other code keeps of them.
#[derive(Debug)]
pub struct ComparedBatch {
    batch: Batch,
    /// Log-odds by the serving model, `[n_samples, n_tasks]`.
    logits: Vec<f32>,
}

impl ComparedBatch {
    /// The samples, for the candidate to score.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The log-odds of the samples by the model that they were selected with, `[n_samples, n_tasks]`.
    #[must_use]
    pub fn into_logits(self) -> Vec<f32> {
        self.logits
    }
}

impl Comparison {
    /// A comparison over items shown to `share` after the event time `from`, which must be that of the newest event
    /// so far: an item shown before has a sample that is not compared.
    #[must_use]
    pub fn new(share: UserShare, from: EventTime, n_tasks: usize) -> Self {
        // The figures are those since the start: no window is kept.
        let progressive = Progressive::new(0, n_tasks);
        Self {
            share,
            from,
            n_requests: 0,
            n_not_finite: 0,
            serving: progressive.clone(),
            candidate: progressive,
            paired: vec![Paired::default(); n_tasks.max(1)],
        }
    }

    /// Counts slates that were just shown.
    pub fn shown(&mut self, slates: &[ShownSlate]) {
        let is_compared =
            |slate: &&ShownSlate| self.share.contains(slate.request.user) && slate.request.ts > self.from;
        self.n_requests += slates.iter().filter(is_compared).count() as u64;
    }

    /// The samples of `batch` that are compared, with the serving model's logits from before it was learned from,
    /// `[n_samples, n_tasks]`. `None` without any.
    #[must_use]
    pub fn select(&self, batch: &Batch, logits: &[f32]) -> Option<ComparedBatch> {
        let n_tasks = n_tasks(batch, logits);
        let rows = batch.samples.iter().zip(logits.chunks_exact(n_tasks));
        let chosen = rows
            .filter(|(sample, _)| self.share.contains(sample.request.user) && sample.request.ts > self.from);
        let (mut samples, mut serving) = (Vec::new(), Vec::new());
        for (sample, logits) in chosen {
            let predicted = &sample.candidate.predicted;
            let tasks = logits.iter().enumerate();
            serving.extend(tasks.map(|(task, logit)| predicted.get(task).unwrap_or(*logit)));
            samples.push(detached(sample));
        }
        (!samples.is_empty()).then(|| ComparedBatch {
            batch: Batch {
                seq: batch.seq,
                shown: Vec::new(),
                samples,
                vectors: batch.vectors.clone(),
                deleted: Vec::new(),
                read: batch.read,
            },
            logits: serving,
        })
    }

    /// Adds selected samples with the candidate's logits, `[n_samples, n_tasks]`. Returns how many of these are not
    /// finite.
    pub fn add(&mut self, compared: ComparedBatch, mut logits: Vec<f32>) -> u64 {
        let ComparedBatch {
            batch,
            logits: mut serving,
        } = compared;
        let mut n_broken = 0;
        for (serving, candidate) in serving.iter_mut().zip(&mut logits) {
            n_broken += u64::from(!candidate.is_finite());
            if !serving.is_finite() || !candidate.is_finite() {
                self.n_not_finite += 1;
                (*serving, *candidate) = (f32::NAN, f32::NAN);
            }
        }
        let n_tasks = n_tasks(&batch, &logits);
        let rows = serving.chunks_exact(n_tasks).zip(logits.chunks_exact(n_tasks));
        for (sample, (serving, candidate)) in batch.samples.iter().zip(rows) {
            for (task, paired) in self.paired.iter_mut().enumerate().take(n_tasks) {
                let change =
                    |logits: &[f32]| score_change(sample, logits, task).filter(|_| logits[task].is_finite());
                if let (Some(serving), Some(candidate)) = (change(serving), change(candidate)) {
                    paired.loss.add(sample.request.user, &serving, &candidate);
                    paired.auc.add(sample.request.user, &serving, &candidate);
                    paired.gauc.add(sample, &serving, &candidate);
                }
            }
        }
        self.serving.add(&batch, &serving);
        self.candidate.add(&batch, &logits);
        n_broken
    }

    /// The figures by task.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskComparison> {
        let totals = self.serving.total_by_task().into_iter();
        let totals = totals.zip(self.candidate.total_by_task());
        let tasks = totals.zip(&self.paired);
        tasks
            .map(|((serving, candidate), paired)| {
                let gauc = paired.gauc.figures();
                let auc_difference = candidate
                    .auc
                    .zip(serving.auc)
                    .map(|(candidate, serving)| candidate - serving);
                TaskComparison {
                    serving: Figures {
                        gauc: gauc.serving,
                        ..serving
                    },
                    candidate: Figures {
                        gauc: gauc.candidate,
                        ..candidate
                    },
                    difference: paired.loss.difference(),
                    auc_difference: auc_difference.and_then(|mean| paired.auc.difference(mean)),
                    gauc_difference: gauc.difference,
                }
            })
            .collect()
    }

    /// Number of slates shown to users of the share.
    #[must_use]
    pub fn n_requests(&self) -> u64 {
        self.n_requests
    }

    /// Number of predictions left out because that of one model is not finite.
    #[must_use]
    pub fn n_not_finite(&self) -> u64 {
        self.n_not_finite
    }

    /// The state as bytes, for a snapshot. A request with open outcomes counts in it with those known so far.
    #[must_use]
    pub fn dump(&self) -> Vec<u8> {
        let dump = |side: &Progressive| serde_json::from_slice(&side.dump()).expect("a dump is JSON");
        let state = State {
            share: self.share,
            from: self.from.0,
            requests: self.n_requests,
            not_finite: self.n_not_finite,
            serving: dump(&self.serving),
            candidate: dump(&self.candidate),
            losses: self.paired.iter().map(|paired| paired.loss.clone()).collect(),
            aucs: self.paired.iter().map(|paired| paired.auc.clone()).collect(),
            gaucs: self.paired.iter().map(|paired| paired.gauc.dump()).collect(),
        };
        serde_json::to_vec(&state).expect("finite numbers are JSON")
    }

    /// Restores the state that [`Comparison::dump`] returned.
    ///
    /// # Errors
    /// When `bytes` are of another number of tasks, or no such state.
    pub fn restore(bytes: &[u8], n_tasks: usize) -> Result<Self, serde_json::Error> {
        let state: State = serde_json::from_slice(bytes)?;
        let mut restored = Self::new(state.share, EventTime(state.from), n_tasks);
        let why = || serde::de::Error::custom(format!("it has not the figures of {n_tasks} tasks"));
        let n_figures = [state.losses.len(), state.aucs.len(), state.gaucs.len()];
        if n_figures != [restored.paired.len(); 3] || !state.losses.iter().all(PairedLoss::is_whole) {
            return Err(why());
        }
        restored.serving.restore(state.serving.to_string().as_bytes())?;
        restored
            .candidate
            .restore(state.candidate.to_string().as_bytes())?;
        restored.n_requests = state.requests;
        restored.n_not_finite = state.not_finite;
        let sums = state.losses.into_iter().zip(state.aucs).zip(state.gaucs);
        for (paired, ((loss, auc), gauc)) in restored.paired.iter_mut().zip(sums) {
            let gauc = PairedGauc::restore(gauc).ok_or_else(why)?;
            *paired = Paired { loss, auc, gauc };
        }
        Ok(restored)
    }
}

/// The state in a snapshot.
#[derive(Serialize, Deserialize)]
struct State {
    share: UserShare,
    from: i64,
    requests: u64,
    not_finite: u64,
    serving: Value,
    candidate: Value,
    losses: Vec<PairedLoss>,
    aucs: Vec<PairedAuc>,
    gaucs: Vec<PairedGaucState>,
}

/// The sample with a candidate of its own, which has no prediction yet.
fn detached(sample: &Sample) -> Sample {
    Sample {
        candidate: Arc::new(Candidate {
            predicted: Default::default(),
            ..Candidate::clone(&sample.candidate)
        }),
        ..sample.clone()
    }
}

#[cfg(test)]
mod tests;
