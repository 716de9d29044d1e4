//! A process of the join tier: joins impressions with actions for learners elsewhere.

use std::sync::Arc;

use ouzel_ingest::KafkaConfig;
use ouzel_ingest::tier::{Group, Wire, Writer};
use ouzel_sample::Stream;
use ouzel_serving::Queue;

use super::process::{HttpPort, Process};
use super::spec::{dead_letters, decoder};
use super::stages::join_worker::{JoinWorker, JoinWorkerSettings, KafkaLinks};
use crate::config::Config;
use crate::error::{ErrorExt, Exit};
use crate::supervisor::{Shutdown, Task};
use crate::telemetry::Metrics;

/// Starts the process as a member of the configured group, under the name `instance` if it is not empty.
pub fn start(
    config: &Config,
    instance: &str,
    metrics: Metrics,
    shutdown: &Shutdown,
) -> anyhow::Result<Process> {
    let kafka = KafkaConfig {
        streams: vec![Stream::Impressions, Stream::Actions],
        ..config.kafka_config().exit(Exit::Usage)?
    };
    let join = config.join.clone();
    let dead_letters = dead_letters(config, &kafka)?;
    let writer = Writer::connect(&kafka, Wire::new(config.id_space(), config.task_names()))?;
    let group = Group::join(
        &kafka,
        &config.tier_config(instance),
        config.events.max_future_skew,
    )?;
    let links = KafkaLinks {
        kafka,
        decoder: decoder(config),
        letters: dead_letters,
        writer,
    };
    let settings = JoinWorkerSettings {
        max_reorder_delay: config.order.max_reorder_delay.duration(),
        commit_every: config.tier.commit_interval.duration(),
        idle_after: config.tier.idle_timeout.duration(),
    };
    let worker = JoinWorker::new(group, join, links, settings);
    let mut process = Process::new(shutdown, metrics);
    if let Some(address) = config.tier.listen {
        let port = HttpPort::bind(address)?;
        tracing::info!(address = %port.address, "serving /metrics");
        // There is no model here, and the routes that need one answer so.
        process.serve(
            port,
            Arc::new(Queue::new(1)),
            Arc::new(|| None),
            config.serving.clone(),
        )?;
    }
    let stop = shutdown.clone();
    process.supervisor.spawn(Task::Join, move || worker.run(&stop))?;
    process.report(|| {})?;
    tracing::info!(group = config.tier.group, "started");
    Ok(process)
}
