//! Errors of this crate.

use ouzel_model::Output;

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
    /// A share of negatives outside (0, 1].
    #[error("cannot learn from a share of {0} of the negatives: the rate must be above 0 and at most 1")]
    NegativeRate(f32),
    /// A row rule with a value that is not allowed.
    #[error("rows.{key} {why}")]
    Rows {
        /// Its key below the section of rows.
        key: String,
        /// Why not.
        why: String,
    },
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
    /// Calibration under a policy whose stream has no certain negatives.
    #[error(
        "cannot calibrate under the label policy {0:?}, whose stream has no certain negatives: set learner.calibrate = \
         false, or use plain labels or defer"
    )]
    Calibrate(Policy),
    /// A setting names a task that is not learned.
    #[error("{setting} names the task {name}, but the tasks are {}", tasks.join(", "))]
    UnknownTask {
        /// The setting.
        setting: &'static str,
        /// The task that it names.
        name: String,
        /// The tasks of the model.
        tasks: Vec<String>,
    },
    /// A bound between tasks that is not possible.
    #[error("cannot bind the tasks {}: {why}", tasks.join(", "))]
    Bound {
        /// `first`, `then` and `both`.
        tasks: [String; 3],
        /// Why not.
        why: &'static str,
    },
    /// A snapshot that lacks a part of the trainer, or holds another model.
    #[error("cannot restore the trainer from snapshot {snapshot}: {why}")]
    Restore {
        /// Id of the snapshot.
        snapshot: String,
        /// What does not fit.
        why: String,
    },
    /// The snapshot could not be read or written.
    #[error(transparent)]
    Snapshot(#[from] ouzel_snapshot::Error),
    /// Rebasing a base that is not frozen.
    #[error("cannot rebase: the base is not frozen, so its adapters have learned nothing; freeze it first")]
    NotFrozen,
}
