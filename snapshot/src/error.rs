//! Errors of this crate; each says whether a retry or another snapshot may help.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Dtype, SnapshotId};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages describe variants and fields")]
pub enum Error {
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    /// Bytes on disk differ from the bytes that were written.
    #[error("{} cannot be trusted: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{} has format {found}, this version reads formats {oldest} to {newest}: use the ouzel that wrote it, or a newer one", path.display())]
    Format {
        path: PathBuf,
        found: u64,
        oldest: u32,
        newest: u32,
    },
    #[error("there is no snapshot {id} in {}", root.display())]
    NoSnapshot { id: SnapshotId, root: PathBuf },
    #[error("snapshot {id} has no {kind} file `{file}`")]
    NoFile {
        id: SnapshotId,
        file: String,
        kind: &'static str,
    },
    #[error("cannot put `{name}` into a snapshot: {why}")]
    Invalid { name: String, why: String },
    #[error("array `{array}` is missing from {file}, which has: {known}")]
    MissingArray {
        array: String,
        file: String,
        known: String,
    },
    #[error("array `{array}` of {file} holds {found}, expected {expected}")]
    WrongDtype {
        array: String,
        file: String,
        expected: Dtype,
        found: Dtype,
    },
    #[error("array `{array}` of {file} has shape {found}, expected {expected}")]
    WrongShape {
        array: String,
        file: String,
        expected: String,
        found: String,
    },
    #[error("cannot store the vector of content {content} by {encoder}: {why}")]
    InvalidVector {
        encoder: String,
        content: String,
        why: String,
    },
    #[error(
        "cannot move `latest` to snapshot {id}: its ancestor {ancestor} was rolled back; restart, to resume from `latest`"
    )]
    RolledBack { id: SnapshotId, ancestor: SnapshotId },
    #[error("cannot use the tag `{name}`: {why}")]
    Tag { name: String, why: String },
    #[error("cannot move `latest` to snapshot {id}: it failed the check `{gate}`")]
    FailedGate { id: SnapshotId, gate: String },
    #[error(
        "{} is held by another process: stop it, or ask it through its admin socket",
        path.display()
    )]
    Locked { path: PathBuf },
    #[error("{} is held by a daemon on the machine {host}: ask it through its admin socket, or stop it", root.display())]
    HeldElsewhere { root: PathBuf, host: String },
    /// This process was the writer, and is no longer.
    #[error("cannot change {} as writer {epoch}: another daemon has taken over", root.display())]
    TakenOver { root: PathBuf, epoch: u64 },
    #[error("cannot {action} {object}: {error}")]
    Remote {
        action: &'static str,
        object: String,
        error: io::Error,
    },
    #[error("cannot use `{url}` as a remote copy: {why}")]
    RemoteUrl { url: String, why: String },
    #[error(
        "{url} holds the snapshots of another state directory, of the machine {host}: name an empty place, or start with an empty state directory to go on from it"
    )]
    RemoteForeign { url: String, host: String },
    /// This state directory was the one that the copy is of, and is no longer.
    #[error(
        "the machine {host} has gone on from {url}: this state directory is a former one; empty it to go on from the copy"
    )]
    RemoteTakenOver { url: String, host: String },
    #[error("cannot change {}: it was opened for reading only", root.display())]
    ReadOnly { root: PathBuf },
}

impl Error {
    /// True when the same call may succeed later, at most after space was freed.
    ///
    /// That is a full disk, a quota, memory, file descriptors, an interrupted or timed-out call, or a held lock. A
    /// device error is not transient, though the next snapshot may be tried.
    pub fn is_transient(&self) -> bool {
        use io::ErrorKind as Kind;
        match self {
            Error::Io { error, .. } => {
                self.is_full()
                    || matches!(
                        error.kind(),
                        Kind::OutOfMemory | Kind::Interrupted | Kind::WouldBlock | Kind::TimedOut
                    )
                    || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
            }
            Error::Locked { .. } | Error::HeldElsewhere { .. } => true,
            _ => false,
        }
    }

    /// True when there was no room: a full disk, a quota, or a limit on the size of files.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind as Kind;
        matches!(self, Error::Io { error, .. } if matches!(
            error.kind(),
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge
        ))
    }

    /// True when the snapshot itself is bad, so another one may serve.
    ///
    /// Other errors (permissions, descriptors, a newer format) say nothing about the snapshot; skipping it for one of
    /// them would lose good state.
    pub fn is_damage(&self) -> bool {
        use io::ErrorKind as Kind;
        match self {
            Error::Damaged { .. } | Error::NoSnapshot { .. } => true,
            Error::Io { error, .. } => {
                matches!(
                    error.kind(),
                    Kind::NotFound
                        | Kind::InvalidData
                        | Kind::UnexpectedEof
                        | Kind::NotADirectory
                        | Kind::IsADirectory
                ) || matches!(error.raw_os_error(), Some(libc::EIO | libc::ELOOP))
            }
            _ => false,
        }
    }

    /// True when the file or directory does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Error::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }

    pub(crate) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Error::Damaged {
            path: path.to_owned(),
            why: why.into(),
        }
    }

    pub(crate) fn invalid(name: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Invalid {
            name: name.into(),
            why: why.into(),
        }
    }
}

/// Adds the failed action and its path to an I/O error.
pub(crate) trait IoResultExt<T> {
    fn attempt(self, action: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> IoResultExt<T> for io::Result<T> {
    fn attempt(self, action: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|error| Error::Io {
            action,
            path: path.to_owned(),
            error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_transient_and_no_damage_while_eio_is_the_reverse() {
        for (code, transient, damage) in [
            (libc::ENOSPC, true, false),
            (libc::EDQUOT, true, false),
            (libc::EFBIG, true, false),
            (libc::EMFILE, true, false),
            (libc::ENOMEM, true, false),
            (libc::EIO, false, true),
            (libc::ENOENT, false, true),
            (libc::EACCES, false, false),
            (libc::EROFS, false, false),
        ] {
            let failed: io::Result<()> = Err(io::Error::from_raw_os_error(code));
            let error = failed.attempt("write", Path::new("x")).unwrap_err();
            let found = (error.is_transient(), error.is_damage());
            assert_eq!(found, (transient, damage), "{error}");
        }
        let newer = Error::Format {
            path: "x".into(),
            found: 9,
            oldest: 1,
            newest: 2,
        };
        assert!(!newer.is_transient() && !newer.is_damage());
    }
}
