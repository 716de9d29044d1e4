//! The scoring port: routes, connections, and a shutdown that loses no request.
//!
//! All async code of the crate is here. It owns the sockets and turns HTTP requests into jobs on the queue; its own
//! computations are no longer than decoding a bounded body. No administration is reachable from this port.

mod app;
mod body;
mod events;
mod inference;
mod rank;
mod recommend;
mod refusal;
mod routes;
mod score;
mod server;
mod status;

pub use app::App;
pub use events::EventsApp;
pub use server::{ServeError, bind, serve, serve_events};
