//! Starts a process of the join tier, which joins impressions with actions for learners elsewhere.

use std::sync::Arc;

use ouzel_ingest::KafkaConfig;
use ouzel_ingest::tier::{Group, Wire, Writer};
use ouzel_sample::Stream;
use ouzel_serving::Queue;

use super::process::{HttpPort, Process, ServedState};
use super::spec::{dead_letters, decoder};
use super::stages::join_worker::{JoinWorker, KafkaLinks};
use crate::config::Config;
use crate::error::{ErrorExt, Exit};
use crate::supervisor::{Shutdown, Task};
use crate::telemetry::Metrics;

/// Starts the process as a member of the configured group.
pub(crate) fn start(config: &Config, metrics: Metrics, shutdown: &Shutdown) -> anyhow::Result<Process> {
    let kafka = KafkaConfig {
        streams: vec![Stream::Impressions, Stream::Actions],
        ..config.kafka_config().exit(Exit::Usage)?
    };
    let letters = dead_letters(config, &kafka)?;
    let writer = Writer::connect(&kafka, Wire::new(config.id_space(), config.task_names()))?;
    let group = Group::join(&kafka, &config.tier, config.events.max_future_skew)?;
    let links = KafkaLinks {
        decoder: decoder(config)?.with_formats(Arc::clone(&kafka.formats)),
        kafka,
        letters,
        writer,
    };
    let worker = JoinWorker::new(group, config.clone(), links);
    let mut process = Process::new(shutdown, metrics);
    if let Some(address) = config.tier.listen {
        let port = HttpPort::bind(address)?;
        tracing::info!(address = %port.address, "serving /metrics");
        // Without a model, the routes that need one reply that none is ready.
        process.serve(
            port,
            Arc::new(Queue::new(1)),
            ServedState {
                model: Arc::new(|| None),
                status: Arc::new(|| serde_json::json!({})),
            },
            None,
            config.serving.clone(),
        )?;
    }
    let stop = shutdown.clone();
    process.supervisor.spawn(Task::Join, move || worker.run(&stop))?;
    process.report(|| {})?;
    tracing::info!(group = config.tier.group, "started");
    Ok(process)
}
