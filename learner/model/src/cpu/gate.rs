//! Gates of fields and of hidden layers: what [`crate::blocks::gate`] computes.

use super::activation::{relu, relu_backward, sigmoid};
use super::linear::{Linear, LinearGradients};
use super::weights::{BlockWeights, Learning, NamedGradients};
use crate::error::Error;

/// A gate with the weights of one moment.
#[derive(Debug)]
pub(super) struct Gate {
    name: String,
    inner: Linear,
    outer: Linear,
}

/// A forward pass.
#[derive(Debug, Default)]
pub(super) struct GateForward {
    /// Inputs, `[n, n_in]`.
    x: Vec<f32>,
    hidden: Vec<f32>,
    /// `[n, n_out]`
    pub(super) gates: Vec<f32>,
}

/// Gradients of both layers.
#[derive(Debug, Default)]
pub(super) struct GateGradients([LinearGradients; 2]);

impl Gate {
    pub(super) fn new(weights: BlockWeights<'_>, name: String, n_in: usize) -> Result<Self, Error> {
        let inner = weights.linear(&format!("{name}.in"), n_in)?;
        Ok(Self {
            outer: weights.linear(&format!("{name}.out"), inner.n_out)?,
            inner,
            name,
        })
    }

    /// Gates of rows `x [n, n_in]`.
    #[inline(always)]
    pub(super) fn forward(&self, x: Vec<f32>) -> GateForward {
        let mut hidden = self.inner.forward(&x);
        relu(&mut hidden);
        let mut gates = self.outer.forward(&hidden);
        for gate in &mut gates {
            *gate = 2.0 * sigmoid(*gate);
        }
        GateForward { x, hidden, gates }
    }

    /// Adds the gradients of the layers and, where it is asked for, of the inputs, from `gradient [n, n_out]`, that of the gates
    /// before their sigmoid.
    #[inline(always)]
    pub(super) fn backward(
        &self,
        pass: &GateForward,
        gradient: &[f32],
        layers: &mut GateGradients,
        inputs: Option<&mut [f32]>,
    ) {
        let GateGradients([of_inner, of_outer]) = layers;
        let mut of_hidden = vec![0.0; pass.hidden.len()];
        self.outer
            .backward(&pass.hidden, gradient, of_outer, Some(&mut of_hidden));
        relu_backward(&mut of_hidden, &pass.hidden);
        self.inner.backward(&pass.x, &of_hidden, of_inner, inputs);
    }

    /// Gradients of 0 for the weights that learn.
    pub(super) fn zeros(&self, learning: Learning) -> GateGradients {
        let learning = learning.with_base();
        GateGradients([&self.inner, &self.outer].map(|layer| LinearGradients::new(layer, learning)))
    }

    /// Adds the gradients under the names of their weights.
    pub(super) fn add_named(&self, gradients: GateGradients, out: &mut NamedGradients) {
        for (part, gradients) in ["in", "out"].into_iter().zip(gradients.0) {
            gradients.add_named(&format!("{}.{part}", self.name), out);
        }
    }
}

/// Multiplies the outputs of ReLU by their gates.
#[inline(always)]
pub(super) fn close(x: &mut [f32], gates: &[f32]) {
    for (x, gate) in x.iter_mut().zip(gates) {
        *x *= gate;
    }
}

/// From the gradient of `gated` values: replaces it by that of the values before their gates, and writes that of the gates before
/// their sigmoid to `of_gates`.
#[inline(always)]
pub(super) fn close_backward(gradient: &mut [f32], gated: &[f32], gates: &[f32], of_gates: &mut [f32]) {
    for ((of, gated), (gate, of_gate)) in gradient.iter_mut().zip(gated).zip(gates.iter().zip(of_gates)) {
        *of_gate = slope(*gate) * *of * gated;
        *of *= gate;
    }
}

/// The derivative of the logarithm of a gate by its input, `1 - g / 2`.
#[inline(always)]
pub(super) fn slope(gate: f32) -> f32 {
    (-0.5f32).mul_add(gate, 1.0)
}
