//! Kafka properties: the user's are passed through, those that ouzel sets itself are refused.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;

use crate::error::Error;

const OWN_OFFSETS: &str = "ouzel keeps its positions in snapshots and never reads committed offsets";

/// Properties that users cannot set: name, the value set for consumers, and the reason.
#[rustfmt::skip]
const OWNED: &[(&str, Option<&str>, &str)] = &[
    ("bootstrap.servers", None, "it has its own setting, `kafka.bootstrap`"),
    ("metadata.broker.list", None, "it has its own setting, `kafka.bootstrap`"),
    ("enable.auto.commit", Some("false"), OWN_OFFSETS),
    ("enable.auto.offset.store", Some("false"), OWN_OFFSETS),
    ("auto.offset.reset", Some("error"), "a reset would skip or repeat records silently"),
    ("enable.partition.eof", Some("true"), "merging partitions needs to know where each one ends"),
    ("check.crcs", Some("true"), "a damaged record must not be learned from"),
    ("allow.auto.create.topics", Some("false"), "a misspelt topic must be an error, not an empty topic"),
    ("isolation.level", Some("read_committed"), "an aborted transaction must not be learned from"),
    // librdkafka's defaults, 64 MiB and 100,000 records per partition, are too much for a bounded pipeline.
    ("queued.max.messages.kbytes", Some("16384"), "it bounds the memory of the pipeline"),
    ("queued.min.messages", Some("10000"), "it bounds the memory of the pipeline"),
    ("test.mock.num.brokers", None, "it replaces the brokers; omit `kafka.bootstrap` to use the embedded one"),
];

/// Defaults of a consumer, which the user may override.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "ouzel"),
    // `assign` requires a group; nothing is ever committed to it.
    ("group.id", "ouzel"),
    // A full queue is drained within milliseconds; the default of one second would limit the throughput.
    ("fetch.queue.backoff.ms", "5"),
    ("reconnect.backoff.max.ms", "1000"),
    // A partition that has no leader while its broker restarts may be asked for again only then.
    ("topic.metadata.refresh.interval.ms", "10000"),
];

/// The configuration of a client: defaults, the user's properties, then the address.
pub(crate) fn client(bootstrap: &str, user: &BTreeMap<String, String>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::new();
    config
        .set("client.id", "ouzel")
        .set("reconnect.backoff.max.ms", "1000");
    set_user_properties(user, &mut config)?;
    config.set("bootstrap.servers", bootstrap);
    Ok(config)
}

/// The configuration of a consumer: as [`client`], with the properties that ouzel sets itself.
pub(crate) fn consumer(bootstrap: &str, user: &BTreeMap<String, String>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::new();
    for (key, value) in DEFAULTS {
        config.set(*key, *value);
    }
    set_user_properties(user, &mut config)?;
    for (key, value, _) in OWNED {
        if let Some(value) = value {
            config.set(*key, *value);
        }
    }
    config.set("bootstrap.servers", bootstrap);
    Ok(config)
}

fn set_user_properties(user: &BTreeMap<String, String>, config: &mut ClientConfig) -> Result<(), Error> {
    for (key, value) in user {
        if let Some((_, _, reason)) = OWNED.iter().find(|(owned, _, _)| owned == key) {
            let key = key.clone();
            return Err(Error::OwnedProperty { key, reason });
        }
        let wants_ssl = key == "security.protocol" && value.to_ascii_lowercase().contains("ssl");
        if wants_ssl && !cfg!(feature = "ssl") {
            return Err(Error::NotBuiltIn {
                what: format!("`{key} = {value}`"),
                feature: "tls",
            });
        }
        config.set(key, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn an_owned_property_is_refused_with_its_reason_even_at_the_value_that_ouzel_sets() {
        for (key, value, reason) in OWNED {
            let refused = consumer("b:1", &user(key, value.unwrap_or("x"))).unwrap_err();
            let text = refused.to_string();
            assert!(text.contains(key) && text.contains(reason), "{text}");
        }
    }

    #[test]
    fn a_user_property_overrides_a_default() {
        let config = consumer("b:1", &user("client.id", "mine")).unwrap();
        assert_eq!(config.get("client.id"), Some("mine"));
        assert_eq!(config.get("auto.offset.reset"), Some("error"));
        assert_eq!(config.get("bootstrap.servers"), Some("b:1"));
    }

    #[test]
    fn tls_without_its_feature_says_how_to_build_it() {
        let outcome = consumer("b:1", &user("security.protocol", "SASL_SSL"));
        assert_eq!(outcome.is_ok(), cfg!(feature = "ssl"));
    }

    #[test]
    fn the_value_of_a_refused_property_is_not_in_the_message() {
        let config = consumer("b:1", &user("sasl.mechanisms.typo", "hunter2")).unwrap();
        let error = Error::client(&config.create_native_config().err().unwrap());
        assert!(error.to_string().contains("sasl.mechanisms.typo"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
