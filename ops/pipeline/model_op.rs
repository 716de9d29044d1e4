//! Operator actions that change the model between two batches: freeze the base, or rebase it.
//!
//! The log has no record of these actions. The snapshot that is written right after an action makes it durable: a start
//! from an earlier snapshot does not include the action.

use anyhow::bail;

use ouzel_learner::Trainer;
use ouzel_snapshot::AuditVerb;

/// An operator action on the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelOp {
    /// The base stops learning, and adapters learn in its place.
    FreezeBase,
    /// The base gains what the adapters have learned.
    Rebase,
}

impl ModelOp {
    /// The verb in the audit log.
    pub(crate) fn verb(self) -> AuditVerb {
        match self {
            Self::FreezeBase => AuditVerb::FreezeBase,
            Self::Rebase => AuditVerb::Rebase,
        }
    }

    /// The completed action, for messages.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::FreezeBase => "base frozen",
            Self::Rebase => "base rebased",
        }
    }

    /// Fails if the action does not apply to this model.
    pub(crate) fn check(self, trainer: &Trainer) -> anyhow::Result<()> {
        match self {
            Self::FreezeBase if !trainer.has_base() => {
                bail!("this model has no base to freeze: it has no block over content or history")
            }
            Self::FreezeBase if trainer.is_frozen() => bail!("the base is frozen already"),
            Self::Rebase if !trainer.is_frozen() => {
                bail!("there is nothing to add to the base: adapters learn only once the base is frozen")
            }
            Self::Rebase if !trainer.has_adapters() => {
                bail!(
                    "there is nothing to add to the base: model.lora puts no adapter on a layer of this model"
                )
            }
            Self::FreezeBase | Self::Rebase => Ok(()),
        }
    }

    /// Applies the action for the operator's `reason`. Returns the note for the next manifest.
    pub(crate) fn apply(self, trainer: &mut Trainer, reason: &str) -> anyhow::Result<String> {
        match self {
            Self::FreezeBase => trainer.freeze()?,
            Self::Rebase => trainer.rebase()?,
        }
        let colon = if reason.is_empty() { "" } else { ": " };
        Ok(format!(
            "{} before batch {}{colon}{reason}",
            self.done(),
            trainer.next_batch()
        ))
    }
}
