//! What bounded sources have in common: a few ordered lanes, one per partition, read in turn.
//!
//! Of the lanes that are open and not paused, the one with the oldest next record goes first, so what the
//! order stage has to hold back stays about one chunk per lane.

use std::collections::BTreeSet;
use std::time::Duration;

use ouzel_sample::{PartitionId, Record};

use super::{PartitionState, Polled};
use crate::Error;

/// Most records handed out at once.
const CHUNK: usize = 256;

/// How long a call waits when every lane is paused, so that a caller who polls in a loop does not spin.
const PAUSED_WAIT: Duration = Duration::from_millis(1);

/// The records of one partition, in offset order.
pub(crate) trait Lane {
    /// The next record, or `None` at the end.
    fn read(&mut self) -> Result<Option<Record>, Error>;
}

#[derive(Debug)]
struct Open<L> {
    state: PartitionState,
    lane: L,
    head: Option<Record>,
    is_started: bool,
    is_end_told: bool,
}

/// Lanes read as one source.
#[derive(Debug)]
pub(crate) struct Lanes<L> {
    lanes: Vec<Open<L>>,
    paused: BTreeSet<PartitionId>,
    /// Met while there were records to hand out first.
    failure: Option<Error>,
}

impl<L: Lane> Lanes<L> {
    pub(crate) fn new(lanes: impl IntoIterator<Item = (PartitionState, L)>) -> Self {
        let mut lanes: Vec<_> = lanes
            .into_iter()
            .map(|(state, lane)| Open {
                state,
                lane,
                head: None,
                is_started: false,
                is_end_told: false,
            })
            .collect();
        lanes.sort_by_key(|lane| lane.state.id);
        Self {
            lanes,
            paused: BTreeSet::new(),
            failure: None,
        }
    }

    pub(crate) fn poll(&mut self, timeout: Duration) -> Result<Polled, Error> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        for lane in &mut self.lanes {
            if !lane.is_started {
                lane.head = lane.lane.read()?;
                lane.is_started = true;
            }
        }
        let paused = &self.paused;
        let mut open = self
            .lanes
            .iter_mut()
            .filter(|lane| !paused.contains(&lane.state.id));
        // An end is told before anything else: the order stage may be waiting for it.
        if let Some(lane) = open.find(|lane| lane.head.is_none() && !lane.is_end_told) {
            lane.is_end_told = true;
            return Ok(Polled::AtEnd(lane.state.id));
        }
        if self.lanes.iter().all(|lane| lane.is_end_told) {
            return Ok(Polled::Finished);
        }
        let oldest = self
            .lanes
            .iter_mut()
            .filter(|lane| !paused.contains(&lane.state.id) && lane.head.is_some())
            .min_by_key(|lane| {
                (
                    lane.head.as_ref().and_then(|record| record.timestamp_ms),
                    lane.state.id,
                )
            });
        let Some(lane) = oldest else {
            std::thread::sleep(timeout.min(PAUSED_WAIT));
            return Ok(Polled::Idle);
        };
        let mut records = Vec::new();
        while records.len() < CHUNK {
            let Some(record) = lane.head.take() else { break };
            lane.state.next = record.position.offset + 1;
            records.push(record);
            match lane.lane.read() {
                Ok(head) => lane.head = head,
                Err(failure) => {
                    self.failure = Some(failure);
                    break;
                }
            }
        }
        Ok(Polled::Records(records))
    }

    pub(crate) fn pause(&mut self, partitions: &[PartitionId]) {
        self.paused.extend(partitions);
    }

    pub(crate) fn resume(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            self.paused.remove(partition);
        }
    }

    pub(crate) fn partitions(&self) -> Vec<PartitionState> {
        self.lanes.iter().map(|lane| lane.state.clone()).collect()
    }
}
