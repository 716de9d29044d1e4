//! Errors of the join stage.

use ouzel_sample::FeatureStateError;

use crate::join::JoinError;

/// The stage cannot go on. No single record causes it: a bad record is counted and passed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The join failed.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The feature state of a checkpoint cannot be read.
    #[error(transparent)]
    Features(#[from] FeatureStateError),
    /// The batcher of a checkpoint cannot be read.
    #[error("cannot read the batcher of a checkpoint: {0}")]
    Decode(#[from] postcard::Error),
}

impl StageError {
    /// True when the join store failed: the state is undefined, and a checkpoint restores it.
    #[must_use]
    pub fn is_store_failure(&self) -> bool {
        matches!(self, Self::Join(JoinError::Store(_)))
    }
}
