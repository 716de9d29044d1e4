//! The merge: many partitions in, one order out, and the runs that record it.
//!
//! Records are merged by (record timestamp, event time, stream, partition, offset); a record without timestamp is
//! merged by its event time. Over bounded ranges the order is a function of the log. On a live log it depends on when
//! partitions were silent, so the released records are noted as [`OffsetRun`]s for the plan log, and a restart follows
//! those instead of merging.
//!
//! This module reads no clock: the caller decides whether a silent partition was waited for long enough.

mod config;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ouzel_sample::{DecodedRecord, EventTime, PartitionId, Position, Positions};

use crate::plan::OffsetRun;

pub use config::OrderConfig;

/// The order cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages describe variants and fields")]
pub enum OrderError {
    #[error("cannot order {0}: its partition was not assigned")]
    Unassigned(Position),
    #[error("cannot order {position}: the next record of {} must be at {next} or later", .position.partition)]
    Backwards { position: Position, next: i64 },
    #[error(
        "cannot follow the plan log: offsets {} to {} of {} were read before, but the log continues at {}; restore the \
         records or restart from a later snapshot",
        .run.from, .run.to, .run.partition, .found.map_or("its end".to_owned(), |offset| format!("offset {offset}"))
    )]
    Missing { run: OffsetRun, found: Option<i64> },
    #[error(
        "cannot follow the plan log: it continues with offsets {} to {} of {}, but the next offset there is {next}",
        .run.from, .run.to, .run.partition
    )]
    Misplaced { run: OffsetRun, next: i64 },
}

/// True when a log is still read items and users first: nothing else was taken. A restart in the middle of that continues it, or
/// its order would not be that of the log.
pub fn is_bootstrapping(taken: &Positions) -> bool {
    taken.iter().all(|(partition, _)| partition.stream.is_catalog())
}

/// What follows the queued records of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueEnd {
    /// More records, or it is not known.
    Unknown,
    /// The end of the log; more may be written.
    AtEnd,
    /// The end of a bounded range.
    Finished,
}

#[derive(Debug)]
struct PartitionQueue {
    records: VecDeque<(MergeKey, DecodedRecord)>,
    /// The offset the next record pushed must have at least.
    next: i64,
    /// The time of the last record pushed: a rejected record without any time sorts with it.
    last: (i64, EventTime),
    ahead: QueueEnd,
}

