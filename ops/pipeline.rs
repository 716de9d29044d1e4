//! One pipeline for daemon, demo, replay and join process; what differs between them is data.
//!
//! ```text
//! intake -> sequencer (order, plan log, join) -> learner -> checkpoints -> snapshots (disk)
//!                        ^ |                        \-> publisher -> scorers <- HTTP
//!               encoder -/ \-> feature state ------------------------^
//! ```
//!
//! [`spec`] describes a pipeline and builds its parts from a resume point. [`threads`] runs the parts as [`stages`], serves
//! and saves; `in_place` runs them in the calling thread, for replays. Both take the same steps. [`status`] is what a
//! pipeline reports, [`control`] what it decides by. [`candidate`] scores a share of the traffic beside the served version, [`second`] is one that learns. [`run`] is what the rest of the process reads of the stages, which can
//! start again from another snapshot. `join_process` runs a process of the join tier.

mod admin_handler;
pub mod candidate;
pub(crate) mod checkpoint;
pub(crate) mod contents;
pub mod control;
pub mod gates;
mod gauges;
pub(crate) mod go_back;
pub(crate) mod in_place;
mod intake;
pub(crate) mod join_process;
pub(crate) mod learner;
mod messages;
pub(crate) mod model_op;
pub(crate) mod pause;
mod process;
pub(crate) mod promoted;
pub(crate) mod provenance;
mod publisher;
pub(crate) mod quarantine;
pub mod remote;
pub(crate) mod resume;
pub mod run;
pub(crate) mod schema;
pub mod second;
pub(crate) mod skip;
pub mod spec;
pub mod stages;
pub(crate) mod standby;
mod state_file;
pub mod status;
pub mod threads;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data every update leaves whole, so that a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
