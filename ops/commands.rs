//! What each verb of the command line does.
//!
//! A command takes its arguments and a writer for its answer, and returns the exit code or an error with a
//! hint. It prints nothing by itself.

pub mod completions;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod join;
pub mod model;
pub mod replay;
pub mod score;
pub mod snapshot;
mod table;
pub mod topics;
pub mod verify;
