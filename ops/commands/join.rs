//! `ouzel join`: joins impressions with actions for learners elsewhere, sharing the work with other join processes.

use anyhow::anyhow;

use crate::cli::JoinArgs;
use crate::config::{Config, JoinSource};
use crate::error::{ErrorExt, Exit};
use crate::pipeline::join_process;
use crate::supervisor::{Shutdown, UnixSignals};
use crate::telemetry::{self, Metrics};

/// Runs the command.
pub(super) fn run(args: &JoinArgs) -> anyhow::Result<Exit> {
    let config = Config::load(&args.config)?;
    telemetry::init_logs(&config.log)?;
    if config.join.source != JoinSource::Tier {
        return Err(anyhow!("join.source is \"events\": the daemon joins itself"))
            .hint("set join.source = \"tier\" in the configuration of the daemon and of every `ouzel join`")
            .exit(Exit::Usage);
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let shutdown = Shutdown::new();
    let signals = UnixSignals::install(shutdown.clone())?;
    let instance = args.instance.as_deref().unwrap_or_default();
    let mut process = join_process::start(&config, instance, Metrics::install()?, &shutdown)?;
    process.watch(signals)?;
    process.wait()?;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}
