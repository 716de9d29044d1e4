//! Scores that shown items were given again, judged by the outcomes of the log.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use ouzel_learner::validation::{Figures, ScoreLog};
use ouzel_sample::{Batch, Candidate, EventTime, Id, IdHasher, ShownLogits, VectorMap};

/// Logits of shown items in several ways, with a log of the outcomes for each way.
#[derive(Debug)]
pub(super) struct Rescored {
    /// One logit a way, by item of a request.
    logits: HashMap<Id, Vec<f32>, BuildHasherDefault<IdHasher>>,
    logs: Vec<ScoreLog>,
}

impl Rescored {
    /// No scores yet, for `n` ways.
    pub(super) fn new(n: usize) -> Self {
        Self {
            logits: HashMap::default(),
            logs: vec![ScoreLog::default(); n],
        }
    }

    /// Records the logits of an item of a request, one a way.
    pub(super) fn insert(&mut self, request: Id, item: Id, logits: Vec<f32>) {
        self.logits.insert(request.pair(item), logits);
    }

    /// Records the outcomes of a batch.
    pub(super) fn learning(&mut self, batch: &Batch) {
        if self.logits.is_empty() {
            return;
        }
        for (way, log) in self.logs.iter_mut().enumerate() {
            let mut rescored = Batch {
                seq: batch.seq,
                shown: Vec::new(),
                samples: Vec::new(),
                vectors: VectorMap::default(),
                deleted: Vec::new(),
                read: batch.read,
            };
            for sample in &batch.samples {
                let Some(logits) = self.logits.get(&sample.request.id.pair(sample.candidate.item)) else {
                    continue;
                };
                let mut sample = sample.clone();
                let candidate = Candidate {
                    predicted: ShownLogits::default(),
                    ..Candidate::clone(&sample.candidate)
                };
                candidate.predicted.set(&logits[way..=way]);
                sample.candidate = Arc::new(candidate);
                rescored.samples.push(sample);
            }
            let unused = vec![f32::NAN; rescored.samples.len()];
            log.add(&rescored, &unused);
        }
    }

    /// The figures of a way from `middle` on.
    pub(super) fn figures(&self, way: usize, middle: EventTime) -> Figures {
        self.logs[way].figures(middle)
    }
}
