//! Layer normalisation `w (x - mean) / sqrt(var + eps) + b` of rows (Ba et al. 2016, eq. 4), and its gradients.

use super::kernel::{dot, total};
use super::weights::NamedGradients;

const EPSILON: f32 = 1e-5;

/// Weight and bias, `[width]`.
#[derive(Debug)]
pub(super) struct LayerNorm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// Gradients of [`LayerNorm`].
#[derive(Debug)]
pub(super) struct LayerNormGradients {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

impl LayerNorm {
    /// Normalises a row: `row` becomes the output before weight and bias. Returns its factor `1 / sqrt(var + eps)`.
    #[inline(always)]
    pub(super) fn normalize(row: &mut [f32]) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "a layer's width")]
        let n = row.len() as f32;
        let mean = total(row) / n;
        for x in row.iter_mut() {
            *x -= mean;
        }
        let factor = 1.0 / (dot(row, row) / n + EPSILON).sqrt();
        for x in row.iter_mut() {
            *x *= factor;
        }
        factor
    }

    /// Writes the output of a normalised row.
    #[inline(always)]
    pub(super) fn scale(&self, normalized: &[f32], out: &mut [f32]) {
        let affine = self.weight.iter().zip(&self.bias);
        for ((out, x), (weight, bias)) in out.iter_mut().zip(normalized).zip(affine) {
            *out = x.mul_add(*weight, *bias);
        }
    }

    /// Turns a normalised row into its output.
    #[inline(always)]
    pub(super) fn scale_in_place(&self, row: &mut [f32]) {
        let affine = self.weight.iter().zip(&self.bias);
        for (x, (weight, bias)) in row.iter_mut().zip(affine) {
            *x = x.mul_add(*weight, *bias);
        }
    }

    /// From the gradient of an output row to that of its input, `out`. `normalized` and `factor` are those of
    /// [`LayerNorm::normalize`].
    #[inline(always)]
    pub(super) fn backward(
        &self,
        (normalized, factor): (&[f32], f32),
        gradient: &[f32],
        weights: &mut LayerNormGradients,
        out: &mut [f32],
    ) {
        let sums = weights.weight.iter_mut().zip(&mut weights.bias);
        for ((gradient, x), (weight, bias)) in gradient.iter().zip(normalized).zip(sums) {
            *weight = gradient.mul_add(*x, *weight);
            *bias += gradient;
        }
        for ((out, gradient), weight) in out.iter_mut().zip(gradient).zip(&self.weight) {
            *out = gradient * weight;
        }
        Self::backward_normalized((normalized, factor), out);
    }

    /// Replaces the gradient of a normalised row by that of its input.
    #[inline(always)]
    pub(super) fn backward_normalized((normalized, factor): (&[f32], f32), gradient: &mut [f32]) {
        #[expect(clippy::cast_precision_loss, reason = "a layer's width")]
        let n = gradient.len() as f32;
        let (mean, along) = (total(gradient) / n, dot(gradient, normalized) / n);
        for (gradient, x) in gradient.iter_mut().zip(normalized) {
            *gradient = factor * (*gradient - mean - along * x);
        }
    }

    /// Gradients of 0.
    pub(super) fn zeros(&self) -> LayerNormGradients {
        LayerNormGradients {
            weight: vec![0.0; self.weight.len()],
            bias: vec![0.0; self.bias.len()],
        }
    }
}

impl LayerNormGradients {
    /// Adds the gradients under the names of their weights.
    pub(super) fn add_named(self, name: &str, out: &mut NamedGradients) {
        out.push((format!("{name}.weight"), self.weight));
        out.push((format!("{name}.bias"), self.bias));
    }
}

/// Rows with mean 0 and variance 1, and the factor of each.
#[derive(Debug, Default)]
pub(super) struct NormalizedRows {
    pub(super) rows: Vec<f32>,
    factors: Vec<f32>,
}

impl NormalizedRows {
    /// Adds rows of `width` floats, normalised.
    #[inline(always)]
    pub(super) fn fill(&mut self, rows: &[f32], width: usize) {
        self.rows.extend_from_slice(rows);
        let rows = self.rows.chunks_exact_mut(width);
        self.factors.extend(rows.map(LayerNorm::normalize));
    }

    /// The rows through weight and bias of `norm`.
    #[inline(always)]
    pub(super) fn scaled(&self, norm: &LayerNorm) -> Vec<f32> {
        let mut out = self.rows.clone();
        for row in out.chunks_exact_mut(norm.weight.len()) {
            norm.scale_in_place(row);
        }
        out
    }

    /// Writes the gradients of the inputs to `out`, from those of [`Self::scaled`], and adds those of `norm`.
    #[inline(always)]
    pub(super) fn backward_scaled(
        &self,
        norm: &LayerNorm,
        gradients: &[f32],
        weights: &mut LayerNormGradients,
        out: &mut [f32],
    ) {
        let width = norm.weight.len();
        let rows = self.rows.chunks_exact(width).zip(&self.factors);
        let gradients = gradients.chunks_exact(width).zip(out.chunks_exact_mut(width));
        for ((row, factor), (gradient, out)) in rows.zip(gradients) {
            norm.backward((row, *factor), gradient, weights, out);
        }
    }

    /// Replaces the gradients of the rows by those of their inputs.
    #[inline(always)]
    pub(super) fn backward(&self, gradients: &mut [f32], width: usize) {
        let rows = self.rows.chunks_exact(width).zip(&self.factors);
        for (gradient, (row, factor)) in gradients.chunks_exact_mut(width).zip(rows) {
            LayerNorm::backward_normalized((row, *factor), gradient);
        }
    }
}
