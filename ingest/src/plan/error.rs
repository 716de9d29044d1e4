//! Errors of the plan log.

use std::io;
use std::path::{Path, PathBuf};

/// The plan log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file system refused.
    #[error("cannot {attempted} {path}")]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A segment is damaged where it was durable.
    #[error(
        "the plan log {path} is damaged at byte {at}: {detail}; restart from a snapshot with a \
         later plan position, or from the log alone after moving it away"
    )]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where the damage starts.
        at: u64,
        /// What is wrong.
        detail: String,
    },
    /// Entries that are needed are not there.
    #[error("the plan log in {dir} has entries {first} to {next} (exclusive), entry {wanted} is needed")]
    Gap {
        /// The directory.
        dir: PathBuf,
        /// Its first entry.
        first: u64,
        /// One past its last entry.
        next: u64,
        /// The entry needed.
        wanted: u64,
    },
    /// An entry out of turn.
    #[error("cannot write plan entry {seq}: the next one is {next}")]
    Misnumbered {
        /// Its number.
        seq: u64,
        /// The number due.
        next: u64,
    },
    /// An entry larger than any real one.
    #[error("cannot write plan entry {seq}: {bytes} bytes, at most {most} are possible")]
    TooLarge {
        /// Its number.
        seq: u64,
        /// Its size.
        bytes: usize,
        /// The bound.
        most: usize,
    },
}

impl PlanError {
    /// True when trying again on the same log may succeed: the file system refused, and may not tomorrow.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io { .. })
    }
}

pub(super) fn io_error(attempted: &'static str, path: &Path, source: io::Error) -> PlanError {
    PlanError::Io {
        attempted,
        path: path.to_owned(),
        source,
    }
}
