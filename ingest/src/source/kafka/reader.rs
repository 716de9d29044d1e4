//! Reading one topic: where each partition starts and ends, and what is read next.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use metrics::counter;
use ouzel_sample::{PartitionId, Positions, Record, RecordMetadata, Stream};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::info;

use super::client_log::ClientLog;
use super::config::KafkaConfig;
use super::connect::{REQUEST_TIMEOUT, connect_consumer, once_led, partitions_of};
use super::cursor::{Cursor, OffsetCheck};
use super::diagnosis::ReadError;
use crate::error::Error;
use crate::metrics::{BYTES, OFFSET_DUPLICATES, OFFSET_GAPS, RECORDS};
use crate::source::api::{PartitionState, Polled};

/// Most records and bytes read at once, so that one busy topic does not delay the others.
const CHUNK: u64 = 512;
const CHUNK_BYTES: u64 = 4 << 20;

pub(super) struct TopicReader {
    pub(super) stream: Stream,
    pub(super) topic: String,
    pub(super) consumer: BaseConsumer<ClientLog>,
    /// Read positions by partition number.
    pub(super) cursors: BTreeMap<i32, Cursor>,
    /// An error occurred and nothing was read since. Logged once, not at every poll.
    pub(super) is_interrupted: bool,
    /// Records come with their keys and headers.
    has_metadata: bool,
}

impl TopicReader {
    /// Connects and finds the wanted partitions of the topic with their watermarks.
    pub(super) fn connect(
        config: &KafkaConfig,
        stream: Stream,
        is_wanted: impl Fn(PartitionId) -> bool,
    ) -> Result<Self, Error> {
        let mut reader = Self {
            stream,
            topic: config.topics.name(stream).to_owned(),
            consumer: connect_consumer(&config.bootstrap, &config.properties)?,
            cursors: BTreeMap::new(),
            is_interrupted: false,
            has_metadata: config.with_metadata.contains(&stream),
        };
        for partition in partitions_of(&reader.consumer, &reader.topic, &config.bootstrap)? {
            if is_wanted(reader.id(partition)) {
                let watermarks = once_led(|| reader.try_watermarks(partition));
                let (low, high) = watermarks.map_err(|error| reader.no_watermarks(partition, &error))?;
                let cursor = Cursor::new(low, high, low, None);
                reader.cursors.insert(partition, cursor);
            }
        }
        Ok(reader)
    }

    pub(super) fn id(&self, partition: i32) -> PartitionId {
        PartitionId::new(self.stream, partition)
    }

    /// `topic[partition]`, for messages.
    pub(super) fn name(&self, partition: i32) -> String {
        format!("{}[{partition}]", self.topic)
    }

    /// The first offset of a partition and the offset after its last record.
    pub(super) fn watermarks(&self, partition: i32) -> Result<(i64, i64), Error> {
        self.try_watermarks(partition)
            .map_err(|error| self.no_watermarks(partition, &error))
    }

    fn try_watermarks(&self, partition: i32) -> Result<(i64, i64), KafkaError> {
        self.consumer
            .fetch_watermarks(&self.topic, partition, REQUEST_TIMEOUT)
    }

    fn no_watermarks(&self, partition: i32, error: &KafkaError) -> Error {
        Error::broker("fetch watermarks of", self.name(partition), error)
    }

    /// Refuses a next offset that the log no longer or not yet holds.
    pub(super) fn check_within_log(
        &self,
        partition: i32,
        next: i64,
        low: i64,
        high: i64,
    ) -> Result<(), Error> {
        let partition = self.name(partition);
        if next < low {
            return Err(Error::RetentionPassed { partition, next, low });
        }
        if next > high {
            return Err(Error::LogTruncated {
                partition,
                next,
                high,
            });
        }
        Ok(())
    }

