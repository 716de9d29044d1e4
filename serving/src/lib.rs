//! Scorer, hot swap, HTTP: what stands between a rank request and the newest model.
//!
//! A request enters through [`http`], is checked into a [`CheckedRequest`], waits in the bounded [`Queue`], is computed
//! by one worker's [`Ranker`] against exactly one version of the [`Published`] model, and leaves as a
//! [`RankResponse`] that names that version. The crate owns that path and its config. It must not know how a
//! model is learned, where events come from, or what a snapshot directory looks like; it spawns no thread of
//! its own ([`work`] is a plain loop for `ops::supervisor`), and async code stays inside [`http`].

pub mod client;
mod config;
pub mod http;

pub mod metrics;
mod pool;
mod published;
mod ranker;
mod request;
mod scorer;

pub use config::ServingConfig;
pub use pool::{Job, PushError, Queue, work};
pub use published::{Loaded, Published};
pub use ranker::{CheckedRequest, RankError, Ranked, Ranker, ServedModel};
pub use request::{Invalid, MAX_CONTEXT, RankRequest, RankResponse, ScoredItem};
pub use scorer::{Now, Scorer, Version};
