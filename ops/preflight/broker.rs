//! What a broker has against a configuration: topics, partitions, retention, permissions.

use std::collections::BTreeMap;

use ouzel_ingest::KafkaConfig;
use ouzel_ingest::topics::{FoundTopic, Retention, TopicState, inspect};
use ouzel_sample::Stream;
use ouzel_sample::settings::Period;

use super::Findings;
use crate::config::{Config, JoinSource};
use crate::telemetry::clock::Clock;

/// Asks the broker about the topics of `config`. Writes nothing and reads at most one record of each topic.
///
/// # Errors
/// When no broker answers, or refuses this client.
pub(crate) fn check_broker(
    config: &Config,
    kafka: &KafkaConfig,
    clock: &dyn Clock,
) -> Result<Findings, ouzel_ingest::Error> {
    let is_tier = config.join.source == JoinSource::Tier;
    let streams: Vec<Stream> = match is_tier {
        true => kafka.topics.all_streams().collect(),
        false => kafka.topics.events(),
    };
    let names = streams.iter().map(|stream| kafka.topics.name(*stream).to_owned());
    let dead = streams.iter().filter(|_| config.kafka.dlq);
    let dead = dead.map(|stream| kafka.topics.dead_letters(*stream));
    let topics: Vec<String> = names.chain(dead).collect();
    let states = inspect(kafka, &topics)?;
    let mut check = BrokerCheck {
        config,
        states: &states,
        findings: Findings::default(),
    };
    for stream in streams {
        check.stream(stream, kafka.topics.name(stream), clock);
        if config.kafka.dlq {
            check.dead_letters(&kafka.topics.dead_letters(stream));
        }
    }
    if is_tier {
        check.pairs(&kafka.topics.impressions, &kafka.topics.actions);
    }
    let mut findings = check.findings;
    if let Some(why) = kafka.formats.registry_complaint() {
        let message = format!("the schema registry does not answer: {why}");
        findings.problem("kafka.schema_registry.url", message);
    }
    if config.kafka.dlq || config.serving.events_listen.is_some() {
        findings.notes.push(
            "whether this user may write was not checked: the broker tells only by a record that is written"
                .to_owned(),
        );
    }
    findings
        .notes
        .push("the broker's clock was not compared with this machine's: no request asks for it".to_owned());
    Ok(findings)
}

struct BrokerCheck<'a> {
    config: &'a Config,
    states: &'a BTreeMap<String, TopicState>,
    findings: Findings,
}

