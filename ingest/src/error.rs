//! Errors of sources, producers and data folders.
//!
//! A bad record is not an error here but a [`ouzel_sample::Reject`]. These errors stop a source; each says what was
//! attempted, on what, and what to do.

use std::path::{Path, PathBuf};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// An error of a source, a producer or a data folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A property that ouzel sets itself, because its guarantees depend on it.
    #[error("kafka property `{key}` cannot be set: {reason}; remove it from `kafka.properties`")]
    OwnedProperty {
        /// The property.
        key: String,
        /// Why ouzel sets it.
        reason: &'static str,
    },
    /// A property that librdkafka refuses. The value may be a secret and is not shown.
    #[error("kafka property `{key}` was refused: {detail}; correct it in `kafka.properties`")]
    BadProperty {
        /// The property.
        key: String,
        /// The reason given by librdkafka.
        detail: String,
    },
    /// A feature that this binary was built without.
    #[error("{what} is not built in; build with `--features {feature}`")]
    NotBuiltIn {
        /// What was attempted.
        what: String,
        /// The cargo feature that adds it.
        feature: &'static str,
    },
    /// No broker answered.
    #[error("cannot reach kafka at {bootstrap}: {detail}; check the address and that the broker is up")]
    Unreachable {
        /// The addresses tried.
        bootstrap: String,
        /// The last error of the client library.
        detail: String,
    },
    /// A topic does not exist.
    #[error(
        "topic `{topic}` does not exist at {bootstrap}; create it (`ouzel topics create`) or configure another"
    )]
    MissingTopic {
        /// The topic.
        topic: String,
        /// The broker that was asked.
        bootstrap: String,
    },
    /// The topics of impressions and actions have different numbers of partitions.
    #[error(
        "`{impressions}` has {n_impressions} partitions and `{actions}` has {n_actions}: the records of a request are in partitions of the same number only when both topics have equally many; recreate one of them"
    )]
    PartitionCountMismatch {
        /// The topic of impressions.
        impressions: String,
        /// Its number of partitions.
        n_impressions: usize,
        /// The topic of actions.
        actions: String,
        /// Its number of partitions.
        n_actions: usize,
    },
    /// Positions name a partition that the topic does not have.
    #[error(
        "the positions to resume from name {partition}, but the topic has {n_partitions} partitions: it was recreated; {RESTART}"
    )]
    MissingPartition {
        /// Topic and partition, as `topic[0]`.
        partition: String,
        /// Number of partitions of the topic.
        n_partitions: usize,
    },
    /// The log no longer holds the next record.
    #[error(
        "retention passed {partition}: the next offset to read is {next}, the log now starts at {low}, {} records are lost; {RESTART}",
        low - next
    )]
    RetentionPassed {
        /// Topic and partition, as `topic[0]`.
        partition: String,
        /// The next offset to read.
        next: i64,
        /// The first offset of the log.
        low: i64,
    },
    /// The log ends before the next record.
    #[error(
        "{partition} ends at offset {high}, before the next offset to read, {next}: the log was truncated or the topic recreated; {RESTART}"
    )]
    LogTruncated {
        /// Topic and partition, as `topic[0]`.
        partition: String,
        /// The next offset to read.
        next: i64,
        /// The end of the log.
        high: i64,
    },
    /// A request to a broker failed.
    #[error("cannot {attempt} {subject}: {detail}")]
    Broker {
        /// What was attempted.
        attempt: &'static str,
        /// On what: a topic or a partition.
        subject: String,
        /// The reason given by librdkafka.
        detail: String,
        /// True when trying again may help.
        transient: bool,
    },
    /// The broker did not acknowledge some records.
    #[error("{n} records were not delivered, the first to {first}")]
    Undelivered {
        /// Number of records.
        n: u64,
        /// Topic and reason of the first one.
        first: String,
    },
    /// The embedded broker did not start.
    #[error("cannot start the embedded broker: {detail}")]
    Embedded {
        /// The reason given by librdkafka.
        detail: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {attempt} {}: {source}", path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason given by the system.
        source: std::io::Error,
    },
    /// A line of a data file cannot be used.
    #[error("{}:{line}: {detail}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// A folder is not a data folder.
    #[error("{} holds no {missing}.jsonl (plain, .gz or .zst); name a folder with logged data", path.display())]
    NoDataFile {
        /// The folder.
        path: PathBuf,
        /// The missing file.
        missing: &'static str,
    },
}

/// What to do when the log and the positions of a snapshot do not match.
const RESTART: &str = "resume from a snapshot that matches the log, or start with an empty `snapshot.dir`";

impl Error {
    /// True when the same call may succeed later without anyone's help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. } => true,
            Error::Broker { transient, .. } => *transient,
            _ => false,
        }
    }

    /// The error of creating a client. It does not contain the value of a refused property.
    pub(crate) fn client(error: &KafkaError) -> Self {
        match error {
            KafkaError::ClientConfig(_, detail, key, _) => Error::BadProperty {
                key: key.clone(),
                detail: detail.clone(),
            },
            other => Error::Broker {
                attempt: "start",
                subject: "a kafka client".into(),
                detail: other.to_string(),
                transient: false,
            },
        }
    }

    /// The error of a request that failed with `error`.
    pub(crate) fn broker(attempt: &'static str, subject: impl Into<String>, error: &KafkaError) -> Self {
        Error::Broker {
            attempt,
            subject: subject.into(),
            detail: error.to_string(),
            transient: error.rdkafka_error_code().is_some_and(is_transient),
        }
    }

    /// The error of a request that the broker answered with `code`.
    pub(crate) fn from_code(attempt: &'static str, subject: impl Into<String>, code: Code) -> Self {
        Error::Broker {
            attempt,
            subject: subject.into(),
            detail: code.to_string(),
            transient: is_transient(code),
        }
    }

    pub(crate) fn file(attempt: &'static str, path: &Path, source: std::io::Error) -> Self {
        Error::File {
            attempt,
            path: path.to_owned(),
            source,
        }
    }
}

/// True when the same request may succeed later by itself.
pub(crate) fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::WaitingForCoordinator
            // A broker that has just started does not know its partitions for a while.
            | Code::UnknownPartition
            | Code::UnknownTopicOrPartition
            | Code::QueueFull
    )
}
