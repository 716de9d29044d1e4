//! What the types cannot say: bounds, and keys that must agree with each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ouzel_learner::model::SequenceKind;
use ouzel_sample::MAX_TASKS;
use tracing_subscriber::EnvFilter;

use super::parse::nearest;
use super::{Config, Dedup, Period, Policy};

/// Longest path of a Unix socket on Linux, in bytes, without the final zero, and without the `.new` it is bound
/// under first.
const MAX_SOCKET_PATH_BYTES: usize = 103;

/// Beyond ten years a period of event time is a mistake of unit; sums of a few stay far from overflow.
const LONGEST: Period = Period::from_secs(10 * 366 * 86_400);

/// A value that cannot be used.
pub(super) struct Fault {
    pub(super) key: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

struct Faults(Vec<Fault>);

impl Faults {
    fn unless(&mut self, fine: bool, key: impl Into<String>, message: impl Into<String>) {
        if !fine {
            self.0.push(Fault {
                key: key.into(),
                message: message.into(),
                hint: None,
            });
        }
    }

    fn unless_positive(&mut self, number: impl TryInto<u64>, key: &str) {
        self.unless(number.try_into().is_ok_and(|n| n >= 1), key, "must be at least 1");
    }

    fn unless_rate(&mut self, rate: f64, key: &str) {
        self.unless(
            rate > 0.0 && rate < 1.0,
            key,
            "must be between 0 and 1, both excluded",
        );
    }
}

/// Everything that cannot be used, in the order of the sections.
pub(super) fn faults(config: &Config) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    kafka(config, &mut faults);
    events(config, &mut faults);
    join(config, &mut faults);

    tier(config, &mut faults);
    model(config, &mut faults);
    faults.unless_positive(config.content.texts, "content.texts");
    let features = &config.features;
    faults.unless_positive(features.history_len, "features.history_len");
    faults.unless(
        features.history_kept >= features.history_len,
        "features.history_kept",
        format!("must be at least history_len, which is {}", features.history_len),
    );
    faults.unless(
        !features.decay.is_zero(),
        "features.decay",
        "must be longer than 0s",
    );
    faults.unless_rate(features.fast_rate, "features.fast_rate");
    faults.unless_rate(features.slow_rate, "features.slow_rate");
    faults.unless(
        features.prior_actions.is_finite() && features.prior_actions > 0.0,
        "features.prior_actions",
        "must be more than 0",
    );

    let learner = &config.learner;
    faults.unless_positive(learner.batch_min_samples, "learner.batch_min_samples");
    faults.unless(
        learner.negative_rate > 0.0 && learner.negative_rate <= 1.0,
        "learner.negative_rate",
        "must be above 0 and at most 1",
    );
    faults.unless_positive(learner.max_rows, "learner.max_rows");
    faults.unless_positive(learner.device_rows, "learner.device_rows");
    if let Some((key, why)) = config.rows.rules().fault() {
        faults.unless(false, format!("rows.{key}"), why);
    }
    faults.unless(
        config.rows.expire_after <= LONGEST,
        "rows.expire_after",
        format!("must be at most {LONGEST}, which is ten years"),
    );
    faults.unless_positive(learner.threads, "learner.threads");
    faults.unless(
        is_device(&learner.device),
        "learner.device",
        "must be \"cpu\" or \"cuda:N\"",
    );

    faults.unless_positive(config.snapshot.every_batches, "snapshot.every_batches");
    faults.unless_positive(config.snapshot.keep, "snapshot.keep");

    let serving = &config.serving;
    faults.unless_positive(serving.workers, "serving.workers");
    faults.unless_positive(serving.queue, "serving.queue");
    faults.unless_positive(serving.max_candidates, "serving.max_candidates");
    faults.unless(
        !serving.deadline.is_zero(),
        "serving.deadline",
        "must be longer than 0s",
    );
    faults.unless(
        !serving.max_body.is_empty(),
        "serving.max_body",
        "must be more than 0B",
    );
    faults.unless_positive(serving.max_connections, "serving.max_connections");
    faults.unless(
        !serving.head_timeout.is_zero(),
        "serving.head_timeout",
        "must be longer than 0s",
    );
    faults.unless(
        !serving.body_timeout.is_zero(),
        "serving.body_timeout",
        "must be longer than 0s",
    );

    let socket = config.admin_socket();
    let key = if config.admin.socket.is_some() {
        "admin.socket"
    } else {
        "snapshot.dir"
    };
    faults.unless(
        socket.as_os_str().len() <= MAX_SOCKET_PATH_BYTES,
        key,
        format!(
            "makes the path of the admin socket {} bytes long, and a Unix socket's has at most {}: set \
             admin.socket to a shorter one",
            socket.as_os_str().len(),
            MAX_SOCKET_PATH_BYTES,
        ),
    );

    if let Err(error) = EnvFilter::try_new(&config.log.level) {
        faults.unless(false, "log.level", format!("is no level and no filter: {error}"));
    }
    faults.0
}

