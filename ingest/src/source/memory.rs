//! Records from memory: tests, benches and worlds that are generated.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ouzel_sample::{PartitionId, Positions, Record};

use super::{Lane, Lanes, PartitionState, Polled, Source};
use crate::Error;

/// A bounded source over records held in memory.
#[derive(Debug)]
pub struct MemorySource {
    lanes: Lanes<VecDeque<Record>>,
}

impl MemorySource {
    /// A source over `records`, which may be of any partitions and in any order; records of one partition are
    /// handed out by offset, those before `from` not at all.
    #[must_use]
    pub fn new(records: impl IntoIterator<Item = Record>, from: &Positions) -> Self {
        let mut partitions: BTreeMap<PartitionId, VecDeque<Record>> = BTreeMap::new();
        for record in records {
            partitions
                .entry(record.position.partition)
                .or_default()
                .push_back(record);
        }
        let lanes = partitions.into_iter().map(|(id, mut records)| {
            records
                .make_contiguous()
                .sort_by_key(|record| record.position.offset);
            let low = records.front().map_or(0, |record| record.position.offset);
            let high = records.back().map_or(0, |record| record.position.offset + 1);
            let next = from.next(id).unwrap_or(low);
            records.retain(|record| record.position.offset >= next);
            (
                PartitionState {
                    id,
                    name: id.to_string(),
                    low,
                    high: Some(high),
                    next,
                },
                records,
            )
        });
        Self {
            lanes: Lanes::new(lanes),
        }
    }
}

impl Lane for VecDeque<Record> {
    fn read(&mut self) -> Result<Option<Record>, Error> {
        Ok(self.pop_front())
    }
}

impl Source for MemorySource {
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
