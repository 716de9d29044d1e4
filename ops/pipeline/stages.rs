//! The stages of a pipeline on threads: one loop per thread, connected by channels.
//!
//! `poll` reads and decodes, [`join`] orders, joins and batches, `encode` turns contents into vectors, `learn` feeds the
//! learner, `save` writes snapshots. Each ends when its input closes; only `poll` reacts to the shutdown. The state
//! machines that they drive know nothing of threads. `join_worker` is the one stage of a join process.

pub mod backlog;
pub(crate) mod encode;
pub(crate) mod events;
pub(crate) mod idle;
pub mod join;
pub(crate) mod join_worker;
pub(crate) mod learn;
pub(crate) mod poll;
pub(crate) mod save;
pub(crate) mod stream_log;
pub(crate) mod time_jumps;

pub use super::messages::{JoinCheckpoint, Joined, Read};