fn kafka(config: &Config, faults: &mut Faults) {
    let kafka = &config.kafka;
    for broker in kafka.bootstrap.split(',') {
        let fine = broker
            .trim()
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
        faults.unless(
            fine,
            "kafka.bootstrap",
            format!("{:?} is not host:port", broker.trim()),
        );
    }
    let topics = [
        ("kafka.topics.impressions", &kafka.topics.impressions),
        ("kafka.topics.actions", &kafka.topics.actions),
        ("kafka.topics.items", &kafka.topics.items),
        ("kafka.topics.samples", &kafka.topics.samples),
    ];
    let mut seen = BTreeSet::new();
    for (key, topic) in topics {
        faults.unless(!topic.is_empty(), key, "must name a topic");
        faults.unless(
            seen.insert(topic),
            key,
            format!("is {topic}, as another of the topics"),
        );
    }
    for name in kafka.properties.plain_secrets() {
        faults.0.push(Fault {
            key: format!("kafka.properties.{name}"),
            message: "a secret must not stand in the file".to_owned(),
            hint: Some(format!(
                "write {name} = \"${{env:NAME}}\" to take it from the environment, or {name}_file = \"PATH\""
            )),
        });
    }
}

fn model(config: &Config, faults: &mut Faults) {
    let model = &config.model;
    let stated = config.stated_model();
    for fault in stated.faults() {
        let unknown = fault.unknown.as_deref();
        let layers = unknown.map(|_| stated.adaptable()).unwrap_or_default();
        let near = unknown.and_then(|name| nearest(name, layers.iter().map(String::as_str)));
        faults.0.push(Fault {
            key: format!("model.{}", fault.key),
            message: fault.message,
            hint: near.map(|near| format!("the nearest known name is `{near}`")),
        });
    }
    let has_sequence = model.sequence.kind != SequenceKind::Mean;
    for (is_read, key, len) in [
        (true, "model.history_len", model.history_len),
        (
            has_sequence,
            "model.sequence.history_len",
            model.sequence.history_len,
        ),
        (
            model.interest.enabled,
            "model.interest.history_len",
            model.interest.history_len,
        ),
    ] {
        let longest = config.features.history_len;
        faults.unless(
            !is_read || len <= longest,
            key,
            format!("must be at most features.history_len, {longest}"),
        );
    }
    let optimizer = &config.optimizer;
    let positive = [
        ("model.row_init_std", model.row_init_std),
        ("optimizer.row_rate", optimizer.row_rate),
        ("optimizer.row_accumulator", optimizer.row_accumulator),
        ("optimizer.dense_rate", optimizer.dense_rate),
        ("optimizer.wide_alpha", optimizer.wide_alpha),
        ("optimizer.wide_beta", optimizer.wide_beta),
        ("optimizer.prior_samples", optimizer.prior_samples),
    ];
    for (key, value) in positive {
        faults.unless(value.is_finite() && value > 0.0, key, "must be more than 0");
    }
    for (key, value) in [
        ("optimizer.wide_l2", optimizer.wide_l2),
        ("optimizer.slate_loss", optimizer.slate_loss),
        ("optimizer.clip_dense", optimizer.clip_dense),
        ("optimizer.clip_rows", optimizer.clip_rows),
    ] {
        faults.unless(value.is_finite() && value >= 0.0, key, "must be 0 or more");
    }
    tasks(config, faults);
}

/// What names tasks, and bounds between them.
fn tasks(config: &Config, faults: &mut Faults) {
    let has = |name: &str| config.join.tasks.iter().any(|task| task.name == name);
    let mut known = |key: String, name: &str| {
        faults.unless(has(name), key, format!("there is no task {name} in join.tasks"));
    };
    for name in config.optimizer.task_weights.keys() {
        known(format!("optimizer.task_weights.{name}"), name);
    }
    for (i, bound) in config.learner.bounds.iter().enumerate() {
        known(format!("learner.bounds[{i}].first"), &bound.first);
        known(format!("learner.bounds[{i}].then"), &bound.then);
        known(format!("learner.bounds[{i}].both"), &bound.both);
    }
    let weights = config.optimizer.task_weights.iter();
    let mut weights: Vec<(String, f64)> = weights
        .map(|(name, weight)| (format!("optimizer.task_weights.{name}"), *weight))
        .collect();
    for (i, bound) in config.learner.bounds.iter().enumerate() {
        let tasks = BTreeSet::from([&bound.first, &bound.then, &bound.both]);
        faults.unless(
            tasks.len() == 3,
            format!("learner.bounds[{i}]"),
            "must name three tasks, each once",
        );
        faults.unless(
            config
                .join
                .tasks
                .first()
                .is_none_or(|task| task.name != bound.then),
            format!("learner.bounds[{i}].then"),
            "must not be the primary task, whose own labels it would not learn from",
        );
        weights.push((format!("learner.bounds[{i}].weight"), bound.weight));
    }
    for (key, weight) in weights {
        faults.unless(weight.is_finite() && weight >= 0.0, key, "must be 0 or more");
    }
    faults.unless(
        !config.learner.calibrate || config.loss_policy().is_certain_in_the_end(),
        "learner.calibrate",
        "join.policy must be eager, wait or defer: the others tell no negative when it is certain",
    );
    faults.unless(
        config.learner.bounds.is_empty() || config.join.policy != Policy::Fnc,
        "learner.bounds",
        "the policy fnc learns no probabilities to bound; fnw makes the same samples",
    );
}

