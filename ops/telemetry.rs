//! Logs and metrics of the process.
//!
//! Logs go to stderr, for people or as JSON. Metrics are recorded by every crate under its own names; here
//! they get a recorder, histogram buckets and the regular upkeep without which memory grows. The page itself
//! is served by `/metrics` through [`Metrics::render`]. [`progress`] is for people who wait for a command.

pub mod clock;
pub mod metrics;
pub mod progress;

use std::io::{self, IsTerminal};

use ::metrics::{Unit, describe_counter, describe_gauge};
use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Tasks that ended in an error or a panic, by task.
pub const TASK_FAILURES: &str = "ouzel_ops_task_failures_total";
/// Always 1; its label is the version of this program.
pub const BUILD: &str = "ouzel_ops_build";

/// The environment variable that wins over `log.level`.
pub const LOG_VARIABLE: &str = "OUZEL_LOG";

/// Buckets of every histogram in seconds: from a lookup to a broker that is away, two to a decade or more,
/// denser below a second where the promises are.
const SECONDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
    10.0, 60.0,
];
/// Buckets of every histogram in bytes: powers of 16 from 256 B to 4 GiB.
const BYTES: [f64; 7] = [
    256.0,
    4096.0,
    65_536.0,
    1_048_576.0,
    16_777_216.0,
    268_435_456.0,
    4_294_967_296.0,
];
/// Buckets of every other histogram: counts such as candidates of a request.
const COUNTS: [f64; 11] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 10_000.0,
];

/// Sends logs to stderr as `log` says. Only the first call in a process has an effect.
pub fn init_logs(log: &Log) -> anyhow::Result<()> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(level) => EnvFilter::try_new(&level)
            .with_context(|| format!("cannot read the environment variable {LOG_VARIABLE} = {level:?}"))?,
        Err(_) => EnvFilter::try_new(&log.level)
            .with_context(|| format!("cannot read log.level = {:?}", log.level))?,
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would tell of a line that cannot be written on stderr, and panic where that is the full disk itself.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    let set = match log.format {
        LogFormat::Human => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    // An error says that a subscriber is there already, as in a test.
    let _first = set.is_ok();
    Ok(())
}

/// A count as the `f64` of a gauge; exact up to 2^53.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a gauge is an f64")]
pub fn float(n: u64) -> f64 {
    n as f64
}

/// Milliseconds as seconds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a delay, or a time since 1970")]
pub fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// The recorder of the process.
#[derive(Clone, Debug)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Installs the recorder. Fails when one is there already.
    pub fn install() -> anyhow::Result<Self> {
        let handle = builder()?
            .install_recorder()
            .context("cannot install the metrics recorder")?;
        describe();
        metrics::describe();
        ouzel_encoders::metrics::describe();
        ouzel_ingest::metrics::describe();
        ouzel_learner::metrics::describe();
        ouzel_serving::metrics::describe();
        ouzel_snapshot::metrics::describe();
        Ok(Self { handle })
    }

    /// The page of `/metrics`, in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Lets go of old histogram data. To be called every few seconds.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

fn builder() -> anyhow::Result<PrometheusBuilder> {
    let suffix = |suffix: &str| Matcher::Suffix(suffix.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(suffix("_seconds"), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(suffix("_bytes"), &BYTES))
        .and_then(|builder| builder.set_buckets(&COUNTS))
        .context("cannot set the histogram buckets")
}

/// Says what this crate's metrics are.
fn describe() {
    describe_counter!(
        TASK_FAILURES,
        Unit::Count,
        "Tasks that ended in an error or a panic, by task"
    );
    describe_gauge!(BUILD, "Always 1; the label is the version of this program");
    ::metrics::gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_bytes_and_counts_are_histograms_with_buckets_of_their_own() {
        let recorder = builder().unwrap().build_recorder();
        let page = recorder.handle();
        ::metrics::with_local_recorder(&recorder, || {
            describe();
            ::metrics::histogram!("ouzel_freshness_seconds").record(0.6);
            ::metrics::histogram!("ouzel_snapshot_size_bytes").record(5000.0);
            ::metrics::histogram!("ouzel_serving_candidates").record(40.0);
        });
        let page = page.render();
        for expected in [
            "ouzel_freshness_seconds_bucket{le=\"0.5\"} 0",
            "ouzel_freshness_seconds_bucket{le=\"0.75\"} 1",
            "ouzel_snapshot_size_bytes_bucket{le=\"65536\"} 1",
            "ouzel_serving_candidates_bucket{le=\"50\"} 1",
            concat!("ouzel_ops_build{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(page.contains(expected), "{expected} is not in\n{page}");
        }
    }
}
