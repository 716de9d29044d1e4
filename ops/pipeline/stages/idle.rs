//! Finds idle partitions: those without records while other partitions of their stream have some.
//!
//! The watermark does not wait for an idle partition. If a whole stream has no records, none of its partitions is idle:
//! event time stops, and afterwards the partitions wait for each other as before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ouzel_sample::{PartitionId, Stream};

/// Time without a record, while the stream has some, after which a partition is idle.
const IDLE_AFTER: Duration = Duration::from_secs(30);

/// The time of the last record of each partition.
#[derive(Debug)]
pub(crate) struct Idleness {
    timeout: Duration,
    partitions: BTreeMap<PartitionId, LastArrival>,
}

#[derive(Clone, Copy, Debug)]
struct LastArrival {
    seen: Instant,
    is_idle: bool,
}

impl Idleness {
    /// No partition is idle at `now`.
    pub(crate) fn new(partitions: impl IntoIterator<Item = PartitionId>, now: Instant) -> Self {
        Self::with_timeout(IDLE_AFTER, partitions, now)
    }

    /// No partition is idle at `now`; a partition becomes idle after `timeout` without a record.
    pub(crate) fn with_timeout(
        timeout: Duration,
        partitions: impl IntoIterator<Item = PartitionId>,
        now: Instant,
    ) -> Self {
        let first = LastArrival {
            seen: now,
            is_idle: false,
        };
        Self {
            timeout,
            partitions: partitions.into_iter().map(|id| (id, first)).collect(),
        }
    }

    /// Records that `partition` had records at `now`.
    pub(crate) fn record(&mut self, partition: PartitionId, now: Instant) {
        let arrival = LastArrival {
            seen: now,
            is_idle: false,
        };
        self.partitions.insert(partition, arrival);
    }

    /// Returns the partitions that became idle. `is_drained` is true for a partition without queued records.
    pub(crate) fn take_idle(&mut self, is_drained: impl Fn(PartitionId) -> bool) -> Vec<PartitionId> {
        let newest = |stream: Stream| {
            let others = self.partitions.iter().filter(move |(id, _)| id.stream == stream);
            others.map(|(_, last)| last.seen).max()
        };
        // Items and users have no watermark.
        let newest = [Stream::Impressions, Stream::Actions].map(|stream| (stream, newest(stream)));
        let mut idle = Vec::new();
        for (stream, newest) in newest {
            let Some(newest) = newest else { continue };
            for (id, last) in self.partitions.iter_mut().filter(|(id, _)| id.stream == stream) {
                let is_behind = newest.saturating_duration_since(last.seen) >= self.timeout;
                if is_behind && !last.is_idle && is_drained(*id) {
                    last.is_idle = true;
                    tracing::info!(partition = %id, "partition idle: the watermark does not wait for it");
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
    fn a_partition_is_idle_when_only_others_of_its_stream_have_records() {
        let [a, b, other] = [
            id(Stream::Actions, 0),
            id(Stream::Actions, 1),
            id(Stream::Impressions, 0),
        ];
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut idleness = Idleness::new([a, b, other, id(Stream::Items, 0)], start);
        idleness.record(id(Stream::Items, 0), after(100));
        idleness.record(a, after(29));
        assert_eq!(idleness.take_idle(|_| true), []);
        idleness.record(a, after(31));
        assert_eq!(
            idleness.take_idle(|_| false),
            [],
            "a partition with queued records is not idle"
        );
        assert_eq!(idleness.take_idle(|_| true), [b]);
        assert_eq!(idleness.take_idle(|_| true), [], "once");
        idleness.record(b, after(40));
        assert_eq!(idleness.take_idle(|_| true), []);
        idleness.record(a, after(70));
        assert_eq!(idleness.take_idle(|_| true), [b], "again");
    }

    #[test]
    fn a_stream_without_records_has_no_idle_partition() {
        let partitions = [0, 1, 2].map(|number| id(Stream::Impressions, number));
        let start = Instant::now();
        let mut idleness = Idleness::new(partitions, start);
        for (seconds, partition) in (0..).zip(partitions) {
            idleness.record(partition, start + Duration::from_secs(seconds));
        }
        assert_eq!(idleness.take_idle(|_| true), []);
    }
}
