//! Errors of the plan log.

use std::io;
use std::path::{Path, PathBuf};

/// The plan log cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages describe variants and fields")]
pub enum PlanError {
    #[error("cannot {attempted} {path}")]
    Io {
        attempted: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "the plan log {path} is damaged at byte {at}: {detail}; restart from a snapshot with a \
         later plan position, or from the log alone after moving it away"
    )]
    Corrupt { path: PathBuf, at: u64, detail: String },
    #[error("the plan log in {dir} has entries {first} to {next} (exclusive), entry {wanted} is needed")]
    Gap {
        dir: PathBuf,
        first: u64,
        next: u64,
        wanted: u64,
    },
    #[error("cannot write the plan log {dir} as writer {epoch}: another daemon has taken over")]
    TakenOver { dir: PathBuf, epoch: u64 },
    #[error(
        "the plan log in {dir} was written anew from entry {first} on, and entries up to {next} (exclusive) were followed"
    )]
    Superseded { dir: PathBuf, first: u64, next: u64 },
    #[error("cannot write plan entry {seq}: the next one is {next}")]
    Misnumbered { seq: u64, next: u64 },
    #[error("cannot write plan entry {seq}: {bytes} bytes, at most {most} are possible")]
    TooLarge { seq: u64, bytes: usize, most: usize },
}

impl PlanError {
    /// True when trying again on the same log may succeed: the file system refused, and may not tomorrow.
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
