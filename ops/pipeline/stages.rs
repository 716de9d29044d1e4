//! The stages of a pipeline on threads: one loop per thread, connected by channels.
//!
//! [`poll`] reads and decodes, [`join`] orders, joins and batches, [`encode`] turns contents into vectors, [`learn`]
//! feeds the learner, [`save`] writes snapshots. Each ends when its input closes; only poll hears the shutdown. The
//! state machines that they drive know nothing of threads. [`join_worker`] is the one stage of a join process.

pub mod backlog;
pub mod encode;
pub mod idle;
pub mod join;
pub mod join_worker;
pub mod learn;
pub mod poll;
pub mod save;

pub use super::messages::{JoinCheckpoint, Joined, Read};
