//! The scoring port: routes, connections, and an end that loses no request.
//!
//! Everything async of this crate lives under here. It owns the sockets and turns HTTP into jobs on the
//! [`Queue`]; it computes nothing longer than decoding a bounded body. No administration is reachable from it.

mod body;
mod inference;
mod rank;
mod refusal;
mod server;
mod status;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

pub use server::{ServeError, bind, serve};

use crate::{Queue, ServedModel, ServingConfig};

/// Everything a handler needs. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// Where scoring requests go.
    pub queue: Arc<Queue>,
    /// The newest published version; `None` before the first. Must not block.
    pub model: Arc<dyn Fn() -> Option<ServedModel> + Send + Sync>,
    /// Renders the metrics page.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The bounds.
    pub config: ServingConfig,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("queue", &self.queue)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn router(app: App) -> Router {
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
