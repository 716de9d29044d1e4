//! Errors of this crate.

use ouzel_model::Output;

use ouzel_sample::settings::KeyError;

use crate::loss::Policy;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model's weights do not fit, or libtorch failed.
    #[error(transparent)]
    Model(#[from] ouzel_model::Error),
    /// A batch could not be learned from.
    #[error("cannot learn from batch {batch}: {source}")]
    Step {
        /// Number of the batch.
        batch: u64,
        /// Why not.
        source: ouzel_model::Error,
    },
    /// The configured device does not exist.
    #[error("learner.device is {0}: set it to cpu, cuda or cuda:N")]
    UnknownDevice(String),
    /// A configuration value that cannot be used.
    #[error("cannot learn with this configuration: {0}")]
    Config(KeyError),
    /// The model's outputs are not those that the label policy needs.
    #[error(
        "the label policy {policy:?} needs a model with output and auxiliary logits {needs:?}, this one has \
         {found:?}: make the model's configuration from the policy's `output` and `auxiliary`"
    )]
    Policy {
        /// The policy.
        policy: Policy,
        /// Output and auxiliary logits that it needs.
        needs: (Output, usize),
        /// Those that the model has.
        found: (Output, usize),
    },
    /// A snapshot that lacks a part of the trainer, or holds another model.
    #[error("cannot restore the trainer from snapshot {snapshot}: {why}")]
    Restore {
        /// Id of the snapshot.
        snapshot: String,
        /// What does not fit.
        why: String,
    },
    /// Weights of a snapshot that cannot be used, though its files may be those that were written.
    #[error("the weights of snapshot {snapshot} cannot be used: {why}")]
    Unsound {
        /// Id of the snapshot.
        snapshot: String,
        /// What is wrong.
        why: String,
    },
    /// A weight or optimizer state that is infinite or NaN.
    #[error("array `{array}` of {file} is not finite at value {at}")]
    NotFinite {
        /// The file.
        file: String,
        /// The array.
        array: String,
        /// Place of the value in row-major order.
        at: usize,
    },
    /// The probe of a snapshot that cannot be read.
    #[error("cannot read the probe: {0}")]
    Probe(String),
    /// The snapshot could not be read or written.
    #[error(transparent)]
    Snapshot(#[from] ouzel_snapshot::Error),
    /// Rebasing a base that is not frozen.
    #[error("cannot rebase: the base is not frozen, so its adapters have learned nothing; freeze it first")]
    NotFrozen,
}

impl Error {
    /// True when the snapshot itself is bad, so another one may be loaded in its place.
    ///
    /// False for a snapshot of another configuration or version, and for errors of the machine: passing over a snapshot
    /// for one of them would lose good state.
    pub fn is_damage(&self) -> bool {
        use ouzel_model::Error as Model;
        use ouzel_snapshot::Error as Stored;
        match self {
            Error::Unsound { .. } | Error::NotFinite { .. } => true,
            Error::Model(error) => !matches!(error, Model::Torch(_)),
            Error::Snapshot(
                Stored::MissingArray { .. }
                | Stored::WrongDtype { .. }
                | Stored::WrongShape { .. }
                | Stored::NoFile { .. },
            ) => true,
            Error::Snapshot(error) => error.is_damage(),
            _ => false,
        }
    }
}
