//! Partitions that a topic gains while it is read.
//!
//! Whoever writes by key writes to the new partition from some moment on, so leaving it out would lose records
//! without a word. It is read from its first offset; what it no longer has there is a loss like any other.

use std::time::{Duration, Instant};

use ouzel_sample::PartitionId;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::debug;

use super::cursor::Cursor;
use super::reader::Reader;
use super::{Client, KafkaConfig, properties};
use crate::Error;

/// How often a topic is asked. Records of a new partition wait unseen for that long at most times the number of topics,
/// which is short beside any bound on lateness.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the broker has to say what it knows of a topic. Nothing is read meanwhile, and it is asked again soon.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long it has once there is a new partition, behind a fetch that may wait for records.
const LONG_PATIENCE: Duration = Duration::from_secs(2);

/// Asks topics, in turn, whether they have gained partitions.
///
/// By a client of its own: a reader's connection may be waiting for records, and a broker answers one connection's
/// requests one after the other.
pub(super) struct Scout {
    consumer: BaseConsumer<Client>,
    turn: usize,
    last: Instant,
}

impl Scout {
    pub(super) fn connect(config: &KafkaConfig) -> Result<Self, Error> {
        let consumer = properties::consumer(&config.bootstrap, &config.properties)?
            .create_with_context(Client::default())
            .map_err(|error| Error::client(&error))?;
        Ok(Self {
            consumer,
            turn: 0,
            last: Instant::now(),
        })
    }

    /// Has the next reader take up the partitions that its topic has gained, if it is time to ask.
    pub(super) fn look(&mut self, readers: &mut [Reader]) -> Result<Vec<PartitionId>, Error> {
        if self.last.elapsed() < LOOK_EVERY {
            return Ok(Vec::new());
        }
        self.turn = (self.turn + 1) % readers.len().max(1);
        let added = match readers.get_mut(self.turn) {
            Some(reader) => reader.grow(&self.consumer),
            None => Ok(Vec::new()),
        };
        self.last = Instant::now();
        added
    }
}

impl Reader {
    /// Takes up the partitions that the topic has gained by what `scout` is told. A broker that does not answer is
    /// asked another time.
    fn grow(&mut self, scout: &BaseConsumer<Client>) -> Result<Vec<PartitionId>, Error> {
        let named = |consumer: &BaseConsumer<Client>, patience| match consumer
            .fetch_metadata(Some(&self.topic), patience)
        {
            Ok(metadata) => {
                let found = metadata.topics().iter().find(|found| found.name() == self.topic);
                let partitions = found.map(|found| found.partitions()).unwrap_or_default();
                partitions.iter().map(|partition| partition.id()).collect()
            }
            Err(error) => {
                debug!(topic = self.topic, %error, "cannot ask for new partitions yet");
                Vec::new()
            }
        };
        let is_new = |id: &i32| !self.cursors.contains_key(id);
        if !named(scout, PATIENCE).iter().any(is_new) {
            return Ok(Vec::new());
        }
        // The reader's own client must know of them before they are assigned.
        let mut new = named(&self.consumer, LONG_PATIENCE);
        new.retain(is_new);
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
