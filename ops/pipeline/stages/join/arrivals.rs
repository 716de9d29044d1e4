//! When the records that wait for the order arrived.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ouzel_sample::{PartitionId, Position};

/// Arrival times of queued records, one for each piece that poll sent.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// The last offset of each piece and when it arrived, oldest first.
    pieces: BTreeMap<PartitionId, VecDeque<(i64, Instant)>>,
}

impl Arrivals {
    /// Notes that a piece which ends with the record at `last` arrived.
    pub(super) fn note(&mut self, last: Position, now: Instant) {
        let pieces = self.pieces.entry(last.partition).or_default();
        pieces.push_back((last.offset, now));
    }

    /// Forgets the pieces that end at or before a released record.
    pub(super) fn forget(&mut self, released: Position) {
        if let Some(pieces) = self.pieces.get_mut(&released.partition)
            && pieces.front().is_some_and(|(last, _)| *last <= released.offset)
        {
            pieces.pop_front();
        }
    }

    /// How long ago the record at `head` arrived, the first of its partition.
    pub(super) fn age(&self, head: Position) -> Option<Duration> {
        let (_, arrived) = self.pieces.get(&head.partition)?.front()?;
        Some(arrived.elapsed())
    }
}
