//! `POST /v1/rank`, and the way through the queue that every scoring route shares.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use metrics::{counter, histogram};
use tokio::sync::oneshot;

use super::refusal::{Code, Refusal};
use super::{App, body};
use crate::metrics::{REQUEST_SECONDS, REQUESTS_TOTAL};
use crate::{CheckedRequest, Job, RankRequest, RankResponse, Ranked};

pub(super) async fn rank(State(app): State<App>, headers: HeaderMap, body: Body) -> Response {
    let started = Instant::now();
    let answered = answer(&app, &headers, body).await;
    record(started, answered.as_ref().err());
    match answered {
        Ok(response) => axum::Json(response).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn answer(app: &App, headers: &HeaderMap, body: Body) -> Result<RankResponse, Refusal> {
    let bytes = body::read(headers, body, &app.config).await?;
    let request: RankRequest = body::decode(&bytes)?;
    let request_id = request.request_id.clone();
    let ask = Arc::new(request.check(app.config.max_candidates)?);
    let ranked = score(app, Arc::clone(&ask)).await?;
    Ok(RankResponse::new(&ask, &ranked, request_id))
}

/// Sends one ask to the workers and waits for its scores, at most until the deadline.
pub(super) async fn score(app: &App, ask: Arc<CheckedRequest>) -> Result<Ranked, Refusal> {
    let deadline = Instant::now() + app.config.deadline.duration();
    let (reply, scored) = oneshot::channel();
    app.queue.push(Job { ask, deadline, reply })?;
    match tokio::time::timeout_at(deadline.into(), scored).await {
        Ok(Ok(Ok(ranked))) => Ok(ranked),
        Ok(Ok(Err(error))) => {
            if !error.is_transient() {
                tracing::error!(%error, "a request could not be scored");
            }
            Err(error.into())
        }
        // The sender is gone without a word: the worker dropped the job as late, or died with it.
        Ok(Err(_)) if Instant::now() < deadline => Err(Refusal::new(
            Code::Internal,
            "the worker that scored this request has stopped",
        )),
        Ok(Err(_)) | Err(_) => Err(Refusal::new(
            Code::DeadlineExceeded,
            format!("no scores within the deadline of {} ms", app.config.deadline.ms()),
        )),
    }
}

/// Counts one answered scoring request.
pub(super) fn record(started: Instant, refusal: Option<&Refusal>) {
    let outcome = refusal.map_or("ok", |refusal| refusal.code.name());
    counter!(REQUESTS_TOTAL, "outcome" => outcome).increment(1);
    histogram!(REQUEST_SECONDS).record(started.elapsed());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;
    use ouzel_sample::settings::Period;

    use crate::{Queue, ServingConfig};

    #[test]
    fn every_answer_is_counted_by_its_outcome() {
        let config = ServingConfig {
            deadline: Period::from_ms(1),
            ..ServingConfig::default()
        };
        let app = App {
            queue: Arc::new(Queue::new(1)),
            model: Arc::new(|| None),
            metrics: Arc::new(String::new),
            config,
        };
        let good = r#"{"user_id":"u","items":["a"]}"#;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || {
            // No worker runs: the first waits in vain, the second finds the queue full.
            for body in [good, good, "{", r#"{"user_id":"","items":["a"]}"#] {
                runtime.block_on(rank(State(app.clone()), HeaderMap::new(), Body::from(body)));
            }
            app.queue.close();
            runtime.block_on(rank(State(app.clone()), HeaderMap::new(), Body::from(good)));
        });
        let mut n_timed = 0;
        let mut outcomes = BTreeMap::new();
        for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
            match value {
                DebugValue::Counter(n) => {
                    assert_eq!(key.key().name(), REQUESTS_TOTAL);
                    let outcome = key.key().labels().next().unwrap().value().to_owned();
                    outcomes.insert(outcome, n);
                }
                DebugValue::Histogram(values) => n_timed += values.len(),
                DebugValue::Gauge(_) => {}
            }
        }
        let expected = [
            "deadline_exceeded",
            "invalid_request",
            "malformed_json",
            "overloaded",
            "shutting_down",
        ];
        assert!(
            outcomes.keys().eq(expected) && outcomes.values().all(|n| *n == 1),
            "{outcomes:?}"
        );
        assert_eq!(n_timed, 5);
    }
}
