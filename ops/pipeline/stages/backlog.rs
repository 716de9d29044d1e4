//! Backpressure between poll and join, partition by partition.
//!
//! The channel itself is unbounded. A partition is paused at [`HIGH`] records on the way and resumed at [`LOW`], while
//! poll goes on polling: a fast partition never starves a slow one, and memory is bounded by the number of partitions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;

use ouzel_ingest::Source;
use ouzel_sample::PartitionId;

/// Records on the way at which a partition is paused.
pub const HIGH: usize = 8192;
/// Records on the way at which it is resumed.
pub const LOW: usize = 4096;

/// Records between poll and the join, by partition.
#[derive(Debug, Default)]
pub struct Backlog {
    partitions: Mutex<BTreeMap<PartitionId, Flow>>,
    is_over: AtomicBool,
}

#[derive(Debug, Default)]
struct Flow {
    n: usize,
    is_paused: bool,
}

/// What poll must do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Balance {
    pause: Vec<PartitionId>,
    resume: Vec<PartitionId>,
}

impl Backlog {
    /// Notes that poll sent `n` records.
    pub fn sent(&self, partition: PartitionId, n: usize) {
        self.lock().entry(partition).or_default().n += n;
    }

    /// Poll has ended: no more records arrive.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// True after [`Backlog::end`].
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Notes that join released `n` records.
    pub fn released(&self, partition: PartitionId, n: usize) {
        if let Some(flow) = self.lock().get_mut(&partition) {
            flow.n = flow.n.saturating_sub(n);
        }
    }

    /// Pauses and resumes the partitions of `source` that crossed a bound since the last call.
    pub fn apply(&self, source: &mut dyn Source) -> anyhow::Result<()> {
        let Balance { pause, resume } = self.balance();
        if !pause.is_empty() {
            source.pause(&pause).context("cannot pause partitions")?;
        }
        if !resume.is_empty() {
            source.resume(&resume).context("cannot resume partitions")?;
        }
        Ok(())
    }

    /// The partitions that crossed a bound since the last call.
    fn balance(&self) -> Balance {
        let mut balance = Balance::default();
        for (id, flow) in self.lock().iter_mut() {
            if !flow.is_paused && flow.n >= HIGH {
                flow.is_paused = true;
                balance.pause.push(*id);
            } else if flow.is_paused && flow.n <= LOW {
                flow.is_paused = false;
                balance.resume.push(*id);
            }
        }
        balance
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Flow>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ouzel_sample::Stream;

    use super::*;

    #[test]
    fn a_partition_pauses_high_and_resumes_low_and_leaves_the_others_alone() {
        let [fast, slow] = [0, 1].map(|partition| PartitionId {
            stream: Stream::Actions,
            partition,
        });
        let backlog = Backlog::default();
        backlog.sent(slow, 1);
        backlog.sent(fast, HIGH);
        assert_eq!(
            backlog.balance(),
            Balance {
                pause: vec![fast],
                resume: vec![]
            }
        );
        backlog.released(fast, 1);
        assert_eq!(
            backlog.balance(),
            Balance::default(),
            "between the bounds nothing flaps"
        );
        backlog.released(fast, HIGH - LOW);
        assert_eq!(
            backlog.balance(),
            Balance {
                pause: vec![],
                resume: vec![fast]
            }
        );
    }
}
