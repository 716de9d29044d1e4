//! What can go wrong with a snapshot, and whether trying again later can help.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Dtype, SnapshotId};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused.
    #[error("cannot {attempt} {}: {error}", path.display())]
    Io {
        /// The verb, as in "write".
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What is on disk is not what was written there.
    #[error("{} cannot be trusted: {why}", path.display())]
    Damaged {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Written by a version with another format.
    #[error("{} has format {found}, this version reads format {supported}: use the ouzel that wrote it, or a newer one", path.display())]
    Format {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        supported: u32,
    },
    /// Text that is not an id.
    #[error("`{text}` is no snapshot id: an id is 20 digits, as `snapshot list` shows them")]
    BadId {
        /// The text, shortened.
        text: String,
    },
    /// No such snapshot.
    #[error("there is no snapshot {id} in {}", root.display())]
    NoSnapshot {
        /// The id asked for.
        id: SnapshotId,
        /// The store.
        root: PathBuf,
    },
    /// The snapshot has no file of that name and kind.
    #[error("snapshot {id} has no {kind} file `{file}`")]
    NoFile {
        /// Which snapshot.
        id: SnapshotId,
        /// The name asked for.
        file: String,
        /// The kind asked for.
        kind: &'static str,
    },
    /// A draft, array or manifest that must not be written.
    #[error("cannot put `{name}` into a snapshot: {why}")]
    Invalid {
        /// The file, array or field.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// An array that should be there is not.
    #[error("array `{array}` is missing from {file}, which has: {known}")]
    MissingArray {
        /// The name asked for.
        array: String,
        /// Where it was looked for.
        file: String,
        /// What is there.
        known: String,
    },
    /// An array of another element type.
    #[error("array `{array}` of {file} holds {found}, expected {expected}")]
    WrongDtype {
        /// The array.
        array: String,
        /// Where it is.
        file: String,
        /// Asked for.
        expected: Dtype,
        /// Found.
        found: Dtype,
    },
    /// An array of another shape.
    #[error("array `{array}` of {file} has shape {found}, expected {expected}")]
    WrongShape {
        /// The array.
        array: String,
        /// Where it is.
        file: String,
        /// Asked for; `*` is any size.
        expected: String,
        /// Found.
        found: String,
    },
    /// A vector that must not be kept.
    #[error("cannot keep the vector of content {content} by {encoder}: {why}")]
    InvalidVector {
        /// The version of the encoder.
        encoder: String,
        /// The content's hash.
        content: String,
        /// What is wrong with it.
        why: String,
    },
    /// `latest` would move to a lineage that was rolled back.
    #[error(
        "cannot move `latest` to snapshot {id}: its ancestor {ancestor} was rolled back; restart, to resume from `latest`"
    )]
    RolledBack {
        /// The snapshot.
        id: SnapshotId,
        /// It or the ancestor of it that a rollback left behind.
        ancestor: SnapshotId,
    },
    /// Another process writes to this store.
    #[error(
        "{} is held by another process: stop it, or ask it through its admin socket",
        path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The store was opened with `inspect`.
    #[error("cannot change {}: it was opened for reading only", root.display())]
    ReadOnly {
        /// The store.
        root: PathBuf,
    },
}

impl Error {
    /// True when the same request may succeed later without a person changing anything but free space: disk
    /// full, quota, memory, descriptors, an interrupted or timed-out call, a lock that is held. An I/O error of
    /// the device is not: the disk wants a look, though the next snapshot may be tried.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Io { error, .. } => {
                matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                        | io::ErrorKind::FileTooLarge
                        | io::ErrorKind::OutOfMemory
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                ) || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
            }
            Error::Locked { .. } => true,
            _ => false,
        }
    }

    /// True when the snapshot itself is bad and another may do. Everything else (permissions, descriptors, a
    /// newer format) says nothing about the snapshot, and skipping one for it would lose good state.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Damaged { .. } | Error::NoSnapshot { .. } => true,
            Error::Io { error, .. } => {
                matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::InvalidData
                        | io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::IsADirectory
                ) || matches!(error.raw_os_error(), Some(libc::EIO | libc::ELOOP))
            }
            _ => false,
        }
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

/// Adds the attempt and the path to an I/O error.
pub(crate) trait Attempt<T> {
    fn attempt(self, attempt: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, attempt: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|error| Error::Io {
            attempt,
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
        let io_error = |code| Error::Io {
            attempt: "write",
            path: "x".into(),
            error: io::Error::from_raw_os_error(code),
        };
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
            let error = io_error(code);
            assert_eq!(
                (error.is_transient(), error.is_damage()),
                (transient, damage),
                "{error}"
            );
        }
        let newer = Error::Format {
            path: "x".into(),
            found: 9,
            supported: 1,
        };
        assert!(!newer.is_transient() && !newer.is_damage());
    }
}
