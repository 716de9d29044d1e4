//! Credits between poll and join: how many records of each partition are on the way.
//!
//! The channel itself is unbounded; this is its bound, partition by partition. A partition that is ahead of
//! the others is paused at [`HIGH`] and taken up again at [`LOW`], while poll goes on polling: a slow
//! partition is never starved by a fast one, and memory is bounded by their number.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ouzel_sample::PartitionId;

/// Records on the way at which a partition is paused.
pub const HIGH: usize = 8192;
/// Records on the way at which it is resumed.
pub const LOW: usize = 4096;

/// Records between poll and the join, by partition.
#[derive(Debug, Default)]
pub struct Backlog {
    lanes: Mutex<BTreeMap<PartitionId, Lane>>,
    is_over: AtomicBool,
}

#[derive(Debug, Default)]
struct Lane {
    n: usize,
    is_paused: bool,
}

/// What poll should do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Partitions to pause.
    pub pause: Vec<PartitionId>,
    /// Partitions to resume.
    pub resume: Vec<PartitionId>,
}

impl Backlog {
    /// Poll sent `n` records.
    pub fn sent(&self, partition: PartitionId, n: usize) {
        self.lock().entry(partition).or_default().n += n;
    }

    /// Poll takes in nothing more.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// True when nothing more is taken in.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Join released `n` of them.
    pub fn released(&self, partition: PartitionId, n: usize) {
        if let Some(lane) = self.lock().get_mut(&partition) {
            lane.n = lane.n.saturating_sub(n);
        }
    }

    /// Who crossed a bound since the last call.
    pub fn balance(&self) -> Balance {
        let mut balance = Balance::default();
        for (id, lane) in self.lock().iter_mut() {
            if !lane.is_paused && lane.n >= HIGH {
                lane.is_paused = true;
                balance.pause.push(*id);
            } else if lane.is_paused && lane.n <= LOW {
                lane.is_paused = false;
                balance.resume.push(*id);
            }
        }
        balance
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
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
