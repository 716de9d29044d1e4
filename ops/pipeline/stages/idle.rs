//! Finds idle partitions: silent for long while their stream goes on without them.
//!
//! An idle partition holds event time back no longer. When a whole stream is silent, none of its partitions is idle:
//! event time stops, and when it goes on they must wait for each other as before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ouzel_sample::{PartitionId, Stream};

/// How long a partition is silent, while its stream moves on, before it stops holding time.
const IDLE_AFTER: Duration = Duration::from_secs(30);

/// When each partition last gave a record.
#[derive(Debug)]
pub struct Idleness {
    after: Duration,
    partitions: BTreeMap<PartitionId, LastArrival>,
}

#[derive(Clone, Copy, Debug)]
struct LastArrival {
    seen: Instant,
    is_idle: bool,
}

impl Idleness {
    /// No partition is idle at `now`.
    pub fn new(partitions: impl IntoIterator<Item = PartitionId>, now: Instant) -> Self {
        Self::after(IDLE_AFTER, partitions, now)
    }

    /// No partition is idle at `now`; one is after `after` of silence.
    pub fn after(after: Duration, partitions: impl IntoIterator<Item = PartitionId>, now: Instant) -> Self {
        let first = LastArrival {
            seen: now,
            is_idle: false,
        };
        Self {
            after,
            partitions: partitions.into_iter().map(|id| (id, first)).collect(),
        }
    }

    /// Notes that records of `partition` arrived.
    pub fn note(&mut self, partition: PartitionId, now: Instant) {
        let is_idle = false;
        self.partitions
            .insert(partition, LastArrival { seen: now, is_idle });
    }

    /// Returns the partitions that became idle. `is_drained` is true for one without a queued record.
    pub fn take_idle(&mut self, is_drained: impl Fn(PartitionId) -> bool) -> Vec<PartitionId> {
        let newest = |stream: Stream| {
            let others = self.partitions.iter().filter(move |(id, _)| id.stream == stream);
            others.map(|(_, last)| last.seen).max()
        };
        // Items hold no event time.
        let newest = [Stream::Impressions, Stream::Actions].map(|stream| (stream, newest(stream)));
        let mut idle = Vec::new();
        for (stream, newest) in newest {
            let Some(newest) = newest else { continue };
            for (id, last) in self.partitions.iter_mut().filter(|(id, _)| id.stream == stream) {
                let is_behind = newest.saturating_duration_since(last.seen) >= self.after;
                if is_behind && !last.is_idle && is_drained(*id) {
                    last.is_idle = true;
                    tracing::info!(partition = %id, "idle: it holds event time back no longer");
                    idle.push(*id);
                }
            }
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(stream: Stream, partition: i32) -> PartitionId {
        PartitionId { stream, partition }
    }

    #[test]
    fn a_partition_is_idle_once_its_stream_has_gone_on_without_it() {
        let [a, b, other] = [
            id(Stream::Actions, 0),
            id(Stream::Actions, 1),
            id(Stream::Impressions, 0),
        ];
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut idleness = Idleness::new([a, b, other, id(Stream::Items, 0)], start);
        idleness.note(id(Stream::Items, 0), after(100));
        idleness.note(a, after(29));
        assert_eq!(idleness.take_idle(|_| true), []);
        idleness.note(a, after(31));
        assert_eq!(
            idleness.take_idle(|_| false),
            [],
            "a partition with queued records is not silent"
        );
        assert_eq!(idleness.take_idle(|_| true), [b]);
        assert_eq!(idleness.take_idle(|_| true), [], "once");
        idleness.note(b, after(40));
        assert_eq!(idleness.take_idle(|_| true), []);
        idleness.note(a, after(70));
        assert_eq!(idleness.take_idle(|_| true), [b], "again");
    }

    #[test]
    fn a_silent_stream_has_no_idle_partition() {
        let partitions = [0, 1, 2].map(|number| id(Stream::Impressions, number));
        let start = Instant::now();
        let mut idleness = Idleness::new(partitions, start);
        for (seconds, partition) in (0..).zip(partitions) {
            idleness.note(partition, start + Duration::from_secs(seconds));
        }
        // The stream as a whole has gone silent.
        assert_eq!(idleness.take_idle(|_| true), []);
    }
}
