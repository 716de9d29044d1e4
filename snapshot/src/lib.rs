//! Snapshots: the trainer's state as named arrays and blobs in immutable, verified directories.
//!
//! The crate owns the on-disk format, the order of writes that makes a snapshot atomic and durable, the aliases, and
//! every check before bytes are trusted. It works without libtorch and knows nothing of tensors, Kafka, async runtimes or
//! clocks: the caller passes the time and gives the arrays their meaning. A second store, [`VectorStore`], caches content
//! vectors.
//!
//! ```text
//! <root>/latest, serving, pinned        aliases: snapshot id, blake3 of its manifest, rollbacks so far
//! <root>/tags/<name>                    names given by operators, like aliases; their snapshots are never removed
//! <root>/audit.log                      hash-chained lines: rollback, pin, unpin, gc, ..
//! <root>/snapshots/<20-digit id>/       immutable: manifest.json and the files it lists, nothing else
//! <root>/lease/<epoch>/                 the claim of one writer, with its working directory: see `LeaseWatch`
//! ```
//!
//! Reading order: [`Manifest`] and [`Arrays`] (the format), [`Draft`] (a snapshot to be written), [`Snapshot`] (one that
//! is read), [`Store`] (the directory of all), [`Fs`] (the file system below).
//!
//! # Invariants
//! - A directory named by an id was complete and durable before it got that name.
//! - `latest` never moves to a snapshot that failed one of its checks, and no start resumes from one.
//! - An alias only moves to a snapshot that is sound at that moment, so it always names one.
//! - One process writes at a time, and a former writer can change nothing: its working directory is gone.
//! - An id is never used twice, not even after a rollback and a garbage collection.
//! - No file is read beyond the size in its manifest, and no bytes are returned whose hash differs.

mod config;
mod draft;
mod error;
mod export;
mod format;
mod fs;
mod id;
pub mod metrics;
mod remote;
mod snapshot;
mod store;
mod vectors;

#[cfg(test)]
mod tests;

pub use config::SnapshotConfig;
pub use draft::Draft;
pub use error::Error;
pub use format::{
    ANY, Array, Arrays, CheckpointMeta, Dtype, Element, FORMAT, FileEntry, FileKind, Fingerprint, GateResult,
    IntervalStart, MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, OLDEST_FORMAT, SharedChunk,
};
pub use fs::{FileLock, Fs, FsEntry, FsKind, OutputFile, RealFs};
pub use id::{InvalidSnapshotId, SnapshotId};
pub use remote::{
    Bucket, Object, Remote, RemoteCopy, RemoteIndex, RemoteRestore, RemoteSnapshot, Replica, SyncReport,
};
pub use snapshot::{FileReport, Snapshot, VerificationReport};
pub use store::{
    Alias, ArrayDiff, AuditLine, AuditLog, AuditVerb, Diff, FieldDiff, FileDiff, LeaseState, LeaseWatch,
    MovedRow, Recovery, Retention, RetentionDecision, SkippedSnapshot, SnapshotEntry, Store, TableDiff,
};
pub use vectors::{VectorCount, VectorLimits, VectorRecovery, VectorStore};
