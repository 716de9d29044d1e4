//! Administration of a running daemon, over a Unix socket that only its owner can open.
//!
//! One JSON object a line in each direction. The protocol knows the verbs and nothing of how they are done:
//! [`serve`] hands each request to a function. Never on the scoring port.

mod client;
mod protocol;
mod server;

pub use client::Client;
pub use protocol::{AdminReply, AdminRequest, Status};
pub use server::{Listener, serve};
