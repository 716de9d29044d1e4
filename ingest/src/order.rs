//! The merge: many partitions in, one order out, and the runs that write this order down.
//!
//! Records are merged by (record timestamp, event time, stream, partition, offset), the event time standing in
//! where a record has no timestamp. Over bounded ranges that order is a function of the log. Live it depends on
//! when partitions were seen to be silent, so what was released is taken down as [`Run`]s for the plan log, and
//! a restart follows those instead of merging.
//!
//! This module reads no clock: whether a silent partition was waited for long enough is the caller's to say.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ouzel_sample::{DecodedRecord, EventTime, PartitionId, Position, Positions, Stream};

use crate::plan::Run;

/// The order cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// A record of a partition that was not assigned.
    #[error("cannot order {0}: its partition was not assigned")]
    Unassigned(Position),
    /// A source went back.
    #[error("cannot order {position}: the next record of {} must be at {next} or later", .position.partition)]
    Backwards {
        /// The record.
        position: Position,
        /// Where its partition stands.
        next: i64,
    },
    /// The log no longer has what was read from it.
    #[error(
        "cannot follow the plan: {} from {} to {} was read before, but the log goes on at {found:?}; \
         restore the records or restart from a snapshot after them", .run.partition, .run.from, .run.to
    )]
    Missing {
        /// The planned run.
        run: Run,
        /// The offset that came instead; `None` at the log's end.
        found: Option<i64>,
    },
    /// The plan does not continue where the partition stands.
    #[error("cannot follow the plan: {} from {} to {}, but the partition stands at {next}", .run.partition, .run.from, .run.to)]
    Misplaced {
        /// The planned run.
        run: Run,
        /// Where its partition stands.
        next: i64,
    },
}

/// Whether a log that was taken up to here is still read items first: nothing else was taken of it. A restart in the
/// middle of that goes on with it, or its order would not be that of the log.
#[must_use]
pub fn is_bootstrapping(taken: &Positions) -> bool {
    taken
        .iter()
        .all(|(partition, _)| partition.stream == Stream::Items)
}

/// What is known of a partition beyond the records at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ahead {
    /// More will come, or it is not known.
    Unknown,
    /// It was read to its end; more may be written.
    AtEnd,
    /// No more is wanted of it.
    Finished,
}

#[derive(Debug)]
struct Lane {
    records: VecDeque<(Key, DecodedRecord)>,
    /// The offset the next record pushed must have at least.
    next: i64,
    /// The time of the last record pushed: a rejected record without any time sorts with it.
    last: (i64, EventTime),
    ahead: Ahead,
}

impl Lane {
    fn from(next: i64) -> Self {
        Self {
            records: VecDeque::new(),
            next,
            last: (i64::MIN, EventTime::MIN),
            ahead: Ahead::Unknown,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    time: i64,
    event: EventTime,
    position: Position,
}

/// Merges partitions into one order.
#[derive(Debug)]
pub struct Orderer {
    lanes: BTreeMap<PartitionId, Lane>,
    heads: BTreeSet<Key>,
    /// Lanes without a record at hand.
    empty: BTreeSet<PartitionId>,
    /// Where each partition stands after what was released.
    released: Positions,
    runs: Vec<Run>,
    planned: VecDeque<Run>,
    is_bootstrapping: bool,
}

impl Orderer {
    /// An orderer of these partitions, each from this offset.
    ///
    /// With `bootstrap`, items are released first, and nothing else until their stream was once at its end.
    #[must_use]
    pub fn new(start: &Positions, bootstrap: bool) -> Self {
        Self {
            lanes: start
                .iter()
                .map(|(partition, next)| (partition, Lane::from(next)))
                .collect(),
            heads: BTreeSet::new(),
            empty: start.iter().map(|(partition, _)| partition).collect(),
            released: start.clone(),
            runs: Vec::new(),
            planned: VecDeque::new(),
            is_bootstrapping: bootstrap,
        }
    }

    /// Takes in a partition that the log has gained, from offset 0. One that it has already stays as it is.
    pub fn add(&mut self, partition: PartitionId) {
        if let Entry::Vacant(lane) = self.lanes.entry(partition) {
            lane.insert(Lane::from(0));
            self.empty.insert(partition);
            self.released.set(partition, 0);
        }
    }

    /// Queues a record. Offsets of a partition may have gaps, but never go back.
    pub fn push(&mut self, recorded: DecodedRecord) -> Result<(), OrderError> {
        let position = recorded.position;
        let lane = self
            .lanes
            .get_mut(&position.partition)
            .ok_or(OrderError::Unassigned(position))?;
        if position.offset < lane.next {
            return Err(OrderError::Backwards {
                position,
                next: lane.next,
            });
        }
        let event = recorded.event.as_ref().ok().map(|event| event.ts());
        let time = recorded
            .timestamp_ms
            .or(event.map(|ts| ts.0))
            .unwrap_or(lane.last.0);
        let key = Key {
            time,
            event: event.unwrap_or(lane.last.1),
            position,
        };
        lane.next = position.offset + 1;
        lane.last = (key.time, key.event);
        if lane.ahead == Ahead::AtEnd {
            lane.ahead = Ahead::Unknown;
        }
        if lane.records.is_empty() {
            self.heads.insert(key);
            self.empty.remove(&position.partition);
        }
        lane.records.push_back((key, recorded));
        Ok(())
    }

    /// Everything written to `partition` so far was pushed. The next push takes that back.
    pub fn at_end(&mut self, partition: PartitionId) {
        if let Some(lane) = self.lanes.get_mut(&partition)
            && lane.ahead == Ahead::Unknown
        {
            lane.ahead = Ahead::AtEnd;
        }
    }

    /// Everything that is wanted of `partition` was pushed: the end of a bounded range.
    pub fn finish(&mut self, partition: PartitionId) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.ahead = Ahead::Finished;
        }
    }

