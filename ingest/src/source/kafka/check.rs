//! Checks of Kafka properties that need no broker: those of the clients that a process makes.

use rdkafka::consumer::BaseConsumer;
use rdkafka::producer::{BaseProducer, DefaultProducerContext};

use super::client_log::ClientLog;
use super::config::KafkaConfig;
use super::properties;
use crate::error::Error;
use crate::producer;

/// Makes a consumer and a producer with the properties of `config`, which librdkafka checks together, and drops them.
///
/// No broker is contacted: the clients have no address.
///
/// # Errors
/// A property that ouzel sets itself, that librdkafka refuses, or that this build lacks.
pub fn check_properties(config: &KafkaConfig) -> Result<(), Error> {
    let mut consumer = properties::consumer(&config.bootstrap, &config.properties)?;
    consumer.remove("bootstrap.servers");
    let made: Result<BaseConsumer<ClientLog>, _> = consumer.create_with_context(ClientLog::default());
    made.map_err(|error| Error::client(&error))?;
    let mut producer = producer::properties(&config.bootstrap, &config.properties)?;
    producer.remove("bootstrap.servers");
    let made: Result<BaseProducer<DefaultProducerContext>, _> =
        producer.create_with_context(DefaultProducerContext);
    made.map_err(|error| Error::client(&error))?;
    Ok(())
}
