//! `ouzel daemon`: learn from Kafka and serve, until a signal.

use std::io::Write;
use std::sync::Arc;

use ouzel_ingest::{DeadLetters, KafkaSource};

use crate::cli::{DaemonArgs, ErrorExt, Exit};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::failpoint;
use crate::supervisor::{Shutdown, Task, UnixSignals};
use crate::telemetry::{self, Metrics};
use crate::topology::{self, AnySource, PipelineSpec};

/// Runs the command.
pub fn run(args: &DaemonArgs, _out: &mut dyn Write) -> anyhow::Result<Exit> {
    let config = Config::load(&args.config)?;
    telemetry::init_logs(&config.log)?;
    failpoint::arm().exit(Exit::Usage)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let kafka = config.kafka_config().exit(Exit::Usage)?;
    let shutdown = Shutdown::new();
    let signals = UnixSignals::install(shutdown.clone())?;
    let letters = if config.kafka.dlq {
        DeadLetters::kafka(&kafka)?
    } else {
        DeadLetters::discard()
    };
    let plan = PipelineSpec {
        config: &config,
        open: Box::new(|from| Ok(Box::new(KafkaSource::open(&kafka, from, None)?) as AnySource)),
        letters,
        seed: Box::new(|_| {}),
        clock: Arc::new(SystemClock),
        scores: None,
    };
    let mut running = topology::start(plan, Metrics::install()?, &shutdown)?;
    running.supervisor.spawn(Task::Signals, move || {
        signals.run();
        Ok(())
    })?;
    running.supervisor.wait().into_result()?;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}
