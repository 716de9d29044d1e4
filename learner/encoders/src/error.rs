//! Errors of reading and running an encoder. Contents that cannot be encoded are [`UnusableContent`](crate::UnusableContent) instead.

use std::io;
use std::path::PathBuf;

/// An encoder cannot be read or cannot run.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages describe variants and fields")]
pub enum EncodeError {
    #[error("cannot read {}: {error}; `make encoders` fetches the default encoders", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("cannot use {}: {why}", path.display())]
    Malformed { path: PathBuf, why: String },
    #[error("{} has no tensor {name:?} among its {n_present}, which its config.json asks for", path.display())]
    MissingTensor {
        path: PathBuf,
        name: String,
        n_present: usize,
    },
    #[error("tensor {name:?} in {} has shape {found:?}, its config.json asks for {expected:?}", path.display())]
    WrongShape {
        path: PathBuf,
        name: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error("libtorch failed: {0}")]
    Torch(#[from] tch::TchError),
}
