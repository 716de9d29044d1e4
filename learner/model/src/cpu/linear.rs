//! Linear layers `y = W x + b`, with a low-rank adapter `s B A x` where a layer has one (Hu et al. 2022, eq. 3).
//!
//! A layer either applies its adapter beside its weight, at the cost of the rank, or is [`merged`](Linear::merged) for a block that
//! folds weights into each other.

use super::gemm::{Lhs, add_product};
use super::kernel::{add, transpose};
use super::weights::{Learning, NamedGradients};
use crate::config::MatmulPrecision;

/// A layer with its weight `[n_out, n_in]` and the transpose of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Linear {
    pub(super) n_in: usize,
    pub(super) n_out: usize,
    /// Precision of the products with the weight; those with an adapter are in `f32`.
    pub(super) precision: MatmulPrecision,
    /// `[n_out, n_in]`
    pub(super) weight: Vec<f32>,
    /// `[n_in, n_out]`
    pub(super) transposed: Vec<f32>,
    /// `[n_out]`; empty for a layer without bias.
    pub(super) bias: Vec<f32>,
    pub(super) adapter: Option<Adapter>,
}

/// A low-rank adapter `s B A`.
#[derive(Clone, Debug)]
pub(super) struct Adapter {
    pub(super) rank: usize,
    /// `s`
    pub(super) scale: f32,
    /// `A [rank, n_in]`
    pub(super) a: Vec<f32>,
    /// `[n_in, rank]`
    pub(super) a_transposed: Vec<f32>,
    /// `B [n_out, rank]`
    pub(super) b: Vec<f32>,
    /// `[rank, n_out]`
    pub(super) b_transposed: Vec<f32>,
}

/// Gradients of [`Linear`], summed over calls; empty for weights that do not learn.
#[derive(Debug, Default)]
pub(super) struct LinearGradients {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) lora_a: Vec<f32>,
    pub(super) lora_b: Vec<f32>,
}

impl Linear {
    /// A layer with `weight [n_out, n_in]`, without bias and adapter.
    pub(super) fn new(weight: impl Into<Vec<f32>>, n_in: usize, precision: MatmulPrecision) -> Self {
        let weight = weight.into();
        let n_out = weight.len() / n_in.max(1);
        Self {
            n_in,
            n_out,
            precision,
            transposed: transpose(&weight, n_out, n_in),
            weight,
            bias: Vec::new(),
            adapter: None,
        }
    }

    /// The layer with `bias [n_out]`.
    pub(super) fn with_bias(mut self, bias: &[f32]) -> Self {
        self.bias = bias.to_vec();
        self
    }

    /// The layer with the adapter `a [rank, n_in]`, `b [n_out, rank]`.
    pub(super) fn with_adapter(mut self, a: &[f32], b: &[f32], scale: f32) -> Self {
        let rank = a.len() / self.n_in.max(1);
        self.adapter = Some(Adapter {
            rank,
            scale,
            a: a.to_vec(),
            a_transposed: transpose(a, rank, self.n_in),
            b: b.to_vec(),
            b_transposed: transpose(b, self.n_out, rank),
        });
        self
    }

    /// The layer with its adapter added to its weight, `W + s B A`. Its adapter stays for
    /// [`LinearGradients::split_merged`] and must not be applied again.
    pub(super) fn merged(mut self) -> Self {
        if let Some(adapter) = &self.adapter {
            let scaled = scaled(&adapter.b, adapter.scale);
            let size = [self.n_out, adapter.rank, self.n_in];
            add_product(&mut self.weight, Lhs::Matrix(&scaled), &adapter.a, size);
            self.transposed = transpose(&self.weight, self.n_out, self.n_in);
        }
        self
    }

