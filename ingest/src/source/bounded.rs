//! Bounded sources: a few partitions that end, each with its own reader.

use std::collections::BTreeSet;
use std::time::Duration;

use ouzel_sample::{PartitionId, Record};

use super::api::{PartitionState, Polled, Source};
use crate::error::Error;

/// Most records delivered by one poll.
const CHUNK: usize = 256;

/// Wait of a poll while every partition is paused, so that a polling caller does not spin.
const PAUSED_WAIT: Duration = Duration::from_millis(1);

/// Reads the records of one partition in offset order.
pub trait PartitionReader {
    /// The next record, or `None` at the end.
    ///
    /// # Errors
    /// When the underlying file cannot be read.
    fn read(&mut self) -> Result<Option<Record>, Error>;
}

#[derive(Debug)]
struct Partition<R> {
    state: PartitionState,
    reader: R,
    /// The next record, read ahead.
    head: Option<Record>,
    is_started: bool,
    is_end_reported: bool,
}

/// A source over partitions that end.
///
/// Among the partitions that are not paused, the one with the oldest next record is delivered first, so the order
/// stage holds back about one chunk per partition.
#[derive(Debug)]
pub struct BoundedSource<R> {
    partitions: Vec<Partition<R>>,
    paused: BTreeSet<PartitionId>,
    /// An error behind records that were delivered first.
    error: Option<Error>,
}

impl<R> BoundedSource<R> {
    pub(crate) fn over(partitions: impl IntoIterator<Item = (PartitionState, R)>) -> Self {
        let partition = |(state, reader)| Partition {
            state,
            reader,
            head: None,
            is_started: false,
            is_end_reported: false,
        };
        let mut partitions: Vec<_> = partitions.into_iter().map(partition).collect();
        partitions.sort_by_key(|partition| partition.state.id);
        Self {
            partitions,
            paused: BTreeSet::new(),
            error: None,
        }
    }
}

impl<R: PartitionReader> Source for BoundedSource<R> {
    fn poll(&mut self, timeout: Duration) -> Result<Polled, Error> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        for partition in self
            .partitions
            .iter_mut()
            .filter(|partition| !partition.is_started)
        {
            partition.head = partition.reader.read()?;
            partition.is_started = true;
        }
        let paused = &self.paused;
        let is_paused = |partition: &Partition<R>| paused.contains(&partition.state.id);
        // Ends come first: the order stage may be waiting for them.
        let ended = |partition: &&mut Partition<R>| partition.head.is_none() && !partition.is_end_reported;
        let mut partitions = self.partitions.iter_mut();
        if let Some(partition) = partitions.find(|partition| !is_paused(partition) && ended(partition)) {
            partition.is_end_reported = true;
            return Ok(Polled::AtEnd(partition.state.id));
        }
        if self.partitions.iter().all(|partition| partition.is_end_reported) {
            return Ok(Polled::Finished);
        }
        let partitions = self.partitions.iter_mut();
        let oldest = partitions
            .filter(|partition| !is_paused(partition) && partition.head.is_some())
            .min_by_key(|partition| {
                let timestamp = partition.head.as_ref().and_then(|record| record.timestamp_ms);
                (timestamp, partition.state.id)
            });
        let Some(partition) = oldest else {
            std::thread::sleep(timeout.min(PAUSED_WAIT));
            return Ok(Polled::Idle);
        };
        let mut records = Vec::new();
        while records.len() < CHUNK {
            let Some(record) = partition.head.take() else {
                break;
            };
            partition.state.next = record.position.offset + 1;
            records.push(record);
            match partition.reader.read() {
                Ok(head) => partition.head = head,
                Err(error) => {
                    self.error = Some(error);
                    break;
                }
            }
        }
        Ok(Polled::Records(records))
    }

    fn pause(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        self.paused.extend(partitions);
        Ok(())
    }

    fn resume(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        self.paused.retain(|id| !partitions.contains(id));
        Ok(())
    }

    fn partitions(&self) -> Vec<PartitionState> {
        self.partitions
            .iter()
            .map(|partition| partition.state.clone())
            .collect()
    }
}
