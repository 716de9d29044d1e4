//! When reading does not go on as it should: what an error means, and which of them end it.

use metrics::counter;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tracing::warn;

use super::is_transient;
use super::reader::Reader;
use crate::Error;
use crate::metrics::BROKER_ERRORS;

/// What an error of the client means for the reading.
pub(super) enum Meaning {
    /// A partition's end, for now.
    End(i32),
    /// Polling goes on.
    Disturbance(Option<Code>),
    /// The broker does not hold the next offset.
    OffsetLost,
    /// Nobody recovers from it by waiting.
    Fatal,
}

pub(super) fn meaning(error: &KafkaError) -> Meaning {
    match error {
        KafkaError::PartitionEOF(partition) => Meaning::End(*partition),
        KafkaError::MessageConsumptionFatal(_) => Meaning::Fatal,
        other => match other.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => Meaning::OffsetLost,
            Some(
                Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::TopicAuthorizationFailed,
            ) => Meaning::Fatal,
            code => Meaning::Disturbance(code),
        },
    }
}

impl Reader {
    /// Counts an error that waiting may cure, and says it once.
    pub(super) fn disturbed(&mut self, code: Option<Code>) {
        let kind = match code {
            Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve) => "connection",
            Some(code) if is_transient(code) => "request",
            _ => "other",
        };
        counter!(BROKER_ERRORS, "kind" => kind).increment(1);
        if !std::mem::replace(&mut self.is_disturbed, true) {
            let detail = self.consumer.context().last_words().unwrap_or_default();
            warn!(
                topic = self.topic,
                ?code,
                detail,
                "kafka is disturbed, polling goes on"
            );
        }
    }

    /// Which partition's log no longer holds the next offset.
    pub(super) fn explain_reset(&self) -> Error {
        for (partition, cursor) in self.cursors.iter().filter(|(_, cursor)| !cursor.is_done) {
            let (topic, partition, next) = (self.topic.clone(), *partition, cursor.next);
            match self.watermarks(partition) {
                Ok((low, _)) if low > next => {
                    return Error::RetentionPassed {
                        topic,
                        partition,
                        next,
                        low,
                    };
                }
                Ok((_, high)) if high < next => {
                    return Error::LogTruncated {
                        topic,
                        partition,
                        next,
                        high,
                    };
                }
                Ok(_) => {}
                Err(error) => return error,
            }
        }
        Error::Broker {
            attempt: "go on reading",
            subject: self.topic.clone(),
            detail: self
                .consumer
                .context()
                .last_words()
                .unwrap_or_else(|| "offset out of range".to_owned()),
            transient: false,
        }
    }

    /// The error that ends the reading.
    pub(super) fn failure(&self, error: &KafkaError) -> Error {
        Error::Broker {
            attempt: "read",
            subject: self.topic.clone(),
            detail: self
                .consumer
                .context()
                .last_words()
                .unwrap_or_else(|| error.to_string()),
            transient: false,
        }
    }

    pub(super) fn has_gap(&self) -> bool {
        self.cursors.values().any(|cursor| cursor.gap.is_some())
    }

    /// Compares noted gaps with the low watermarks. A broker that does not answer leaves them noted.
    pub(super) fn audit(&mut self) -> Result<(), Error> {
        let gaps: Vec<i32> = self
            .cursors
            .iter()
            .filter(|(_, cursor)| cursor.gap.is_some())
            .map(|(p, _)| *p)
            .collect();
        for partition in gaps {
            let low = match self.watermarks(partition) {
                Ok((low, _)) => low,
                Err(error) if error.is_transient() => continue,
                Err(error) => return Err(error),
            };
            let lost = self
                .cursors
                .get_mut(&partition)
                .and_then(|cursor| cursor.explain(low));
            if let Some(next) = lost {
                return Err(Error::RetentionPassed {
                    topic: self.topic.clone(),
                    partition,
                    next,
                    low,
                });
            }
        }
        Ok(())
    }
}