impl PartitionQueue {
    fn from(next: i64) -> Self {
        Self {
            records: VecDeque::new(),
            next,
            last: (i64::MIN, EventTime::MIN),
            ahead: QueueEnd::Unknown,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MergeKey {
    time: i64,
    event: EventTime,
    position: Position,
}

/// Merges partitions into one order.
#[derive(Debug)]
pub struct Orderer {
    queues: BTreeMap<PartitionId, PartitionQueue>,
    heads: BTreeSet<MergeKey>,
    /// Partitions without a queued record.
    empty: BTreeSet<PartitionId>,
    /// Next offset to release of each partition.
    released: Positions,
    runs: Vec<OffsetRun>,
    planned: VecDeque<OffsetRun>,
    is_bootstrapping: bool,
}

impl Orderer {
    /// An orderer of these partitions, each from the given offset.
    ///
    /// With `bootstrap`, items and users are released first, and nothing else until their streams were once at their end.
    pub fn new(start: &Positions, bootstrap: bool) -> Self {
        Self {
            queues: start
                .iter()
                .map(|(partition, next)| (partition, PartitionQueue::from(next)))
                .collect(),
            heads: BTreeSet::new(),
            empty: start.iter().map(|(partition, _)| partition).collect(),
            released: start.clone(),
            runs: Vec::new(),
            planned: VecDeque::new(),
            is_bootstrapping: bootstrap,
        }
    }

    /// Adds a partition that the log has gained, from offset 0. A known partition is left as it is.
    pub fn add(&mut self, partition: PartitionId) {
        if let Entry::Vacant(queue) = self.queues.entry(partition) {
            queue.insert(PartitionQueue::from(0));
            self.empty.insert(partition);
            self.released.set(partition, 0);
        }
    }

    /// True if `partition` was assigned or added.
    pub fn has(&self, partition: PartitionId) -> bool {
        self.queues.contains_key(&partition)
    }

    /// Merges from here on as after a restart at this point, where `bootstrap` is as in [`Orderer::new`].
    pub(crate) fn restart(&mut self, bootstrap: bool) {
        self.is_bootstrapping = bootstrap;
        self.runs.clear();
    }

    /// Queues a record. Offsets of a partition may have gaps, but never go back.
    pub fn push(&mut self, record: DecodedRecord) -> Result<(), OrderError> {
        let position = record.position;
        let queue = self
            .queues
            .get_mut(&position.partition)
            .ok_or(OrderError::Unassigned(position))?;
        if position.offset < queue.next {
            return Err(OrderError::Backwards {
                position,
                next: queue.next,
            });
        }
        let event = record.event.as_ref().ok().map(|event| event.ts());
        let time = record
            .timestamp_ms
            .or(event.map(|ts| ts.0))
            .unwrap_or(queue.last.0);
        let key = MergeKey {
            time,
            event: event.unwrap_or(queue.last.1),
            position,
        };
        queue.next = position.offset + 1;
        queue.last = (key.time, key.event);
        if queue.ahead == QueueEnd::AtEnd {
            queue.ahead = QueueEnd::Unknown;
        }
        if queue.records.is_empty() {
            self.heads.insert(key);
            self.empty.remove(&position.partition);
        }
        queue.records.push_back((key, record));
        Ok(())
    }

    /// Everything written to `partition` so far was pushed. Holds until the next push.
    pub fn at_end(&mut self, partition: PartitionId) {
        if let Some(queue) = self.queues.get_mut(&partition)
            && queue.ahead == QueueEnd::Unknown
        {
            queue.ahead = QueueEnd::AtEnd;
        }
    }

    /// True if everything written to `partition` so far was pushed and released.
    pub fn is_drained(&self, partition: PartitionId) -> bool {
        self.queues
            .get(&partition)
            .is_some_and(|queue| queue.records.is_empty() && queue.ahead != QueueEnd::Unknown)
    }

    /// The bounded range of `partition` was pushed to its end.
    pub fn finish(&mut self, partition: PartitionId) {
        if let Some(queue) = self.queues.get_mut(&partition) {
            queue.ahead = QueueEnd::Finished;
        }
    }

    /// Adds runs to be followed before anything is merged again.
    pub fn follow(&mut self, runs: impl IntoIterator<Item = OffsetRun>) {
        self.planned.extend(runs);
    }

    /// True until every run given to [`Orderer::follow`] was released.
    pub fn is_following(&self) -> bool {
        self.planned
            .iter()
            .any(|run| self.released.next(run.partition).is_none_or(|next| next < run.to))
    }

    /// The next record of the order, or `None` when it cannot be known yet.
    ///
    /// Merging waits for every partition without a queued record. `release_all` stops the wait for partitions at their
    /// end; a partition that is not at its end is always waited for.
    pub fn next(&mut self, release_all: bool) -> Result<Option<DecodedRecord>, OrderError> {
        if let Some(partition) = self.planned_head()? {
            return Ok(partition.and_then(|partition| self.release(partition)));
        }
        if self.is_bootstrapping {
            let catalogs = || self.queues.iter().filter(|(id, _)| id.stream.is_catalog());
            if catalogs().any(|(_, queue)| queue.records.is_empty() && queue.ahead == QueueEnd::Unknown) {
                return Ok(None);
            }
            let first = catalogs()
                .filter_map(|(_, queue)| queue.records.front())
                .map(|(key, _)| *key)
                .min();
            match first {
                Some(key) => return Ok(self.merge(key.position.partition)),
                None => self.is_bootstrapping = false,
            }
        }
        let is_ready = self
            .empty
            .iter()
            .all(|partition| match self.queues[partition].ahead {
                QueueEnd::Unknown => false,
                QueueEnd::AtEnd => release_all,
                QueueEnd::Finished => true,
            });
        match self.heads.first() {
            Some(key) if is_ready => Ok(self.merge(key.position.partition)),
            _ => Ok(None),
        }
    }

    /// Position of the record that merging would release next.
    pub fn head(&self) -> Option<Position> {
        self.heads.first().map(|key| key.position)
    }

    /// The runs merged since the last call, for the plan log, which has the followed runs already.
    pub fn take_runs(&mut self) -> Vec<OffsetRun> {
        std::mem::take(&mut self.runs)
    }

    /// Forgets the runs merged since the last call of either: for orders that no plan log records.
    pub fn forget_runs(&mut self) {
        self.runs.clear();
    }

    /// Next offset to release of each partition.
    pub fn positions(&self) -> &Positions {
        &self.released
    }

    /// Number of queued records of `partition`.
    pub fn n_queued(&self, partition: PartitionId) -> usize {
        self.queues.get(&partition).map_or(0, |queue| queue.records.len())
    }

    /// True when a record waits only for partitions at their end: how long to wait is the caller's decision.
    pub fn is_holding(&self) -> bool {
        !self.heads.is_empty()
            && !self.is_following()
            && self
                .empty
                .iter()
                .all(|partition| self.queues[partition].ahead != QueueEnd::Unknown)
    }

    /// True when every partition is finished and everything was released.
    pub fn is_exhausted(&self) -> bool {
        self.heads.is_empty()
            && self
                .queues
                .values()
                .all(|queue| queue.ahead == QueueEnd::Finished)
    }

    /// The partition of the next planned record: `Some(None)` while it has not arrived, `None` without a plan.
    fn planned_head(&mut self) -> Result<Option<Option<PartitionId>>, OrderError> {
        while let Some(run) = self.planned.front().copied() {
            let Some((queue, next)) = self
                .queues
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
            let Some((key, _)) = queue.records.front() else {
                return match queue.ahead {
                    QueueEnd::Unknown => Ok(Some(None)),
                    QueueEnd::AtEnd | QueueEnd::Finished => Err(OrderError::Missing { run, found: None }),
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

    /// Releases the head of `partition` and notes it in the runs.
    fn merge(&mut self, partition: PartitionId) -> Option<DecodedRecord> {
        let record = self.release(partition)?;
        let offset = record.position.offset;
        match self.runs.last_mut() {
            Some(run) if run.partition == partition => run.to = offset + 1,
            _ => self.runs.push(OffsetRun {
                partition,
                from: offset,
                to: offset + 1,
            }),
        }
        Some(record)
    }

    fn release(&mut self, partition: PartitionId) -> Option<DecodedRecord> {
        let queue = self.queues.get_mut(&partition)?;
        let (key, record) = queue.records.pop_front()?;
        self.heads.remove(&key);
        match queue.records.front() {
            Some((head, _)) => self.heads.insert(*head),
            None => self.empty.insert(partition),
        };
        self.released.advance(record.position);
        Some(record)
    }
}

#[cfg(test)]
mod tests;
