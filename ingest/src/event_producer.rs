//! Writing events that clients post: each is checked as a record that was read, and acknowledged by every replica.
//!
//! The decoder is that of the sources, so what is accepted here is accepted there.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ouzel_sample::{PartitionId, Record, Reject, RejectReason, Stream};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientContext, Message};
use serde_json::Value;

use crate::decode::Decoder;
use crate::error::Error;
use crate::join::JoinBy;
use crate::mapping::{Metadata, RecordContext};
use crate::producer;
use crate::source::KafkaConfig;
use crate::source::kafka::ClientLog;
use crate::topics::Topics;

/// Room beside the payload of a record: key, headers and the batch around it.
const RECORD_OVERHEAD_BYTES: usize = 16 << 10;

const OWN_ACKS: &str = "every replica must acknowledge a posted event (`serving.events_listen`)";
const OWN_TIMEOUT: &str = "`serving.events_timeout` sets it";

/// Properties that users cannot set where events are posted, by all their names, with the reason.
const OWNED: &[(&str, &str)] = &[
    ("acks", OWN_ACKS),
    ("request.required.acks", OWN_ACKS),
    ("message.timeout.ms", OWN_TIMEOUT),
    ("delivery.timeout.ms", OWN_TIMEOUT),
];

/// Writes posted events to the topics of their streams.
pub struct EventProducer {
    producer: BaseProducer<DeliveryLog>,
    topics: Topics,
    decoder: Decoder,
    by: JoinBy,
}

/// An event that passed the checks, as it will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedEvent {
    stream: Stream,
    key: String,
    payload: Vec<u8>,
}

/// The end of one event's way to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The number of the call that it was sent for.
    pub call: usize,
    /// Why it was not acknowledged.
    pub failure: Option<String>,
}

impl CheckedEvent {
    /// Bytes of key and payload.
    pub fn len(&self) -> usize {
        self.key.len() + self.payload.len()
    }

    /// Whether key and payload are empty; never for an event that was checked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl EventProducer {
    /// A producer of events that `decoder` accepts, with payloads of at most `max_record` bytes, keyed as `by` needs
    /// it. A record is given up when
    /// it is not acknowledged within `timeout`. It connects in the background.
    ///
    /// # Errors
    /// When a property is refused.
    pub fn connect(
        config: &KafkaConfig,
        decoder: Decoder,
        by: JoinBy,
        max_record: usize,
        timeout: Duration,
    ) -> Result<Self, Error> {
        for (key, reason) in OWNED {
            if config.properties.contains_key(*key) {
                let key = (*key).to_owned();
                return Err(Error::OwnedProperty { key, reason });
            }
        }
        let mut client = producer::properties(&config.bootstrap, &config.properties)?;
        let largest = max_record.saturating_add(RECORD_OVERHEAD_BYTES).max(1_000_000);
        client
            // The reply promises that the events are safe.
            .set("acks", "all")
            .set("message.timeout.ms", timeout.as_millis().to_string())
            .set("message.max.bytes", largest.to_string())
            .set("queue.buffering.max.kbytes", "65536");
        let log = DeliveryLog::default();
        let producer = client
            .create_with_context(log)
            .map_err(|error| Error::client(&error))?;
        Ok(Self {
            producer,
            topics: config.topics.clone(),
            decoder,
            by,
        })
    }

