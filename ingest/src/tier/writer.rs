//! Writes join records to the samples topic.

use std::time::Duration;

use metrics::counter;
use ouzel_sample::JoinEvent;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::metrics::TIER_RECORDS;
use crate::producer::{self, DeliveryTracker};
use crate::tier::partition_joiner::OutgoingRecord;
use crate::tier::wire::Wire;
use crate::{Error, KafkaConfig};

/// How long one attempt to queue a record waits for room.
const PATIENCE: Duration = Duration::from_millis(100);

/// An idempotent producer of the samples topic. It waits for a broker that is away and gives no record up.
pub struct Writer {
    producer: BaseProducer<DeliveryTracker>,
    topic: String,
    wire: Wire,
}

impl Writer {
    /// A writer to the broker of `config`. Connecting happens as records are written.
    ///
    /// # Errors
    /// When a property is refused.
    pub fn connect(config: &KafkaConfig, wire: Wire) -> Result<Self, Error> {
        let mut properties = config.properties.clone();
        // No end: an undelivered record would have to be reported again by a new owner.
        properties.insert("message.timeout.ms".to_owned(), "0".to_owned());
        Ok(Self {
            producer: producer::connect(&config.bootstrap, &properties, Vec::new())?,
            topic: config.topics.samples.clone(),
            wire,
        })
    }

    /// Queues one record. Waits while the queue is full, until `is_stopped`; false when it stopped waiting.
    ///
    /// # Errors
    /// When the client refuses the record.
    pub fn write(&self, outgoing: &OutgoingRecord, is_stopped: impl Fn() -> bool) -> Result<bool, Error> {
        let payload = self.wire.encode(&outgoing.record);
        let key = Wire::key(outgoing.record.user);
        let what = match outgoing.record.event {
            JoinEvent::Shown { .. } => "shown",
            JoinEvent::Late { .. } => "late",
            JoinEvent::Outcome { .. } => "outcome",
            JoinEvent::LateAction { .. } => "late_action",
        };
        loop {
            let mut record = BaseRecord::to(&self.topic)
                .key(key.as_str())
                .payload(payload.as_slice());
            record.timestamp = outgoing.timestamp_ms;
            match producer::enqueue(&self.producer, record, PATIENCE) {
                Ok(()) => break,
                Err(error) if error.rdkafka_error_code() != Some(Code::QueueFull) => {
                    return Err(Error::broker("write to", self.topic.as_str(), &error));
                }
                Err(_) if is_stopped() => return Ok(false),
                Err(_) => {}
            }
        }
        counter!(TIER_RECORDS, "what" => what).increment(1);
        Ok(true)
    }

    /// Handles acknowledgements that have arrived.
    pub fn poll(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until everything written is acknowledged; false when that takes longer than `timeout`.
    ///
    /// # Errors
    /// When the broker refused a record for good: it is lost unless its partition is joined again.
    pub fn flush(&self, timeout: Duration) -> Result<bool, Error> {
        // A timeout is no failure yet.
        let is_flushed = self.producer.flush(timeout).is_ok();
        producer::check_deliveries(&self.producer)?;
        Ok(is_flushed)
    }
}