    /// Adds runs to be followed before anything is merged again.
    pub fn follow(&mut self, runs: impl IntoIterator<Item = Run>) {
        self.planned.extend(runs);
    }

    /// True until every run given to [`Orderer::follow`] was released.
    #[must_use]
    pub fn is_following(&self) -> bool {
        self.planned
            .iter()
            .any(|run| self.released.next(run.partition).is_none_or(|next| next < run.to))
    }

    /// The next record of the order, or `None` when it cannot be known yet.
    ///
    /// Merging waits for every partition that has no record at hand. `release_all` says that those at their end
    /// were waited for long enough; one that is not at its end is always waited for.
    pub fn next(&mut self, release_all: bool) -> Result<Option<DecodedRecord>, OrderError> {
        if let Some(partition) = self.planned_head()? {
            return Ok(partition.and_then(|partition| self.release(partition)));
        }
        if self.is_bootstrapping {
            let items = || self.lanes.iter().filter(|(id, _)| id.stream == Stream::Items);
            if items().any(|(_, lane)| lane.records.is_empty() && lane.ahead == Ahead::Unknown) {
                return Ok(None);
            }
            let first = items()
                .filter_map(|(_, lane)| lane.records.front())
                .map(|(key, _)| *key)
                .min();
            match first {
                Some(key) => return Ok(self.take(key.position.partition)),
                None => self.is_bootstrapping = false,
            }
        }
        let is_ready = self
            .empty
            .iter()
            .all(|partition| match self.lanes[partition].ahead {
                Ahead::Unknown => false,
                Ahead::AtEnd => release_all,
                Ahead::Finished => true,
            });
        match self.heads.first() {
            Some(key) if is_ready => Ok(self.take(key.position.partition)),
            _ => Ok(None),
        }
    }

    /// Where the record stands that merging would release next.
    #[must_use]
    pub fn head(&self) -> Option<Position> {
        self.heads.first().map(|key| key.position)
    }

    /// What was merged since the last call, for the plan log. What was followed is in it already.
    pub fn take_runs(&mut self) -> Vec<Run> {
        std::mem::take(&mut self.runs)
    }

    /// Forgets what was merged since the last call of either: for orders that no plan log keeps.
    pub fn forget_runs(&mut self) {
        self.runs.clear();
    }

    /// Where each partition stands after what was released.
    #[must_use]
    pub fn positions(&self) -> &Positions {
        &self.released
    }

    /// Records of `partition` waiting here.
    #[must_use]
    pub fn n_queued(&self, partition: PartitionId) -> usize {
        self.lanes.get(&partition).map_or(0, |lane| lane.records.len())
    }

    /// True when some record waits and only partitions at their end are being waited for: the state in which
    /// holding on is a choice, and the caller's clock decides it.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        !self.heads.is_empty()
            && !self.is_following()
            && self
                .empty
                .iter()
                .all(|partition| self.lanes[partition].ahead != Ahead::Unknown)
    }

    /// True when every partition is finished and everything was released.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.heads.is_empty() && self.lanes.values().all(|lane| lane.ahead == Ahead::Finished)
    }

    /// The partition of the next planned record: `Some(None)` while it has not come, `None` without a plan.
    fn planned_head(&mut self) -> Result<Option<Option<PartitionId>>, OrderError> {
        while let Some(run) = self.planned.front().copied() {
            let Some((lane, next)) = self
                .lanes
                .get(&run.partition)
                .zip(self.released.next(run.partition))
            else {
                let partition = run.partition;
                return Err(OrderError::Unassigned(Position {
                    partition,
                    offset: run.from,
                }));
            };
            if next == run.to {
                self.planned.pop_front();
                continue;
            }
            if next > run.to {
                return Err(OrderError::Misplaced { run, next });
            }
            let Some((key, _)) = lane.records.front() else {
                return match lane.ahead {
                    Ahead::Unknown => Ok(Some(None)),
                    Ahead::AtEnd | Ahead::Finished => Err(OrderError::Missing { run, found: None }),
                };
            };
            let offset = key.position.offset;
            let found = Some(offset);
            return match offset {
                // A run starts at a record and ends after one; both must still be there.
                _ if next <= run.from && offset < run.from => {
                    Err(OrderError::Misplaced { run, next: offset })
                }
                _ if next <= run.from && offset > run.from => Err(OrderError::Missing { run, found }),
                _ if offset >= run.to => Err(OrderError::Missing { run, found }),
                _ => Ok(Some(Some(run.partition))),
            };
        }
        Ok(None)
    }

    /// Releases the head of `partition` and takes it down.
    fn take(&mut self, partition: PartitionId) -> Option<DecodedRecord> {
        let recorded = self.release(partition)?;
        let offset = recorded.position.offset;
        match self.runs.last_mut() {
            Some(run) if run.partition == partition => run.to = offset + 1,
            _ => self.runs.push(Run {
                partition,
                from: offset,
                to: offset + 1,
            }),
        }
        Some(recorded)
    }

    fn release(&mut self, partition: PartitionId) -> Option<DecodedRecord> {
        let lane = self.lanes.get_mut(&partition)?;
        let (key, recorded) = lane.records.pop_front()?;
        self.heads.remove(&key);
        match lane.records.front() {
            Some((head, _)) => self.heads.insert(*head),
            None => self.empty.insert(partition),
        };
        self.released.advance(recorded.position);
        Some(recorded)
    }
}

#[cfg(test)]
mod tests;
