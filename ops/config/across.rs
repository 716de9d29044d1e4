//! Validation: each section by its crate, and the rules across sections.

use std::net::{IpAddr, SocketAddr};

use ouzel_ingest::PayloadFormat;
use ouzel_ingest::join::JoinSource;
use ouzel_learner::model::SequenceKind;
use ouzel_sample::Stream;
use ouzel_sample::settings::{KeyError, out_of_range};
use tracing_subscriber::EnvFilter;

use super::root::Config;

/// Longest path of a Unix socket on Linux, in bytes, less the suffix `.new` that it is bound under first.
const MAX_SOCKET_PATH_BYTES: usize = 103;

/// The errors of all values, with full keys, in the order of the sections.
pub(super) fn validate(config: &Config) -> Vec<KeyError> {
    let model = config.stated_model();
    let sections = [
        (
            "kafka.topics",
            config
                .kafka
                .topics
                .validate(|stream| config.events.selects(stream)),
        ),
        ("events", config.events.validate()),
        ("join", config.join.validate()),
        ("tier", config.tier.validate()),
        ("features", config.features.validate()),
        ("content", out_of_range(&config.content)),
        ("model", model.validate()),
        ("", config.learner_config().validate(&config.task_names())),
        ("gates", out_of_range(&config.gates)),
        ("snapshot", config.snapshot.validate()),
        ("serving", config.serving.validate(&config.task_names())),
    ];
    let mut errors = kafka(config);
    for (section, found) in sections {
        errors.extend(found.into_iter().map(|error| error.within(section)));
    }
    errors.extend(config.learner_config().pooling(&model));
    errors.extend(history(config));
    errors.extend(bodies(config));
    errors.extend(registry(config));
    errors.extend(late_records(config));
    errors.extend(socket(config));
    if let Err(error) = EnvFilter::try_new(&config.log.level) {
        let message = format!("must be a level or a filter, not {:?}: {error}", config.log.level);
        errors.push(KeyError::new("log.level", message));
    }
    errors
}

fn kafka(config: &Config) -> Vec<KeyError> {
    let is_address = |broker: &str| {
        broker
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
    };
    let brokers = config.kafka.bootstrap.split(',').map(str::trim);
    let addresses = brokers
        .filter(|broker| !is_address(broker))
        .map(|broker| KeyError::new("kafka.bootstrap", format!("must be host:port, not {broker:?}")));
    let secrets = config.kafka.properties.plain_secrets().map(|name| {
        let message = format!(
            "must not be a secret in plain text: write {name} = \"${{env:NAME}}\" to take it from the environment, or \
             {name}_file = \"PATH\""
        );
        KeyError::new(format!("kafka.properties.{name}"), message)
    });
    addresses.chain(secrets).collect()
}

/// A block cannot read more of a history than a request carries.
fn history(config: &Config) -> impl Iterator<Item = KeyError> {
    let (model, longest) = (&config.model, config.features.history_len);
    let (sequence, interest) = (&model.sequence, &model.interest);
    let readers = [
        (true, "model.history_len", model.history_len),
        (
            sequence.kind != SequenceKind::Mean,
            "model.sequence.history_len",
            sequence.history_len,
        ),
        (
            interest.enabled,
            "model.interest.history_len",
            interest.history_len,
        ),
    ];
    let (len, capacity) = (model.long_len(), config.features.long_capacity);
    let has_no_room = (len > capacity).then(|| {
        KeyError::new(
            "model.long_history.len",
            format!("must be at most features.long_capacity, {capacity}, not {len}"),
        )
    });
    let too_long = readers
        .into_iter()
        .filter(move |(is_read, _, len)| *is_read && *len > longest);
    let too_long = too_long.map(move |(_, key, len)| {
        KeyError::new(
            key,
            format!("must be at most features.history_len, {longest}, not {len}"),
        )
    });
    too_long.chain(has_no_room)
}

/// A posted event of the greatest size must fit a body.
fn bodies(config: &Config) -> Option<KeyError> {
    let (body, record) = (config.serving.max_body, config.events.max_record);
    let message = format!(
        "must be at least events.max_record, {record}, where serving.events_listen takes events, not {body}"
    );
    let is_small = config.serving.events_listen.is_some() && body < record;
    is_small.then(|| KeyError::new("serving.max_body", message))
}

/// Behind a join tier a daemon reads results, not the records.
fn late_records(config: &Config) -> Option<KeyError> {
    (config.join.source == JoinSource::Tier && config.kafka.late_records).then(|| {
        KeyError::new(
            "kafka.late_records",
            "must be false with join.source = \"tier\": the daemon that copies late records must have read them itself",
        )
    })
}

/// Schemas need a registry, and posted events are written as JSON.
fn registry(config: &Config) -> Vec<KeyError> {
    let url = &config.kafka.schema_registry.url;
    let mut errors = Vec::new();
    let is_address = ["http://", "https://"]
        .iter()
        .any(|scheme| url.starts_with(scheme));
    if !url.is_empty() && !is_address {
        let message = format!("must begin with http:// or https://, not {url:?}");
        errors.push(KeyError::new("kafka.schema_registry.url", message));
    }
    for stream in Stream::EVENTS {
        let format = config.events.format(stream);
        let key = format!("events.{stream}.format");
        if format.needs_registry() && url.is_empty() {
            errors.push(KeyError::new(
                key,
                "needs the schemas of a registry: set kafka.schema_registry.url",
            ));
        } else if format != PayloadFormat::Json && config.serving.events_listen.is_some() {
            errors.push(KeyError::new(
                key,
                "must be \"json\" where serving.events_listen takes events, which are written as JSON",
            ));
        }
    }
    errors
}

fn socket(config: &Config) -> Option<KeyError> {
    let key = match config.admin.socket {
        Some(_) => "admin.socket",
        None => "snapshot.dir",
    };
    let length = config.admin_socket().as_os_str().len();
    let message = format!(
        "makes the path of the admin socket {length} bytes long, and a Unix socket's has at most \
         {MAX_SOCKET_PATH_BYTES}: set admin.socket to a shorter path"
    );
    (length > MAX_SOCKET_PATH_BYTES).then(|| KeyError::new(key, message))
}

impl Config {
    /// Settings that work but may surprise, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.notices.clone();
        let mut properties = self.kafka.properties.written();
        let protocol = properties
            .find(|(name, _)| *name == "security.protocol")
            .map_or("plaintext", |(_, protocol)| protocol);
        let mut brokers = self.kafka.bootstrap.split(',').map(str::trim);
        if let Some(broker) = brokers.find(|broker| !is_loopback(broker))
            && protocol.to_lowercase().ends_with("plaintext")
        {
            warnings.push(format!(
                "events of the broker {broker} travel unencrypted: set security.protocol in [kafka.properties]"
            ));
        }
        let listen = self.serving.listen;
        if !listen.ip().is_loopback() {
            warnings.push(format!(
                "serving.listen is {listen}, and the scoring port has no authentication: let only callers reach it"
            ));
        }
        warnings
    }
}

fn is_loopback(broker: &str) -> bool {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || broker
            .parse::<SocketAddr>()
            .is_ok_and(|address| address.ip().is_loopback())
}
