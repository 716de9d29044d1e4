//! Errors of the join stage.

use ouzel_sample::FeatureStateError;

use crate::join::JoinError;

/// An error that stops the stage. A bad record is no error: it is counted and passed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages describe the variants")]
pub enum StageError {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Features(#[from] FeatureStateError),
    #[error(
        "the daemon joins behind a tier, and its state is one of {found}: tasks, label policy and join.source cannot be \
         migrated there; keep them, or start in an empty state directory"
    )]
    Tier { found: &'static str },
    #[error("cannot read the batcher of a checkpoint: {0}")]
    Decode(#[from] postcard::Error),
}

impl StageError {
    /// True when a checkpoint cannot be read, so another one may be restored in its place.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Join(JoinError::Decode(_)) | Self::Features(FeatureStateError::Decode(_)) | Self::Decode(_)
        )
    }

    /// True when the join store failed: the state is undefined, and a checkpoint restores it.
    pub fn is_store_failure(&self) -> bool {
        matches!(self, Self::Join(JoinError::Store(_)))
    }
}