    /// The outputs of rows `x [n, n_in]`, `[n, n_out]`.
    #[inline(always)]
    pub(super) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len() / self.n_in.max(1) * self.n_out];
        self.forward_to(x, &mut out);
        out
    }

    /// Writes the outputs of rows `x [n, n_in]` to `out [n, n_out]`.
    #[inline(always)]
    pub(super) fn forward_to(&self, x: &[f32], out: &mut [f32]) {
        self.forward_merged(x, out);
        if let Some(adapter) = &self.adapter {
            adapter.forward(x, out);
        }
    }

    /// Writes the outputs of rows without the adapter: of the layer's base, or of a [`Linear::merged`] layer.
    #[inline(always)]
    pub(super) fn forward_merged(&self, x: &[f32], out: &mut [f32]) {
        let size = [x.len() / self.n_in.max(1), self.n_in, self.n_out];
        if self.bias.is_empty() {
            out.fill(0.0);
            self.precision
                .add_product(out, Lhs::Matrix(x), &self.transposed, size);
        } else {
            self.precision
                .set_product(out, &self.bias, x, &self.transposed, size);
        }
    }

    /// Adds the gradients of the weights and, where it is asked for, of the inputs `x [n, n_in]`, from the `gradient`
    /// of the outputs, `[n, n_out]`.
    #[inline(always)]
    pub(super) fn backward(
        &self,
        x: &[f32],
        gradient: &[f32],
        weights: &mut LinearGradients,
        inputs: Option<&mut [f32]>,
    ) {
        let of_low = match &self.adapter {
            Some(adapter) if inputs.is_some() || !weights.lora_a.is_empty() => {
                adapter.backward(x, gradient, weights)
            }
            _ => Vec::new(),
        };
        self.backward_merged(x, gradient, weights);
        if let Some(inputs) = inputs {
            self.input_gradient(gradient, inputs);
            if let Some(adapter) = &self.adapter {
                let size = [of_low.len() / adapter.rank.max(1), adapter.rank, self.n_in];
                add_product(inputs, Lhs::Matrix(&of_low), &adapter.a, size);
            }
        }
    }

    /// Adds the gradients of weight and bias, as far as they learn.
    #[inline(always)]
    pub(super) fn backward_merged(&self, x: &[f32], gradient: &[f32], weights: &mut LinearGradients) {
        if !weights.weight.is_empty() {
            let size = [self.n_out, gradient.len() / self.n_out.max(1), self.n_in];
            self.precision
                .add_product(&mut weights.weight, Lhs::Transposed(gradient), x, size);
        }
        if !weights.bias.is_empty() {
            for row in gradient.chunks_exact(self.n_out.max(1)) {
                add(&mut weights.bias, row);
            }
        }
    }

    /// Adds the gradient of the inputs through the weight alone, `[n, n_in]`.
    #[inline(always)]
    pub(super) fn input_gradient(&self, gradient: &[f32], inputs: &mut [f32]) {
        let size = [gradient.len() / self.n_out.max(1), self.n_out, self.n_in];
        self.precision
            .add_product(inputs, Lhs::Matrix(gradient), &self.weight, size);
    }
}

impl Adapter {
    /// `A x` of rows, `[n, rank]`.
    #[inline(always)]
    pub(super) fn low(&self, x: &[f32]) -> Vec<f32> {
        let n_in = self.a.len() / self.rank.max(1);
        let n = x.len() / n_in.max(1);
        let mut low = vec![0.0; n * self.rank];
        add_product(&mut low, Lhs::Matrix(x), &self.a_transposed, [n, n_in, self.rank]);
        low
    }

    /// Adds `s B A x` of rows to `out [n, n_out]`.
    #[inline(always)]
    fn forward(&self, x: &[f32], out: &mut [f32]) {
        let low = scaled(&self.low(x), self.scale);
        let n_out = self.b.len() / self.rank.max(1);
        let size = [low.len() / self.rank.max(1), self.rank, n_out];
        add_product(out, Lhs::Matrix(&low), &self.b_transposed, size);
    }

