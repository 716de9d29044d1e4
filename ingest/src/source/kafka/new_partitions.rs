//! Partitions that a topic gains while it is read.
//!
//! Producers that write by key use a new partition as soon as they know of it, so ignoring it would lose records
//! silently. It is read from offset 0; records that are already deleted there are a loss like any other.

use std::time::{Duration, Instant};

use ouzel_sample::PartitionId;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tracing::debug;

use super::client_log::ClientLog;
use super::config::KafkaConfig;
use super::connect::connect_consumer;
use super::cursor::Cursor;
use super::reader::TopicReader;
use crate::error::Error;

/// Time between two checks. Records of a new partition wait at most this long per topic, which is short beside any
/// bound on lateness.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Timeout of a check. Nothing is read meanwhile, and the next check comes soon.
const CHECK_TIMEOUT: Duration = Duration::from_millis(200);
/// Timeout of the request that follows when there is a new partition; it may queue behind a waiting fetch.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks the topics in turn for new partitions.
///
/// It has its own connection, because a reader's connection may be waiting for records and a broker answers the
/// requests of one connection in order.
pub(super) struct PartitionWatcher {
    consumer: BaseConsumer<ClientLog>,
    next_reader: usize,
    last_check: Instant,
}

impl PartitionWatcher {
    pub(super) fn connect(config: &KafkaConfig) -> Result<Self, Error> {
        Ok(Self {
            consumer: connect_consumer(&config.bootstrap, &config.properties)?,
            next_reader: 0,
            last_check: Instant::now(),
        })
    }

    /// Checks the topic of the next reader if a check is due. Returns the partitions added to the reader.
    pub(super) fn check(&mut self, readers: &mut [TopicReader]) -> Result<Vec<PartitionId>, Error> {
        if self.last_check.elapsed() < CHECK_EVERY {
            return Ok(Vec::new());
        }
        self.next_reader = (self.next_reader + 1) % readers.len().max(1);
        let added = match readers.get_mut(self.next_reader) {
            Some(reader) => reader.add_new_partitions(&self.consumer),
            None => Ok(Vec::new()),
        };
        self.last_check = Instant::now();
        added
    }
}

impl TopicReader {
    /// Starts reading the partitions that `watcher` knows and this reader does not. Does nothing while the broker
    /// does not answer.
    fn add_new_partitions(&mut self, watcher: &BaseConsumer<ClientLog>) -> Result<Vec<PartitionId>, Error> {
        if self.new_partitions(watcher, CHECK_TIMEOUT).is_empty() {
            return Ok(Vec::new());
        }
        let mut added = Vec::new();
        // The reader's own client must know of them before they are assigned.
        for partition in self.new_partitions(&self.consumer, CONFIRM_TIMEOUT) {
            // A partition created a moment ago has no leader yet.
            let (low, high) = match self.watermarks(partition) {
                Ok(watermarks) => watermarks,
                Err(error) => {
                    debug!(topic = self.topic, partition, %error, "new partition cannot be read yet");
                    continue;
                }
            };
            self.check_within_log(partition, 0, low, high)?;
            let list = self.offsets([(partition, 0)].into_iter());
            list.and_then(|list| self.consumer.incremental_assign(&list))
                .map_err(|error| Error::broker("assign", self.name(partition), &error))?;
            self.cursors.insert(partition, Cursor::new(low, high, 0, None));
            added.push(self.id(partition));
        }
        Ok(added)
    }

    /// The topic's partitions without a cursor; none while the broker does not answer.
    fn new_partitions(&self, consumer: &BaseConsumer<ClientLog>, timeout: Duration) -> Vec<i32> {
        let metadata = match consumer.fetch_metadata(Some(&self.topic), timeout) {
            Ok(metadata) => metadata,
            Err(error) => {
                debug!(topic = self.topic, %error, "cannot check for new partitions yet");
                return Vec::new();
            }
        };
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        let partitions = topic.map(|topic| topic.partitions()).unwrap_or_default();
        let partitions = partitions.iter().map(|partition| partition.id());
        partitions
            .filter(|partition| !self.cursors.contains_key(partition))
            .collect()
    }
}
