//! A network together with the backend that computes it.

use tch::Device;

use crate::backend::{Backend, BackendKind, Pass, Purpose, choose};
use crate::block::Block;
use crate::cpu::CpuBackend;
use crate::error::Error;
use crate::feature_norm::FeatureNorm;
use crate::inputs::Inputs;
use crate::net::Net;
use crate::rows::Rows;
use crate::torch::{DeviceRows, TorchBackend};
use crate::weights::Weights;

/// A model that runs: dense weights on a device, and the backend chosen for them.
///
/// Embedding rows and the wide part stay in the tables of a [`Weights`], which each call takes.
#[derive(Debug)]
pub struct Model {
    net: Net,
    backend: Box<dyn Backend>,
    /// Models of the version's members; none for one that sleeps.
    members: Vec<Option<Model>>,
}

impl Model {
    /// A model that learns, on the backend that [`choose`] names.
    pub fn new(weights: &Weights, device: Device) -> Result<Self, Error> {
        let (kind, _) = choose(&weights.config, device);
        Self::with_backend(weights, device, kind, Purpose::Training)
    }

    /// A model that only scores: whatever depends on its weights alone is computed once.
    pub fn for_inference(weights: &Weights, device: Device) -> Result<Self, Error> {
        let (kind, _) = choose(&weights.config, device);
        Self::with_backend(weights, device, kind, Purpose::Inference)
    }

    /// Takes over the content vectors of the model it replaces, where both have the same frozen base.
    pub fn reuse_contents(&mut self, replaced: &mut Self) {
        if self.net.is_fixed(Block::Content) && self.net.frozen() == replaced.net.frozen() {
            self.backend.put_contents(replaced.backend.take_contents());
        }
    }

    /// A model that learns on the torch backend whatever it is: the reference that `cpu` is compared with.
    pub fn on_torch(weights: &Weights, device: Device) -> Result<Self, Error> {
        Self::with_backend(weights, device, BackendKind::Torch, Purpose::Training)
    }

    fn with_backend(
        weights: &Weights,
        device: Device,
        kind: BackendKind,
        purpose: Purpose,
    ) -> Result<Self, Error> {
        let net = Net::new(weights, device)?;
        let backend: Box<dyn Backend> = match kind {
            BackendKind::Cpu => Box::new(CpuBackend::new(purpose)),
            BackendKind::Torch => Box::new(TorchBackend::new(&net, device, purpose)?),
        };
        let members = weights.members.iter().zip(weights.shares.iter().skip(1));
        let members = members.map(|(member, share)| match *share > 0.0 {
            true => {
                let (kind, _) = choose(&member.config, device);
                Self::with_backend(member, device, kind, purpose).map(Some)
            }
            false => Ok(None),
        });
        Ok(Self {
            members: members.collect::<Result<_, _>>()?,
            net,
            backend,
        })
    }

    /// Configuration and dense weights.
    #[must_use]
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Runs a batch forward, to be learned from.
    pub fn forward<'a>(
        &'a mut self,
        inputs: &'a Inputs,
        tables: &'a Weights,
    ) -> Result<Box<dyn Pass + 'a>, Error> {
        self.backend.forward(&self.net, tables, inputs)
    }

    /// Calibrated log-odds of each outcome, `[n_candidates, n_tasks]`: with members, the mean of all weighted by their shares.
    pub fn score(&mut self, inputs: &Inputs, tables: &Weights) -> Result<Vec<f32>, Error> {
        let Some(own) = tables.shares.first() else {
            return self.score_alone(inputs, tables);
        };
        let mut mixed = vec![0.0; inputs.n_candidates() * self.net.config().n_tasks()];
        if *own > 0.0 {
            add_scaled(&mut mixed, *own, &self.score_alone(inputs, tables)?);
        }
        let plain = inputs.without_blocks();
        let members = self.members.iter_mut().zip(&tables.members);
        for ((model, member), share) in members.zip(&tables.shares[1..]) {
            if let Some(model) = model {
                add_scaled(&mut mixed, *share, &model.score_alone(&plain, member)?);
            }
        }
        Ok(mixed)
    }

    /// Calibrated log-odds of this model without its members.
    fn score_alone(&mut self, inputs: &Inputs, tables: &Weights) -> Result<Vec<f32>, Error> {
        let logits = self.backend.score(&self.net, tables, inputs)?.into_iter();
        let output = self.net.config().output;
        let lines = tables.calibration.iter().cycle();
        Ok(logits
            .zip(lines)
            .map(|(logit, line)| line.apply(output.log_odds(logit)))
            .collect())
    }

    /// Replaces the offset of each task's logit.
    pub fn set_prior(&mut self, prior: &[f32]) {
        self.net.set_prior(prior);
    }

    /// Replaces the statistics that live features are normalized by.
    pub fn set_norm(&mut self, norm: &FeatureNorm) {
        self.net.set_norm(norm);
    }

    /// Freezes the base under its fingerprint, see [`Weights::base`].
    pub fn set_frozen(&mut self, base: u64) {
        self.net.set_frozen(Some(base));
        self.backend.reset(&self.net);
    }

    /// Adds each adapter to the weight of its layer and starts it anew.
    pub fn merge_adapters(&mut self) -> Result<(), Error> {
        self.net.merge_adapters()?;
        self.backend.reset(&self.net);
        Ok(())
    }

    /// Caches up to `max` embedding rows on the device from now on; on the `cpu` backend does nothing.
    pub fn cache_rows(&mut self, rows: &Rows, max: usize) -> Result<(), Error> {
        self.backend.cache_rows(rows, max)
    }

    /// The rows cached on the device, if it has memory of its own.
    pub fn device_rows(&mut self) -> Option<&mut DeviceRows> {
        self.backend.device_rows()
    }
}

/// Adds `share * logits` to `mixed`; the mean of a mixture is formed by this in training and serving alike.
pub fn add_scaled(mixed: &mut [f32], share: f32, logits: &[f32]) {
    for (mixed, logit) in mixed.iter_mut().zip(logits) {
        *mixed += share * logit;
    }
}
