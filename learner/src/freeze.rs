//! Freezing the base: from then on its adapters learn in its place.
//!
//! While content and history blocks stand still, what they make of an item is a constant, computed once and kept by
//! the learner and every scorer alike. Freezing is not undone but by a rollback; re-basing adds what the adapters
//! have learned to the weights below them, and is the only thing that moves a frozen base.

use tch::TchError;

use ouzel_model::{is_adapter, is_base};

use crate::backward::track_params;
use crate::error::Error;
use crate::trainer::Trainer;

impl Trainer {
    /// Whether the base is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.net.is_frozen()
    }

    /// What the base is, once it is frozen: equal texts, equal bits.
    #[must_use]
    pub fn base(&self) -> Option<String> {
        self.weights.frozen.map(|base| format!("{base:016x}"))
    }

    /// Whether any layer has an adapter.
    #[must_use]
    pub fn has_adapters(&self) -> bool {
        self.net.params().any(|(name, _)| is_adapter(name))
    }

    /// Whether there is anything to freeze.
    #[must_use]
    pub fn has_base(&self) -> bool {
        self.net.params().any(|(name, _)| is_base(name))
    }

    /// Freezes the base. Does nothing to a base that is frozen, or to a model without one.
    pub fn freeze(&mut self) -> Result<(), Error> {
        if self.is_frozen() || !self.has_base() {
            return Ok(());
        }
        self.set_base()
    }

    /// Adds what the adapters have learned to the weights below them, and starts them anew. The model's answers stay
    /// what they are.
    pub fn rebase(&mut self) -> Result<(), Error> {
        if !self.is_frozen() {
            return Err(Error::NotFrozen);
        }
        let layers: Vec<String> = self
            .net
            .params()
            .filter_map(|(name, _)| Some(name.strip_suffix(".lora_b")?.to_owned()))
            .collect();
        tch::no_grad(|| self.merge(&layers)).map_err(ouzel_model::Error::from)?;
        for ((name, _), kept) in self.net.params().zip(&mut self.dense.kept) {
            if is_adapter(name) {
                kept.reset();
            }
        }
        self.set_base()
    }

    /// `W += s B A`, `B = 0`
    fn merge(&self, layers: &[String]) -> Result<(), TchError> {
        let params: std::collections::HashMap<&str, &tch::Tensor> = self.net.params().collect();
        let scale = self.weights.config.lora.scale();
        for layer in layers {
            let [Some(weight), Some(a), Some(b)] =
                ["weight", "lora_a", "lora_b"].map(|part| params.get(format!("{layer}.{part}").as_str()))
            else {
                continue;
            };
            let learned = b.f_matmul(a)? * scale;
            let _moved = weight.f_detach()?.f_add_(&learned)?;
            let _zeroed = b.f_detach()?.f_zero_()?;
        }
        Ok(())
    }

    /// Freezes when as many samples as configured have been learned from.
    pub(crate) fn freeze_when_due(&mut self) -> Result<(), Error> {
        let after = self.config.freeze_samples;
        if after > 0 && self.n_samples >= after {
            self.freeze()?;
        }
        Ok(())
    }

    fn set_base(&mut self) -> Result<(), Error> {
        self.weights.dense = self.net.export()?;
        self.weights.frozen = Some(self.weights.base());
        self.net.set_frozen(self.weights.frozen);
        track_params(&self.net);
        Ok(())
    }
}
