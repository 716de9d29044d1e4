//! Writing events to Kafka, for the demo, replays into a broker, and tests.
//!
//! Production systems write their own events. A record counts as sent only when the broker has acknowledged it:
//! [`Feeder::flush`] fails otherwise.

use std::collections::BTreeMap;
use std::time::Duration;

use ouzel_sample::{Positions, Stream};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::error::Error;
use crate::producer::{self, DeliveryTracker};
use crate::topics::Topics;

/// Writes events to the topics of their streams.
pub struct Feeder {
    producer: BaseProducer<DeliveryTracker>,
    topics: Topics,
}

impl Feeder {
    /// A feeder for the broker at `bootstrap`. It connects as records are sent.
    ///
    /// # Errors
    /// When a property is refused.
    pub fn connect(
        bootstrap: &str,
        user_properties: &BTreeMap<String, String>,
        topics: Topics,
    ) -> Result<Self, Error> {
        let streams = topics.all_streams();
        let names = streams.map(|stream| (stream, topics.name(stream).to_owned()));
        Ok(Self {
            producer: producer::connect(bootstrap, user_properties, names.collect())?,
            topics,
        })
    }

    /// Queues one record with timestamp `timestamp_ms`, or the present time. Waits while the queue is full.
    ///
    /// # Errors
    /// When the client refuses the record, for example because it exceeds `message.max.bytes`.
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
        producer::enqueue(&self.producer, record, Duration::MAX)
            .map_err(|error| Error::broker("write to", topic, &error))?;
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    /// Handles arrived acknowledgements, waiting up to `timeout` for them.
    pub fn poll(&self, timeout: Duration) {
        self.producer.poll(timeout);
    }

    /// Waits until every record is acknowledged.
    ///
    /// # Errors
    /// [`Error::Undelivered`] when some records failed or are not acknowledged within `timeout`.
    pub fn flush(&self, timeout: Duration) -> Result<(), Error> {
        producer::flush(&self.producer, timeout)
    }

    /// Offset after the last acknowledged record of each partition.
    pub fn delivered(&self) -> Positions {
        self.producer.context().state().positions()
    }

    /// The most bytes that any partition holds after `consumed`, records in flight included.
    ///
    /// It is never less than the broker's own count. The embedded broker drops nothing unread as long as this stays
    /// below half of [`crate::EMBEDDED_PARTITION_BYTES`].
    pub fn unread_bytes(&self, consumed: &Positions) -> u64 {
        self.producer.context().state().unread_bytes(consumed)
    }
}
