//! Records from memory, for tests, benchmarks and generated data.

use std::collections::{BTreeMap, VecDeque};

use ouzel_sample::{PartitionId, Positions, Record};

use super::api::PartitionState;
use super::bounded::{BoundedSource, PartitionReader};
use crate::error::Error;

/// A bounded source over records held in memory.
pub type MemorySource = BoundedSource<VecDeque<Record>>;

impl MemorySource {
    /// A source over `records` of any partitions in any order. Each partition is delivered by offset, from its
    /// offset in `from` on.
    pub fn new(records: impl IntoIterator<Item = Record>, from: &Positions) -> Self {
        let mut partitions: BTreeMap<PartitionId, Vec<Record>> = BTreeMap::new();
        for record in records {
            let partition = partitions.entry(record.position.partition).or_default();
            partition.push(record);
        }
        Self::over(partitions.into_iter().map(|(id, mut records)| {
            records.sort_by_key(|record| record.position.offset);
            let low = records.first().map_or(0, |record| record.position.offset);
            let high = records.last().map_or(0, |record| record.position.offset + 1);
            let next = from.next(id).unwrap_or(low);
            records.retain(|record| record.position.offset >= next);
            let state = PartitionState {
                id,
                name: id.to_string(),
                low,
                high: Some(high),
                next,
            };
            (state, VecDeque::from(records))
        }))
    }
}

impl PartitionReader for VecDeque<Record> {
    fn read(&mut self) -> Result<Option<Record>, Error> {
        Ok(self.pop_front())
    }
}
