//! Errors of sources, producers and data folders.
//!
//! A bad record is not an error here but a [`ouzel_sample::Reject`]. These errors stop a source; each says what was
//! attempted, on what, and what to do.

use std::path::{Path, PathBuf};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// An error of a source, a producer or a data folder.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages describe variants and fields")]
pub enum Error {
    /// A property that ouzel sets itself, because its guarantees depend on it.
    #[error("kafka property `{key}` cannot be set: {reason}; remove it from `kafka.properties`")]
    OwnedProperty { key: String, reason: &'static str },
    /// A property that librdkafka refuses. The value may be a secret and is not shown.
    #[error("kafka property `{key}` was refused: {detail}; correct it in `kafka.properties`")]
    BadProperty { key: String, detail: String },
    #[error(
        "{what} is not built in; build with `--features {feature}`, or with `make build` for all that Kafka needs"
    )]
    NotBuiltIn { what: String, feature: &'static str },
    #[error("cannot use the schema registry at {url}: {detail}; correct `kafka.schema_registry`")]
    Registry { url: String, detail: String },
    #[error("cannot reach kafka at {bootstrap}: {detail}; {}", advice(detail))]
    Unreachable { bootstrap: String, detail: String },
    #[error(
        "topic `{topic}` does not exist at {bootstrap}; create it (`ouzel topics create`) or configure another"
    )]
    MissingTopic { topic: String, bootstrap: String },
    #[error(
        "`{impressions}` has {n_impressions} partitions and `{actions}` has {n_actions}: the records of a request are in partitions of the same number only when both topics have equally many; recreate one of them"
    )]
    PartitionCountMismatch {
        impressions: String,
        n_impressions: usize,
        actions: String,
        n_actions: usize,
    },
    #[error(
        "the positions to resume from name {partition}, but the topic has {n_partitions} partitions: it was recreated; {RESTART}"
    )]
    MissingPartition { partition: String, n_partitions: usize },
    #[error(
        "retention passed {partition}: the next offset to read is {next}, the log now starts at {low}, {} records are lost; {RESTART}",
        low - next
    )]
    RetentionPassed { partition: String, next: i64, low: i64 },
    #[error(
        "{partition} ends at offset {high}, before the next offset to read, {next}: the log was truncated or the topic recreated; {RESTART}"
    )]
    LogTruncated { partition: String, next: i64, high: i64 },
    #[error("cannot {attempt} {subject}: {detail}")]
    Broker {
        attempt: &'static str,
        subject: String,
        detail: String,
        transient: bool,
    },
    #[error("{n} records were not delivered, the first to {first}")]
    Undelivered { n: u64, first: String },
    #[error("cannot start the embedded broker: {detail}")]
    Embedded { detail: String },
    #[error("cannot {attempt} {}: {source}", path.display())]
    File {
        attempt: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}:{line}: {detail}", path.display())]
    Line {
        path: PathBuf,
        line: u64,
        detail: String,
    },
    #[error("{} holds no {missing}.jsonl and no {missing}.csv (plain, .gz or .zst), and no {missing}.parquet; name a folder with logged data (a dump that carries several streams is events.jsonl, with `where` in [events.{missing}])", path.display())]
    NoDataFile { path: PathBuf, missing: &'static str },
    #[error("{} is empty; it must hold one shown item or slate a line", path.display())]
    EmptyDataFile { path: PathBuf },
}

/// What to do when the log and the positions of a snapshot do not match.
const RESTART: &str = "resume from a snapshot that matches the log, or start with an empty `snapshot.dir`";

impl Error {
    /// True when the same call may succeed later without anyone's help.
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
            KafkaError::ClientConfig(_, detail, key, _) if is_not_built_in(detail) => Error::NotBuiltIn {
                what: format!("kafka property `{key}`"),
                feature: "tls",
            },
            KafkaError::ClientCreation(detail) if is_not_built_in(detail) => Error::NotBuiltIn {
                what: format!("a kafka property ({detail})"),
                feature: "tls",
            },
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

/// True for librdkafka's words about a part that this build leaves out and the feature `tls` has.
fn is_not_built_in(detail: &str) -> bool {
    let words = [
        "recompile librdkafka",
        "not supported in this build",
        "at build time",
    ];
    words.iter().any(|word| detail.contains(word)) && !detail.contains("GSSAPI")
}

/// What to do about a connection that failed with this text of librdkafka.
fn advice(detail: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| detail.contains(word));
    if has(&[
        "certificate verify failed",
        "certificate could not be verified",
        "unknown ca",
    ]) {
        "set `ssl.ca.location` in `kafka.properties` to the file with the certificate authority of the broker"
    } else if has(&[
        "SASL authentication error",
        "Authentication failed",
        "authentication failure",
    ]) {
        "check `sasl.mechanism`, `sasl.username` and `sasl.password` in `kafka.properties`"
    } else if has(&["OAUTHBEARER", "OIDC", "token"]) {
        "check `sasl.oauthbearer.token.endpoint.url`, `sasl.oauthbearer.client.id` and `sasl.oauthbearer.client.secret` in \
         `kafka.properties`"
    } else if has(&[
        "SSL handshake failed",
        "incorrect security.protocol",
        "ApiVersion",
    ]) {
        "check `security.protocol` in `kafka.properties` against the listener of the broker"
    } else {
        "check the address, that the broker is up, and that `security.protocol` in `kafka.properties` is that of its listener"
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
