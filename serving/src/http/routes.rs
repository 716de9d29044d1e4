//! The routes of the scoring port.

use axum::Router;
use axum::routing::{get, post};

use super::app::App;
use super::{inference, rank, status};

pub(super) fn router(app: App) -> Router {
    let model = format!("/v2/models/{}", inference::MODEL);
    Router::new()
        .route("/v1/rank", post(rank::rank))
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
        .route("/v2", get(inference::server))
        .route("/v2/health/live", get(inference::live))
        .route("/v2/health/ready", get(inference::ready))
        .route(&model, get(inference::model))
        .route(&format!("{model}/ready"), get(inference::ready))
        .route(&format!("{model}/infer"), post(inference::infer))
        .fallback(status::not_found)
        .method_not_allowed_fallback(status::method_not_allowed)
        .with_state(app)
}
