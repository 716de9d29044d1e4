//! One stream's consumer: where it starts, what it reads, what its errors mean.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use metrics::counter;
use ouzel_sample::{PartitionId, Position, Positions, Record, Stream};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::info;

use super::cursor::{Cursor, Step};
use super::tombstone;
use super::trouble::{Meaning, meaning};
use super::{Client, KafkaConfig, is_transient, properties};
use crate::Error;
use crate::metrics::{BYTES, OFFSET_DUPLICATES, OFFSET_GAPS, RECORDS};
use crate::source::{PartitionState, Polled};

/// How long a broker has to answer a question at the start.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Most records and bytes read at once, so that one busy stream does not keep the others waiting.
const CHUNK: usize = 512;
const CHUNK_BYTES: usize = 4 << 20;

/// The reader of one topic.
pub(super) struct Reader {
    pub(super) stream: Stream,
    pub(super) topic: String,
    pub(super) consumer: BaseConsumer<Client>,
    pub(super) cursors: BTreeMap<i32, Cursor>,
    /// An error was met and nothing read since: said once, not on every poll.
    pub(super) is_disturbed: bool,
}

impl Reader {
    /// Connects and finds the topic's partitions with their watermarks.
    pub(super) fn connect(config: &KafkaConfig, stream: Stream) -> Result<Self, Error> {
        Self::connect_where(config, stream, |_| true)
    }

    /// The same for those partitions alone that `named` names.
    pub(super) fn connect_only(
        config: &KafkaConfig,
        stream: Stream,
        named: &Positions,
    ) -> Result<Self, Error> {
        Self::connect_where(config, stream, |partition| {
            named.next(PartitionId { stream, partition }).is_some()
        })
    }

    fn connect_where(
        config: &KafkaConfig,
        stream: Stream,
        is_wanted: impl Fn(i32) -> bool,
    ) -> Result<Self, Error> {
        let consumer: BaseConsumer<Client> = properties::consumer(&config.bootstrap, &config.properties)?
            .create_with_context(Client::default())
            .map_err(|error| Error::client(&error))?;
        let topic = config.topics.name(stream).to_owned();
        let mut reader = Self {
            stream,
            topic,
            consumer,
            cursors: BTreeMap::new(),
            is_disturbed: false,
        };
        for partition in partitions_of(&reader.consumer, &reader.topic, &config.bootstrap)? {
            if !is_wanted(partition) {
                continue;
            }
            let (low, high) = reader.watermarks(partition)?;
            reader
                .cursors
                .insert(partition, Cursor::new(low, high, low, None));
        }
        Ok(reader)
    }

    pub(super) fn watermarks(&self, partition: i32) -> Result<(i64, i64), Error> {
        self.consumer
            .fetch_watermarks(&self.topic, partition, REQUEST_TIMEOUT)
            .map_err(|error| {
                Error::broker(
                    "fetch watermarks of",
                    format!("{}[{partition}]", self.topic),
                    &error,
                )
            })
    }

    /// Sets where each partition starts and ends, and refuses what its log does not hold.
    pub(super) fn place(
        &mut self,
        from: &Positions,
        until: Option<&Positions>,
        is_whole_log_expected: bool,
    ) -> Result<(), Error> {
        let named = from.iter().filter(|(id, _)| id.stream == self.stream);
        for (id, _) in named {
            if !self.cursors.contains_key(&id.partition) {
                return Err(Error::MissingPartition {
                    topic: self.topic.clone(),
                    partition: id.partition,
                    n_partitions: self.cursors.len(),
                });
            }
        }
        for (partition, cursor) in &mut self.cursors {
            let id = PartitionId {
                stream: self.stream,
                partition: *partition,
            };
            let (low, high) = (cursor.low, cursor.high);
            let next = match from.next(id) {
                Some(next) => next,
                None if is_whole_log_expected => 0,
                None => low,
            };
            let topic = || self.topic.clone();
            if next < low {
                return Err(Error::RetentionPassed {
                    topic: topic(),
                    partition: *partition,
                    next,
                    low,
                });
            }
            if next > high {
                return Err(Error::LogTruncated {
                    topic: topic(),
                    partition: *partition,
                    next,
                    high,
                });
            }
            let until = until.map(|until| until.next(id).unwrap_or(next));
            *cursor = Cursor::new(low, high, next, until);
        }
        Ok(())
    }

