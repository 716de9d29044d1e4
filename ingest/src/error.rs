//! What can go wrong between a log and a decoded event.
//!
//! A bad record is no error here: it becomes a [`ouzel_sample::Reject`]. These are the failures that stop a
//! source, each saying what was attempted, on what, and what to do.

use std::path::PathBuf;

use rdkafka::error::KafkaError;

/// A failure of a source, a producer or a data folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A property that ouzel sets itself because its promises rest on it.
    #[error("kafka property `{key}` cannot be set: {reason}")]
    OwnedProperty {
        /// The property.
        key: String,
        /// Why ouzel owns it.
        reason: &'static str,
    },
    /// A property librdkafka refuses. Never shows the value, which may be a secret.
    #[error("kafka property `{key}` was refused: {detail}")]
    BadProperty {
        /// The property.
        key: String,
        /// The library's reason.
        detail: String,
    },
    /// Something this binary was built without.
    #[error("{what} is not built in; build with `--features {feature}`")]
    NotBuiltIn {
        /// What was asked for.
        what: String,
        /// The cargo feature that brings it.
        feature: &'static str,
    },
    /// No broker answered.
    #[error("cannot reach kafka at {bootstrap}: {detail}; check the address and that the broker is up")]
    Unreachable {
        /// The addresses tried.
        bootstrap: String,
        /// The last thing the client library said.
        detail: String,
    },
    /// A topic that is not there.
    #[error(
        "topic `{topic}` does not exist at {bootstrap}; create it (`ouzel topics create`) or configure another"
    )]
    MissingTopic {
        /// The topic.
        topic: String,
        /// Where it was looked for.
        bootstrap: String,
    },
    /// Two topics whose partitions belong to each other.
    #[error(
        "`{impressions}` has {n_impressions} partitions and `{actions}` has {n_actions}: records of one request are in partitions of the same number only where both have equally many; make one of them anew"
    )]
    Unequal {
        /// The topic of impressions.
        impressions: String,
        /// How many it has.
        n_impressions: usize,
        /// The topic of actions.
        actions: String,
        /// How many that has.
        n_actions: usize,
    },
    /// Positions name a partition the topic does not have.
    #[error(
        "{topic}[{partition}] is named by the positions to resume from, but the topic has {n_partitions} partitions: it was re-created"
    )]
    MissingPartition {
        /// The topic.
        topic: String,
        /// The partition that is gone.
        partition: i32,
        /// How many there are.
        n_partitions: usize,
    },
    /// The log no longer holds what is to be read next.
    #[error(
        "retention passed {topic}[{partition}]: next offset to read is {next}, the log now starts at {low}, {} records are lost",
        low - next
    )]
    RetentionPassed {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The next offset to read.
        next: i64,
        /// The first offset the log still has.
        low: i64,
    },
    /// The log ends before what is to be read next.
    #[error(
        "{topic}[{partition}] ends at offset {high}, before the next offset to read, {next}: the log was truncated or the topic re-created"
    )]
    LogTruncated {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The next offset to read.
        next: i64,
        /// Where the log ends.
        high: i64,
    },
    /// A request to a broker failed.
    #[error("cannot {attempt} {subject}: {detail}")]
    Broker {
        /// What was attempted.
        attempt: &'static str,
        /// On what: a topic, a partition.
        subject: String,
        /// The library's reason.
        detail: String,
        /// Whether trying again may help.
        transient: bool,
    },
    /// Records that the broker did not acknowledge.
    #[error("{n} records were not delivered, the first to {first}")]
    Undelivered {
        /// How many.
        n: u64,
        /// Topic and reason of the first.
        first: String,
    },
    /// The embedded broker did not start.
    #[error("cannot start the embedded broker: {detail}")]
    Embedded {
        /// The library's reason.
        detail: String,
    },
    /// A file that cannot be read or written.
    #[error("cannot {attempt} {}: {source}", path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line of a data file that cannot be used.
    #[error("{}:{line}: {detail}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// What is wrong with it.
        detail: String,
    },
    /// A folder that is no data folder.
    #[error("{} holds no {missing}.jsonl (plain, .gz or .zst)", path.display())]
    NoDataFile {
        /// The folder.
        path: PathBuf,
        /// The file looked for.
        missing: &'static str,
    },
}

impl Error {
    /// Whether the same call may succeed later without anyone's help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. } => true,
            Error::Broker { transient, .. } => *transient,
            _ => false,
        }
    }

    /// The error of building a client. The value of a refused property stays out of it.
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

    /// The error of one request.
    pub(crate) fn broker(attempt: &'static str, subject: impl Into<String>, error: &KafkaError) -> Self {
        Error::Broker {
            attempt,
            subject: subject.into(),
            detail: error.to_string(),
            transient: error
                .rdkafka_error_code()
                .is_some_and(crate::source::kafka::is_transient),
        }
    }
}
