//! Backpressure between poll and join, partition by partition.
//!
//! The channel is unbounded. A partition is paused at [`HIGH`] records or [`HIGH_BYTES`] in the channel and resumed at half
//! of them, while poll continues. So a fast partition never starves a slow one, and the number of partitions bounds memory.

use std::collections::{BTreeMap, VecDeque};
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

/// Bytes in the channel at which a partition is paused: large records count for more.
pub const HIGH_BYTES: usize = 64 << 20;
/// Bytes in the channel at which a partition is resumed.
const LOW_BYTES: usize = HIGH_BYTES / 2;

/// Records between poll and the join, by partition.
#[derive(Debug, Default)]
pub struct Backlog {
    partitions: Mutex<BTreeMap<PartitionId, Flow>>,
    has_ended: AtomicBool,
}

#[derive(Debug, Default)]
struct Flow {
    n: usize,
    /// Sum of `sizes`.
    bytes: usize,
    /// Size of each record in the channel, the oldest first.
    sizes: VecDeque<usize>,
    is_paused: bool,
}

impl Backlog {
    /// Counts `n` records that poll sent, whatever their size.
    pub fn sent(&self, partition: PartitionId, n: usize) {
        lock(&self.partitions).entry(partition).or_default().n += n;
    }

    /// Counts records of these sizes, in bytes, that poll sent. Not to be mixed with [`Backlog::sent`] in one partition.
    pub fn sent_sizes(&self, partition: PartitionId, sizes: impl Iterator<Item = usize>) {
        let mut partitions = lock(&self.partitions);
        let flow = partitions.entry(partition).or_default();
        for size in sizes {
            flow.n += 1;
            flow.bytes += size;
            flow.sizes.push_back(size);
        }
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
            let n = n.min(flow.sizes.len());
            flow.bytes -= flow.sizes.drain(..n).sum::<usize>();
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
            if !flow.is_paused && (flow.n >= HIGH || flow.bytes >= HIGH_BYTES) {
                flow.is_paused = true;
                pause.push(*id);
            } else if flow.is_paused && flow.n <= LOW && flow.bytes <= LOW_BYTES {
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

    #[test]
    fn a_few_large_records_pause_a_partition_too() {
        let large = PartitionId::new(Stream::Items, 0);
        let backlog = Backlog::default();
        backlog.sent_sizes(large, [HIGH_BYTES / 4; 4].into_iter());
        assert_eq!(backlog.balance(), (vec![large], vec![]));
        backlog.released(large, 1);
        assert_eq!(backlog.balance(), (vec![], vec![]));
        backlog.released(large, 1);
        assert_eq!(backlog.balance(), (vec![], vec![large]));
    }
}
