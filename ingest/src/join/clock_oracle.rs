//! The oracle of event time: the watermark of a world, written anew and for clarity.

use std::collections::{BTreeMap, BTreeSet};

use ouzel_sample::PartitionId;
use ouzel_sample::settings::Period;

use crate::join::JoinConfig;
use crate::join::world::WorldEvent;

/// The watermark before each event, and after the last.
pub(super) fn watermarks(config: &JoinConfig, partitions: &[PartitionId], all: &[WorldEvent]) -> Vec<i64> {
    let mut times = Times {
        max_jump_ms: config.max_time_jump.ms(),
        newest: partitions.iter().map(|id| (*id, (i64::MIN, false))).collect(),
        held: Vec::new(),
    };
    let mut watermarks = vec![i64::MIN];
    for event in all {
        let last = *watermarks.last().unwrap();
        match event {
            WorldEvent::Shown {
                partition,
                request,
                ts,
                ..
            } => times.event(*partition, *request, *ts, last),
            WorldEvent::Acted {
                partition,
                request,
                user,
                ts,
                ..
            } => times.event(*partition, request.unwrap_or(*user), *ts, last),
            WorldEvent::Advanced(partition, ts) => times.reach(*partition, *ts),
            WorldEvent::Active(partition) => times.newest.get_mut(partition).unwrap().1 = false,
            WorldEvent::Idle(partition) => {
                let others = |(id, (_, is_idle)): (&PartitionId, &(i64, bool))| {
                    id != partition && id.stream == partition.stream && !is_idle
                };
                if times.newest.iter().any(others) {
                    times.newest.get_mut(partition).unwrap().1 = true;
                }
            }
            WorldEvent::Broken(_) => {}
        }
        times.take_over();
        let active = times.newest.values().filter(|(_, is_idle)| !is_idle);
        let least = active.map(|(ts, _)| *ts).min().unwrap();
        watermarks.push(last.max(least.saturating_sub(config.allowed_lateness.ms())));
    }
    watermarks
}

/// The times of partitions: newest and idle, and what is held as (time, request, partition).
struct Times {
    max_jump_ms: i64,
    newest: BTreeMap<PartitionId, (i64, bool)>,
    held: Vec<(i64, u64, PartitionId)>,
}

impl Times {
    fn event(&mut self, partition: PartitionId, request: u64, ts: i64, watermark: i64) {
        if self.limit(partition).is_some_and(|limit| ts <= limit) {
            self.held.retain(|held| held.2 != partition || ts < watermark);
            return self.reach(partition, ts);
        }
        self.reach(partition, i64::MIN);
        let same = |held: &(i64, u64, PartitionId)| (held.1, held.2) == (request, partition);
        let newest = self.held.iter().filter(|held| same(held)).map(|held| held.0);
        let newest = newest.fold(ts, i64::max);
        self.held.retain(|held| !same(held));
        self.held.push((newest, request, partition));
        // The newest time that four requests have reached.
        let reached = |time: i64| -> usize {
            let requests = self.held.iter().filter(|held| held.0 >= time).map(|held| held.1);
            requests.collect::<BTreeSet<u64>>().len()
        };
        let confirmed = self
            .held
            .iter()
            .map(|held| held.0)
            .filter(|time| reached(*time) >= 4)
            .max();
        for (time, _, partition) in self.held.clone() {
            if let Some(confirmed) = confirmed {
                let (newest, _) = self.newest.get_mut(&partition).unwrap();
                *newest = time.min(confirmed).max(*newest);
            }
        }
    }

    /// The newest time that is not ahead; none before time has begun.
    fn limit(&self, partition: PartitionId) -> Option<i64> {
        if self.max_jump_ms == Period::TEN_YEARS.ms() {
            return Some(i64::MAX);
        }
        let own = self.newest[&partition].0;
        let others = self.newest.values().map(|(ts, _)| *ts).max().unwrap();
        let newest = if own == i64::MIN { others } else { own };
        (newest != i64::MIN).then(|| newest.saturating_add(self.max_jump_ms))
    }

    fn reach(&mut self, partition: PartitionId, ts: i64) {
        let (newest, is_idle) = self.newest.get_mut(&partition).unwrap();
        *newest = ts.max(*newest);
        *is_idle = false;
    }

    /// Held times that are not ahead any more count.
    fn take_over(&mut self) {
        loop {
            let is_over =
                |held: &&(i64, u64, PartitionId)| self.limit(held.2).is_some_and(|limit| held.0 <= limit);
            let Some(held) = self.held.iter().filter(is_over).max().copied() else {
                return;
            };
            self.held.retain(|other| *other != held);
            let (newest, _) = self.newest.get_mut(&held.2).unwrap();
            *newest = held.0.max(*newest);
        }
    }
}
