//! Finds idle partitions: those without records while their stream goes on, or has gone on, without them.
//!
//! The watermark does not wait for an idle partition. A whole stream is never idle: of one without records, the partition
//! that is furthest holds event time. Partitions about as far as that one wait for each other when records come again; one
//! left behind does not, as when a log was loaded unevenly and nothing follows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ouzel_sample::{EventTime, PartitionId, Stream};

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

    /// Returns the partitions that became idle by `now`. `is_drained` is true for a partition without queued records,
    /// `times` gives the newest event time of each partition that holds the watermark.
    pub(crate) fn take_idle(
        &mut self,
        now: Instant,
        is_drained: impl Fn(PartitionId) -> bool,
        times: impl Fn() -> Vec<(PartitionId, EventTime)>,
    ) -> Vec<PartitionId> {
        let timeout = self.timeout;
        let mut left_behind = None;
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
                let is_silent = now.saturating_duration_since(last.seen) >= timeout;
                if last.is_idle || !is_silent || !is_drained(*id) {
                    continue;
                }
                let goes_on = newest.saturating_duration_since(last.seen) >= timeout;
                if goes_on
                    || left_behind
                        .get_or_insert_with(|| find_left_behind(&times(), timeout))
                        .contains(id)
                {
                    last.is_idle = true;
                    tracing::info!(partition = %id, "partition idle: the watermark does not wait for it");
                    idle.push(*id);
                }
            }
        }
        idle
    }
}

/// The partitions whose event time is further than `bound` behind the newest of their stream.
fn find_left_behind(times: &[(PartitionId, EventTime)], bound: Duration) -> Vec<PartitionId> {
    let bound_ms = i64::try_from(bound.as_millis()).unwrap_or(i64::MAX);
    let newest = |stream: Stream| {
        let of_stream = times.iter().filter(|(id, _)| id.stream == stream);
        of_stream.map(|(_, time)| *time).max().unwrap_or(EventTime::MIN)
    };
    let is_behind = |(id, time): &&(PartitionId, EventTime)| *time < newest(id.stream).plus_ms(-bound_ms);
    times.iter().filter(is_behind).map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_times() -> Vec<(PartitionId, EventTime)> {
        Vec::new()
    }

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
        assert_eq!(idleness.take_idle(after(29), |_| true, no_times), []);
        idleness.record(a, after(31));
        assert_eq!(
            idleness.take_idle(after(31), |_| false, no_times),
            [],
            "a partition with queued records is not idle"
        );
        assert_eq!(idleness.take_idle(after(31), |_| true, no_times), [b]);
        assert_eq!(idleness.take_idle(after(31), |_| true, no_times), [], "once");
        idleness.record(b, after(40));
        assert_eq!(idleness.take_idle(after(40), |_| true, no_times), []);
        idleness.record(a, after(70));
        assert_eq!(idleness.take_idle(after(70), |_| true, no_times), [b], "again");
    }

    #[test]
    fn a_stream_without_records_has_no_idle_partition() {
        let partitions = [0, 1, 2].map(|number| id(Stream::Impressions, number));
        let start = Instant::now();
        let mut idleness = Idleness::new(partitions, start);
        for (seconds, partition) in (0..).zip(partitions) {
            idleness.record(partition, start + Duration::from_secs(seconds));
        }
        // About as far as each other: they wait for each other when records come again.
        let times = || {
            partitions
                .map(|id| (id, EventTime(i64::from(id.partition) * 1000)))
                .to_vec()
        };
        assert_eq!(
            idleness.take_idle(start + Duration::from_secs(3600), |_| true, times),
            []
        );
    }

    #[test]
    fn a_partition_left_behind_by_a_loaded_log_is_idle_though_nothing_follows() {
        let [full, short, empty, silent] = [
            id(Stream::Impressions, 0),
            id(Stream::Impressions, 1),
            id(Stream::Impressions, 2),
            id(Stream::Actions, 0),
        ];
        let start = Instant::now();
        let mut idleness = Idleness::new([full, short, empty, silent], start);
        let times = || {
            let two_days_ms = 172_800_000;
            vec![
                (full, EventTime(two_days_ms)),
                (short, EventTime(1000)),
                (empty, EventTime::MIN),
                (silent, EventTime::MIN),
            ]
        };
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(idleness.take_idle(after(29), |_| true, times), []);
        assert_eq!(idleness.take_idle(after(30), |id| id != empty, times), [short]);
        assert_eq!(idleness.take_idle(after(31), |_| true, times), [empty]);
        assert_eq!(idleness.take_idle(after(99), |_| true, times), []);
    }
}
