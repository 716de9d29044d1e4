//! Errors of reading and running an encoder. Contents that cannot be encoded are [`UnusableContent`](crate::UnusableContent) instead.

use std::io;
use std::path::PathBuf;

/// An encoder cannot be read or cannot run.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A file of the encoder's folder cannot be read.
    #[error("cannot read {}: {error}; `make encoders` fetches the default encoders", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// A file does not have the content that its name promises.
    #[error("cannot use {}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The weights lack a tensor.
    #[error("{} has no tensor {name:?} among its {n_present}, which its config.json asks for", path.display())]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// Number of tensors in the file.
        n_present: usize,
    },
    /// A tensor does not have the shape that the configuration asks for.
    #[error("tensor {name:?} in {} has shape {found:?}, its config.json asks for {expected:?}", path.display())]
    WrongShape {
        /// The weights file.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape asked for.
        expected: Vec<usize>,
    },
    /// A libtorch operation failed.
    #[error("libtorch failed: {0}")]
    Torch(#[from] tch::TchError),
}

impl EncodeError {
    /// True when the same call may succeed later. A broken folder or device stays broken.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::Interrupted)
    }
}
