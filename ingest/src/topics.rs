//! Which topic carries which stream, and making the topics on a broker that lacks them.

use std::collections::BTreeMap;
use std::time::Duration;

use ouzel_sample::Stream;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use crate::Error;
use crate::source::kafka::{Client, REQUEST_TIMEOUT, properties, unreachable};

/// The topic of each stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// JoinResultReceiver shown.
    pub impressions: String,
    /// What users did with them.
    pub actions: String,
    /// The item catalog.
    pub items: String,
    /// What the join tier makes of impressions and actions.
    pub samples: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            impressions: "impressions".into(),
            actions: "actions".into(),
            items: "items".into(),
            samples: "samples".into(),
        }
    }
}

impl Topics {
    /// The topic that carries `stream`.
    #[must_use]
    pub fn name(&self, stream: Stream) -> &str {
        match stream {
            Stream::Impressions => &self.impressions,
            Stream::Actions => &self.actions,
            Stream::Items => &self.items,
            Stream::Samples => &self.samples,
        }
    }

    /// Where rejected records of `stream` go.
    #[must_use]
    pub fn dead_letters(&self, stream: Stream) -> String {
        format!("{}.dlq", self.name(stream))
    }

    /// Every topic that one process doing everything touches: the three streams, then their dead letters.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        let streams = Stream::EVENTS.iter().map(|stream| self.name(*stream).to_owned());
        streams
            .chain(Stream::EVENTS.iter().map(|stream| self.dead_letters(*stream)))
            .collect()
    }

    /// What the join tier needs besides.
    #[must_use]
    pub fn tier(&self) -> [String; 2] {
        [self.samples.clone(), self.dead_letters(Stream::Samples)]
    }
}

/// How long a broker has to make the topics.
const CREATE_TIMEOUT: Duration = Duration::from_secs(15);

/// Creates each of `topics` with `n_partitions` partitions and `replication` replicas. Returns the names
/// created; those that existed are left as they are and left out.
///
/// The embedded broker has no such request: [`crate::Embedded::start`] makes its topics itself.
///
/// # Errors
/// When the properties are refused, no broker answers, or the broker refuses a topic.
pub fn create(
    bootstrap: &str,
    user_properties: &BTreeMap<String, String>,
    topics: &[String],
    n_partitions: i32,
    replication: i32,
) -> Result<Vec<String>, Error> {
    reach(bootstrap, user_properties)?;
    let admin: AdminClient<Client> = properties::client(bootstrap, user_properties)?
        .create_with_context(Client::default())
        .map_err(|error| Error::client(&error))?;
    let subject = topics.join(", ");
    let new: Vec<_> = topics
        .iter()
        .map(|topic| NewTopic::new(topic, n_partitions, TopicReplication::Fixed(replication)))
        .collect();
    let options = AdminOptions::new()
        .request_timeout(Some(CREATE_TIMEOUT))
        .operation_timeout(Some(CREATE_TIMEOUT));
    let outcomes = pollster::block_on(admin.create_topics(&new, &options))
        .map_err(|error| Error::broker("create topics", subject, &error))?;
    let mut created = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(topic) => created.push(topic),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                return Err(Error::Broker {
                    attempt: "create topic",
                    subject: topic,
                    detail: code.to_string(),
                    transient: crate::source::kafka::is_transient(code),
                });
            }
        }
    }
    Ok(created)
}

/// Asks for the brokers' names. An admin request on its own would wait for its whole timeout and not say why.
fn reach(bootstrap: &str, user_properties: &BTreeMap<String, String>) -> Result<(), Error> {
    let consumer: BaseConsumer<Client> = properties::consumer(bootstrap, user_properties)?
        .create_with_context(Client::default())
        .map_err(|error| Error::client(&error))?;
    let metadata = consumer.fetch_metadata(None, REQUEST_TIMEOUT);
    metadata
        .map(|_| ())
        .map_err(|error| unreachable(&consumer, bootstrap, &error))
}
