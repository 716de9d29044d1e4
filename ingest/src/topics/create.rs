//! Creating topics on a broker.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;

use crate::error::Error;
use crate::source::kafka::{ClientLog, REQUEST_TIMEOUT, connect_consumer, properties, unreachable};

/// How long a broker has to create the topics.
const CREATE_TIMEOUT: Duration = Duration::from_secs(15);

/// Creates `topics` with `n_partitions` partitions and `replication` replicas each. Returns the names created;
/// existing topics are left unchanged.
///
/// The embedded broker has no such request: [`crate::EmbeddedBroker::start`] creates its topics.
///
/// # Errors
/// When a property is refused, no broker answers, or the broker refuses a topic.
pub fn create(
    bootstrap: &str,
    user_properties: &BTreeMap<String, String>,
    topics: &[String],
    n_partitions: i32,
    replication: i32,
) -> Result<Vec<String>, Error> {
    check_reachable(bootstrap, user_properties)?;
    let admin: AdminClient<ClientLog> = properties::client(bootstrap, user_properties)?
        .create_with_context(ClientLog::default())
        .map_err(|error| Error::client(&error))?;
    let new = |topic| NewTopic::new(topic, n_partitions, TopicReplication::Fixed(replication));
    let new: Vec<_> = topics.iter().map(|topic| new(topic)).collect();
    let options = AdminOptions::new()
        .request_timeout(Some(CREATE_TIMEOUT))
        .operation_timeout(Some(CREATE_TIMEOUT));
    let outcomes = pollster::block_on(admin.create_topics(&new, &options))
        .map_err(|error| Error::broker("create topics", topics.join(", "), &error))?;
    let mut created = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(topic) => created.push(topic),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(Error::from_code("create topic", topic, code)),
        }
    }
    Ok(created)
}

/// Fails with the reason when no broker answers; an admin request would only time out.
fn check_reachable(bootstrap: &str, user_properties: &BTreeMap<String, String>) -> Result<(), Error> {
    let consumer = connect_consumer(bootstrap, user_properties)?;
    let metadata = consumer.fetch_metadata(None, REQUEST_TIMEOUT);
    let metadata = metadata.map_err(|error| unreachable(&consumer, bootstrap, &error));
    metadata.map(|_| ())
}
