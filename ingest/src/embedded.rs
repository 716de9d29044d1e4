//! The broker inside the process: librdkafka's mock cluster, reached over loopback like any other.
//!
//! It is what `ouzel demo` and the tests run on when no broker is configured. It keeps **5 MiB or 100,000
//! batches per partition in memory and drops the oldest silently beyond that**, so whoever feeds it paces
//! itself by what was consumed ([`crate::Feeder::unread_bytes`]), and a source over it is opened with
//! [`crate::KafkaConfig::is_whole_log_expected`]. It has no lookup by timestamp, no transaction isolation,
//! no admin requests and no durability: stopping the process is losing the log.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer};

use crate::Error;

/// The most bytes that a partition of the embedded broker keeps.
pub const EMBEDDED_PARTITION_BYTES: u64 = 5 << 20;

/// A running embedded broker. Dropping it stops it.
pub struct Embedded {
    // Owns the mock cluster; it is never asked to produce.
    host: BaseProducer,
}

impl Embedded {
    /// Starts a broker with `topics` of `n_partitions` partitions each.
    ///
    /// # Errors
    /// When it does not start or refuses a topic.
    pub fn start(n_partitions: i32, topics: &[String]) -> Result<Self, Error> {
        let host: BaseProducer = ClientConfig::new()
            .set("test.mock.num.brokers", "1")
            .set_log_level(RDKafkaLogLevel::Error)
            .create()
            .map_err(|error| failed("start", &error))?;
        let embedded = Self { host };
        let cluster = embedded.cluster()?;
        for topic in topics {
            cluster
                .create_topic(topic, n_partitions, 1)
                .map_err(|error| failed(topic, &error))?;
        }
        drop(cluster);
        Ok(embedded)
    }

    /// Where clients reach it, `host:port`.
    ///
    /// # Errors
    /// When the client library lost its broker.
    pub fn bootstrap(&self) -> Result<String, Error> {
        Ok(self.cluster()?.bootstrap_servers())
    }

    /// Cuts every connection and refuses new ones, or takes them again: what a broker's outage looks like to
    /// its clients. The log stays.
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