impl BrokerCheck<'_> {
    fn stream(&mut self, stream: Stream, topic: &str, clock: &dyn Clock) {
        let key = format!("kafka.topics.{}", stream.name());
        let Some(found) = self.found(&key, topic) else {
            return;
        };
        if let Some(why) = &found.unreadable {
            let message =
                format!("topic {topic} cannot be read: {why}; grant this user READ and DESCRIBE on it");
            self.findings.problem(&key, message);
        }
        let ahead_ms = found
            .newest_ms
            .map_or(0, |newest| newest.saturating_sub(clock.now_ms()));
        if ahead_ms > self.config.events.max_future_skew.ms() {
            let message = format!(
                "the newest record of {topic} is dated {} after this machine's time: compare the clocks of this machine, of \
                 the broker and of the producers",
                Period::from_ms(ahead_ms)
            );
            self.findings.warning(&key, message);
        }
        match (&found.retention, stream) {
            (Err(why), _) => self
                .findings
                .notes
                .push(format!("the retention of {topic} was not checked: {why}")),
            (Ok(retention), stream) if stream.is_catalog() => self.catalog(stream, topic, *retention),
            (Ok(retention), _) => self.log(&key, topic, *retention),
        }
    }

    /// Items and users are read from their start, so every one must still be there.
    fn catalog(&mut self, stream: Stream, topic: &str, retention: Retention) {
        if retention.deletes && (retention.ms.is_some() || retention.bytes.is_some()) {
            let message = format!(
                "topic {topic} deletes old records ({}), so a new state would lack the {stream} in them: set cleanup.policy = \
                 compact, or retention.ms = -1 and retention.bytes = -1",
                limits(retention)
            );
            self.findings.problem(&format!("kafka.topics.{stream}"), message);
        }
    }

    /// Impressions, actions and samples must be there as long as a join may have to read them again.
    fn log(&mut self, key: &str, topic: &str, retention: Retention) {
        let needed_ms = self
            .config
            .join
            .warm_up_ms(self.config.events.max_future_skew.ms());
        if retention.compacts {
            let message = format!(
                "topic {topic} is compacted, which removes events of requests that have several: set cleanup.policy = delete"
            );
            self.findings.problem(key, message);
        }
        if let Some(ms) = retention.ms.filter(|ms| retention.deletes && *ms < needed_ms) {
            let message = format!(
                "topic {topic} keeps records for {}, and the join may have to read {} again (the longest window of \
                 join.tasks, join.dedup_window and the lateness): set retention.ms to at least {needed_ms}",
                Period::from_ms(ms),
                Period::from_ms(needed_ms)
            );
            self.findings.problem(key, message);
        }
        if let Some(bytes) = retention.bytes.filter(|_| retention.deletes) {
            let message = format!(
                "topic {topic} keeps {bytes} bytes of a partition (retention.bytes): that must be more than {} of records",
                Period::from_ms(needed_ms)
            );
            self.findings.warning(key, message);
        }
    }

    fn dead_letters(&mut self, topic: &str) {
        match self.states.get(topic) {
            Some(TopicState::Found(_)) => {}
            Some(TopicState::Hidden(why)) => {
                let message = format!(
                    "topic {topic} cannot be described: {why}; grant this user WRITE and DESCRIBE on it"
                );
                self.findings.problem("kafka.dlq", message);
            }
            Some(TopicState::Missing) | None => {
                let message = format!(
                    "topic {topic} does not exist, so rejected records would be lost: create it (`ouzel topics create`), or \
                     set kafka.dlq = false"
                );
                self.findings.problem("kafka.dlq", message);
            }
        }
    }

    /// The records of a request are in partitions of one number only if both topics have equally many.
    fn pairs(&mut self, impressions: &str, actions: &str) {
        let n_partitions = |topic: &str| match self.states.get(topic) {
            Some(TopicState::Found(found)) => Some(found.n_partitions),
            _ => None,
        };
        if let (Some(shown), Some(acted)) = (n_partitions(impressions), n_partitions(actions))
            && shown != acted
        {
            let message = format!(
                "{impressions} has {shown} partitions and {actions} has {acted}: with join.source = \"tier\" both must have \
                 equally many; recreate one of them"
            );
            self.findings.problem("join.source", message);
        }
    }

    /// The topic; a problem is added if there is none.
    fn found(&mut self, key: &str, topic: &str) -> Option<FoundTopic> {
        match self.states.get(topic) {
            Some(TopicState::Found(found)) => Some(found.clone()),
            Some(TopicState::Hidden(why)) => {
                let message = format!(
                    "topic {topic} cannot be described: {why}; grant this user READ and DESCRIBE on it"
                );
                self.findings.problem(key, message);
                None
            }
            Some(TopicState::Missing) | None => {
                let message = format!(
                    "topic {topic} does not exist, or this user may not see it: create it (`ouzel topics create`), or grant \
                     READ and DESCRIBE"
                );
                self.findings.problem(key, message);
                None
            }
        }
    }
}

/// The limits of a retention in words.
fn limits(retention: Retention) -> String {
    let ms = retention
        .ms
        .map(|ms| format!("retention.ms is {ms}, {}", Period::from_ms(ms)));
    let bytes = retention.bytes.map(|bytes| format!("retention.bytes is {bytes}"));
    let parts: Vec<String> = ms.into_iter().chain(bytes).collect();
    parts.join(", ")
}
