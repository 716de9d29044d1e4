//! `ouzel join`: joins impressions with actions for learners elsewhere, beside other join processes.

use anyhow::anyhow;

use crate::cli::JoinArgs;
use crate::config::{Config, JoinSource};
use crate::error::{ErrorExt, Exit};
use crate::pipeline::join_process;
use crate::supervisor::{Shutdown, UnixSignals};
use crate::telemetry::{self, Metrics};

/// Runs the command.
pub(super) fn run(args: &JoinArgs) -> anyhow::Result<Exit> {
    let mut config = Config::load(&args.config)?;
    telemetry::init_logs(&config.log)?;
    if config.join.source != JoinSource::Tier {
        return Err(anyhow!("join.source is \"events\", so the daemon joins"))
            .hint("set join.source = \"tier\" in the configuration of the daemon and of every `ouzel join`")
            .exit(Exit::Usage);
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let shutdown = Shutdown::new();
    let signals = UnixSignals::install(shutdown.clone())?;
    if let Some(instance) = args.instance.as_ref().filter(|instance| !instance.is_empty()) {
        config.tier.instance.clone_from(instance);
    }
    let mut process = join_process::start(&config, Metrics::install()?, &shutdown)?;
    process.watch(signals)?;
    process.wait()?;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}
