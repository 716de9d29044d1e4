//! The second-order term of a factorisation machine, `0.5 (|sum of fields|^2 - sum of |field|^2)` (Rendle 2010, lemma 3.1).
//!
//! What [`crate::blocks::fm`] computes, for the fields of a request, of a candidate, and of its content through a layer.

use super::gemm::{Lhs, add_product};
use super::kernel::{add, index, row, row_mut};
use super::linear::Linear;
use super::weights::BlockWeights;
use crate::config::ModelConfig;

/// The term, with the layer that makes a field of a content vector.
#[derive(Debug)]
pub(super) struct Fm {
    dim: usize,
    /// `fm.content`, without bias.
    content: Option<Linear>,
}

/// The fields of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct FmInputs<'a> {
    /// `[n_requests, fields * dim]`
    pub(super) user: &'a [f32],
    /// `[n_candidates, fields * dim]`
    pub(super) candidate: &'a [f32],
    /// Content vectors, `[n_contents, out]`, and the content of each candidate.
    pub(super) contents: &'a [f32],
    pub(super) of_candidate: &'a [i64],
    /// The request of each candidate.
    pub(super) request_of: &'a [i64],
    pub(super) n_requests: usize,
}

/// A forward pass.
#[derive(Debug, Default)]
pub(super) struct FmForward {
    /// `[n_candidates]`
    pub(super) logits: Vec<f32>,
    /// The sum of all fields of a candidate, `[n_candidates, dim]`.
    sums: Vec<f32>,
    /// Contents as fields, `[n_contents, dim]`.
    contents: Vec<f32>,
}

/// Gradients of the content side.
#[derive(Debug, Default)]
pub(super) struct FmGradients {
    /// Of contents as fields, `[n_contents, dim]`.
    pub(super) contents: Vec<f32>,
    /// `fm.content [dim, out]`
    pub(super) weight: Option<Vec<f32>>,
}

impl Fm {
    /// The term of a model with `fm`.
    pub(super) fn new(weights: BlockWeights<'_>, config: &ModelConfig) -> Self {
        let weights = weights.in_f32();
        let content = weights.find("fm.content");
        Self {
            dim: config.dim,
            content: content.map(|weight| Linear::new(weight, config.content.out(), weights.precision())),
        }
    }

    #[inline(always)]
    pub(super) fn forward(&self, inputs: FmInputs<'_>) -> FmForward {
        let (dim, n) = (self.dim, inputs.request_of.len());
        let user_width = inputs.user.len() / inputs.n_requests.max(1);
        let mut of_requests = vec![0.0; inputs.n_requests * dim];
        let mut squares = Vec::new();
        let rows = of_requests
            .chunks_exact_mut(dim)
            .zip(inputs.user.chunks_exact(user_width.max(1)));
        for (sum, user) in rows {
            squares.push(add_fields(sum, user, dim));
        }
        let contents = self.content.as_ref();
        let mut pass = FmForward {
            logits: Vec::with_capacity(n),
            sums: vec![0.0; n * dim],
            contents: contents.map_or_else(Vec::new, |layer| layer.forward(inputs.contents)),
        };
        let candidate_width = inputs.candidate.len() / n.max(1);
        let rows = pass.sums.chunks_exact_mut(dim).zip(inputs.request_of);
        let candidates = inputs.candidate.chunks_exact(candidate_width.max(1));
        for ((sum, request), (at, candidate)) in rows.zip(candidates.enumerate()) {
            sum.copy_from_slice(row(&of_requests, index(*request), dim));
            let mut square = squares.get(index(*request)).copied().unwrap_or(0.0);
            square += add_fields(sum, candidate, dim);
            if !pass.contents.is_empty() {
                let content = row(&pass.contents, index(inputs.of_candidate[at]), dim);
                square += add_fields(sum, content, dim);
            }
            let of_sum: f32 = sum.iter().map(|x| x * x).sum();
            pass.logits.push(0.5 * (of_sum - square));
        }
        pass
    }

    /// Adds the gradients of the fields of requests and candidates, `[user, candidate]`, from the `gradient` of the term,
    /// `[n_candidates]`.
    #[inline(always)]
    pub(super) fn backward(
        &self,
        inputs: FmInputs<'_>,
        pass: &FmForward,
        gradient: &[f32],
        [user, candidate]: [&mut [f32]; 2],
    ) -> FmGradients {
        let (dim, n) = (self.dim, inputs.request_of.len());
        let user_width = inputs.user.len() / inputs.n_requests.max(1);
        let width = inputs.candidate.len() / n.max(1);
        let mut out = FmGradients {
            contents: vec![0.0; pass.contents.len()],
            weight: None,
        };
        for (at, (sum, of)) in pass.sums.chunks_exact(dim).zip(gradient).enumerate() {
            let request = index(inputs.request_of[at]);
            let fields = row(inputs.user, request, user_width);
            add_field_gradients(row_mut(user, request, user_width), fields, sum, *of);
            let fields = row(inputs.candidate, at, width);
            add_field_gradients(row_mut(candidate, at, width), fields, sum, *of);
            if !pass.contents.is_empty() {
                let content = index(inputs.of_candidate[at]);
                let field = row(&pass.contents, content, dim);
                add_field_gradients(row_mut(&mut out.contents, content, dim), field, sum, *of);
            }
        }
        if let Some(layer) = &self.content {
            let n_contents = inputs.contents.len() / layer.n_in.max(1);
            let mut weight = vec![0.0; layer.weight.len()];
            let size = [dim, n_contents, layer.n_in];
            add_product(&mut weight, Lhs::Transposed(&out.contents), inputs.contents, size);
            out.weight = Some(weight);
        }
        out
    }

    /// Adds the gradient of content vectors `[n_contents, out]` from that of contents as fields.
    #[inline(always)]
    pub(super) fn add_content_gradients(&self, of_fields: &[f32], contents: &mut [f32]) {
        if let Some(layer) = &self.content {
            layer.input_gradient(of_fields, contents);
        }
    }
}

/// Adds fields to their sum. Returns the sum of their squares.
#[inline(always)]
fn add_fields(sum: &mut [f32], fields: &[f32], dim: usize) -> f32 {
    for field in fields.chunks_exact(dim) {
        add(sum, field);
    }
    fields.iter().map(|x| x * x).sum()
}

/// The gradient of a field is the sum of all others.
#[inline(always)]
fn add_field_gradients(out: &mut [f32], fields: &[f32], sum: &[f32], gradient: f32) {
    let dim = sum.len();
    for (out, field) in out.chunks_exact_mut(dim).zip(fields.chunks_exact(dim)) {
        for ((out, x), sum) in out.iter_mut().zip(field).zip(sum) {
            *out = gradient.mul_add(sum - x, *out);
        }
    }
}
