//! Event time of the join: the watermark over all partitions of impressions and actions.
//!
//! The watermark is the least, over all partitions that are not idle, of the newest event time seen there,
//! minus the lateness bound; it never goes back. A partition without an event yet holds it at the beginning of time.
//! The action stream counts on purpose: when actions stop coming, time stops, and an outage makes no negatives.
//!
//! One wrong clock must not move time. An event dated more than `max_jump_ms` after the newest time of its partition is
//! ahead: its time is held until [`CONFIRMING_REQUESTS`] requests, in any partitions, are ahead of theirs and dated at or
//! after it. An event of the same partition that is on time and not ahead shows that time is still there, and drops what
//! the partition holds. The first events of a log are ahead of the beginning of time; the first event of a further
//! partition is judged by the newest time of all others. A bound of ten years trusts every clock, the first included.

use std::collections::BTreeMap;

use ouzel_sample::settings::Period;
use ouzel_sample::{EventTime, Id, PartitionId, Stream};
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

/// The time of an event that is ahead of its partition, and of a request that no other partition time confirms yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct HeldTime {
    partition: PartitionId,
    /// The request of the event.
    request: Id,
    /// The newest time that the request named in this partition.
    ts: EventTime,
}

/// Requests that must be ahead of time alike before time follows them. Two wrong events are not enough, and neither is
/// one user with a wrong clock beside others; after a pause of a log, time moves with the fourth request.
const CONFIRMING_REQUESTS: usize = 4;

/// The watermark and the event time of each partition. Equal clocks serialise to equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventClock {
    lateness_ms: i64,
    max_jump_ms: i64,
    watermark: EventTime,
    partitions: BTreeMap<PartitionId, PartitionTime>,
    /// Times that are held, in order of arrival: of fewer than [`CONFIRMING_REQUESTS`] requests.
    held: Vec<HeldTime>,
}

