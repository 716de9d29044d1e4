//! Logs, metrics, the clock and the progress line of the process.
//!
//! Logs go to stderr, as text or as JSON. Every crate records metrics under its own names; this module installs the
//! recorder with its histogram buckets and runs its upkeep, without which memory grows.

pub mod clock;
pub(crate) mod metrics;
pub(crate) mod progress;

use std::io::{self, IsTerminal};

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// The environment variable that overrides `log.level`.
const LOG_VARIABLE: &str = "OUZEL_LOG";

/// Buckets of histograms in seconds, denser below one second, where freshness and latency lie.
const SECONDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
    10.0, 60.0,
];
/// Buckets of histograms in bytes: powers of 16 from 256 B to 4 GiB.
const BYTES: [f64; 7] = [
    256.0,
    4096.0,
    65_536.0,
    1_048_576.0,
    16_777_216.0,
    268_435_456.0,
    4_294_967_296.0,
];
/// Buckets of other histograms, which are counts, such as the candidates of a request.
const COUNTS: [f64; 11] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 10_000.0,
];

/// Sends logs to stderr at the level and in the format of `log`. Only the first call in a process has an effect.
pub(crate) fn init_logs(log: &Log) -> anyhow::Result<()> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(level) => EnvFilter::try_new(&level)
            .with_context(|| format!("cannot read the environment variable {LOG_VARIABLE} = {level:?}"))?,
        Err(_) => EnvFilter::try_new(&log.level)
            .with_context(|| format!("cannot read log.level = {:?}", log.level))?,
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // The subscriber reports a failed write on stderr, and panics where stderr is a file on the full disk.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    let installed = match log.format {
        LogFormat::Human => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    // It fails where a subscriber is installed already, as in a test.
    let _is_first = installed.is_ok();
    Ok(())
}

/// A count as `f64`; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a gauge is an f64")]
pub(crate) fn float(n: u64) -> f64 {
    n as f64
}

/// Milliseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "a delay, or a time since 1970")]
pub(crate) fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// The recorder of the process.
#[derive(Clone, Debug)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Installs the recorder. Fails when the process has one.
    pub fn install() -> anyhow::Result<Self> {
        let handle = builder()?
            .install_recorder()
            .context("cannot install the metrics recorder")?;
        describe();
        ouzel_encoders::metrics::describe();
        ouzel_ingest::metrics::describe();
        ouzel_learner::metrics::describe();
        ouzel_serving::metrics::describe();
        ouzel_snapshot::metrics::describe();
        Ok(Self { handle })
    }

    /// The page of `/metrics`, in the text format of Prometheus. A gauge without a value is absent.
    pub fn render(&self) -> String {
        without_nan(&self.handle.render())
    }

    /// Frees old histogram data. Call it every few seconds.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// Leaves out the samples that are NaN: a recorder cannot remove a gauge, so NaN stands for "no value".
fn without_nan(page: &str) -> String {
    let is_value = |line: &&str| line.starts_with('#') || !line.ends_with(" NaN");
    page.split_inclusive('\n')
        .filter(|line| is_value(&line.trim_end()))
        .collect()
}

fn builder() -> anyhow::Result<PrometheusBuilder> {
    let suffix = |suffix: &str| Matcher::Suffix(suffix.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(suffix("_seconds"), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(suffix("_bytes"), &BYTES))
        .and_then(|builder| builder.set_buckets(&COUNTS))
        .context("cannot set the histogram buckets")
}

/// Describes the metrics of this crate and records its version.
fn describe() {
    metrics::describe();
    ::metrics::gauge!(metrics::BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
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
            ::metrics::gauge!("ouzel_gone", "bucket" => "new").set(f64::NAN);
            ::metrics::gauge!("ouzel_gone", "bucket" => "warm").set(0.5);
        });
        let page = without_nan(&page.render());
        assert!(!page.contains("NaN"), "{page}");
        for expected in [
            "ouzel_freshness_seconds_bucket{le=\"0.5\"} 0",
            "ouzel_freshness_seconds_bucket{le=\"0.75\"} 1",
            "ouzel_snapshot_size_bytes_bucket{le=\"65536\"} 1",
            "ouzel_serving_candidates_bucket{le=\"50\"} 1",
            "ouzel_gone{bucket=\"warm\"} 0.5",
            concat!("ouzel_ops_build{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(page.contains(expected), "{expected} is not in\n{page}");
        }
    }
}
