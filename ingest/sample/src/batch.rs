//! Batches: whole groups of samples, closed by count and never by the clock.

use serde::{Deserialize, Serialize};

use crate::{Id, Ledger, Sample, ShownSlate, TaskMap, VectorMap};

/// The input of one learner step.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Running number of the batch in its lineage, from 0.
    pub seq: u64,
    /// Slates shown since the previous batch; the learner predicts them before it learns from `samples`.
    pub shown: Vec<ShownSlate>,
    /// Samples in ledger order.
    pub samples: Vec<Sample>,
    /// The content vectors that `shown` and `samples` refer to.
    pub vectors: VectorMap,
    /// Deleted items whose embedding rows are dropped: deleted since the previous batch, or referred to here.
    pub deleted: Vec<Id>,
    /// What had been read when the batch was formed.
    pub read: ReadTotals,
}

/// Counts of what was read since the start of a lineage, for the rates between two batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadTotals {
    /// Impressions and actions, rejected ones included.
    pub records: u64,
    /// Impressions and actions that could not be decoded.
    pub rejected: u64,
    /// Shown items.
    pub shown: u64,
    /// Actions.
    pub actions: u64,
    /// Actions that made no positive and are no duplicates: late, dated too early, or of an item that was not shown.
    pub unmatched: u64,
}

/// Collects samples into batches.
///
/// A group (the samples of one request that one event decided) is never split. The group that brings the open
/// batch to `min_samples` closes it, so batch sizes depend on the log alone.
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

    /// A batcher that continues the numbers of another one, whose ledger is not known: the ledger starts anew.
    #[must_use]
    pub fn continuing(min_samples: usize, next_batch: u64, next_sample: u64) -> Self {
        Self {
            next_batch,
            next_sample,
            ..Self::new(min_samples)
        }
    }

    /// Numbers the samples of one group and adds them to the ledger. Returns the batch that the group closed.
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

    /// Closes the open batch unless it is empty. A live run may call this only for an entry of the plan log.
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
            read: ReadTotals::default(),
        })
    }

    /// Gives the samples of the open batch the present tasks, and drops those without a label of one of them. Returns the
    /// number of dropped samples; their numbers and their part in the ledger stay.
    pub fn migrate(&mut self, tasks: &TaskMap) -> u64 {
        let before = self.open.len();
        let open = std::mem::take(&mut self.open).into_iter();
        self.open = open.filter_map(|sample| tasks.sample(sample)).collect();
        (before - self.open.len()) as u64
    }

    /// Drops the samples of the open batch. Returns their number.
    pub fn drop_open(&mut self) -> u64 {
        std::mem::take(&mut self.open).len() as u64
    }

    /// Number of samples in the open batch.
    #[must_use]
    pub fn n_open(&self) -> usize {
        self.open.len()
    }

    /// The number of the next batch.
    #[must_use]
    pub fn next_batch(&self) -> u64 {
        self.next_batch
    }

    /// The ledger of all samples pushed so far.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }
}