fn events(config: &Config, faults: &mut Faults) {
    let events = &config.events;
    faults.unless(
        !events.max_record.is_empty(),
        "events.max_record",
        "must be more than 0B",
    );
    faults.unless(
        (1..=65_535).contains(&events.max_items),
        "events.max_items",
        "must be from 1 to 65535",
    );
}

fn join(config: &Config, faults: &mut Faults) {
    let join = &config.join;
    faults.unless(
        (1..=MAX_TASKS).contains(&join.tasks.len()),
        "join.tasks",
        format!("must list 1 to {MAX_TASKS} tasks, not {}", join.tasks.len()),
    );
    let mut seen = BTreeSet::new();
    for (i, task) in join.tasks.iter().enumerate() {
        let key = |name: &str| format!("join.tasks[{i}].{name}");
        faults.unless(!task.name.is_empty(), key("name"), "must name an action");
        faults.unless(
            seen.insert(&task.name),
            key("name"),
            format!("a task {} is there already", task.name),
        );
        faults.unless(!task.window.is_zero(), key("window"), "must be longer than 0s");
    }
    let longest = join
        .tasks
        .iter()
        .map(|task| task.window)
        .max()
        .unwrap_or_default();
    let safe_ms = [longest, join.lateness, join.skew]
        .into_iter()
        .map(Period::ms)
        .fold(0, i64::saturating_add);
    if let Dedup::For(period) = join.dedup {
        faults.unless(
            period.ms() >= safe_ms,
            "join.dedup",
            format!("must be at least the longest window plus lateness plus skew, {safe_ms}ms, or \"auto\""),
        );
    }
    for (cap, key) in [
        (join.max_pending, "join.max_pending"),
        (join.max_waiting, "join.max_waiting"),
        (join.max_remembered, "join.max_remembered"),
    ] {
        faults.unless_positive(cap, key);
    }
    faults.unless(
        join.sled.cache.len() >= 256,
        "join.sled.cache",
        "must be at least 256B, and is better many MiB",
    );
    for (period, key) in [
        (longest, "join.tasks"),
        (join.lateness, "join.lateness"),
        (join.skew, "join.skew"),
        (join.policy_wait, "join.policy_wait"),
    ] {
        faults.unless(
            period <= LONGEST,
            key,
            format!("must be at most {LONGEST}, which is ten years"),
        );
    }
}

fn tier(config: &Config, faults: &mut Faults) {
    let tier = &config.tier;
    faults.unless(!tier.group.is_empty(), "tier.group", "must name a consumer group");
    for (period, key) in [
        (tier.session_timeout, "tier.session_timeout"),
        (tier.commit, "tier.commit"),
        (tier.idle, "tier.idle"),
    ] {
        faults.unless(!period.is_zero(), key, "must be longer than 0s");
    }
}

/// What works but deserves a word.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let protocol = config
        .kafka
        .properties
        .written()
        .find(|(name, _)| *name == "security.protocol")
        .map_or("plaintext", |(_, protocol)| protocol);
    let far = config
        .kafka
        .bootstrap
        .split(',')
        .map(str::trim)
        .find(|broker| !is_loopback(broker));
    if let Some(broker) = far
        && protocol.to_lowercase().ends_with("plaintext")
    {
        warnings.push(format!(
            "events of the broker {broker} travel unencrypted: set security.protocol in [kafka.properties]"
        ));
    }
    if !config.serving.listen.ip().is_loopback() {
        warnings.push(format!(
            "serving.listen is {}, and the scoring port has no authentication: let only callers reach it",
            config.serving.listen
        ));
    }
    warnings
}

fn is_loopback(broker: &str) -> bool {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || broker
            .parse::<SocketAddr>()
            .is_ok_and(|address| address.ip().is_loopback())
}

fn is_device(device: &str) -> bool {
    device == "cpu"
        || device
            .strip_prefix("cuda:")
            .is_some_and(|n| n.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_to_another_machine_and_an_open_port_are_warned_of() {
        for (text, expected) in [
            ("", 0),
            ("kafka.bootstrap = \"localhost:1,[::1]:2\"", 0),
            ("kafka.bootstrap = \"127.0.0.1:9092, kafka.example:9092\"", 1),
            (
                "[kafka]\nbootstrap = \"k:1\"\n[kafka.properties]\nsecurity.protocol = \"SASL_PLAINTEXT\"",
                1,
            ),
            (
                "[kafka]\nbootstrap = \"k:1\"\n[kafka.properties]\nsecurity.protocol = \"SASL_SSL\"",
                0,
            ),
            ("serving.listen = \"0.0.0.0:8600\"", 1),
        ] {
            let config = Config::parse(text, "x").unwrap();
            assert_eq!(
                config.warnings().len(),
                expected,
                "{text}: {:?}",
                config.warnings()
            );
        }
    }
}
