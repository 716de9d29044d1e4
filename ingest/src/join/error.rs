//! Errors of the join. A bad event is none: it has an outcome.

use ouzel_sample::Id;
use ouzel_sample::settings::KeyError;

use crate::join::counters::IdentityViolation;
use crate::join::store::StoreError;

/// An error that stops the join or prevents its start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages describe variants and fields")]
pub enum JoinError {
    #[error("cannot join with this configuration: join.{0}")]
    Config(KeyError),
    #[error("cannot join request {request}: captured {captured} candidates for {shown} shown items")]
    Captured {
        request: Id,
        shown: usize,
        captured: usize,
    },
    /// The store failed. The join state is undefined from here: restore it from a snapshot.
    #[error("cannot keep the join state; the next start restores it from the newest snapshot")]
    Store(#[from] StoreError),
    #[error("cannot read the join state: {0}")]
    Decode(String),
    #[error(
        "cannot restore the join state: it was made with {found}, the configuration says {expected}; `ouzel snapshot \
         migrate` changes it"
    )]
    Changed { found: String, expected: String },
    #[error(transparent)]
    Identity(#[from] IdentityViolation),
}
