//! The routes of the scoring port.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use super::EventsApp;
use super::app::App;
use super::{events, inference, rank, recommend, status};

pub(super) fn router(app: App) -> Router {
    let events = app.events.clone().map(events_route).unwrap_or_default();
    let model = format!("/v2/models/{}", inference::MODEL);
    Router::new()
        .route("/v1/rank", post(rank::rank))
        .route("/v1/recommend", post(recommend::recommend))
        .route("/v1/similar", post(recommend::similar))
        .route("/v1/status", get(status::status))
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
        .route("/v2", get(inference::server))
        .route("/v2/health/live", get(inference::live))
        .route("/v2/health/ready", get(inference::ready))
        .route(&model, get(inference::model))
        .route(&format!("{model}/ready"), get(inference::model_ready))
        .route(&format!("{model}/infer"), post(inference::infer))
        .fallback(status::not_found)
        .method_not_allowed_fallback(status::method_not_allowed)
        .with_state(app)
        .merge(events)
}

/// The routes of a port that takes events alone.
pub(super) fn events_router(app: EventsApp) -> Router {
    let page = Arc::clone(&app.metrics);
    Router::new()
        .route("/healthz", get(status::healthz))
        .route("/metrics", get(async move || status::page(page())))
        .fallback(status::not_found)
        .method_not_allowed_fallback(status::method_not_allowed)
        .merge(events_route(app))
}

fn events_route(app: EventsApp) -> Router {
    Router::new()
        .route("/v1/events", post(events::events))
        .method_not_allowed_fallback(status::method_not_allowed)
        .with_state(app)
}
