//! `ouzel topics create`: makes what the configuration names and the broker lacks.

use std::io::Write;

use ouzel_ingest::topics;
use serde_json::json;

use crate::cli::{TopicsArgs, TopicsVerb};
use crate::config::{Config, JoinSource};
use crate::error::{ErrorExt, Exit};

/// Runs the command.
pub(super) fn run(args: &TopicsArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let TopicsVerb::Create {
        config,
        partitions,
        replication,
        json,
    } = &args.verb;
    let config = Config::load(config)?;
    let kafka = config.kafka_config().exit(Exit::Usage)?;
    let mut wanted = if config.kafka.dlq {
        kafka.topics.all()
    } else {
        let topics = &config.kafka.topics;
        vec![
            topics.items.clone(),
            topics.impressions.clone(),
            topics.actions.clone(),
        ]
    };
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
        let answer = json!({ "created": created, "existed": existed });
        writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
    } else {
        for topic in &created {
            writeln!(out, "created {topic}")?;
        }
        for topic in existed {
            writeln!(out, "{topic} is there already")?;
        }
    }
    Ok(Exit::Ok)
}
