//! Batches: whole groups of samples, cut by count and never by the clock.

use serde::{Deserialize, Serialize};

use crate::{Id, Ledger, Sample, Shown, VectorMap};

/// What the learner takes one step on.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Running number in this lineage, from 0.
    pub seq: u64,
    /// JoinResultReceiver shown since the batch before, to be predicted before this one is learned from.
    pub shown: Vec<Shown>,
    /// Samples in ledger order.
    pub samples: Vec<Sample>,
    /// The content vectors that both name.
    pub vectors: VectorMap,
    /// Items that have no rows from here on: deleted since the batch before, or before that and named by this one.
    pub deleted: Vec<Id>,
}

/// Collects samples until a batch is full.
///
/// A group (the samples of one request that one event decided) is never split. A batch closes with the group
/// that brings it to `min_samples`, so its size depends on the log alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batcher {
    min_samples: usize,
    next_batch: u64,
    next_sample: u64,
    ledger: Ledger,
    open: Vec<Sample>,
}

impl Batcher {
    /// A batcher that closes a batch at `min_samples` samples or more.
    #[must_use]
    pub fn new(min_samples: usize) -> Self {
        Self {
            min_samples: min_samples.max(1),
            next_batch: 0,
            next_sample: 0,
            ledger: Ledger::default(),
            open: Vec::new(),
        }
    }

    /// Adds one group, numbering its samples and entering them in the ledger. Returns the batch it filled.
    pub fn push(&mut self, group: impl IntoIterator<Item = Sample>) -> Option<Batch> {
        for mut sample in group {
            sample.seq = self.next_sample;
            self.next_sample += 1;
            self.ledger.add(&sample);
            self.open.push(sample);
        }
        if self.open.len() >= self.min_samples {
            self.flush()
        } else {
            None
        }
    }

    /// Closes the open batch, if it has any sample. Live, only a journaled decision may call this.
    pub fn flush(&mut self) -> Option<Batch> {
        if self.open.is_empty() {
            return None;
        }
        let seq = self.next_batch;
        self.next_batch += 1;
        Some(Batch {
            seq,
            shown: Vec::new(),
            samples: std::mem::take(&mut self.open),
            vectors: VectorMap::default(),
            deleted: Vec::new(),
        })
    }

    /// Samples waiting in the open batch.
    #[must_use]
    pub fn n_open(&self) -> usize {
        self.open.len()
    }

    /// The number the next batch will have.
    #[must_use]
    pub fn next_batch(&self) -> u64 {
        self.next_batch
    }

    /// The hash of all samples pushed so far.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }
}
