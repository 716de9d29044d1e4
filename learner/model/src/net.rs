//! A network: a choice of blocks with their named weights on one device.
//!
//! `logit = prior + wide + FM + head(first layer)`. The first layer adds up what each block gives, through weights of its
//! own: fields of user and candidate, live features, the candidate's content, content interest, and the sequence block.
//! The user side is computed once per request and gathered for its candidates. Auxiliary logits are linear in the last
//! hidden layer; no gradient flows back through them, so a model with them learns the same primary logits as one without.
//!
//! A network says what is computed. A [backend](crate::backend) computes it.

use tch::{Device, TchError, Tensor};

use crate::block::{Block, WeightGroup};
use crate::config::ModelConfig;
use crate::error::Error;
use crate::feature_norm::{FeatureNorm, FeatureScale};
use crate::host_slice::to_vec;
use crate::params::Params;
use crate::shapes::{WeightSpec, adapted_layers, weight_specs};
use crate::weights::{Array, Dense, Weights};

/// Configuration and dense weights of a model, owned by one thread.
#[derive(Debug)]
pub struct Net {
    config: ModelConfig,
    specs: Vec<WeightSpec>,
    params: Params,
    /// Added to the logits, `[n_tasks]`.
    prior: Vec<f32>,
    /// The transform of live features; none where they are read as they are.
    scale: Option<FeatureScale>,
    /// Fingerprint of the base weights, once they are frozen.
    frozen: Option<u64>,
}

impl Net {
    /// Copies the dense weights of a version to `device`.
    ///
    /// # Errors
    /// When a weight is missing or has another shape than the configuration asks for.
    pub fn new(weights: &Weights, device: Device) -> Result<Self, Error> {
        let config = weights.config.clone();
        let specs = weight_specs(&config);
        let mut params = Vec::with_capacity(specs.len());
        for spec in &specs {
            let array = weights.array(&spec.name, &spec.shape)?;
            let shape: Vec<i64> = spec.shape.iter().map(|n| to_i64(*n)).collect();
            let tensor = Tensor::f_from_slice(&array.values)?
                .f_reshape(&shape)?
                .f_to_device(device)?;
            params.push((spec.name.clone(), tensor));
        }
        Ok(Self {
            params: Params::new(params, config.lora.scale()).with_precision(config.matmul_precision),
            prior: weights.prior.clone(),
            scale: scale(&config, &weights.norm),
            frozen: weights.frozen,
            specs,
            config,
        })
    }

    /// The model's configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The dense weights by name, for the blocks.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The dense weights in order.
    pub fn weights(&self) -> impl Iterator<Item = (&WeightSpec, &Tensor)> {
        self.specs.iter().zip(self.params.tensors())
    }

    /// The offset of each task's logit, `[n_tasks]`.
    #[must_use]
    pub fn prior(&self) -> &[f32] {
        &self.prior
    }

    /// Replaces the offset of each task's logit.
    pub fn set_prior(&mut self, prior: &[f32]) {
        prior.clone_into(&mut self.prior);
    }

    /// The transform of live features; none where they are read as they are.
    pub(crate) fn scale(&self) -> Option<&FeatureScale> {
        self.scale.as_ref()
    }

    /// Replaces the statistics that live features are normalized by.
    pub fn set_norm(&mut self, norm: &FeatureNorm) {
        self.scale = scale(&self.config, norm);
    }

    /// Whether a weight learns now.
    #[must_use]
    pub fn learns(&self, spec: &WeightSpec) -> bool {
        spec.group.learns(self.is_frozen())
    }

    /// Whether the weights inside a block are constant from now on: its base is frozen, and no adapter learns in it.
    #[must_use]
    pub fn is_fixed(&self, block: Block) -> bool {
        self.is_frozen() && !has_adapters(&self.specs, block)
    }

    /// Whether the base is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Fingerprint of the base weights, once they are frozen, see [`Weights::base`].
    #[must_use]
    pub fn frozen(&self) -> Option<u64> {
        self.frozen
    }

    /// Freezes the base under this fingerprint.
    pub(crate) fn set_frozen(&mut self, frozen: Option<u64>) {
        self.frozen = frozen;
    }

    /// Adds each adapter to the weight of its layer and resets it: `W += s B A`, `B = 0`.
    pub(crate) fn merge_adapters(&mut self) -> Result<(), Error> {
        let scale = self.config.lora.scale();
        let _no_grad = tch::no_grad_guard();
        for layer in adapted_layers(&self.config, &self.specs) {
            let get = |part: &str| self.params.get(&format!("{layer}.{part}"));
            let [weight, a, b] = [get("weight")?, get("lora_a")?, get("lora_b")?];
            merge(weight, a, b, scale)?;
        }
        Ok(())
    }

    /// Copies the dense weights out.
    pub fn export(&self) -> Result<Dense, Error> {
        self.weights()
            .map(|(spec, tensor)| {
                let (shape, values) = (spec.shape.clone(), to_vec(tensor)?.into());
                Ok((spec.name.clone(), Array { shape, values }))
            })
            .collect()
    }
}

/// The transform of live features, if the model normalizes them.
fn scale(config: &ModelConfig, norm: &FeatureNorm) -> Option<FeatureScale> {
    config.features.normalize.then(|| norm.scale()).flatten()
}

fn merge(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<(), TchError> {
    let learned = b.f_matmul(a)? * scale;
    let _weight = weight.f_detach()?.f_add_(&learned)?;
    let _zeroed = b.f_detach()?.f_zero_()?;
    Ok(())
}

/// Whether a layer inside a block has an adapter.
pub(crate) fn has_adapters(specs: &[WeightSpec], block: Block) -> bool {
    specs
        .iter()
        .any(|spec| spec.block == block && spec.group == WeightGroup::Adapter)
}

/// A length as libtorch counts.
pub(crate) fn to_i64(n: usize) -> i64 {
    i64::try_from(n).expect("a length below 2^63")
}
