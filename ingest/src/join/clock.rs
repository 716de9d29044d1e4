//! Event time of the join: the watermark over all partitions of impressions and actions.
//!
//! The watermark is the least, over all partitions that are not idle, of the newest event time seen there,
//! minus the lateness bound; it never goes back. A partition without an event yet holds it at the beginning of time.
//! The action stream counts on purpose: when actions stop coming, time stops, and an outage makes no negatives.

use std::collections::BTreeMap;

use ouzel_sample::{EventTime, PartitionId, Stream};
use serde::{Deserialize, Serialize};

use crate::join::planted_bug::PlantedBug;

/// A recorded decision about a partition. It depends on the wall clock, so the plan log records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// The partition is silent while others of its stream are not: it no longer holds the watermark.
    Idle,
    /// The partition holds the watermark again, as after any event of it.
    Active,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PartitionTime {
    newest: EventTime,
    is_idle: bool,
}

/// The watermark and the event time of each partition. Equal clocks serialise to equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventClock {
    lateness_ms: i64,
    watermark: EventTime,
    partitions: BTreeMap<PartitionId, PartitionTime>,
}

impl EventClock {
    /// A clock at the beginning of time. Partitions of the item stream do not count and are left out.
    pub fn new(lateness_ms: i64, partitions: impl IntoIterator<Item = PartitionId>) -> Self {
        let mut clock = Self {
            lateness_ms,
            watermark: EventTime::MIN,
            partitions: BTreeMap::new(),
        };
        for partition in partitions {
            clock.register(partition);
        }
        clock
    }

    /// The watermark: no on-time event still to come is older.
    pub fn watermark(&self) -> EventTime {
        self.watermark
    }

    /// The newest event time of each partition, and whether it is idle, in order of partition.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, EventTime, bool)> + '_ {
        self.partitions
            .iter()
            .map(|(id, progress)| (*id, progress.newest, progress.is_idle))
    }

    /// Notes an event time of `partition`, which becomes active if it was idle.
    pub(crate) fn observe(&mut self, partition: PartitionId, ts: EventTime, bug: Option<PlantedBug>) {
        if partition.stream == Stream::Items {
            return;
        }
        let progress = self.partitions.entry(partition).or_insert(FRESH);
        if ts <= progress.newest && !progress.is_idle {
            return;
        }
        // Only a partition that holds the least newest time, or that joins them, can move the minimum.
        let may_move = progress.is_idle || progress.newest.plus_ms(-self.lateness_ms) <= self.watermark;
        progress.newest = progress.newest.max(ts);
        progress.is_idle = false;
        if may_move {
            self.advance_watermark(bug);
        }
    }

    /// Applies a mark. Returns false, and changes nothing, where it would leave a stream without any partition
    /// that holds the watermark: a silent stream stops time.
    pub(crate) fn mark(&mut self, partition: PartitionId, mark: Mark) -> bool {
        if partition.stream == Stream::Items {
            return false;
        }
        match mark {
            Mark::Active => self.register(partition),
            Mark::Idle => {
                let others = self.partitions.iter().any(|(id, progress)| {
                    *id != partition && id.stream == partition.stream && !progress.is_idle
                });
                if !others {
                    return false;
                }
                self.partitions.entry(partition).or_insert(FRESH).is_idle = true;
                self.advance_watermark(None);
            }
        }
        true
    }

    /// The same clock under another lateness bound, from here on.
    pub(crate) fn with_lateness(self, lateness_ms: i64) -> Self {
        let mut clock = Self { lateness_ms, ..self };
        clock.advance_watermark(None);
        clock
    }

    /// Ends event time after the last record of a bounded log.
    pub(crate) fn finish(&mut self) {
        self.watermark = EventTime::MAX;
    }

    fn register(&mut self, partition: PartitionId) {
        if partition.stream != Stream::Items {
            self.partitions.entry(partition).or_insert(FRESH).is_idle = false;
        }
    }

    fn advance_watermark(&mut self, bug: Option<PlantedBug>) {
        let least = self
            .partitions
            .iter()
            .filter(|(_, progress)| !progress.is_idle)
            .filter(|(id, _)| bug != Some(PlantedBug::IgnoreActionsWatermark) || id.stream != Stream::Actions)
            .map(|(_, progress)| progress.newest)
            .min();
        if let Some(least) = least {
            self.watermark = self.watermark.max(least.plus_ms(-self.lateness_ms));
        }
    }
}

/// The first watermark at which no on-time event dated up to `span_ms` after `ts` can still arrive. An event on the
/// watermark is on time, so that is one past the end of the span.
pub(crate) fn passed(ts: EventTime, span_ms: i64) -> EventTime {
    ts.plus_ms(span_ms.saturating_add(1))
}

const FRESH: PartitionTime = PartitionTime {
    newest: EventTime::MIN,
    is_idle: false,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(stream: Stream, partition: i32) -> PartitionId {
        PartitionId { stream, partition }
    }

    const NEVER: EventTime = EventTime::MIN;

    #[test]
    fn time_is_that_of_the_slowest_partition_of_both_streams() {
        let shown = partition(Stream::Impressions, 0);
        let acted = partition(Stream::Actions, 0);
        let mut clock = EventClock::new(10, [shown, acted, partition(Stream::Items, 0)]);
        clock.observe(shown, EventTime(1_000), None);
        assert_eq!(clock.watermark(), NEVER, "the actions are silent");
        clock.observe(partition(Stream::Items, 0), EventTime(5_000), None);
        assert_eq!(clock.watermark(), NEVER, "the items do not count");
        clock.observe(acted, EventTime(400), None);
        assert_eq!(clock.watermark(), EventTime(390));
        clock.observe(acted, EventTime(300), None);
        clock.observe(acted, EventTime(2_000), None);
        assert_eq!(clock.watermark(), EventTime(990));
    }

    #[test]
    fn an_idle_partition_lets_time_go_on_until_its_next_event() {
        let (a, b) = (partition(Stream::Actions, 0), partition(Stream::Actions, 1));
        let mut clock = EventClock::new(0, [a, b]);
        clock.observe(a, EventTime(100), None);
        assert_eq!(clock.watermark(), NEVER);
        assert!(clock.mark(b, Mark::Idle));
        assert_eq!(clock.watermark(), EventTime(100));
        clock.observe(b, EventTime(50), None);
        clock.observe(a, EventTime(200), None);
        assert_eq!(clock.watermark(), EventTime(100), "held by b, and never back");
        clock.observe(b, EventTime(150), None);
        assert_eq!(clock.watermark(), EventTime(150));
    }

    #[test]
    fn a_whole_stream_is_never_idle() {
        let (a, b) = (partition(Stream::Actions, 0), partition(Stream::Actions, 1));
        let mut clock = EventClock::new(0, [a, b, partition(Stream::Impressions, 0)]);
        assert!(clock.mark(a, Mark::Idle));
        let before = clock.clone();
        assert!(!clock.mark(b, Mark::Idle));
        assert!(!clock.mark(partition(Stream::Items, 0), Mark::Idle));
        assert_eq!(clock, before);
        assert!(clock.mark(a, Mark::Active));
        assert!(clock.mark(b, Mark::Idle));
    }
}
