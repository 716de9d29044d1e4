//! The status routes `/healthz`, `/readyz` and `/metrics`, and the replies to unknown routes.

use axum::Json;
use axum::extract::State;
use axum::http::{Method, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::app::App;
use super::refusal::{Code, Refusal};
use crate::ServedModel;

/// Liveness: the process answers. Independent of the model, so no orchestrator kills a process that is still loading one.
pub(super) async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

/// Readiness: a rank request sent now would be scored, by a model or, as the status says, by the fallback.
pub(super) async fn readyz(State(app): State<App>) -> Response {
    match ready(&app) {
        Ok(Some(model)) => {
            let mut body =
                json!({ "status": "ready", "snapshot": &*model.snapshot, "version": model.version });
            // It scores, by a model that grows old: whoever looks here should see why.
            if let Some(why @ Value::String(_)) = (app.status)().get_mut("not_learning") {
                body["not_learning"] = why.take();
            }
            Json(body).into_response()
        }
        Ok(None) => Json(json!({ "status": "fallback" })).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// The served model if there is one, or the reason for which a request would be refused.
pub(super) fn ready(app: &App) -> Result<Option<ServedModel>, Refusal> {
    if app.queue.is_closed() {
        return Err(Refusal::new(Code::ShuttingDown, "the process is shutting down"));
    }
    if app.queue.n_workers() == 0 {
        return Err(Refusal::new(Code::NotReady, "no scoring worker is running"));
    }
    Ok((app.model)())
}

/// What is served, and whether it is learned and published.
pub(super) async fn status(State(app): State<App>) -> Response {
    Json((app.status)()).into_response()
}

pub(super) async fn metrics(State(app): State<App>) -> Response {
    page((app.metrics)())
}

/// The metrics page.
pub(super) fn page(text: String) -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

pub(super) async fn not_found(uri: Uri) -> Response {
    Refusal::new(Code::NotFound, format!("there is no {}", uri.path())).into_response()
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    Refusal::new(
        Code::MethodNotAllowed,
        format!("{} does not take {method}", uri.path()),
    )
    .into_response()
}
