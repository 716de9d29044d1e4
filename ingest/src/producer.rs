//! A Kafka producer that tracks which records were delivered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ouzel_sample::{PartitionId, Positions, Stream};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Message};

use crate::error::Error;
use crate::source::kafka::{self, ClientLog};

/// Defaults of a producer, which the user may override.
const DEFAULTS: &[(&str, &str)] = &[
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("linger.ms", "5"),
    // The partitioner of the Java clients, so that every producer writes a key to the same partition.
    ("partitioner", "murmur2_random"),
    // Records in flight count as unread, so they must be few next to the embedded broker's 5 MiB.
    ("queue.buffering.max.kbytes", "4096"),
];

/// Upper bound of the bytes that a record costs beside key and payload.
const OVERHEAD_BYTES: u64 = 128;

/// Delivered records are remembered in segments of about this size until they are consumed.
const SEGMENT_BYTES: u64 = 32 << 10;

/// The configuration of a producer: our defaults and the user's properties.
pub(crate) fn properties(
    bootstrap: &str,
    user_properties: &BTreeMap<String, String>,
) -> Result<ClientConfig, Error> {
    let mut config = kafka::properties::client(bootstrap, user_properties)?;
    for (key, value) in DEFAULTS {
        if !user_properties.contains_key(*key) {
            config.set(*key, *value);
        }
    }
    Ok(config)
}

/// A producer whose deliveries to `topics` are tracked.
pub(crate) fn connect(
    bootstrap: &str,
    user_properties: &BTreeMap<String, String>,
    topics: Vec<(Stream, String)>,
) -> Result<BaseProducer<DeliveryTracker>, Error> {
    let tracker = DeliveryTracker {
        log: ClientLog::default(),
        topics,
        state: Mutex::default(),
    };
    properties(bootstrap, user_properties)?
        .create_with_context(tracker)
        .map_err(|error| Error::client(&error))
}

/// Queues `record`, waiting up to `timeout` while the queue is full.
pub(crate) fn enqueue(
    producer: &BaseProducer<DeliveryTracker>,
    record: BaseRecord<'_, str, [u8]>,
    timeout: Duration,
) -> Result<(), KafkaError> {
    let bytes = cost(record.key.map(str::as_bytes), record.payload);
    let started = Instant::now();
    let mut record = record;
    loop {
        // Counted first: the acknowledgement may come before `send` returns.
        producer.context().state().in_flight_bytes += bytes;
        let Err((error, returned)) = producer.send(record) else {
            return Ok(());
        };
        producer.context().state().in_flight_bytes -= bytes;
        let is_full = error.rdkafka_error_code() == Some(Code::QueueFull);
        if !is_full || started.elapsed() >= timeout {
            return Err(error);
        }
        record = returned;
        producer.poll(Duration::from_millis(10));
    }
}

/// Waits for every delivery. Fails for deliveries that failed since the last check or do not end in time.
pub(crate) fn flush(producer: &BaseProducer<DeliveryTracker>, timeout: Duration) -> Result<(), Error> {
    let outcome = producer.flush(timeout);
    check_deliveries(producer)?;
    let last_error = || producer.context().log.take_last_error();
    outcome.map_err(|error| Error::Undelivered {
        n: u64::try_from(producer.in_flight_count()).unwrap_or(0),
        first: last_error().unwrap_or_else(|| error.to_string()),
    })
}

/// Fails when deliveries failed for good since the last check.
pub(crate) fn check_deliveries(producer: &BaseProducer<DeliveryTracker>) -> Result<(), Error> {
    let failures = std::mem::take(&mut producer.context().state().failures);
    match failures.first {
        Some(first) => Err(Error::Undelivered { n: failures.n, first }),
        None => Ok(()),
    }
}

fn cost(key: Option<&[u8]>, payload: Option<&[u8]>) -> u64 {
    (key.map_or(0, <[u8]>::len) + payload.map_or(0, <[u8]>::len)) as u64 + OVERHEAD_BYTES
}

/// A producer context that tracks every delivery.
pub(crate) struct DeliveryTracker {
    log: ClientLog,
    topics: Vec<(Stream, String)>,
    state: Mutex<DeliveryState>,
}

/// The deliveries so far.
#[derive(Default)]
pub(crate) struct DeliveryState {
    partitions: BTreeMap<PartitionId, DeliveredPartition>,
    in_flight_bytes: u64,
    failures: Failures,
    /// Acknowledged and failed records by stream, since [`DeliveryState::take_counts`].
    counts: BTreeMap<Stream, (u64, u64)>,
}

#[derive(Default)]
struct DeliveredPartition {
    /// Offset after the last acknowledged record.
    next: i64,
    /// Segments of acknowledged records: end offset and bytes.
    segments: VecDeque<(i64, u64)>,
}

#[derive(Default)]
struct Failures {
    n: u64,
    first: Option<String>,
}

impl DeliveryState {
    /// Numbers of acknowledged and failed records by stream since the last call.
    pub(crate) fn take_counts(&mut self) -> BTreeMap<Stream, (u64, u64)> {
        std::mem::take(&mut self.counts)
    }

    /// Offset after the last acknowledged record of each partition.
    pub(crate) fn positions(&self) -> Positions {
        let partitions = self.partitions.iter();
        partitions.map(|(id, delivered)| (*id, delivered.next)).collect()
    }

    /// The largest number of bytes in any partition after its position in `consumed`, plus the bytes in flight.
    pub(crate) fn unread_bytes(&mut self, consumed: &Positions) -> u64 {
        let unread = self.partitions.iter_mut().map(|(id, delivered)| {
            let next = consumed.next(*id).unwrap_or(0);
            while delivered.segments.front().is_some_and(|(end, _)| *end <= next) {
                delivered.segments.pop_front();
            }
            delivered.segments.iter().map(|(_, bytes)| *bytes).sum::<u64>()
        });
        unread.max().unwrap_or(0) + self.in_flight_bytes
    }
}

impl DeliveryTracker {
    pub(crate) fn state(&self) -> MutexGuard<'_, DeliveryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for DeliveryTracker {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.log.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ProducerContext for DeliveryTracker {
    type DeliveryOpaque = ();

    fn delivery(&self, delivery: &DeliveryResult<'_>, (): ()) {
        let (message, failure) = match delivery {
            Ok(message) => (message, None),
            Err((error, message)) => (message, Some(error)),
        };
        let bytes = cost(message.key(), message.payload());
        let known = self.topics.iter().find(|(_, topic)| topic == message.topic());
        let stream = known.map(|(stream, _)| *stream);
        let mut state = self.state();
        state.in_flight_bytes = state.in_flight_bytes.saturating_sub(bytes);
        if let Some(stream) = stream {
            let (n_delivered, n_failed) = state.counts.entry(stream).or_default();
            *(if failure.is_some() { n_failed } else { n_delivered }) += 1;
        }
        if let Some(error) = failure {
            let failures = &mut state.failures;
            failures.n += 1;
            let text = || format!("{}: {error}", message.topic());
            failures.first.get_or_insert_with(text);
            return;
        }
        let Some(stream) = stream else { return };
        let id = PartitionId::new(stream, message.partition());
        let delivered = state.partitions.entry(id).or_default();
        delivered.next = delivered.next.max(message.offset() + 1);
        let next = delivered.next;
        match delivered
            .segments
            .back_mut()
            .filter(|(_, size)| *size < SEGMENT_BYTES)
        {
            Some((end, size)) => {
                *end = next;
                *size += bytes;
            }
            None => delivered.segments.push_back((next, bytes)),
        }
    }
}
