//! Freezing the base: from then on adapters learn in its place.
//!
//! While the content and history blocks are frozen, whatever they compute of an item is a constant, which learner and
//! scorers compute once. Only a rollback undoes a freeze. Rebasing adds what the adapters have learned to the weights
//! below them, and is the only change of a frozen base.

use ouzel_model::WeightGroup;

use crate::error::Error;
use crate::trainer::Trainer;

impl Trainer {
    /// Whether the base is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.model.net().is_frozen()
    }

    /// Fingerprint of the base once it is frozen: equal texts, equal bits.
    #[must_use]
    pub fn base(&self) -> Option<String> {
        self.weights.frozen.map(|base| format!("{base:016x}"))
    }

    /// Whether any layer has an adapter.
    #[must_use]
    pub fn has_adapters(&self) -> bool {
        self.has_group(WeightGroup::Adapter)
    }

    /// Whether there is anything to freeze.
    #[must_use]
    pub fn has_base(&self) -> bool {
        self.has_group(WeightGroup::Base)
    }

    fn has_group(&self, group: WeightGroup) -> bool {
        self.model.net().weights().any(|(spec, _)| spec.group == group)
    }

    /// Freezes the base. Does nothing to a base that is frozen, or to a model without one.
    pub fn freeze(&mut self) -> Result<(), Error> {
        if self.is_frozen() || !self.has_base() {
            return Ok(());
        }
        self.fix_base()
    }

    /// Adds what the adapters have learned to the weights below them, and starts them anew. Scores do not change.
    pub fn rebase(&mut self) -> Result<(), Error> {
        if !self.is_frozen() {
            return Err(Error::NotFrozen);
        }
        self.model.merge_adapters()?;
        for ((spec, _), state) in self.model.net().weights().zip(&mut self.dense.states) {
            if spec.group == WeightGroup::Adapter {
                state.reset();
            }
        }
        self.fix_base()
    }

    /// Freezes when as many samples as configured have been learned from.
    pub(crate) fn freeze_when_due(&mut self) -> Result<(), Error> {
        let after = self.config.optimizer.freeze_after_samples;
        if after > 0 && self.n_samples >= after {
            self.freeze()?;
        }
        Ok(())
    }

    /// Freezes the base weights as they are.
    fn fix_base(&mut self) -> Result<(), Error> {
        self.weights.dense = self.model.net().export()?;
        let base = self.weights.base();
        self.weights.frozen = Some(base);
        self.model.set_frozen(base);
        Ok(())
    }
}
