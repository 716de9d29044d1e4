//! Partitions that a topic gains while it is read.
//!
//! Whoever writes by key writes to the new partition from some moment on, so leaving it out would lose records
//! without a word. It is read from its first offset; what it no longer has there is a loss like any other.

use std::time::Duration;

use ouzel_sample::PartitionId;
use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::debug;

use super::cursor::Cursor;
use super::reader::Reader;
use crate::Error;

/// How long the broker has to say what it knows of a topic. Nothing is read meanwhile, and it is asked again soon.
const PATIENCE: Duration = Duration::from_millis(200);

impl Reader {
    /// Takes up the partitions that the topic has gained. A broker that does not answer is asked another time.
    pub(super) fn grow(&mut self) -> Result<Vec<PartitionId>, Error> {
        let metadata = match self.consumer.fetch_metadata(Some(&self.topic), PATIENCE) {
            Ok(metadata) => metadata,
            Err(error) => {
                debug!(topic = self.topic, %error, "cannot ask for new partitions yet");
                return Ok(Vec::new());
            }
        };
        let found = metadata.topics().iter().find(|found| found.name() == self.topic);
        let partitions = found.map(|found| found.partitions()).unwrap_or_default();
        let new = partitions.iter().map(|partition| partition.id());
        let new: Vec<i32> = new.filter(|id| !self.cursors.contains_key(id)).collect();
        let mut added = Vec::new();
        for partition in new {
            // One made a moment ago has no leader yet.
            let (low, high) = match self.watermarks(partition) {
                Ok(watermarks) => watermarks,
                Err(error) => {
                    debug!(topic = self.topic, partition, %error, "a new partition cannot be read yet");
                    continue;
                }
            };
            if low > 0 {
                return Err(Error::RetentionPassed {
                    topic: self.topic.clone(),
                    partition,
                    next: 0,
                    low,
                });
            }
            let failed = |error| Error::broker("assign", format!("{}[{partition}]", self.topic), &error);
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&self.topic, partition, Offset::Offset(0))
                .map_err(failed)?;
            self.consumer.incremental_assign(&list).map_err(failed)?;
            self.cursors.insert(partition, Cursor::new(low, high, 0, None));
            added.push(PartitionId {
                stream: self.stream,
                partition,
            });
        }
        Ok(added)
    }
}
