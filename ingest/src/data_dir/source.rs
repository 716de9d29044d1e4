//! A data folder as a source: bounded, stamped with event time, the same on every run.

use std::sync::Arc;
use std::time::Duration;

use ouzel_sample::{PartitionId, Positions, Record, Stream};

use super::DataDir;
use crate::Error;
use crate::source::{Lane, Lanes, PartitionState, Polled, Source};

/// Reads a [`DataDir`]: one partition per stream, a stream's n-th event at offset n.
#[derive(Debug)]
pub struct DataSource {
    lanes: Lanes<DataLane>,
}

#[derive(Debug)]
struct DataLane {
    data: Arc<DataDir>,
    stream: Stream,
    next: usize,
}

impl DataSource {
    /// A source over `data` from `from` on.
    #[must_use]
    pub fn new(data: &Arc<DataDir>, from: &Positions) -> Self {
        let lanes = Stream::EVENTS.map(|stream| {
            let id = PartitionId { stream, partition: 0 };
            let next = usize::try_from(from.next(id).unwrap_or(0)).unwrap_or(0);
            let high = i64::try_from(data.n_records(stream)).ok();
            let name = format!("{} of {}", stream, data.path().display());
            let state = PartitionState {
                id,
                name,
                low: 0,
                high,
                next: from.next(id).unwrap_or(0),
            };
            (
                state,
                DataLane {
                    data: Arc::clone(data),
                    stream,
                    next,
                },
            )
        });
        Self {
            lanes: Lanes::new(lanes),
        }
    }
}

impl Lane for DataLane {
    fn read(&mut self) -> Result<Option<Record>, Error> {
        let record = self.data.record(self.stream, self.next);
        self.next += 1;
        Ok(record)
    }
}

impl Source for DataSource {
    fn poll(&mut self, timeout: Duration) -> Result<Polled, Error> {
        self.lanes.poll(timeout)
    }

    fn pause(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        self.lanes.pause(partitions);
        Ok(())
    }

    fn resume(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        self.lanes.resume(partitions);
        Ok(())
    }

    fn partitions(&self) -> Vec<PartitionState> {
        self.lanes.partitions()
    }
}