    /// Sets where each partition starts and ends, and refuses positions outside of its log.
    pub(super) fn set_range(
        &mut self,
        from: &Positions,
        until: Option<&Positions>,
        is_whole_log_expected: bool,
    ) -> Result<(), Error> {
        let named = from.iter().filter(|(id, _)| id.stream == self.stream);
        for (id, _) in named {
            if !self.cursors.contains_key(&id.partition) {
                return Err(Error::MissingPartition {
                    partition: self.name(id.partition),
                    n_partitions: self.cursors.len(),
                });
            }
        }
        let mut cursors = BTreeMap::new();
        for (partition, Cursor { low, high, .. }) in &self.cursors {
            let id = self.id(*partition);
            let start = if is_whole_log_expected { 0 } else { *low };
            let next = from.next(id).unwrap_or(start);
            self.check_within_log(*partition, next, *low, *high)?;
            let until = until.map(|until| until.next(id).unwrap_or(next));
            cursors.insert(*partition, Cursor::new(*low, *high, next, until));
        }
        self.cursors = cursors;
        Ok(())
    }

    /// Starts fetching the partitions that are not done.
    pub(super) fn assign(&self) -> Result<(), Error> {
        let unread = self.cursors.iter().filter(|(_, cursor)| !cursor.is_done);
        let list = self.offsets(unread.map(|(partition, cursor)| (*partition, cursor.next)));
        let assigned = list.and_then(|list| match list.count() {
            0 => Ok(()),
            _ => self.consumer.assign(&list),
        });
        assigned.map_err(|error| Error::broker("assign", self.topic.as_str(), &error))
    }

