//! Kafka properties: the user's pass through, ours are refused with a reason.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;

use crate::Error;

const OWN_OFFSETS: &str = "positions live in the snapshots and the group's offsets are never read";

/// Properties that the promises rest on, their value in a consumer where there is one, and why they are ours.
const OWNED: &[(&str, Option<&str>, &str)] = &[
    (
        "bootstrap.servers",
        None,
        "it has a setting of its own, `bootstrap`",
    ),
    (
        "metadata.broker.list",
        None,
        "it has a setting of its own, `bootstrap`",
    ),
    ("enable.auto.commit", Some("false"), OWN_OFFSETS),
    ("enable.auto.offset.store", Some("false"), OWN_OFFSETS),
    (
        "auto.offset.reset",
        Some("error"),
        "a reset skips or repeats records silently",
    ),
    (
        "enable.partition.eof",
        Some("true"),
        "the order of partitions needs to know where each one ends",
    ),
    (
        "check.crcs",
        Some("true"),
        "a damaged record must not be learned from",
    ),
    (
        "allow.auto.create.topics",
        Some("false"),
        "a mistyped topic must be an error, not an empty topic",
    ),
    (
        "isolation.level",
        Some("read_committed"),
        "an aborted transaction must not be learned from",
    ),
    // librdkafka's 64 MiB and 100,000 records per partition are more than a bounded pipeline should hold.
    (
        "queued.max.messages.kbytes",
        Some("16384"),
        "memory is bounded by it",
    ),
    ("queued.min.messages", Some("10000"), "memory is bounded by it"),
    (
        "test.mock.num.brokers",
        None,
        "it would replace the brokers; leave `bootstrap` out for the embedded one",
    ),
];

/// What a consumer gets unless the user says otherwise.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "ouzel"),
    // Named because `assign` wants one; nothing is ever committed to it.
    ("group.id", "ouzel"),
    // A queue of 10,000 records is read in milliseconds: the default of one second would be the pace.
    ("fetch.queue.backoff.ms", "5"),
    ("reconnect.backoff.max.ms", "1000"),
    ("topic.metadata.refresh.interval.ms", "60000"),
];

/// A client's configuration: defaults, then the user's properties, then the address.
pub(crate) fn client(bootstrap: &str, user: &BTreeMap<String, String>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::new();
    config
        .set("client.id", "ouzel")
        .set("reconnect.backoff.max.ms", "1000");
    pass(user, &mut config)?;
    config.set("bootstrap.servers", bootstrap);
    Ok(config)
}

/// A consumer's configuration: as [`client`], with what ouzel forces.
pub(crate) fn consumer(bootstrap: &str, user: &BTreeMap<String, String>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::new();
    for (key, value) in DEFAULTS {
        config.set(*key, *value);
    }
    pass(user, &mut config)?;
    for (key, value, _) in OWNED {
        if let Some(value) = value {
            config.set(*key, *value);
        }
    }
    config.set("bootstrap.servers", bootstrap);
    Ok(config)
}

fn pass(user: &BTreeMap<String, String>, config: &mut ClientConfig) -> Result<(), Error> {
    for (key, value) in user {
        if let Some((_, _, reason)) = OWNED.iter().find(|(owned, _, _)| owned == key) {
            return Err(Error::OwnedProperty {
                key: key.clone(),
                reason,
            });
        }
        let wants_ssl = key == "security.protocol" && value.to_ascii_lowercase().contains("ssl");
        if wants_ssl && !cfg!(feature = "ssl") {
            return Err(Error::NotBuiltIn {
                what: format!("`{key} = {value}`"),
                feature: "ssl",
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
    fn an_owned_property_is_refused_with_its_reason_even_at_its_own_value() {
        for (key, value, reason) in OWNED {
            let refused = consumer("b:1", &user(key, value.unwrap_or("x"))).unwrap_err();
            let text = refused.to_string();
            assert!(text.contains(key) && text.contains(reason), "{text}");
        }
    }

    #[test]
    fn a_user_property_passes_through_and_wins_over_a_default() {
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
    fn a_refused_value_stays_out_of_the_message() {
        let config = consumer("b:1", &user("sasl.mechanisms.typo", "hunter2")).unwrap();
        let error = Error::client(&config.create_native_config().err().unwrap());
        assert!(error.to_string().contains("sasl.mechanisms.typo"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