    /// Starts fetching what is not done.
    pub(super) fn assign(&self) -> Result<(), Error> {
        let failed = |error| Error::broker("assign", self.topic.as_str(), &error);
        let mut list = TopicPartitionList::new();
        for (partition, cursor) in self.cursors.iter().filter(|(_, cursor)| !cursor.is_done) {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(cursor.next))
                .map_err(failed)?;
        }
        if list.count() > 0 {
            self.consumer.assign(&list).map_err(failed)?;
        }
        Ok(())
    }

    /// Reads what is there, waiting up to `timeout` for the first of it, and adds it to `ready`.
    pub(super) fn read(&mut self, timeout: Duration, ready: &mut VecDeque<Result<Polled, Error>>) {
        let (mut n_records, mut n_bytes, mut n_duplicates, mut n_skipped) = (0usize, 0usize, 0u64, 0u64);
        let mut run: Vec<Record> = Vec::new();
        let mut timeout = timeout;
        while n_records < CHUNK && n_bytes < CHUNK_BYTES {
            let Some(outcome) = self.consumer.poll(std::mem::take(&mut timeout)) else {
                break;
            };
            let message = match outcome {
                Ok(message) => message,
                Err(error) => {
                    flush(&mut run, ready);
                    match meaning(&error) {
                        Meaning::End(partition) => ready.extend(self.end(partition).map(Ok)),
                        Meaning::Disturbance(code) => self.disturbed(code),
                        Meaning::OffsetLost => ready.push_back(Err(self.explain_reset())),
                        Meaning::Fatal => ready.push_back(Err(self.failure(&error))),
                    }
                    continue;
                }
            };
            let id = PartitionId {
                stream: self.stream,
                partition: message.partition(),
            };
            let Some(cursor) = self.cursors.get_mut(&id.partition) else {
                continue;
            };
            let was_done = cursor.is_done;
            match cursor.step(message.offset()) {
                Step::Take { n_skipped: skipped } => n_skipped += skipped,
                Step::Duplicate => {
                    n_duplicates += 1;
                    continue;
                }
                Step::Beyond if was_done => continue,
                Step::Beyond => {
                    flush(&mut run, ready);
                    ready.push_back(Ok(Polled::AtEnd(id)));
                    continue;
                }
            }
            let is_done = cursor.is_done;
            let timestamp_ms = message.timestamp().to_millis().filter(|ms| *ms >= 0);
            let payload = tombstone::payload(self.stream, message.payload(), message.key(), timestamp_ms);
            n_records += 1;
            n_bytes += payload.as_ref().map_or(0, Vec::len);
            if run.last().is_some_and(|last| last.position.partition != id) {
                flush(&mut run, ready);
            }
            run.push(Record {
                position: Position {
                    partition: id,
                    offset: message.offset(),
                },
                timestamp_ms,
                payload,
            });
            if is_done {
                flush(&mut run, ready);
                ready.push_back(Ok(Polled::AtEnd(id)));
            }
        }
        flush(&mut run, ready);
        if n_records > 0 && std::mem::take(&mut self.is_disturbed) {
            info!(topic = self.topic, "reading again");
        }
        for (name, n) in [
            (RECORDS, n_records as u64),
            (BYTES, n_bytes as u64),
            (OFFSET_DUPLICATES, n_duplicates),
            (OFFSET_GAPS, n_skipped),
        ] {
            if n > 0 {
                counter!(name, "stream" => self.stream.name()).increment(n);
            }
        }
    }

    /// The end of `partition` was reached. It ends a bounded read whose end was written already when the source
    /// was opened, even when its last offsets hold no record, as behind a transaction's marker; a bound that
    /// lies in the future is waited for.
    fn end(&mut self, partition: i32) -> Option<Polled> {
        let cursor = self.cursors.get_mut(&partition)?;
        if cursor.is_done {
            return None;
        }
        cursor.is_done = cursor.until.is_some_and(|until| until <= cursor.high);
        Some(Polled::AtEnd(PartitionId {
            stream: self.stream,
            partition,
        }))
    }

    pub(super) fn pause(&self, partitions: &[i32]) -> Result<(), Error> {
        self.switch("pause", partitions, |list| self.consumer.pause(list))
    }

    pub(super) fn resume(&self, partitions: &[i32]) -> Result<(), Error> {
        self.switch("resume", partitions, |list| self.consumer.resume(list))
    }

    fn switch(
        &self,
        attempt: &'static str,
        partitions: &[i32],
        call: impl Fn(&TopicPartitionList) -> Result<(), KafkaError>,
    ) -> Result<(), Error> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            if self.cursors.get(partition).is_some_and(|cursor| !cursor.is_done) {
                list.add_partition(&self.topic, *partition);
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        let failed = |error| Error::broker(attempt, self.topic.as_str(), &error);
        call(&list).map_err(failed)?;
        for element in list.elements() {
            element.error().map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn is_done(&self) -> bool {
        self.cursors.values().all(|cursor| cursor.is_done)
    }

    /// The partitions with nothing to read.
    pub(super) fn done(&self) -> impl Iterator<Item = PartitionId> + '_ {
        let done = self.cursors.iter().filter(|(_, cursor)| cursor.is_done);
        done.map(|(partition, _)| PartitionId {
            stream: self.stream,
            partition: *partition,
        })
    }

    pub(super) fn partitions(&self) -> Vec<PartitionState> {
        let state = |(partition, cursor): (&i32, &Cursor)| PartitionState {
            id: PartitionId {
                stream: self.stream,
                partition: *partition,
            },
            name: self.topic.clone(),
            low: cursor.low,
            high: Some(cursor.high),
            next: cursor.next,
        };
        self.cursors.iter().map(state).collect()
    }
}

