//! Errors of the join. A bad event is none: it has an outcome.

use ouzel_sample::Id;
use ouzel_sample::settings::KeyError;

use crate::join::counters::IdentityViolation;
use crate::join::store::StoreError;

/// The join cannot go on, or cannot start.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A configuration value that cannot be used.
    #[error("cannot join with this configuration: join.{0}")]
    Config(KeyError),
    /// The captured features do not fit the slate.
    #[error("cannot join request {request}: captured {captured} candidates for {shown} shown items")]
    Captured {
        /// The slate.
        request: Id,
        /// Items shown.
        shown: usize,
        /// Candidates captured.
        captured: usize,
    },
    /// The store failed. The join state is undefined from here: restore it from a snapshot.
    #[error("cannot keep the join state; the next start restores it from the newest snapshot")]
    Store(#[from] StoreError),
    /// An exported state cannot be read.
    #[error("cannot read the join state: {0}")]
    Decode(String),
    /// An exported state belongs to another configuration.
    #[error(
        "cannot restore the join state: it was made with {found}, the configuration says {expected}; start from a \
         snapshot made under this configuration"
    )]
    Changed {
        /// What the state was made with.
        found: String,
        /// What is configured.
        expected: String,
    },
    /// The state disagrees with the counters.
    #[error(transparent)]
    Identity(#[from] IdentityViolation),
}