    /// Offsets of partitions of this topic, for a request.
    pub(super) fn offsets(
        &self,
        offsets: impl Iterator<Item = (i32, i64)>,
    ) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        }
        Ok(list)
    }

    /// Reads one chunk, waiting up to `timeout` for its first record, and appends the results to `ready`.
    pub(super) fn read(&mut self, timeout: Duration, ready: &mut VecDeque<Result<Polled, Error>>) {
        let mut chunk = Chunk {
            has_metadata: self.has_metadata,
            ..Chunk::default()
        };
        let mut timeout = timeout;
        while chunk.n_records < CHUNK && chunk.n_bytes < CHUNK_BYTES {
            match self.consumer.poll(std::mem::take(&mut timeout)) {
                None => break,
                Some(Ok(message)) => chunk.add(self.stream, &mut self.cursors, &message),
                Some(Err(error)) => match ReadError::from(&error) {
                    ReadError::EndOfPartition(partition) => {
                        if let Some(end) = self.end(partition) {
                            chunk.push(Ok(end));
                        }
                    }
                    ReadError::Transient(code) => self.report_transient(code),
                    ReadError::OffsetLost => chunk.push(Err(self.explain_lost_offset())),
                    ReadError::Fatal => chunk.push(Err(self.explain_fatal(&error))),
                },
            }
        }
        chunk.flush();
        if chunk.n_records > 0 && std::mem::take(&mut self.is_interrupted) {
            info!(topic = self.topic, "reading from kafka continues");
        }
        chunk.count(self.stream);
        ready.extend(chunk.results);
    }

    /// Handles the end of `partition`. It completes a bounded read whose end existed when the source was opened, even
    /// when the last offsets hold no record, as after a transaction marker. A later end is waited for.
    fn end(&mut self, partition: i32) -> Option<Polled> {
        let cursor = self.cursors.get_mut(&partition)?;
        if cursor.is_done {
            return None;
        }
        cursor.is_done = cursor.until.is_some_and(|until| until <= cursor.high);
        Some(Polled::AtEnd(self.id(partition)))
    }

    pub(super) fn pause(&self, partitions: &[PartitionId]) -> Result<(), Error> {
        self.on_fetched("pause", partitions, |list| self.consumer.pause(list))
    }

    pub(super) fn resume(&self, partitions: &[PartitionId]) -> Result<(), Error> {
        self.on_fetched("resume", partitions, |list| self.consumer.resume(list))
    }

    /// Calls `call` with those of `partitions` that this reader fetches, unless there are none.
    fn on_fetched(
        &self,
        attempt: &'static str,
        partitions: &[PartitionId],
        call: impl Fn(&TopicPartitionList) -> Result<(), KafkaError>,
    ) -> Result<(), Error> {
        let mut list = TopicPartitionList::new();
        for id in partitions.iter().filter(|id| id.stream == self.stream) {
            if self
                .cursors
                .get(&id.partition)
                .is_some_and(|cursor| !cursor.is_done)
            {
                list.add_partition(&self.topic, id.partition);
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

    /// The partitions with nothing left to read.
    pub(super) fn done(&self) -> impl Iterator<Item = PartitionId> + '_ {
        let done = self.cursors.iter().filter(|(_, cursor)| cursor.is_done);
        done.map(|(partition, _)| self.id(*partition))
    }

    pub(super) fn partitions(&self) -> Vec<PartitionState> {
        let state = |(partition, cursor): (&i32, &Cursor)| PartitionState {
            id: self.id(*partition),
            name: self.topic.clone(),
            low: cursor.low,
            high: Some(cursor.high),
            next: cursor.next,
        };
        self.cursors.iter().map(state).collect()
    }
}

/// The results of one read, with its counts.
#[derive(Default)]
struct Chunk {
    results: Vec<Result<Polled, Error>>,
    /// Consecutive records of one partition, not in `results` yet.
    records: Vec<Record>,
    n_records: u64,
    n_bytes: u64,
    n_duplicates: u64,
    n_skipped: u64,
    has_metadata: bool,
}

impl Chunk {
    /// Adds a message unless it was read before or lies beyond the end of a bounded read.
    fn add(&mut self, stream: Stream, cursors: &mut BTreeMap<i32, Cursor>, message: &BorrowedMessage<'_>) {
        let id = PartitionId::new(stream, message.partition());
        let Some(cursor) = cursors.get_mut(&id.partition) else {
            return;
        };
        let was_done = cursor.is_done;
        match cursor.advance(message.offset()) {
            OffsetCheck::Next { n_skipped } => self.n_skipped += n_skipped,
            OffsetCheck::Duplicate => {
                self.n_duplicates += 1;
                return;
            }
            OffsetCheck::BeyondEnd => {
                if !was_done {
                    self.push(Ok(Polled::AtEnd(id)));
                }
                return;
            }
        }
        let timestamp_ms = message.timestamp().to_millis().filter(|ms| *ms >= 0);
        let payload = message.payload().map(<[u8]>::to_vec);
        // A null value under an item's key deletes the item.
        let metadata = (self.has_metadata || payload.is_none()).then(|| Box::new(metadata(message)));
        self.n_records += 1;
        self.n_bytes += payload.as_ref().map_or(0, Vec::len) as u64;
        if self
            .records
            .last()
            .is_some_and(|last| last.position.partition != id)
        {
            self.flush();
        }
        self.records.push(Record {
            position: id.at(message.offset()),
            timestamp_ms,
            payload,
            metadata,
        });
        if cursor.is_done {
            self.push(Ok(Polled::AtEnd(id)));
        }
    }

    /// Appends a result behind the records added so far.
    fn push(&mut self, result: Result<Polled, Error>) {
        self.flush();
        self.results.push(result);
    }

    fn flush(&mut self) {
        if !self.records.is_empty() {
            let records = std::mem::take(&mut self.records);
            self.results.push(Ok(Polled::Records(records)));
        }
    }

    fn count(&self, stream: Stream) {
        for (name, n) in [
            (RECORDS, self.n_records),
            (BYTES, self.n_bytes),
            (OFFSET_DUPLICATES, self.n_duplicates),
            (OFFSET_GAPS, self.n_skipped),
        ] {
            if n > 0 {
                counter!(name, "stream" => stream.name()).increment(n);
            }
        }
    }
}

/// The key and the headers of a message.
fn metadata(message: &BorrowedMessage<'_>) -> RecordMetadata {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let header = |header: rdkafka::message::Header<'_, &[u8]>| {
        (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
    };
    RecordMetadata {
        key: message.key().map(<[u8]>::to_vec),
        headers: headers.map(header).collect(),
    }
}
