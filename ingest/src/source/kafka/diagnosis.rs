//! Errors of reading: what each means. Logs passing errors, finds lost offsets and explains fatal errors.

use metrics::counter;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tracing::warn;

use super::reader::TopicReader;
use crate::error::{Error, is_transient};
use crate::metrics::BROKER_ERRORS;

/// What an error of the client means for reading.
pub(super) enum ReadError {
    /// The end of a partition, for now.
    EndOfPartition(i32),
    /// The error may pass: polling continues.
    Transient(Option<Code>),
    /// The broker does not hold the next offset.
    OffsetLost,
    /// Waiting cannot help.
    Fatal,
}

impl From<&KafkaError> for ReadError {
    fn from(error: &KafkaError) -> Self {
        match error {
            KafkaError::PartitionEOF(partition) => Self::EndOfPartition(*partition),
            KafkaError::MessageConsumptionFatal(_) => Self::Fatal,
            other => match other.rdkafka_error_code() {
                Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => {
                    Self::OffsetLost
                }
                Some(
                    Code::UnknownTopicOrPartition
                    | Code::UnknownTopic
                    | Code::UnknownPartition
                    | Code::TopicAuthorizationFailed,
                ) => Self::Fatal,
                code => Self::Transient(code),
            },
        }
    }
}

impl TopicReader {
    /// Counts an error that may pass, and logs the first of a series.
    pub(super) fn report_transient(&mut self, code: Option<Code>) {
        let kind = match code {
            Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve) => "connection",
            Some(code) if is_transient(code) => "request",
            _ => "other",
        };
        counter!(BROKER_ERRORS, "kind" => kind).increment(1);
        if !std::mem::replace(&mut self.is_interrupted, true) {
            let detail = self.consumer.context().take_last_error().unwrap_or_default();
            warn!(
                topic = self.topic,
                ?code,
                detail,
                "reading from kafka is interrupted, polling continues"
            );
        }
    }

    /// The error for a lost offset: names the partition whose log no longer holds its next record.
    pub(super) fn explain_lost_offset(&self) -> Error {
        for (partition, cursor) in self.cursors.iter().filter(|(_, cursor)| !cursor.is_done) {
            match self.watermarks(*partition) {
                Ok((low, high)) => {
                    if let Err(error) = self.check_within_log(*partition, cursor.next, low, high) {
                        return error;
                    }
                }
                Err(error) => return error,
            }
        }
        self.fatal("continue reading", || "offset out of range".to_owned())
    }

    /// The error for a read error that waiting cannot cure.
    pub(super) fn explain_fatal(&self, error: &KafkaError) -> Error {
        self.fatal("read", || error.to_string())
    }

    fn fatal(&self, attempt: &'static str, detail: impl FnOnce() -> String) -> Error {
        Error::Broker {
            attempt,
            subject: self.topic.clone(),
            detail: self.consumer.context().take_last_error().unwrap_or_else(detail),
            transient: false,
        }
    }

    pub(super) fn has_gap(&self) -> bool {
        self.cursors.values().any(|cursor| cursor.gap.is_some())
    }

    /// Compares noted gaps with the low watermarks. Gaps stay noted while the broker does not answer.
    pub(super) fn check_gaps(&mut self) -> Result<(), Error> {
        let gaps = self.cursors.iter().filter(|(_, cursor)| cursor.gap.is_some());
        let gaps: Vec<i32> = gaps.map(|(partition, _)| *partition).collect();
        for partition in gaps {
            let low = match self.watermarks(partition) {
                Ok((low, _)) => low,
                Err(error) if error.is_transient() => continue,
                Err(error) => return Err(error),
            };
            let cursor = self.cursors.get_mut(&partition);
            if let Some(next) = cursor.and_then(|cursor| cursor.take_lost_offset(low)) {
                return Err(Error::RetentionPassed {
                    partition: self.name(partition),
                    next,
                    low,
                });
            }
        }
        Ok(())
    }
}