    /// Checks an event as if it were a record written at `now_ms`.
    ///
    /// # Errors
    /// The reason for which a source would reject the record.
    pub fn check(&self, stream: Stream, payload: Vec<u8>, now_ms: i64) -> Result<CheckedEvent, Reject> {
        let record = Record {
            position: PartitionId::new(stream, 0).at(0),
            timestamp_ms: Some(now_ms),
            payload: Some(payload),
            metadata: None,
        };
        if !self.topics.has(stream) {
            let detail = format!("no topic is configured for {stream}: set kafka.topics.{stream}");
            return Err(Reject::new(RejectReason::NotSelected, detail));
        }
        self.decoder.check(&record)?;
        let payload = record.payload.unwrap_or_default();
        // An action may belong to no request; then its user decides.
        let fields: &[&str] = match (stream, self.by) {
            (Stream::Items, _) => &["item_id"],
            (Stream::Users, _) => &["user_id"],
            (_, JoinBy::Request) => &["request_id", "user_id"],
            (_, JoinBy::UserItem) => &["user_id"],
        };
        let context = RecordContext {
            metadata: Metadata {
                timestamp_ms: Some(now_ms),
                topic: self.topics.name(stream),
                ..Metadata::default()
            },
            ..RecordContext::default()
        };
        // The mapping says where a producer's own events have the id.
        let mapped = self.decoder.events_of(stream, &payload, &context)?;
        let text = |id: &Value| match id {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let event = mapped.events.first();
        let key = fields.iter().find_map(|field| text(event?.get(*field)?));
        let missing = || Reject::new(RejectReason::MissingField, format!("`{}` is missing", fields[0]));
        Ok(CheckedEvent {
            stream,
            key: key.ok_or_else(missing)?,
            payload,
        })
    }

    /// Queues an event for the call `call`. Returns false when the queue is full: poll, then try again.
    ///
    /// # Errors
    /// When the client refuses the record.
    pub fn send(&self, call: usize, event: &CheckedEvent) -> Result<bool, Error> {
        let topic = self.topics.name(event.stream);
        let record = BaseRecord::with_opaque_to(topic, call)
            .key(&event.key)
            .payload(&event.payload);
        match self.producer.send(record) {
            Ok(()) => Ok(true),
            Err((error, _)) if error.rdkafka_error_code() == Some(Code::QueueFull) => Ok(false),
            Err((error, _)) => Err(Error::broker("write to", topic, &error)),
        }
    }

    /// The deliveries since the last call, waiting up to `wait` for the first.
    pub fn poll(&self, wait: Duration) -> Vec<Delivery> {
        self.producer.poll(wait);
        let log = self.producer.context();
        std::mem::take(&mut *log.deliveries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A producer context that keeps every delivery until it is polled.
#[derive(Default)]
struct DeliveryLog {
    log: ClientLog,
    deliveries: Mutex<Vec<Delivery>>,
}

impl ClientContext for DeliveryLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.log.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ProducerContext for DeliveryLog {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivery: &DeliveryResult<'_>, call: usize) {
        let failure = delivery.as_ref().err().map(|(error, message)| {
            // A timeout alone does not say that the broker is down or the password wrong.
            let why = self.log.take_last_error().map(|why| format!(": {why}"));
            format!("{}: {error}{}", message.topic(), why.unwrap_or_default())
        });
        let mut deliveries = self.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        deliveries.push(Delivery { call, failure });
    }
}

#[cfg(test)]
mod tests {
    use ouzel_sample::IdSpace;

    use super::*;
    use crate::decode::EventConfig;

    fn connect(properties: &[(&str, &str)]) -> Result<EventProducer, Error> {
        let properties = properties
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let config = KafkaConfig {
            properties: properties.collect(),
            ..KafkaConfig::default()
        };
        let tasks = vec!["click".to_owned()];
        let decoder = Decoder::new(IdSpace::new(7), tasks, EventConfig::default()).unwrap();
        EventProducer::connect(&config, decoder, JoinBy::Request, 1000, Duration::from_secs(1))
    }

    #[test]
    fn events_are_keyed_by_request_and_items_and_users_by_their_id() {
        let producer = connect(&[]).unwrap();
        let action =
            r#"{"request_id":"r","item_id":"i","user_id":"u","ts_ms":1700000000000,"action":"click"}"#;
        let item = r#"{"item_id":"i","ts_ms":1700000000000}"#;
        for (stream, payload, key) in [(Stream::Actions, action, "r"), (Stream::Items, item, "i")] {
            let event = producer.check(stream, payload.into(), 1_700_000_000_000).unwrap();
            assert_eq!(
                (event.key.as_str(), event.payload.as_slice()),
                (key, payload.as_bytes())
            );
        }
        let reason = |payload: &str, now_ms| {
            let checked = producer.check(Stream::Actions, payload.into(), now_ms);
            checked.unwrap_err().reason
        };
        let user = r#"{"user_id":"u","ts_ms":1700000000000,"features":{"age":30}}"#;
        let refused = producer.check(Stream::Users, user.into(), 1_700_000_000_000);
        assert!(refused.unwrap_err().detail.contains("set kafka.topics.users"));
        let mut with_users = connect(&[]).unwrap();
        with_users.topics.users = "profiles".to_owned();
        let event = with_users
            .check(Stream::Users, user.into(), 1_700_000_000_000)
            .unwrap();
        assert_eq!(event.key, "u");
        assert_eq!(reason(item, 1_700_000_000_000), RejectReason::MissingField);
        assert_eq!(reason(action, 1_600_000_000_000), RejectReason::Future);
        assert_eq!(reason("[]", 1_700_000_000_000), RejectReason::MalformedJson);
    }

    #[test]
    fn properties_that_would_weaken_the_acknowledgement_are_refused() {
        for property in [
            ("acks", "1"),
            ("request.required.acks", "0"),
            ("delivery.timeout.ms", "1"),
        ] {
            let refused = connect(&[property]).err().expect("refused").to_string();
            assert!(refused.contains(property.0), "{refused}");
        }
        assert!(connect(&[("linger.ms", "1")]).is_ok());
    }
}
