//! What a broker says about topics, for a check of the configuration: partitions, retention, permission to read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, ConfigResourceResult, OwnedResourceSpecifier,
    ResourceSpecifier,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::error::Error;
use crate::source::KafkaConfig;
use crate::source::kafka::{
    ClientLog, REQUEST_TIMEOUT, connect_consumer, once_led, partitions_of, properties,
};

/// How long a broker has to return one record of a topic.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A topic as the broker describes it.
#[derive(Clone, Debug)]
pub enum TopicState {
    /// The broker has no such topic, or hides it from this user.
    Missing,
    /// The broker does not describe the topic, for this reason.
    Hidden(String),
    /// The topic exists.
    Found(FoundTopic),
}

/// A topic that exists.
#[derive(Clone, Debug)]
pub struct FoundTopic {
    /// Number of partitions.
    pub n_partitions: usize,
    /// Why no record can be read; none if one was read, or the topic is readable and empty.
    pub unreadable: Option<String>,
    /// Timestamp of the newest record of some partition, ms since 1970.
    pub newest_ms: Option<i64>,
    /// Its retention, or why the broker does not tell.
    pub retention: Result<Retention, String>,
}

/// How long a topic keeps records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `retention.ms`; none for unlimited.
    pub ms: Option<i64>,
    /// `retention.bytes` of a partition; none for unlimited.
    pub bytes: Option<i64>,
    /// Whether old records are deleted, by `cleanup.policy`.
    pub deletes: bool,
    /// Whether the newest record of each key is kept, by `cleanup.policy`.
    pub compacts: bool,
}

/// Asks the broker for each of `topics`. Reads at most one record of each, and writes nothing.
///
/// # Errors
/// When no broker answers, or refuses this client.
pub fn inspect(config: &KafkaConfig, topics: &[String]) -> Result<BTreeMap<String, TopicState>, Error> {
    let consumer = connect_consumer(&config.bootstrap, &config.properties)?;
    let mut found = BTreeMap::new();
    for topic in topics {
        let state = match partitions_of(&consumer, topic, &config.bootstrap) {
            Ok(partitions) => {
                let (unreadable, newest_ms) = match read_newest(&consumer, topic, &partitions) {
                    Ok(newest_ms) => (None, newest_ms),
                    Err(why) => (Some(why), None),
                };
                TopicState::Found(FoundTopic {
                    n_partitions: partitions.len(),
                    unreadable,
                    newest_ms,
                    retention: Err("the broker was not asked".to_owned()),
                })
            }
            Err(Error::MissingTopic { .. }) => TopicState::Missing,
            Err(error @ Error::Unreachable { .. }) => return Err(error),
            Err(error) => TopicState::Hidden(error.to_string()),
        };
        found.insert(topic.clone(), state);
    }
    let mut retentions = retentions(config, &found)?;
    for (topic, state) in &mut found {
        if let (TopicState::Found(state), Some(retention)) = (state, retentions.remove(topic)) {
            state.retention = retention;
        }
    }
    Ok(found)
}

/// The timestamp of one of the newest records, read from the first partition that has any.
fn read_newest(
    consumer: &BaseConsumer<ClientLog>,
    topic: &str,
    partitions: &[i32],
) -> Result<Option<i64>, String> {
    let text = |error: KafkaError| error.to_string();
    let mut chosen = None;
    for partition in partitions {
        let watermarks = once_led(|| consumer.fetch_watermarks(topic, *partition, REQUEST_TIMEOUT));
        let (low, high) = watermarks.map_err(text)?;
        chosen.get_or_insert((*partition, low));
        if high > low {
            chosen = Some((*partition, high - 1));
            break;
        }
    }
    let Some((partition, offset)) = chosen else {
        return Ok(None);
    };
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))
        .map_err(text)?;
    consumer.assign(&list).map_err(text)?;
    let deadline = Instant::now() + READ_TIMEOUT;
    let outcome = loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => break Ok(message.timestamp().to_millis()),
            // The last offset may be a marker of a transaction.
            Some(Err(KafkaError::PartitionEOF(_))) => break Ok(None),
            Some(Err(error)) if error.rdkafka_error_code() == Some(Code::TopicAuthorizationFailed) => {
                break Err("this user may not read it".to_owned());
            }
            Some(Err(_)) | None if Instant::now() < deadline => {}
            Some(Err(error)) => break Err(error.to_string()),
            None => break Err(format!("no answer within {} s", READ_TIMEOUT.as_secs())),
        }
    };
    consumer.unassign().map_err(text)?;
    outcome
}

/// The retention of each topic that was found.
fn retentions(
    config: &KafkaConfig,
    found: &BTreeMap<String, TopicState>,
) -> Result<BTreeMap<String, Result<Retention, String>>, Error> {
    let exists = |(topic, state): (&String, &TopicState)| match state {
        TopicState::Found(_) => Some(topic.clone()),
        TopicState::Missing | TopicState::Hidden(_) => None,
    };
    let topics: Vec<String> = found.iter().filter_map(exists).collect();
    if topics.is_empty() {
        return Ok(BTreeMap::new());
    }
    let admin: AdminClient<ClientLog> = properties::client(&config.bootstrap, &config.properties)?
        .create_with_context(ClientLog::default())
        .map_err(|error| Error::client(&error))?;
    let resources: Vec<_> = topics
        .iter()
        .map(|topic| ResourceSpecifier::Topic(topic))
        .collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    let described = pollster::block_on(admin.describe_configs(&resources, &options));
    let numbered = topics.into_iter().zip(0..);
    let retention = |(topic, index): (String, usize)| {
        let retention = match &described {
            Ok(resources) => described_retention(resources, &topic, index),
            Err(error) => Err(error.to_string()),
        };
        (topic, retention)
    };
    Ok(numbered.map(retention).collect())
}

/// The retention of a topic that was asked for at place `index`; only an error stands there without its topic's name.
fn described_retention(
    resources: &[ConfigResourceResult],
    topic: &str,
    index: usize,
) -> Result<Retention, String> {
    let is_of_topic = |resource: &&ConfigResource| match &resource.specifier {
        OwnedResourceSpecifier::Topic(name) => name == topic,
        _ => false,
    };
    match (resources.iter().flatten().find(is_of_topic), resources.get(index)) {
        (Some(resource), _) => retention_of(resource),
        (None, Some(Err(code))) => Err(code.to_string()),
        (None, _) => Err("the broker did not describe it".to_owned()),
    }
}

/// The retention that a topic's settings state.
fn retention_of(resource: &ConfigResource) -> Result<Retention, String> {
    let value = |name: &str| {
        let value = resource.get(name).and_then(|entry| entry.value.as_deref());
        value.ok_or_else(|| format!("the broker does not name {name}"))
    };
    let limit = |name: &str| -> Result<Option<i64>, String> {
        let text = value(name)?;
        let limit: i64 = text
            .parse()
            .map_err(|_| format!("{name} = {text:?} is not a number"))?;
        Ok((limit >= 0).then_some(limit))
    };
    let policy = value("cleanup.policy")?;
    Ok(Retention {
        ms: limit("retention.ms")?,
        bytes: limit("retention.bytes")?,
        deletes: policy.contains("delete"),
        compacts: policy.contains("compact"),
    })
}
