//! The caller: sends rank requests to the scoring port during the demo and measures the replies.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ouzel_ingest::DataDir;
use ouzel_sample::Stream;
use ouzel_serving::RankRequest;
use ouzel_serving::client::RankClient;
use serde::{Deserialize, Serialize};

use crate::pipeline::lock;
use crate::supervisor::Shutdown;

/// Time between the starts of two requests.
const PACE: Duration = Duration::from_millis(10);
/// Most candidates of a request.
const N_CANDIDATES: usize = 100;

/// Outcomes of the rank requests.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    latencies: Vec<Duration>,
    n_errors: u64,
    first_error: Option<String>,
    n_versions: u64,
    last_version: u64,
}

/// Figures of the rank requests.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct CallFigures {
    /// Requests since a model was ready.
    pub(super) requests: u64,
    /// Requests without a ranking in reply.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Model versions that replied.
    pub(super) versions: u64,
    /// Median latency.
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

impl Calls {
    /// The figures so far.
    pub(super) fn figures(&self) -> CallFigures {
        let inner = lock(&self.0);
        let latencies = inner.latencies.iter();
        let mut ms: Vec<f64> = latencies.map(|latency| latency.as_secs_f64() * 1000.0).collect();
        CallFigures {
            requests: inner.latencies.len() as u64 + inner.n_errors,
            errors: inner.n_errors,
            first_error: inner.first_error.clone(),
            versions: inner.n_versions,
            p50_ms: quantile(&mut ms, 0.5),
            p99_ms: quantile(&mut ms, 0.99),
        }
    }

    fn record(&self, result: Result<(Duration, u64), String>) {
        let mut inner = lock(&self.0);
        match result {
            Ok((latency, version)) => {
                inner.latencies.push(latency);
                if inner.last_version != version {
                    inner.last_version = version;
                    inner.n_versions += 1;
                }
            }
            Err(error) => {
                inner.n_errors += 1;
                inner.first_error.get_or_insert(error);
            }
        }
    }
}

/// The `q`-quantile of `values`, the smallest value not exceeded by that share of them. Sorts `values`.
pub(super) fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank within the slice"
    )]
    let rank = (values.len() as f64 * q).ceil() as usize;
    values.get(rank.max(1) - 1).copied()
}

/// Ready once a model is served.
const MODEL_READY: &str = "/v2/models/ouzel/ready";

/// Sends requests from the first version until `stop`; before, the fallback would answer them.
pub(super) fn run(address: SocketAddr, data: &DataDir, calls: &Calls, stop: &Shutdown) -> anyhow::Result<()> {
    let world = World::new(data);
    let mut client = RankClient::connect(address)?;
    while client.get(MODEL_READY).map_or(true, |reply| reply.status != 200) {
        if stop.wait_timeout(PACE) {
            return Ok(());
        }
    }
    let mut number = 0;
    loop {
        let request = world.request(number);
        number += 1;
        let started = Instant::now();
        let result = client.rank(&request);
        let took = started.elapsed();
        calls.record(
            result
                .map(|response| (took, response.version))
                .map_err(|error| error.to_string()),
        );
        if stop.wait_timeout(PACE.saturating_sub(took)) {
            return Ok(());
        }
    }
}

/// The users and items of the requests.
struct World {
    users: Vec<String>,
    items: Vec<String>,
}

impl World {
    fn new(data: &DataDir) -> Self {
        #[derive(Deserialize)]
        struct User {
            user_id: String,
        }
        let events = |stream| data.events().iter().filter(move |event| event.stream == stream);
        let users = events(Stream::Impressions)
            .filter_map(|event| serde_json::from_slice::<User>(&event.payload).ok())
            .map(|user| user.user_id)
            .collect();
        let items = events(Stream::Items).map(|event| event.key.clone()).collect();
        Self { users, items }
    }

    /// Request `n`: users in the order of the log, items by strides through the catalog.
    fn request(&self, n: usize) -> RankRequest {
        let user = self.users.get(n * 37 % self.users.len().max(1)).cloned();
        let n_items = self.items.len().min(N_CANDIDATES);
        let start = n * 101;
        let items = (0..n_items)
            .map(|i| self.items[(start + i) % self.items.len()].clone().into())
            .collect();
        RankRequest {
            user_id: user.unwrap_or_default(),
            items,
            top_k: Some(10),
            ..RankRequest::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_known_values() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let near = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-9;
        assert!(near(quantile(&mut values, 0.5), 50.0));
        assert!(near(quantile(&mut values, 0.99), 99.0));
        assert!(near(quantile(&mut [7.0], 0.99), 7.0));
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
