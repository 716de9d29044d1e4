//! Which partitions are idle: silent for long while their stream goes on without them.
//!
//! An idle partition holds event time back no longer. When a whole stream is silent none of its partitions is
//! idle: time stands still then, and when it goes on they must wait for each other as before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ouzel_sample::{PartitionId, Stream};

/// How long a partition is silent, while its stream moves on, before it stops holding time.
const IDLE_AFTER: Duration = Duration::from_secs(30);

/// When each partition last gave a record.
#[derive(Debug)]
pub struct Idleness {
    after: Duration,
    lanes: BTreeMap<PartitionId, Lane>,
}

#[derive(Clone, Copy, Debug)]
struct Lane {
    seen: Instant,
    is_idle: bool,
}

impl Idleness {
    /// Nothing is idle at `now`.
    pub fn new(partitions: impl IntoIterator<Item = PartitionId>, now: Instant) -> Self {
        Self::after(IDLE_AFTER, partitions, now)
    }

    /// The same with another span of silence.
    pub fn after(after: Duration, partitions: impl IntoIterator<Item = PartitionId>, now: Instant) -> Self {
        let lane = Lane {
            seen: now,
            is_idle: false,
        };
        Self {
            after,
            lanes: partitions.into_iter().map(|id| (id, lane)).collect(),
        }
    }

    /// Records of `partition` came.
    pub fn saw(&mut self, partition: PartitionId, now: Instant) {
        let is_idle = false;
        self.lanes.insert(partition, Lane { seen: now, is_idle });
    }

    /// Takes the partitions that have become idle, of which `is_waiting` says that nothing is at hand.
    pub fn take_idle(&mut self, is_waiting: impl Fn(PartitionId) -> bool) -> Vec<PartitionId> {
        let newest = |stream: Stream| {
            let of = self.lanes.iter().filter(move |(id, _)| id.stream == stream);
            of.map(|(_, lane)| lane.seen).max()
        };
        // Items hold no time.
        let newest = [Stream::Impressions, Stream::Actions].map(|stream| (stream, newest(stream)));
        let mut idle = Vec::new();
        for (stream, newest) in newest {
            let Some(newest) = newest else { continue };
            for (id, lane) in self.lanes.iter_mut().filter(|(id, _)| id.stream == stream) {
                let is_behind = newest.saturating_duration_since(lane.seen) >= self.after;
                if is_behind && !lane.is_idle && is_waiting(*id) {
                    lane.is_idle = true;
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
        idleness.saw(id(Stream::Items, 0), after(100));
        idleness.saw(a, after(29));
        assert_eq!(idleness.take_idle(|_| true), []);
        idleness.saw(a, after(31));
        assert_eq!(
            idleness.take_idle(|_| false),
            [],
            "what has records at hand is not silent"
        );
        assert_eq!(idleness.take_idle(|_| true), [b]);
        assert_eq!(idleness.take_idle(|_| true), [], "once");
        idleness.saw(b, after(40));
        assert_eq!(idleness.take_idle(|_| true), []);
        idleness.saw(a, after(70));
        assert_eq!(idleness.take_idle(|_| true), [b], "again");
    }

    #[test]
    fn a_silent_stream_has_no_idle_partition() {
        let partitions = [0, 1, 2].map(|number| id(Stream::Impressions, number));
        let start = Instant::now();
        let mut idleness = Idleness::new(partitions, start);
        for (seconds, partition) in (0..).zip(partitions) {
            idleness.saw(partition, start + Duration::from_secs(seconds));
        }
        // However long it looks on, nothing moves.
        assert_eq!(idleness.take_idle(|_| true), []);
    }
}
