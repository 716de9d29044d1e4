//! Operator actions that change the model between two batches: freeze the base, or rebase it.
//!
//! No record of the log brings about either. The snapshot that is written right after makes it durable, as for a
//! rollback: a start from an earlier snapshot does not know of the action, a start from that one or a later one does.

use anyhow::bail;

use ouzel_learner::Trainer;
use ouzel_snapshot::AuditVerb;

/// An operator action on the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelOp {
    /// The base stops learning, and adapters learn in its place.
    FreezeBase,
    /// What the adapters have learned is added to the base.
    Rebase,
}

impl ModelOp {
    /// Its verb in the audit log.
    #[must_use]
    pub fn verb(self) -> AuditVerb {
        match self {
            Self::FreezeBase => AuditVerb::FreezeBase,
            Self::Rebase => AuditVerb::Rebase,
        }
    }

    /// What was done, as a message says it.
    #[must_use]
    pub fn done(self) -> &'static str {
        match self {
            Self::FreezeBase => "base frozen",
            Self::Rebase => "base rebased",
        }
    }

    /// Refuses what cannot be done to this model.
    pub fn check(self, trainer: &Trainer) -> anyhow::Result<()> {
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

    /// Applies it. Returns the note for the next manifest; `reason` is the operator's.
    pub fn apply(self, trainer: &mut Trainer, reason: &str) -> anyhow::Result<String> {
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
