//! Writing contract events to Kafka, and knowing that they arrived.
//!
//! For the demo, replays into a broker and tests; production systems write their own events. A record counts
//! as sent only when the broker has acknowledged it: [`Feeder::flush`] says whether all were.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ouzel_sample::{PartitionId, Positions, Stream};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientContext, Message};

use crate::source::kafka::{Client, properties};
use crate::{Error, Topics};

/// Set for every producer unless the user says otherwise.
const DEFAULTS: &[(&str, &str)] = &[
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("linger.ms", "5"),
    // As the Java clients do, so that a key lands on the same partition whoever writes it.
    ("partitioner", "murmur2_random"),
    // What is in flight counts as unread, so it stays small next to the embedded broker's 5 MiB.
    ("queue.buffering.max.kbytes", "4096"),
];

/// Bytes that a record and its share of a batch cost beside key and payload, at most.
const OVERHEAD_BYTES: u64 = 128;

/// Delivered records are remembered in pieces of about this size until they are consumed.
const PIECE_BYTES: u64 = 32 << 10;

/// Writes events to the three topics.
pub struct Feeder {
    producer: BaseProducer<Deliveries>,
    topics: Topics,
}

impl Feeder {
    /// A feeder for the broker at `bootstrap`. Connecting happens as records are sent.
    ///
    /// # Errors
    /// When a property is refused.
    pub fn connect(
        bootstrap: &str,
        user_properties: &BTreeMap<String, String>,
        topics: Topics,
    ) -> Result<Self, Error> {
        let names = Stream::WITH_SAMPLES.map(|stream| (stream, topics.name(stream).to_owned()));
        Ok(Self {
            producer: producer(bootstrap, user_properties, names.into())?,
            topics,
        })
    }

