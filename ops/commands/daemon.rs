//! `ouzel daemon`: learns from Kafka and serves until a signal.

use std::sync::Arc;

use anyhow::anyhow;
use ouzel_ingest::KafkaSource;
use ouzel_verify::failpoint;

use crate::cli::DaemonArgs;
use crate::config::Config;
use crate::error::{ErrorExt, Exit};
use crate::pipeline::spec::{PipelineSpec, dead_letters, decoder, late_records};
use crate::pipeline::threads;
use crate::preflight::preflight;
use crate::supervisor::{Shutdown, UnixSignals};
use crate::telemetry::clock::SystemClock;
use crate::telemetry::{self, Metrics};

/// Runs the command.
pub(super) fn run(args: &DaemonArgs) -> anyhow::Result<Exit> {
    let config = Config::load(&args.config)?;
    telemetry::init_logs(&config.log)?;
    failpoint::arm().exit(Exit::Usage)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let kafka = config.kafka_config().exit(Exit::Usage)?;
    let checked = preflight(&config);
    for warning in checked.warning_lines() {
        tracing::warn!("{warning}");
    }
    checked.into_result(&args.config)?;
    let events = match config.serving.events_listen {
        Some(_) => Some(config.event_producer(&kafka)?),
        None => None,
    };
    let shutdown = Shutdown::new();
    let signals = UnixSignals::install(shutdown.clone())?;
    let make_spec = || {
        Ok(PipelineSpec {
            config: &config,
            open_source: Box::new(|from| Ok(Box::new(KafkaSource::open(&kafka, from, None)?))),
            decoder: decoder(&config)?.with_formats(Arc::clone(&kafka.formats)),
            dead_letters: dead_letters(&config, &kafka)?,
            late: late_records(&config, &kafka)?,
            seed: Box::new(|_| {}),
            accept_loss: args.accept_loss.then(|| kafka.clone()),
            scores: None,
        })
    };
    let clock = Arc::new(SystemClock);
    let state = threads::open_store(&config, args.standby)?;
    if let (Some(why), true) = (&state.full, args.accept_loss) {
        return Err(anyhow!(
            "a loss can be accepted only where it can be recorded: {why}"
        ))
        .hint("make room in the state directory first");
    }
    let mut running = threads::start(make_spec()?, state, events, clock, Metrics::install()?, &shutdown)?;
    running.process.watch(signals)?;
    running.wait(&make_spec)?;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}