/// The partitions of `topic`.
pub(crate) fn partitions_of(
    consumer: &BaseConsumer<Client>,
    topic: &str,
    bootstrap: &str,
) -> Result<Vec<i32>, Error> {
    let missing = || Error::MissingTopic {
        topic: topic.to_owned(),
        bootstrap: bootstrap.to_owned(),
    };
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    loop {
        let metadata = consumer
            .fetch_metadata(Some(topic), REQUEST_TIMEOUT)
            .map_err(|error| unreachable(consumer, bootstrap, &error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let code = found.and_then(|found| found.error()).map(Code::from);
        match code {
            None => {
                let partitions = found.map(|found| found.partitions()).unwrap_or_default();
                if partitions.is_empty() {
                    return Err(missing());
                }
                return Ok(partitions.iter().map(|partition| partition.id()).collect());
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic) => {
                return Err(missing());
            }
            // A topic made a moment ago has no leader yet.
            Some(code) if is_transient(code) && Instant::now() < deadline => {
                consumer.poll(Duration::from_millis(100));
            }
            Some(code) => {
                return Err(Error::Broker {
                    attempt: "describe topic",
                    subject: topic.to_owned(),
                    detail: code.to_string(),
                    transient: is_transient(code),
                });
            }
        }
    }
}

/// The error of a broker that does not answer `consumer`.
pub(crate) fn unreachable(consumer: &BaseConsumer<Client>, bootstrap: &str, error: &KafkaError) -> Error {
    // The log says what the code does not: refused, unknown host, bad certificate.
    consumer.poll(Duration::ZERO);
    let detail = consumer.context().last_words();
    Error::Unreachable {
        bootstrap: bootstrap.to_owned(),
        detail: detail.unwrap_or_else(|| error.to_string()),
    }
}

fn flush(run: &mut Vec<Record>, ready: &mut VecDeque<Result<Polled, Error>>) {
    if !run.is_empty() {
        ready.push_back(Ok(Polled::Records(std::mem::take(run))));
    }
}
