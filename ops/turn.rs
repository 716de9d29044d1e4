//! What turns a lineage besides going back: its base frozen, or re-based.
//!
//! Either is an event between two batches that no event of the log brings about. A snapshot that is written right after
//! it makes it durable, as it does a rollback: a start from before that snapshot knows nothing of the event, and a start
//! from it or after it has it, whoever dies in between.

use anyhow::bail;

use ouzel_learner::Trainer;
use ouzel_snapshot::AuditVerb;

/// An event of a lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelOp {
    /// The base stands still from here on, and adapters learn.
    FreezeBase,
    /// What the adapters have learned is added to the base.
    Rebase,
}

impl ModelOp {
    /// As the audit log has it.
    #[must_use]
    pub fn verb(self) -> AuditVerb {
        match self {
            Self::FreezeBase => AuditVerb::FreezeBase,
            Self::Rebase => AuditVerb::Rebase,
        }
    }

    /// What was done, for people.
    #[must_use]
    pub fn done(self) -> &'static str {
        match self {
            Self::FreezeBase => "base frozen",
            Self::Rebase => "base re-based",
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
                bail!("there is nothing to add to the base: adapters learn once it is frozen, and it is not")
            }
            Self::Rebase if !trainer.has_adapters() => {
                bail!(
                    "there is nothing to add to the base: model.lora puts no adapter on a layer of this model"
                )
            }
            Self::FreezeBase | Self::Rebase => Ok(()),
        }
    }

    /// Does it, and returns what the next manifest says of it; `why` is in the words of whoever asked.
    pub fn take(self, trainer: &mut Trainer, why: &str) -> anyhow::Result<String> {
        match self {
            Self::FreezeBase => trainer.freeze()?,
            Self::Rebase => trainer.rebase()?,
        }
        let colon = if why.is_empty() { "" } else { ": " };
        Ok(format!(
            "{} before batch {}{colon}{why}",
            self.done(),
            trainer.next_batch()
        ))
    }
}