impl EventClock {
    /// A clock at the beginning of time. Partitions of the item stream do not count and are left out.
    pub fn new(
        lateness_ms: i64,
        max_jump_ms: i64,
        partitions: impl IntoIterator<Item = PartitionId>,
    ) -> Self {
        let mut clock = Self {
            lateness_ms,
            max_jump_ms,
            watermark: EventTime::MIN,
            partitions: BTreeMap::new(),
            held: Vec::new(),
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

    /// Notes the time of an event of `partition`, which becomes active if it was idle. Returns how far the event is ahead
    /// of its partition where its time is held, ms; 0 at the beginning of time.
    pub(crate) fn observe(
        &mut self,
        partition: PartitionId,
        request: Id,
        ts: EventTime,
        bug: Option<PlantedBug>,
    ) -> Option<i64> {
        if partition.stream.is_catalog() {
            return None;
        }
        let progress = *self.partitions.entry(partition).or_insert(FRESH);
        if ts <= progress.newest && !progress.is_idle && self.held.is_empty() {
            return None;
        }
        let ahead_ms = self.ahead_ms(progress.newest, ts);
        if ahead_ms.is_some() && bug != Some(PlantedBug::TrustEveryClock) {
            self.wake(partition);
            self.hold(HeldTime {
                partition,
                request,
                ts,
            });
            self.advance_watermark(bug);
            return ahead_ms;
        }
        if ts >= self.watermark {
            self.held.retain(|held| held.partition != partition);
        }
        self.advance(partition, ts, bug);
        None
    }

    /// Notes that time of `partition` is at least `ts`, as a trusted source says.
    pub(crate) fn advance(&mut self, partition: PartitionId, ts: EventTime, bug: Option<PlantedBug>) {
        if partition.stream.is_catalog() {
            return;
        }
        let progress = self.partitions.entry(partition).or_insert(FRESH);
        // Only a partition that holds the least newest time, or that joins them, can move the minimum.
        let may_move = progress.is_idle || progress.newest.plus_ms(-self.lateness_ms) <= self.watermark;
        progress.newest = progress.newest.max(ts);
        progress.is_idle = false;
        if !self.held.is_empty() {
            self.release();
            self.advance_watermark(bug);
        } else if may_move {
            self.advance_watermark(bug);
        }
    }

    /// The time by which an event is judged whose partition has the newest time `own`; `None` at the beginning of time.
    fn reference(&self, own: EventTime) -> Option<EventTime> {
        let newest = match own {
            EventTime::MIN => self.partitions.values().map(|progress| progress.newest).max()?,
            own => own,
        };
        (newest != EventTime::MIN).then_some(newest)
    }

    /// How far `ts` is ahead of a partition with the newest time `own`, ms; `None` where it is not ahead.
    fn ahead_ms(&self, own: EventTime, ts: EventTime) -> Option<i64> {
        if self.max_jump_ms >= Period::TEN_YEARS.ms() {
            return None;
        }
        match self.reference(own) {
            None => Some(0),
            Some(newest) => (ts > newest.plus_ms(self.max_jump_ms)).then(|| ts.since_ms(newest)),
        }
    }

    /// Holds a time, and follows the newest one that enough requests confirm.
    fn hold(&mut self, new: HeldTime) {
        let same = |held: &&mut HeldTime| (held.partition, held.request) == (new.partition, new.request);
        match self.held.iter_mut().find(same) {
            Some(held) => held.ts = held.ts.max(new.ts),
            None => self.held.push(new),
        }
        let mut requests: BTreeMap<Id, EventTime> = BTreeMap::new();
        for held in &self.held {
            let newest = requests.entry(held.request).or_insert(held.ts);
            *newest = held.ts.max(*newest);
        }
        let mut times: Vec<EventTime> = requests.into_values().collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        let Some(confirmed) = times.get(CONFIRMING_REQUESTS - 1) else {
            return;
        };
        for held in &self.held {
            if let Some(progress) = self.partitions.get_mut(&held.partition) {
                progress.newest = progress.newest.max(held.ts.min(*confirmed));
            }
        }
        self.release();
    }

    /// Takes over every held time that is not ahead any more, the newest first: it may take the others with it.
    fn release(&mut self) {
        let newest = |clock: &Self| {
            let held = clock
                .held
                .iter()
                .enumerate()
                .filter(|(_, held)| clock.is_over(held));
            held.max_by_key(|(_, held)| held.ts).map(|(index, _)| index)
        };
        while let Some(index) = newest(self) {
            let held = self.held.remove(index);
            if let Some(progress) = self.partitions.get_mut(&held.partition) {
                progress.newest = progress.newest.max(held.ts);
            }
        }
    }

    fn is_over(&self, held: &HeldTime) -> bool {
        let own = self.partitions.get(&held.partition);
        let own = own.map_or(EventTime::MIN, |progress| progress.newest);
        self.ahead_ms(own, held.ts).is_none()
    }

    fn wake(&mut self, partition: PartitionId) {
        if let Some(progress) = self.partitions.get_mut(&partition) {
            progress.is_idle = false;
        }
    }

    /// Applies a mark. Returns false, and changes nothing, where it would leave a stream without any partition
    /// that holds the watermark: a silent stream stops time.
    pub(crate) fn mark(&mut self, partition: PartitionId, mark: Mark) -> bool {
        if partition.stream.is_catalog() {
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

    /// The same clock under other bounds, from here on.
    pub(crate) fn with_bounds(self, lateness_ms: i64, max_jump_ms: i64) -> Self {
        let mut clock = Self {
            lateness_ms,
            max_jump_ms,
            ..self
        };
        clock.release();
        clock.advance_watermark(None);
        clock
    }

    /// Ends event time after the last record of a bounded log.
    pub(crate) fn finish(&mut self) {
        self.watermark = EventTime::MAX;
    }

    fn register(&mut self, partition: PartitionId) {
        if !partition.stream.is_catalog() {
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
    const MAX_JUMP: i64 = 1_000;

    #[test]
    fn time_is_that_of_the_slowest_partition_of_both_streams() {
        let shown = partition(Stream::Impressions, 0);
        let acted = partition(Stream::Actions, 0);
        let mut clock = EventClock::new(10, MAX_JUMP, [shown, acted, partition(Stream::Items, 0)]);
        clock.advance(shown, EventTime(1_000), None);
        assert_eq!(clock.watermark(), NEVER, "the actions are silent");
        clock.advance(partition(Stream::Items, 0), EventTime(5_000), None);
        assert_eq!(clock.watermark(), NEVER, "the items do not count");
        clock.advance(acted, EventTime(400), None);
        assert_eq!(clock.watermark(), EventTime(390));
        clock.advance(acted, EventTime(300), None);
        clock.advance(acted, EventTime(2_000), None);
        assert_eq!(clock.watermark(), EventTime(990));
    }

    #[test]
    fn an_idle_partition_lets_time_go_on_until_its_next_event() {
        let (a, b) = (partition(Stream::Actions, 0), partition(Stream::Actions, 1));
        let mut clock = EventClock::new(0, MAX_JUMP, [a, b]);
        clock.advance(a, EventTime(100), None);
        assert_eq!(clock.watermark(), NEVER);
        assert!(clock.mark(b, Mark::Idle));
        assert_eq!(clock.watermark(), EventTime(100));
        clock.advance(b, EventTime(50), None);
        clock.advance(a, EventTime(200), None);
        assert_eq!(clock.watermark(), EventTime(100), "held by b, and never back");
        clock.advance(b, EventTime(150), None);
        assert_eq!(clock.watermark(), EventTime(150));
    }

    #[test]
    fn a_whole_stream_is_never_idle() {
        let (a, b) = (partition(Stream::Actions, 0), partition(Stream::Actions, 1));
        let mut clock = EventClock::new(0, MAX_JUMP, [a, b, partition(Stream::Impressions, 0)]);
        assert!(clock.mark(a, Mark::Idle));
        let before = clock.clone();
        assert!(!clock.mark(b, Mark::Idle));
        assert!(!clock.mark(partition(Stream::Items, 0), Mark::Idle));
        assert_eq!(clock, before);
        assert!(clock.mark(a, Mark::Active));
        assert!(clock.mark(b, Mark::Idle));
    }

    /// A clock of one pair of partitions without lateness, at time 100.
    fn started() -> (EventClock, PartitionId, PartitionId) {
        let (shown, acted) = (partition(Stream::Impressions, 0), partition(Stream::Actions, 0));
        let mut clock = EventClock::new(0, MAX_JUMP, [shown, acted]);
        for partition in [shown, acted] {
            clock.advance(partition, EventTime(100), None);
        }
        (clock, shown, acted)
    }

    #[test]
    fn a_wrong_clock_among_others_never_moves_time() {
        let (mut clock, shown, acted) = started();
        for round in 0..10u64 {
            for wrong in 0..3 {
                let request = Id(round * 10 + wrong);
                assert!(clock.observe(shown, request, EventTime(9_000), None).is_some());
                assert!(clock.observe(acted, request, EventTime(9_001), None).is_some());
            }
            for partition in [shown, acted] {
                assert_eq!(clock.observe(partition, Id(1_000), EventTime(110), None), None);
            }
            assert_eq!((clock.watermark(), clock.held.len()), (EventTime(110), 0));
        }
    }

    #[test]
    fn after_a_pause_time_moves_with_the_fourth_request() {
        let (mut clock, shown, acted) = started();
        for (request, ts) in [(1, 5_000), (2, 5_001), (2, 5_002), (3, 5_003)] {
            assert!(clock.observe(shown, Id(request), EventTime(ts), None).is_some());
            assert!(
                clock
                    .observe(acted, Id(request), EventTime(ts + 1), None)
                    .is_some()
            );
            assert_eq!(clock.watermark(), EventTime(100));
        }
        assert!(clock.observe(shown, Id(4), EventTime(5_004), None).is_some());
        assert_eq!(
            clock.watermark(),
            EventTime(5_004),
            "both partitions were ahead alike"
        );
        assert_eq!(clock.held.len(), 0);
        assert_eq!(clock.observe(acted, Id(5), EventTime(5_100), None), None);
    }

    #[test]
    fn of_a_sparse_log_time_stays_three_requests_behind() {
        let (mut clock, shown, acted) = started();
        for n in 1..50 {
            let ts = EventTime(100 + 10_000 * n);
            clock.observe(shown, Id(n.unsigned_abs()), ts, None);
            clock.advance(acted, ts, None);
            let expected = if n < 4 {
                EventTime(100)
            } else {
                ts.plus_ms(-30_000)
            };
            assert_eq!(clock.watermark(), expected, "event {n}");
            assert!(clock.held.len() < CONFIRMING_REQUESTS);
        }
    }

    #[test]
    fn the_first_events_start_time_and_a_further_partition_joins_at_once() {
        let (shown, acted) = (partition(Stream::Impressions, 0), partition(Stream::Actions, 0));
        let mut clock = EventClock::new(0, MAX_JUMP, [shown, acted]);
        assert_eq!(clock.observe(shown, Id(1), EventTime(900_000), None), Some(0));
        for n in 2..5 {
            assert_eq!(clock.watermark(), NEVER);
            clock.observe(shown, Id(n), EventTime(200), None);
        }
        assert_eq!(clock.observe(acted, Id(4), EventTime(210), None), None);
        assert_eq!(
            clock.watermark(),
            EventTime(200),
            "the first event was ahead of the others"
        );
    }
}
