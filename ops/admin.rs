//! Administration of a running daemon, through a Unix socket with mode 0600.
//!
//! Each request and each reply is a JSON object on one line. [`serve`] calls a function with each request. The scoring
//! port has no administration.

mod client;
mod protocol;
mod server;

pub use client::Client;
pub use protocol::{AdminReply, AdminRequest, HeldBy, LearnFrom, Status};
pub use server::{Listener, serve};
