//! What can go wrong with an encoder. A content that cannot be encoded is not among it, see [`Unusable`](super::Unusable).

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
        /// Why.
        error: io::Error,
    },
    /// A file is not what its name says.
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
        /// The weights.
        path: PathBuf,
        /// Which tensor.
        name: String,
        /// How many there are.
        n_present: usize,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("tensor {name:?} in {} has shape {found:?}, its config.json asks for {expected:?}", path.display())]
    WrongShape {
        /// The weights.
        path: PathBuf,
        /// Which tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape asked for.
        expected: Vec<usize>,
    },
    /// libtorch refused.
    #[error("libtorch failed: {0}")]
    Torch(#[from] tch::TchError),
}

impl EncodeError {
    /// True when trying again may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }
}
