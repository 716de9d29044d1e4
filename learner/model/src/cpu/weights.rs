//! Dense weights by name as plain slices, and gradients under the same names.

use super::layer_norm::LayerNorm;
use super::linear::Linear;
use crate::config::{MatmulPrecision, ModelConfig};
use crate::error::Error;

/// Gradients by name of dense weight, each shaped as its weight.
pub(crate) type NamedGradients = Vec<(String, Vec<f32>)>;

/// A collection of dense weights, each a row-major slice.
pub(crate) trait WeightSource {
    /// The weight of this name, if the model has it.
    fn find(&self, name: &str) -> Option<&[f32]>;

    /// Number of weights, for error messages.
    fn n_weights(&self) -> usize;
}

/// Which weights of a model learn, and so which gradients a backward pass computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Learning {
    /// The weights that make content vectors: gradients of the candidates' content vectors are computed.
    pub(crate) contents: bool,
    /// The layers of the blocks.
    pub(crate) base: bool,
    /// The adapters of layers.
    pub(crate) adapters: bool,
}

impl Learning {
    /// The same for layers outside the base, which learn at any time.
    pub(super) fn with_base(self) -> Self {
        Self { base: true, ..self }
    }
}

/// Builds the layers of blocks from named weights.
#[derive(Clone, Copy)]
pub(crate) struct BlockWeights<'a> {
    source: &'a dyn WeightSource,
    /// Scale of the product of an adapter.
    lora_scale: f32,
    /// Precision of the layers' products.
    precision: MatmulPrecision,
}

impl<'a> BlockWeights<'a> {
    /// The weights of a model; layers multiply in the precision of its configuration.
    pub(crate) fn new(source: &'a dyn WeightSource, config: &ModelConfig) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
        let lora_scale = config.lora.scale() as f32;
        Self {
            source,
            lora_scale,
            precision: config.matmul_precision,
        }
    }

    /// The same weights, in layers that multiply in `f32`.
    pub(super) fn in_f32(self) -> Self {
        Self {
            precision: MatmulPrecision::F32,
            ..self
        }
    }

    pub(super) fn precision(self) -> MatmulPrecision {
        self.precision
    }

    /// The weight of this name, if the model has it.
    pub(super) fn find(self, name: &str) -> Option<&'a [f32]> {
        self.source.find(name)
    }

    /// The weight of this name.
    pub(super) fn get(self, name: &str) -> Result<&'a [f32], Error> {
        self.find(name).ok_or_else(|| Error::MissingWeight {
            name: name.to_owned(),
            n_present: self.source.n_weights(),
        })
    }

    /// The linear layer `{name}.weight`, with its bias and adapter if it has them.
    pub(super) fn linear(self, name: &str, n_in: usize) -> Result<Linear, Error> {
        let part = |part: &str| self.find(&format!("{name}.{part}"));
        let layer = Linear::new(self.get(&format!("{name}.weight"))?, n_in, self.precision);
        let layer = match part("bias") {
            Some(bias) => layer.with_bias(bias),
            None => layer,
        };
        Ok(match (part("lora_a"), part("lora_b")) {
            (Some(a), Some(b)) => layer.with_adapter(a, b, self.lora_scale),
            _ => layer,
        })
    }

    /// The layer normalisation `{name}.weight` and `{name}.bias`.
    pub(super) fn layer_norm(self, name: &str) -> Result<LayerNorm, Error> {
        Ok(LayerNorm {
            weight: self.get(&format!("{name}.weight"))?.to_vec(),
            bias: self.get(&format!("{name}.bias"))?.to_vec(),
        })
    }
}