    /// Adds the gradients of the factors. Returns that of `A x`, `[n, rank]`.
    #[inline(always)]
    fn backward(&self, x: &[f32], gradient: &[f32], weights: &mut LinearGradients) -> Vec<f32> {
        let (rank, n_out) = (self.rank, self.b.len() / self.rank.max(1));
        let n = gradient.len() / n_out.max(1);
        let mut of_low = vec![0.0; n * rank];
        add_product(&mut of_low, Lhs::Matrix(gradient), &self.b, [n, n_out, rank]);
        of_low.iter_mut().for_each(|x| *x *= self.scale);
        if !weights.lora_a.is_empty() {
            let low = scaled(&self.low(x), self.scale);
            add_product(
                &mut weights.lora_b,
                Lhs::Transposed(gradient),
                &low,
                [n_out, n, rank],
            );
            let size = [rank, n, self.a.len() / rank.max(1)];
            add_product(&mut weights.lora_a, Lhs::Transposed(&of_low), x, size);
        }
        of_low
    }
}

impl LinearGradients {
    /// Gradients of 0 for the weights that learn.
    pub(super) fn new(layer: &Linear, learning: Learning) -> Self {
        let zeros = |learns: bool, n: usize| vec![0.0; if learns { n } else { 0 }];
        let of_adapter =
            |part: fn(&Adapter) -> usize| zeros(learning.adapters, layer.adapter.as_ref().map_or(0, part));
        Self {
            weight: zeros(learning.base, layer.weight.len()),
            bias: zeros(learning.base, layer.bias.len()),
            lora_a: of_adapter(|adapter| adapter.a.len()),
            lora_b: of_adapter(|adapter| adapter.b.len()),
        }
    }

    /// Gradients of 0 for a [`Linear::merged`] layer, whose adapter learns through the merged weight.
    pub(super) fn merged(layer: &Linear) -> Self {
        Self {
            weight: vec![0.0; layer.weight.len()],
            bias: vec![0.0; layer.bias.len()],
            ..Self::default()
        }
    }

    /// Turns the gradient `G` of a merged weight into those of the weights that learn: `A` has `s B^T G`, `B` has `s G A^T`.
    pub(super) fn split_merged(mut self, layer: &Linear, learning: Learning) -> Self {
        if let (Some(adapter), true) = (&layer.adapter, learning.adapters) {
            let (rank, n_in, n_out) = (adapter.rank, layer.n_in, layer.n_out);
            let gradient = scaled(&self.weight, adapter.scale);
            self.lora_a = vec![0.0; adapter.a.len()];
            let size = [rank, n_out, n_in];
            add_product(&mut self.lora_a, Lhs::Transposed(&adapter.b), &gradient, size);
            self.lora_b = vec![0.0; adapter.b.len()];
            let size = [n_out, n_in, rank];
            add_product(
                &mut self.lora_b,
                Lhs::Matrix(&gradient),
                &adapter.a_transposed,
                size,
            );
        }
        if !learning.base {
            self.weight.clear();
            self.bias.clear();
        }
        self
    }

    /// Adds the gradients under the names of their weights.
    pub(super) fn add_named(self, layer: &str, out: &mut NamedGradients) {
        let parts = [
            ("weight", self.weight),
            ("bias", self.bias),
            ("lora_a", self.lora_a),
            ("lora_b", self.lora_b),
        ];
        for (part, gradient) in parts {
            if !gradient.is_empty() {
                out.push((format!("{layer}.{part}"), gradient));
            }
        }
    }
}

/// Adds the gradient of a merged layer's inputs; returns those of its weights, where they learn.
#[inline(always)]
pub(super) fn input_gradients(
    layer: &Linear,
    x: &[f32],
    gradient: &[f32],
    learns: bool,
    inputs: &mut [f32],
) -> LinearGradients {
    layer.input_gradient(gradient, inputs);
    let mut weights = LinearGradients::default();
    if learns {
        weights = LinearGradients::merged(layer);
        layer.backward_merged(x, gradient, &mut weights);
    }
    weights
}

/// Adds the gradients of merged layers that learn.
pub(super) fn add_named<const N: usize>(
    layers: [(&str, &Linear, LinearGradients); N],
    (learning, learns): (Learning, bool),
    out: &mut NamedGradients,
) {
    if learns {
        for (name, layer, gradients) in layers {
            gradients.split_merged(layer, learning).add_named(name, out);
        }
    }
}

fn scaled(values: &[f32], scale: f32) -> Vec<f32> {
    values.iter().map(|x| scale * x).collect()
}