    /// Queues one record. `timestamp_ms` is the record's own, now if absent. Waits while the queue is full.
    ///
    /// # Errors
    /// When the client refuses the record, as when it is larger than `message.max.bytes`.
    pub fn send(
        &self,
        stream: Stream,
        key: &str,
        timestamp_ms: Option<i64>,
        payload: Option<&[u8]>,
    ) -> Result<(), Error> {
        let topic = self.topics.name(stream);
        let mut record = BaseRecord::to(topic).key(key);
        record.payload = payload;
        record.timestamp = timestamp_ms;
        enqueue(&self.producer, record, Duration::MAX)
            .map_err(|error| Error::broker("write to", topic, &error))?;
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    /// Handles acknowledgements that have come, waiting up to `timeout` for them.
    pub fn poll(&self, timeout: Duration) {
        self.producer.poll(timeout);
    }

    /// Waits until every record is acknowledged.
    ///
    /// # Errors
    /// [`Error::Undelivered`] when some are not, by `timeout` or for good.
    pub fn flush(&self, timeout: Duration) -> Result<(), Error> {
        flush(&self.producer, timeout)
    }

    /// Offset after the last acknowledged record of each partition.
    #[must_use]
    pub fn delivered(&self) -> Positions {
        self.producer
            .context()
            .state()
            .unread
            .iter()
            .map(|(id, unread)| (*id, unread.next))
            .collect()
    }

    /// The most bytes that any partition holds and `consumed` has not passed, what is in flight included;
    /// never less than the broker counts. Keep it below half of [`crate::EMBEDDED_PARTITION_BYTES`] when
    /// feeding the embedded broker, and nothing is dropped unread.
    #[must_use]
    pub fn unread_bytes(&self, consumed: &Positions) -> u64 {
        let mut state = self.producer.context().state();
        let fullest = state.unread.iter_mut().map(|(id, unread)| {
            let next = consumed.next(*id).unwrap_or(0);
            while unread.pieces.front().is_some_and(|(end, _)| *end <= next) {
                unread.pieces.pop_front();
            }
            unread.pieces.iter().map(|(_, bytes)| *bytes).sum::<u64>()
        });
        fullest.max().unwrap_or(0) + state.in_flight_bytes
    }
}

/// A producer whose deliveries are counted for `topics`.
pub(crate) fn producer(
    bootstrap: &str,
    user_properties: &BTreeMap<String, String>,
    topics: Vec<(Stream, String)>,
) -> Result<BaseProducer<Deliveries>, Error> {
    let mut config = properties::client(bootstrap, user_properties)?;
    for (key, value) in DEFAULTS {
        if !user_properties.contains_key(*key) {
            config.set(*key, *value);
        }
    }
    let context = Deliveries {
        client: Client::default(),
        topics,
        state: Mutex::default(),
    };
    config
        .create_with_context(context)
        .map_err(|error| Error::client(&error))
}

/// Queues `record`, waiting up to `patience` while the queue is full.
pub(crate) fn enqueue(
    producer: &BaseProducer<Deliveries>,
    record: BaseRecord<'_, str, [u8]>,
    patience: Duration,
) -> Result<(), KafkaError> {
    let bytes = cost(
        record.key.map_or(0, str::len),
        record.payload.map_or(0, <[u8]>::len),
    );
    let started = Instant::now();
    let mut record = record;
    loop {
        // Counted first: the acknowledgement may come before `send` returns.
        producer.context().state().in_flight_bytes += bytes;
        let Err((error, back)) = producer.send(record) else {
            return Ok(());
        };
        producer.context().state().in_flight_bytes -= bytes;
        let is_full = error.rdkafka_error_code() == Some(Code::QueueFull);
        if !is_full || started.elapsed() >= patience {
            return Err(error);
        }
        record = back;
        producer.poll(Duration::from_millis(10));
    }
}

/// Waits for every delivery and says which failed since the last time.
pub(crate) fn flush(producer: &BaseProducer<Deliveries>, timeout: Duration) -> Result<(), Error> {
    let outcome = producer.flush(timeout);
    delivered(producer)?;
    outcome.map_err(|error| Error::Undelivered {
        n: u64::try_from(producer.in_flight_count()).unwrap_or(0),
        first: producer
            .context()
            .client
            .last_words()
            .unwrap_or_else(|| error.to_string()),
    })
}

/// Says which deliveries failed for good since the last time.
pub(crate) fn delivered(producer: &BaseProducer<Deliveries>) -> Result<(), Error> {
    let failures = std::mem::take(&mut producer.context().state().failures);
    match failures.first {
        Some(first) => Err(Error::Undelivered { n: failures.n, first }),
        None => Ok(()),
    }
}

fn cost(key: usize, payload: usize) -> u64 {
    (key + payload) as u64 + OVERHEAD_BYTES
}

/// Hears of every delivery.
pub(crate) struct Deliveries {
    client: Client,
    topics: Vec<(Stream, String)>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    unread: BTreeMap<PartitionId, Unread>,
    in_flight_bytes: u64,
    failures: Failures,
    /// Acknowledged and failed records by stream, since [`State::take_counts`].
    counts: BTreeMap<Stream, (u64, u64)>,
}

/// What one partition was given: the next offset, and pieces of `(end offset, bytes)`.
#[derive(Default)]
struct Unread {
    next: i64,
    pieces: VecDeque<(i64, u64)>,
}

#[derive(Default)]
struct Failures {
    n: u64,
    first: Option<String>,
}

impl State {
    /// Acknowledged and failed records by stream since the last call.
    pub(crate) fn take_counts(&mut self) -> BTreeMap<Stream, (u64, u64)> {
        std::mem::take(&mut self.counts)
    }
}

impl Deliveries {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.client.log(level, facility, line);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        self.client.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivery: &DeliveryResult<'_>, (): ()) {
        let (message, failure) = match delivery {
            Ok(message) => (message, None),
            Err((error, message)) => (message, Some(error)),
        };
        let bytes = cost(
            message.key().map_or(0, <[u8]>::len),
            message.payload().map_or(0, <[u8]>::len),
        );
        let known = self.topics.iter().find(|(_, topic)| topic == message.topic());
        let stream = known.map(|(stream, _)| *stream);
        let mut state = self.state();
        state.in_flight_bytes = state.in_flight_bytes.saturating_sub(bytes);
        if let Some(stream) = stream {
            let (n_delivered, n_failed) = state.counts.entry(stream).or_default();
            *(if failure.is_some() { n_failed } else { n_delivered }) += 1;
        }
        if let Some(error) = failure {
            state.failures.n += 1;
            state
                .failures
                .first
                .get_or_insert_with(|| format!("{}: {error}", message.topic()));
            return;
        }
        let Some(stream) = stream else { return };
        let unread = state
            .unread
            .entry(PartitionId {
                stream,
                partition: message.partition(),
            })
            .or_default();
        unread.next = unread.next.max(message.offset() + 1);
        let next = unread.next;
        match unread.pieces.back_mut().filter(|(_, piece)| *piece < PIECE_BYTES) {
            Some((end, piece)) => {
                *end = next;
                *piece += bytes;
            }
            None => unread.pieces.push_back((next, bytes)),
        }
    }
}

/// Headers from pairs.
pub(crate) fn headers(pairs: &[(&str, &str)]) -> OwnedHeaders {
    pairs.iter().fold(
        OwnedHeaders::new_with_capacity(pairs.len()),
        |headers, (key, value)| {
            headers.insert(rdkafka::message::Header {
                key,
                value: Some(*value),
            })
        },
    )
}
