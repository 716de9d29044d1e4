//! Copies of records that came too late to be learned, in topics of their own.
//!
//! Whether a record is late is known only when it is joined, so the payloads of queued records are kept until then. They
//! are bounded, a full queue to the broker is not waited for, and what is not copied is counted: the log still has it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use ouzel_sample::{PartitionId, Position, Record, Stream};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tracing::warn;

use crate::error::Error;
use crate::join::Outcome;
use crate::metrics::{LATE_COPIES, LATE_COPIES_LOST};
use crate::producer::{self, DeliveryTracker};
use crate::source::KafkaConfig;
use crate::topics::Topics;

/// Most bytes of payloads that are kept for one partition.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// The sink of late records, shared by the thread that reads and the one that joins.
///
/// A late record of topic `t` is written to `t.late` with its payload and its timestamp, under the key
/// `topic/partition/offset`: written again after a crash it has the same key. The headers `topic`, `partition`, `offset`
/// and `reason` describe it.
pub struct LateRecords {
    producer: BaseProducer<DeliveryTracker>,
    topics: Topics,
    kept: Mutex<BTreeMap<PartitionId, Kept>>,
    is_lossy: AtomicBool,
}

/// The records of one partition that are not joined yet, in order.
#[derive(Default)]
struct Kept {
    records: VecDeque<Record>,
    n_bytes: usize,
}

impl Kept {
    /// Keeps a record unless there is no room.
    fn push(&mut self, record: Record) {
        let n_bytes = size(&record);
        if self.n_bytes + n_bytes <= MAX_KEPT_BYTES {
            self.n_bytes += n_bytes;
            self.records.push_back(record);
        }
    }

    /// Removes the records up to `position` and returns the one there.
    fn take(&mut self, position: Position) -> Option<Record> {
        let mut found = None;
        while let Some(record) = self.records.front()
            && record.position.offset <= position.offset
        {
            self.n_bytes -= size(record);
            found = self.records.pop_front();
        }
        found.filter(|record| record.position == position)
    }
}

fn size(record: &Record) -> usize {
    size_of::<Record>() + record.payload.as_ref().map_or(0, Vec::len)
}

/// The name of an outcome that makes a record late.
fn reason(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Late => Some("late_impression"),
        Outcome::LateAction => Some("late_action"),
        _ => None,
    }
}

impl LateRecords {
    /// Copies to the `.late` topics of the streams.
    ///
    /// # Errors
    /// When a property is refused.
    pub fn kafka(config: &KafkaConfig) -> Result<Self, Error> {
        let names = Stream::EVENTS.map(|stream| (stream, config.topics.late(stream)));
        Ok(Self {
            producer: producer::connect(&config.bootstrap, &config.properties, names.into())?,
            topics: config.topics.clone(),
            kept: Mutex::default(),
            is_lossy: AtomicBool::new(false),
        })
    }

    /// Keeps records that go to the join, in the order of their partition. Items are never late.
    pub fn keep(&self, records: Vec<Record>) {
        let mut kept = self.kept();
        for record in records {
            let partition = record.position.partition;
            if matches!(partition.stream, Stream::Impressions | Stream::Actions) {
                kept.entry(partition).or_default().push(record);
            }
        }
    }

    /// Forgets the record at `position`, which was joined with this outcome; copies it if that is late.
    pub fn joined(&self, position: Position, outcome: Outcome) {
        let record = {
            let mut kept = self.kept();
            let of_partition = kept.get_mut(&position.partition);
            of_partition.and_then(|kept| kept.take(position))
        };
        let Some(reason) = reason(outcome) else { return };
        let stream = position.partition.stream;
        let Some(record) = record else {
            self.report_lost(stream, 1, "more than 64 MiB of records wait for the join");
            return;
        };
        let topic = self.topics.late(stream);
        let (source, partition) = (self.topics.name(stream), position.partition.partition);
        let offset = position.offset;
        let key = format!("{source}/{partition}/{offset}");
        let (partition, offset) = (partition.to_string(), offset.to_string());
        let headers = [
            ("topic", source),
            ("partition", &partition),
            ("offset", &offset),
            ("reason", reason),
        ];
        let empty = OwnedHeaders::new_with_capacity(headers.len());
        let headers = headers.iter().fold(empty, |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(*value),
            })
        });
        let mut copy = BaseRecord::to(&topic).key(key.as_str()).headers(headers);
        copy.payload = record.payload.as_deref();
        copy.timestamp = record.timestamp_ms;
        if let Err(error) = producer::enqueue(&self.producer, copy, Duration::ZERO) {
            self.report_lost(stream, 1, &error.to_string());
        }
    }

    /// Handles arrived deliveries.
    pub fn poll(&self) {
        self.producer.poll(Duration::ZERO);
        let counts = self.producer.context().state().take_counts();
        for (stream, (n_delivered, n_failed)) in counts {
            counter!(LATE_COPIES, "stream" => stream.name()).increment(n_delivered);
            if n_failed > 0 {
                self.report_lost(stream, n_failed, "the broker did not accept them");
            }
        }
    }

    /// Waits until everything is written. Copies that are still queued when it is dropped are lost.
    ///
    /// # Errors
    /// When copies were lost since the last call.
    pub fn flush(&self, timeout: Duration) -> Result<(), Error> {
        let outcome = producer::flush(&self.producer, timeout);
        self.poll();
        outcome
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report_lost(&self, stream: Stream, n: u64, why: &str) {
        counter!(LATE_COPIES_LOST, "stream" => stream.name()).increment(n);
        if !self.is_lossy.swap(true, Ordering::Relaxed) {
            let topic = self.topics.late(stream);
            warn!(
                topic,
                why, "copies of late records are being lost; the log still has the records"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64, n_bytes: usize) -> Record {
        Record {
            position: PartitionId::new(Stream::Actions, 0).at(offset),
            timestamp_ms: None,
            payload: Some(vec![0; n_bytes]),
            metadata: None,
        }
    }

    #[test]
    fn records_are_kept_until_they_are_joined_and_no_more_than_fit() {
        let at = |offset| PartitionId::new(Stream::Actions, 0).at(offset);
        let mut kept = Kept::default();
        for offset in [1, 2, 5, 6] {
            kept.push(record(offset, 10));
        }
        kept.push(record(7, MAX_KEPT_BYTES));
        assert_eq!(kept.take(at(2)).map(|record| record.position), Some(at(2)));
        assert_eq!(kept.take(at(4)), None);
        assert_eq!(kept.take(at(6)).map(|record| record.position), Some(at(6)));
        assert_eq!(kept.take(at(7)), None);
        assert_eq!((kept.records.len(), kept.n_bytes), (0, 0));
    }
}
