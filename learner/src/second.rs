//! A second learner: another model that learns the batches of the serving learner, and is compared with it.
//!
//! It changes nothing that the serving learner reads: what it predicts of an item is in copies of the items of its own. The
//! same weights and batches give the same weights, bit for bit on one machine, as for any [`Trainer`].

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use ouzel_sample::{Batch, Candidate, EventTime, Sample, ShownSlate, UserShare};

use crate::error::Error;
use crate::memory::MemoryUse;
use crate::step::StepReport;
use crate::trainer::Trainer;
use crate::validation::Comparison;

/// Copies of items from which the first search for those that are no longer needed starts.
const FIRST_SWEEP: usize = 4096;

/// Another model beside the serving learner.
#[derive(Debug)]
pub struct SecondLearner {
    trainer: Trainer,
    comparison: Comparison,
    own: OwnCandidates,
}

/// Copies of shown items for the predictions of the second learner.
///
/// A copy lives as long as the joiner or a batch holds the item, so as many are kept as outcomes are open.
#[derive(Debug)]
struct OwnCandidates {
    /// By the address of the item, which the weak reference keeps from being used again.
    copies: HashMap<usize, (Weak<Candidate>, Arc<Candidate>)>,
    sweep_at: usize,
}

/// A batch that the serving learner has learned.
#[derive(Clone, Copy, Debug)]
pub struct ServedBatch<'a> {
    /// As it was learned.
    pub batch: &'a Batch,
    /// With the labels that its tasks are taught, see [`Trainer::taught`].
    pub taught: &'a Batch,
    /// Log-odds by the serving learner from before it learned the batch, `[n_samples, n_tasks]`.
    pub logits: &'a [f32],
}

impl SecondLearner {
    /// A learner that goes on from the state of `trainer`, compared over items shown to `share` after the event time
    /// `from`, see [`Comparison::new`].
    #[must_use]
    pub fn new(trainer: Trainer, share: UserShare, from: EventTime) -> Self {
        let n_tasks = trainer.model().n_tasks();
        Self {
            trainer,
            comparison: Comparison::new(share, from, n_tasks),
            own: OwnCandidates {
                copies: HashMap::new(),
                sweep_at: FIRST_SWEEP,
            },
        }
    }

    /// Restores the figures that [`Comparison::dump`] returned.
    ///
    /// # Errors
    /// As for [`Comparison::restore`].
    pub fn restore_comparison(&mut self, bytes: &[u8]) -> Result<(), serde_json::Error> {
        self.comparison = Comparison::restore(bytes, self.trainer.model().n_tasks())?;
        Ok(())
    }

    /// The memory of its weights and optimizer state.
    #[must_use]
    pub fn memory(&self) -> MemoryUse {
        self.trainer.memory()
    }

    /// The number that its next batch must have.
    #[must_use]
    pub fn next_batch(&self) -> u64 {
        self.trainer.next_batch()
    }

    /// The model with its optimizers.
    pub fn trainer(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    /// The figures of both learners.
    #[must_use]
    pub fn comparison(&self) -> &Comparison {
        &self.comparison
    }

    /// Scores a batch, compares the scores with those of the serving learner, and learns from it. Returns the report of the
    /// step and the number of compared scores that are not finite.
    ///
    /// # Errors
    /// As for [`Trainer::predict`] and [`Trainer::step`].
    pub fn learn(&mut self, served: ServedBatch<'_>) -> Result<(StepReport, u64), Error> {
        let ServedBatch {
            batch,
            taught,
            logits,
        } = served;
        let own = self.own.batch(batch);
        self.trainer.predict(&own)?;
        let report = self.trainer.step(&own)?;
        self.comparison.shown(&batch.shown);
        let serving = self.comparison.select(taught, logits);
        let candidate = self.comparison.select(&own, &report.logits);
        let n_broken = match (serving, candidate) {
            (Some(serving), Some(candidate)) => self.comparison.add(serving, candidate.into_logits()),
            _ => 0,
        };
        Ok((report, n_broken))
    }
}

impl OwnCandidates {
    /// The batch with copies of its items, the same copy for every sample of an item.
    fn batch(&mut self, batch: &Batch) -> Batch {
        let shown = batch.shown.iter().map(|slate| ShownSlate {
            request: Arc::clone(&slate.request),
            candidates: slate
                .candidates
                .iter()
                .map(|candidate| self.copy(candidate))
                .collect(),
        });
        let shown = shown.collect();
        let samples = batch.samples.iter().map(|sample| Sample {
            candidate: self.copy(&sample.candidate),
            ..sample.clone()
        });
        let samples = samples.collect();
        let own = Batch {
            seq: batch.seq,
            shown,
            samples,
            vectors: batch.vectors.clone(),
            deleted: batch.deleted.clone(),
            read: batch.read,
        };
        self.sweep();
        own
    }

    fn copy(&mut self, candidate: &Arc<Candidate>) -> Arc<Candidate> {
        let address = Arc::as_ptr(candidate).addr();
        let (_, copy) = self.copies.entry(address).or_insert_with(|| {
            let copy = Candidate {
                predicted: Default::default(),
                ..Candidate::clone(candidate)
            };
            (Arc::downgrade(candidate), Arc::new(copy))
        });
        Arc::clone(copy)
    }

    /// Removes the copies of items that nothing else holds, each time their number has doubled. No sample can name them.
    fn sweep(&mut self) {
        if self.copies.len() < self.sweep_at {
            return;
        }
        self.copies.retain(|_, (original, _)| original.strong_count() > 0);
        self.sweep_at = (2 * self.copies.len()).max(FIRST_SWEEP);
    }
}
