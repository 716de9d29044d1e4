//! Backpressure between poll and join, partition by partition.
//!
//! The channel is unbounded. A partition is paused at [`HIGH`] records in the channel and resumed at [`LOW`], while poll
//! continues. So a fast partition never starves a slow one, and the number of partitions bounds memory.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use ouzel_ingest::Source;
use ouzel_sample::PartitionId;

use crate::pipeline::lock;

/// Records in the channel at which a partition is paused.
pub const HIGH: usize = 8192;
/// Records in the channel at which a partition is resumed.
pub const LOW: usize = 4096;

/// Records between poll and the join, by partition.
#[derive(Debug, Default)]
pub struct Backlog {
    partitions: Mutex<BTreeMap<PartitionId, Flow>>,
    has_ended: AtomicBool,
}

#[derive(Debug, Default)]
struct Flow {
    n: usize,
    is_paused: bool,
}

impl Backlog {
    /// Counts `n` records that poll sent.
    pub fn sent(&self, partition: PartitionId, n: usize) {
        lock(&self.partitions).entry(partition).or_default().n += n;
    }

    /// Records that poll has ended and no more records arrive.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    /// True after [`Backlog::end`].
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Counts `n` records that join released.
    pub fn released(&self, partition: PartitionId, n: usize) {
        if let Some(flow) = lock(&self.partitions).get_mut(&partition) {
            flow.n = flow.n.saturating_sub(n);
        }
    }

    /// Pauses and resumes the partitions of `source` that crossed a bound since the last call.
    pub fn apply(&self, source: &mut dyn Source) -> anyhow::Result<()> {
        let (pause, resume) = self.balance();
        if !pause.is_empty() {
            source.pause(&pause).context("cannot pause partitions")?;
        }
        if !resume.is_empty() {
            source.resume(&resume).context("cannot resume partitions")?;
        }
        Ok(())
    }

    /// The partitions to pause and to resume since the last call.
    fn balance(&self) -> (Vec<PartitionId>, Vec<PartitionId>) {
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for (id, flow) in lock(&self.partitions).iter_mut() {
            if !flow.is_paused && flow.n >= HIGH {
                flow.is_paused = true;
                pause.push(*id);
            } else if flow.is_paused && flow.n <= LOW {
                flow.is_paused = false;
                resume.push(*id);
            }
        }
        (pause, resume)
    }
}

#[cfg(test)]
mod tests {
    use ouzel_sample::Stream;

    use super::*;

    #[test]
    fn a_partition_pauses_high_and_resumes_low_and_leaves_the_others_alone() {
        let [fast, slow] = [0, 1].map(|partition| PartitionId::new(Stream::Actions, partition));
        let backlog = Backlog::default();
        backlog.sent(slow, 1);
        backlog.sent(fast, HIGH);
        assert_eq!(backlog.balance(), (vec![fast], vec![]));
        backlog.released(fast, 1);
        assert_eq!(
            backlog.balance(),
            (vec![], vec![]),
            "between the bounds nothing flaps"
        );
        backlog.released(fast, HIGH - LOW);
        assert_eq!(backlog.balance(), (vec![], vec![fast]));
    }
}
