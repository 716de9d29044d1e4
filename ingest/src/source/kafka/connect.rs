//! Connecting to brokers and asking for the partitions of a topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::client_log::ClientLog;
use super::properties;
use crate::error::{Error, is_transient};

/// How long a broker has to answer a request at the start.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the partitions of a new topic may be without a leader.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(15);
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// A consumer with the user's and our properties. Connects in the background.
pub(crate) fn connect_consumer(
    bootstrap: &str,
    user_properties: &BTreeMap<String, String>,
) -> Result<BaseConsumer<ClientLog>, Error> {
    properties::consumer(bootstrap, user_properties)?
        .create_with_context(ClientLog::default())
        .map_err(|error| Error::client(&error))
}

pub(crate) fn partitions_of(
    consumer: &BaseConsumer<ClientLog>,
    topic: &str,
    bootstrap: &str,
) -> Result<Vec<i32>, Error> {
    let missing = || Error::MissingTopic {
        topic: topic.to_owned(),
        bootstrap: bootstrap.to_owned(),
    };
    let deadline = Instant::now() + ELECTION_TIMEOUT;
    loop {
        let metadata = consumer
            .fetch_metadata(Some(topic), REQUEST_TIMEOUT)
            .map_err(|error| unreachable(consumer, bootstrap, &error))?;
        let metadata = metadata.topics().iter().find(|metadata| metadata.name() == topic);
        match metadata.and_then(|metadata| metadata.error()).map(Code::from) {
            None => {
                let partitions = metadata.map(|metadata| metadata.partitions()).unwrap_or_default();
                if partitions.is_empty() {
                    return Err(missing());
                }
                return Ok(partitions.iter().map(|partition| partition.id()).collect());
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic) => {
                return Err(missing());
            }
            // A topic created a moment ago has no leader yet.
            Some(code) if is_transient(code) && Instant::now() < deadline => {
                consumer.poll(RETRY_EVERY);
            }
            Some(code) => return Err(Error::from_code("describe topic", topic, code)),
        }
    }
}

/// Repeats a request about partitions that the broker answers with "not now": for a moment after a topic was created or a
/// broker came back, its partitions have no leader. A broker that does not answer at all is not asked again.
pub(crate) fn once_led<T>(request: impl Fn() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    let deadline = Instant::now() + ELECTION_TIMEOUT;
    loop {
        let outcome = request();
        let code = outcome.as_ref().err().and_then(KafkaError::rdkafka_error_code);
        if !code.is_some_and(is_without_leader) || Instant::now() >= deadline {
            return outcome;
        }
        std::thread::sleep(RETRY_EVERY);
    }
}

fn is_without_leader(code: Code) -> bool {
    matches!(
        code,
        Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::UnknownPartition
            | Code::UnknownTopicOrPartition
    )
}

/// The error for a broker that does not answer `consumer`.
pub(crate) fn unreachable(consumer: &BaseConsumer<ClientLog>, bootstrap: &str, error: &KafkaError) -> Error {
    // The log has details that the code lacks: refused, unknown host, bad certificate.
    consumer.poll(Duration::ZERO);
    Error::Unreachable {
        bootstrap: bootstrap.to_owned(),
        detail: consumer
            .context()
            .take_last_error()
            .unwrap_or_else(|| error.to_string()),
    }
}
