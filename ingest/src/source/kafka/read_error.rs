//! What an error of the client means for reading.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// The consequence of an error while reading.
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
