//! The state that every HTTP handler shares.

use std::sync::Arc;

use super::EventsApp;
use crate::{Queue, ServedModel, ServingConfig};

/// Everything a handler needs. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The queue of scoring requests.
    pub queue: Arc<Queue>,
    /// Returns the newest published version, `None` before the first. Must not block.
    pub model: Arc<dyn Fn() -> Option<ServedModel> + Send + Sync>,
    /// Returns the state of the process as a JSON object, for `GET /v1/status`. Must not block.
    pub status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Renders the metrics page.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The route that takes events, if it is on this port.
    pub events: Option<EventsApp>,
    /// The configuration of the port, with its limits.
    pub config: ServingConfig,
}
