//! What can go wrong while learning.

use ouzel_model::Output;

use crate::loss::Policy;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model refused its weights or its input.
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
    /// The device of the configuration does not exist here.
    #[error("unknown device {0:?}: use \"cpu\", \"cuda\" or \"cuda:N\"")]
    UnknownDevice(String),
    /// A share of negatives that is none.
    #[error("cannot learn from a share of {0} of the negatives: it must be above 0 and at most 1")]
    NegativeRate(f32),
    /// A rule of rows that cannot be kept.
    #[error("cannot keep the rule rows.{key}: it {why}")]
    Rows {
        /// Which.
        key: String,
        /// Why not.
        why: String,
    },
    /// The model was not made for the label policy.
    #[error(
        "the label policy {policy:?} needs a model with output and auxiliary logits {needs:?}, this one has \
         {found:?}: make the model's configuration from the policy's `output` and `auxiliary`"
    )]
    Policy {
        /// The policy.
        policy: Policy,
        /// What it needs.
        needs: (Output, usize),
        /// What the model has.
        found: (Output, usize),
    },
    /// Calibration under a policy that never tells a negative for certain.
    #[error(
        "cannot calibrate under the label policy {0:?}: its stream tells no negative when it is certain; use plain \
         labels or defer"
    )]
    Calibrate(Policy),
    /// A setting names a task that is not learned.
    #[error("{setting} names the task {name:?}, which is not among those learned: {tasks:?}")]
    UnknownTask {
        /// Which setting.
        setting: &'static str,
        /// The name in it.
        name: String,
        /// The tasks there are.
        tasks: Vec<String>,
    },
    /// A bound between tasks that cannot be met.
    #[error("cannot bind the tasks {tasks:?} to one another: {why}")]
    Bound {
        /// `first`, `then` and `both`.
        tasks: [String; 3],
        /// What does not fit.
        why: &'static str,
    },
    /// A snapshot without what the trainer needs, or made by another model.
    #[error("cannot restore the trainer from snapshot {snapshot}: {why}")]
    Restore {
        /// Which snapshot.
        snapshot: String,
        /// What does not fit.
        why: String,
    },
    /// The snapshot could not be read or built.
    #[error(transparent)]
    Snapshot(#[from] ouzel_snapshot::Error),
    /// There is nothing to re-base.
    #[error(
        "cannot add adapters to their base: it is not frozen, so they have learned nothing; freeze it first"
    )]
    NotFrozen,
}
