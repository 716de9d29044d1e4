//! The demo: the whole pipeline on a broker of its own, fed from a data folder while it serves.
//!
//! Everything is what a daemon runs ([`crate::topology`]); only the broker is librdkafka's in-process mock,
//! and the log has an end. Two tasks stand for the outside world: [`feed`] writes events, [`call`] asks for
//! rankings. [`frozen`] looks back at what the model would have been without the second half.

pub mod call;
pub mod feed;
pub mod frozen;
pub mod summary;
