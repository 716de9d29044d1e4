//! Snapshots: the trainer's state as named arrays and blobs in immutable, verified directories.
//!
//! This crate owns the on-disk format, the order of writes that makes a snapshot atomic and durable, the
//! aliases that say which one counts, and every check made before a byte of one is believed. It works without
//! libtorch and must not know tensors, Kafka, an async runtime, a clock, or any other room of the house: the
//! caller passes the time, and says what the arrays mean. Beside the snapshots it keeps the vectors of contents, see
//! [`VectorStore`].
//!
//! ```text
//! <root>/latest, serving, pinned        pointer files: id, blake3 of its manifest, rollbacks so far
//! <root>/audit.log                      hash-chained lines: rollback, pin, unpin, gc
//! <root>/snapshots/<20-digit id>/       immutable: manifest.json and the files it lists, nothing else
//! <root>/snapshots/.tmp-<id>/           being written, or left by a crash and removed at the next open
//! ```
//!
//! # Invariants
//! - A directory with a plain id was complete and durable before it got that name.
//! - An alias is moved only to a snapshot that was sound at that moment, so it always names one.
//! - An id is never used twice, not even after a rollback and a collection.
//! - Nothing is read from a snapshot beyond the size its manifest states, and nothing is returned from a file
//!   whose hash differs.

mod alias;
mod array;
mod arrays;
mod audit;
mod codec;
mod diff;
mod draft;
mod element;
mod error;
mod fs;
mod hashing;
mod id;
mod lineage;
mod manifest;
pub mod metrics;
mod recover;
mod seal;
mod snapshot;
mod store;
mod vectors;
mod verbs;
mod write;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

pub use alias::Alias;
pub use array::{ANY, Array, Shared};
pub use arrays::Arrays;
pub use audit::{Audit, AuditLine, Verb};
pub use diff::{ArrayDiff, Diff, FieldDiff, FileDiff};
pub use draft::Draft;
pub use element::{Dtype, Element};
pub use error::Error;
pub use fs::{Fs, FsEntry, FsKind, Lock, Output, RealFs};
pub use id::SnapshotId;
pub use manifest::{
    CheckpointMeta, FORMAT, FileEntry, FileKind, Fingerprint, MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest,
};
pub use recover::{Recovery, Skipped};
pub use snapshot::{FileReport, Report, Snapshot};
pub use store::{Listed, Store};
pub use vectors::{VectorCount, VectorLimits, VectorRecovery, VectorStore};
