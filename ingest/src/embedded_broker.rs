//! The embedded broker: librdkafka's mock cluster in this process, reached over loopback.
//!
//! `ouzel demo` and the tests use it when no broker is configured. It keeps **5 MiB or 100,000 batches per
//! partition in memory and drops the oldest silently beyond that**, so a producer must wait for the consumer
//! ([`crate::Feeder::unread_bytes`]), and a source over it is opened with
//! [`crate::KafkaConfig::is_whole_log_expected`]. It has no lookup by timestamp, no transaction isolation, no admin
//! requests and no durability: the log ends with the process.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::error::Error;

/// Most bytes that a partition of the embedded broker keeps.
pub const EMBEDDED_PARTITION_BYTES: u64 = 5 << 20;

/// A running embedded broker. Dropping it stops it.
pub struct EmbeddedBroker {
    // Owns the mock cluster; never produces.
    host: BaseProducer,
}

impl EmbeddedBroker {
    /// Starts a broker with `topics` of `n_partitions` partitions each.
    ///
    /// # Errors
    /// When the broker does not start or refuses a topic.
    pub fn start(n_partitions: i32, topics: &[String]) -> Result<Self, Error> {
        let host: BaseProducer = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .set_log_level(RDKafkaLogLevel::Error)
            .create()
            .map_err(|error| failed("start", &error))?;
        let broker = Self { host };
        let cluster = broker.cluster()?;
        for topic in topics {
            cluster
                .create_topic(topic, n_partitions, 1)
                .map_err(|error| failed(topic, &error))?;
        }
        drop(cluster);
        Ok(broker)
    }

    /// The address for clients, `host:port`.
    ///
    /// # Errors
    /// When the client library has lost the broker.
    pub fn bootstrap(&self) -> Result<String, Error> {
        Ok(self.cluster()?.bootstrap_servers())
    }

    /// Simulates an outage: cuts every connection and refuses new ones until it is reachable again. The log stays.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn set_reachable(&self, is_reachable: bool) -> Result<(), Error> {
        let cluster = self.cluster()?;
        let outcome = if is_reachable {
            cluster.broker_up(-1)
        } else {
            cluster.broker_down(-1)
        };
        outcome.map_err(|error| failed("switch", &error))
    }

    /// Answers the next `n` requests for offsets as a broker whose partitions have no leader yet.
    ///
    /// # Errors
    /// When the client library has lost the broker.
    pub fn lose_leaders(&self, n: usize) -> Result<(), Error> {
        let errors = vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; n];
        self.cluster()?
            .request_errors(RDKafkaApiKey::ListOffsets, &errors);
        Ok(())
    }

    fn cluster(&self) -> Result<MockCluster<'_, DefaultProducerContext>, Error> {
        self.host.client().mock_cluster().ok_or_else(|| Error::Embedded {
            detail: "the client library has no mock cluster".to_owned(),
        })
    }
}

fn failed(what: &str, error: &KafkaError) -> Error {
    Error::Embedded {
        detail: format!("{what}: {error}"),
    }
}
