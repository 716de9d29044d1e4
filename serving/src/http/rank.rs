//! The native scoring route, `POST /v1/rank`.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::app::App;
use super::body;
use super::refusal::Refusal;
use super::score::{count_reply, score};
use crate::{RankRequest, RankResponse};

pub(super) async fn rank(State(app): State<App>, headers: HeaderMap, body: Body) -> Response {
    let started = Instant::now();
    let reply = reply(&app, &headers, body).await;
    count_reply(started, reply.as_ref().err());
    reply.map(axum::Json).into_response()
}

async fn reply(app: &App, headers: &HeaderMap, body: Body) -> Result<RankResponse, Refusal> {
    let bytes = body::read(headers, body, &app.config).await?;
    let request: RankRequest = body::decode(&bytes)?;
    let request_id = request.request_id.clone();
    let request = Arc::new(request.check(app.config.max_candidates)?);
    let ranked = score(app, Arc::clone(&request)).await?;
    Ok(RankResponse::new(&request, &ranked, request_id))
}

#[cfg(test)]
mod tests {
    use ouzel_sample::settings::Period;
    use std::collections::BTreeMap;

    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;
    use crate::metrics::REQUESTS_TOTAL;
    use crate::{Queue, ServingConfig};

    #[test]
    fn every_reply_is_counted_by_its_outcome() {
        let config = ServingConfig {
            deadline: Period::from_ms(1),
            ..ServingConfig::default()
        };
        let app = App {
            queue: Arc::new(Queue::new(1)),
            model: Arc::new(|| None),
            status: Arc::new(|| serde_json::json!({})),
            metrics: Arc::new(String::new),
            events: None,
            config,
        };
        let good = r#"{"user_id":"u","items":["a"]}"#;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || {
            // Without workers the first request times out, and the second finds the queue full.
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
