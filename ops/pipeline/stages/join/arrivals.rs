//! Arrival times of the records that wait for the order.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ouzel_sample::{PartitionId, Position};

/// Arrival times of queued records, one for each chunk from poll.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// The last offset of each chunk with its arrival time, oldest first.
    chunks: BTreeMap<PartitionId, VecDeque<(i64, Instant)>>,
}

impl Arrivals {
    /// Records the arrival of a chunk whose last record is at `last`.
    pub(super) fn record(&mut self, last: Position, now: Instant) {
        let chunks = self.chunks.entry(last.partition).or_default();
        chunks.push_back((last.offset, now));
    }

    /// Removes the chunk that ends at or before a released record.
    pub(super) fn forget(&mut self, released: Position) {
        if let Some(chunks) = self.chunks.get_mut(&released.partition)
            && chunks.front().is_some_and(|(last, _)| *last <= released.offset)
        {
            chunks.pop_front();
        }
    }

    /// Time since the arrival of the record at `head`, the first of its partition.
    pub(super) fn age(&self, head: Position) -> Option<Duration> {
        let (_, arrived) = self.chunks.get(&head.partition)?.front()?;
        Some(arrived.elapsed())
    }
}
