//! `ouzel topics create`: creates the configured topics that the broker lacks.

use std::io::Write;

use ouzel_ingest::topics;
use ouzel_sample::Stream;
use serde_json::json;

use super::output;
use crate::cli::TopicsVerb;
use crate::config::{Config, JoinSource};
use crate::error::{ErrorExt, Exit};

/// Runs the command.
pub(super) fn run(verb: &TopicsVerb, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let TopicsVerb::Create {
        config,
        partitions,
        replication,
        json,
    } = verb;
    let config = Config::load(config)?;
    let kafka = config.kafka_config().exit(Exit::Usage)?;
    let mut wanted = if config.kafka.dlq {
        kafka.topics.all()
    } else {
        let streams = kafka.topics.events().into_iter();
        streams
            .map(|stream| kafka.topics.name(stream).to_owned())
            .collect()
    };
    if config.kafka.late_records {
        let late = [Stream::Impressions, Stream::Actions].map(|stream| kafka.topics.late(stream));
        wanted.extend(late);
        wanted.sort();
        wanted.dedup();
    }
    if config.join.source == JoinSource::Tier {
        let n = if config.kafka.dlq { 2 } else { 1 };
        wanted.extend(kafka.topics.tier().into_iter().take(n));
    }
    let created = topics::create(
        &kafka.bootstrap,
        &kafka.properties,
        &wanted,
        *partitions,
        *replication,
    )?;
    let existed: Vec<&String> = wanted.iter().filter(|topic| !created.contains(topic)).collect();
    if *json {
        output::json(&json!({ "created": created, "existed": existed }), out)?;
    } else {
        for topic in &created {
            writeln!(out, "created {topic}")?;
        }
        for topic in existed {
            writeln!(out, "{topic} exists already")?;
        }
    }
    Ok(Exit::Ok)
}
