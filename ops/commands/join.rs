//! `ouzel join`: join impressions with actions for a learner elsewhere, beside any number of others that do.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context;

use ouzel_ingest::tier::{Group, Wire, Writer};
use ouzel_ingest::{DeadLetters, Decoder, KafkaConfig};
use ouzel_sample::Stream;
use ouzel_serving::{Queue, http};

use crate::cli::{ErrorExt, Exit, JoinArgs};
use crate::config::{Config, JoinSource};
use crate::stages::join_worker::{JoinWorker, JoinWorkerSettings, KafkaLinks};
use crate::supervisor::{Shutdown, Supervisor, Task, UnixSignals};
use crate::telemetry::{self, Metrics};

/// Runs the command.
pub fn run(args: &JoinArgs, _out: &mut dyn Write) -> anyhow::Result<Exit> {
    let config = Config::load(&args.config)?;
    telemetry::init_logs(&config.log)?;
    if config.join.source != JoinSource::Tier {
        return Err(anyhow::anyhow!(
            "join.source is \"events\": the daemon joins itself"
        ))
        .hint("set join.source = \"tier\" in the configuration of the daemon and of every `ouzel join`")
        .exit(Exit::Usage);
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let kafka = KafkaConfig {
        streams: vec![Stream::Impressions, Stream::Actions],
        ..config.kafka_config().exit(Exit::Usage)?
    };
    let shutdown = Shutdown::new();
    let signals = UnixSignals::install(shutdown.clone())?;
    let metrics = Metrics::install()?;
    let join = config.join.clone();
    let letters = if config.kafka.dlq {
        DeadLetters::kafka(&kafka)?
    } else {
        DeadLetters::discard()
    };
    let wire = Wire::new(config.id_space(), config.task_names());
    let writer = Writer::connect(&kafka, wire)?;
    let group = Group::join(
        &kafka,
        &config.tier_config(args.instance.as_deref().unwrap_or_default()),
        config.events.max_future_skew,
    )?;
    let worker = JoinWorker::new(
        group,
        join,
        KafkaLinks {
            kafka,
            decoder: Decoder::new(config.id_space(), config.task_names(), config.events.clone()),
            letters,
            writer,
        },
        JoinWorkerSettings {
            max_reorder_delay: config.order.max_reorder_delay.duration(),
            commit_every: config.tier.commit_interval.duration(),
            idle_after: config.tier.idle_timeout.duration(),
        },
    );
    let mut supervisor = Supervisor::new(shutdown.clone());
    serve(&config, &metrics, &shutdown, &mut supervisor)?;
    let hears = shutdown.clone();
    supervisor.spawn(Task::Join, move || worker.run(&hears))?;
    supervisor.spawn(Task::Signals, move || {
        signals.run();
        Ok(())
    })?;
    let hears = shutdown.clone();
    supervisor.spawn(Task::Telemetry, move || {
        while !hears.wait_timeout(std::time::Duration::from_secs(5)) {
            metrics.upkeep();
        }
        Ok(())
    })?;
    tracing::info!(group = config.tier.group, "started");
    supervisor.wait().into_result()?;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

/// `/metrics` and `/healthz`, where an address is configured. There is no model here, which the other routes say.
fn serve(
    config: &Config,
    metrics: &Metrics,
    shutdown: &Shutdown,
    supervisor: &mut Supervisor,
) -> anyhow::Result<()> {
    let Some(address) = config.tier.listen else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_name("ouzel-http")
        .build()
        .context("cannot start the HTTP runtime")?;
    let listener = match runtime.block_on(http::bind(&address.to_string())) {
        Ok(listener) => listener,
        Err(error) => {
            let hint = error.hint();
            return Err(error).hint(hint);
        }
    };
    tracing::info!(address = %listener.local_addr()?, "metrics");
    let recorder = metrics.clone();
    let app = http::App {
        queue: Arc::new(Queue::new(1)),
        model: Arc::new(|| None),
        metrics: Arc::new(move || recorder.render()),
        config: config.serving.clone(),
    };
    let hears = shutdown.clone();
    supervisor.spawn(Task::Http, move || {
        let served = runtime.block_on(http::serve(listener, app, async move { hears.triggered().await }));
        Ok(served?)
    })
}
