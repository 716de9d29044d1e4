//! The route `POST /v1/events`, on a port of its own or on the scoring port.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use metrics::{counter, histogram};
use serde_json::json;
use tokio::sync::oneshot;

use super::body;
use super::refusal::{Code, Refusal};
use crate::ServingConfig;
use crate::events::{self, BadEvent, EventsCall, EventsOutcome, InvalidEvents, ListBody, ObjectBody};
use crate::metrics::{EVENT_CALL_SECONDS, EVENT_CALLS_TOTAL, EVENTS_REFUSED_TOTAL, EVENTS_WRITTEN_TOTAL};

/// How long the port waits for the writer's answer, which has the reason, beyond the limit: the client gives up records
/// once a second.
const GRACE: Duration = Duration::from_millis(1500);

/// Everything the route needs. Cheap to clone.
#[derive(Clone)]
pub struct EventsApp {
    /// The bounded channel to the writer of events.
    pub calls: SyncSender<EventsCall>,
    /// Renders the metrics page.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The configuration, with the limits of bodies and times.
    pub config: ServingConfig,
}

/// Why a call is not answered with 200.
enum Failure {
    Refused(Refusal),
    Events { n_events: usize, bad: Vec<BadEvent> },
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refused(refusal)
    }
}

impl From<InvalidEvents> for Failure {
    fn from(invalid: InvalidEvents) -> Self {
        let code = match invalid {
            InvalidEvents::TooMany { .. } => Code::TooLarge,
            InvalidEvents::Shape | InvalidEvents::NoEvents | InvalidEvents::UnknownStream { .. } => {
                Code::InvalidField
            }
        };
        Failure::Refused(Refusal::new(code, invalid.to_string()))
    }
}

pub(super) async fn events(State(app): State<EventsApp>, headers: HeaderMap, body: Body) -> Response {
    let started = Instant::now();
    let reply = write(&app, &headers, body).await;
    let outcome = match &reply {
        Ok(_) => "ok",
        Err(Failure::Refused(refusal)) => refusal.code.name(),
        Err(Failure::Events { .. }) => Code::InvalidEvents.name(),
    };
    counter!(EVENT_CALLS_TOTAL, "outcome" => outcome).increment(1);
    histogram!(EVENT_CALL_SECONDS).record(started.elapsed());
    match reply {
        Ok(n_written) => Json(json!({ "written": n_written })).into_response(),
        Err(Failure::Refused(refusal)) => refusal.into_response(),
        Err(Failure::Events { n_events, bad }) => bad_events(n_events, &bad),
    }
}

/// Decodes a call, passes it to the writer and waits for the answer. Returns the number of events written.
async fn write(app: &EventsApp, headers: &HeaderMap, body: Body) -> Result<usize, Failure> {
    let bytes = body::read(headers, body, &app.config).await?;
    let is_list = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let body: events::Body = match is_list {
        true => body::decode::<ListBody>(&bytes)?.into(),
        false => body::decode::<ObjectBody>(&bytes)?.try_into()?,
    };
    let events = body.check()?;
    let streams: Vec<_> = events.iter().map(|event| event.stream).collect();
    let deadline = Instant::now() + app.config.events_timeout.duration();
    let (reply, outcome) = oneshot::channel();
    let call = EventsCall {
        events,
        deadline,
        reply,
    };
    app.calls.try_send(call).map_err(|error| match error {
        TrySendError::Full(_) => Refusal::new(Code::Overloaded, "too many calls wait for the broker"),
        TrySendError::Disconnected(_) => Refusal::new(
            Code::ShuttingDown,
            "the process is shutting down, or its writer has stopped",
        ),
    })?;
    let limit_ms = app.config.events_timeout.ms();
    match tokio::time::timeout_at((deadline + GRACE).into(), outcome).await {
        Ok(Ok(EventsOutcome::Written)) => {
            for stream in &streams {
                counter!(EVENTS_WRITTEN_TOTAL, "stream" => stream.name()).increment(1);
            }
            Ok(streams.len())
        }
        Ok(Ok(EventsOutcome::Refused(bad))) => Err(Failure::Events {
            n_events: streams.len(),
            bad,
        }),
        Ok(Ok(EventsOutcome::Unacknowledged(why))) => Err(Refusal::new(Code::Unacknowledged, why).into()),
        Ok(Err(_)) | Err(_) => {
            let message = format!("the broker has not acknowledged every event within {limit_ms} ms");
            Err(Refusal::new(Code::Unacknowledged, message).into())
        }
    }
}

/// The reply to a call with events that cannot be used: each with index, stream, reason and detail.
fn bad_events(n_events: usize, bad: &[BadEvent]) -> Response {
    for event in bad {
        let labels = [("stream", event.stream.clone()), ("reason", event.reason.clone())];
        counter!(EVENTS_REFUSED_TOTAL, &labels).increment(1);
    }
    let message = format!(
        "{} of {n_events} events cannot be used, and none was written",
        bad.len()
    );
    let error = json!({ "code": Code::InvalidEvents.name(), "message": message, "events": bad });
    (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn a_full_channel_a_closed_one_and_a_wrong_body_have_their_own_refusals() {
        let (calls, waiting) = sync_channel(0);
        let app = EventsApp {
            calls,
            metrics: Arc::new(String::new),
            config: ServingConfig::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let refused = |body: &'static str| {
            let written = runtime.block_on(write(&app, &HeaderMap::new(), Body::from(body)));
            match written {
                Err(Failure::Refused(refusal)) => (refusal.code.name(), refusal.message),
                _ => panic!("{body} was not refused"),
            }
        };
        let good = r#"[{"stream":"items","event":{}}]"#;
        assert_eq!(refused(good).0, "overloaded");
        for (body, code, message) in [
            ("{", "malformed_json", "the body is not JSON"),
            ("7", "invalid_field", "expected an event, a list of events"),
            (
                r#"[{"stream":"items","event":{}},{"stream":"items"}]"#,
                "invalid_field",
                "[1]: missing field `event`",
            ),
            (
                r#"{"events":[],"stream":"items"}"#,
                "invalid_field",
                "neither an event",
            ),
            (
                r#"[{"stream":"samples","event":{}}]"#,
                "invalid_field",
                "events[0].stream is \"samples\"",
            ),
        ] {
            let found = refused(body);
            assert!(found.0 == code && found.1.contains(message), "{body}: {found:?}");
        }
        drop(waiting);
        assert_eq!(refused(good).0, "shutting_down");
    }
}
