//! The factorisation machine's second-order term, as [`crate::blocks::fm`] has it, and its gradients.

use super::{Layer, TowerInputs, row_of};
use crate::config::MatmulPrecision;
use crate::cpu::gemm::{Lhs, add_product};
use crate::cpu::kernel::add;

/// MatmulPrecision of all pairs of fields: of the request, of the candidate, and of its content through a layer.
#[derive(Debug)]
pub(super) struct Fm {
    dim: usize,
    /// `fm.content`
    content: Option<Layer>,
}

/// A forward pass.
#[derive(Debug, Default)]
pub(super) struct FmPass {
    /// `[n_candidates]`
    pub(super) logits: Vec<f32>,
    /// The sum of all fields of a candidate and its request, `[n_candidates, dim]`.
    sums: Vec<f32>,
    /// Contents as fields, `[n_contents, dim]`.
    contents: Vec<f32>,
}

/// Gradients.
#[derive(Debug, Default)]
pub(super) struct FmGradients {
    /// Of contents as fields, `[n_contents, dim]`.
    pub(super) contents: Vec<f32>,
    /// `fm.content [dim, out]`
    pub(super) weight: Option<Vec<f32>>,
}

impl Fm {
    pub(super) fn new(dim: usize, content: Option<Vec<f32>>) -> Self {
        Self {
            dim,
            content: content.map(|weight| Layer::new(weight, vec![0.0; dim], MatmulPrecision::F32)),
        }
    }

    /// `0.5 (|sum of fields|^2 - sum of |field|^2)`
    #[inline(always)]
    pub(super) fn forward(&self, inputs: TowerInputs<'_>) -> FmPass {
        let (dim, n) = (self.dim, inputs.request_of.len());
        let of_user = inputs.user.len() / inputs.n_requests.max(1);
        let mut of_requests = vec![0.0; inputs.n_requests * dim];
        let mut squares = Vec::new();
        let rows = of_requests
            .chunks_exact_mut(dim)
            .zip(inputs.user.chunks_exact(of_user.max(1)));
        for (sum, user) in rows {
            squares.push(add_fields(sum, user, dim));
        }
        let contents = self
            .content
            .as_ref()
            .map_or_else(Vec::new, |layer| layer.apply(inputs.contents));
        let mut pass = FmPass {
            logits: Vec::with_capacity(n),
            sums: vec![0.0; n * dim],
            contents,
        };
        let of_candidate = inputs.candidate.len() / n.max(1);
        let rows = pass.sums.chunks_exact_mut(dim).zip(inputs.request_of);
        for ((sum, request), (at, candidate)) in
            rows.zip(inputs.candidate.chunks_exact(of_candidate.max(1)).enumerate())
        {
            sum.copy_from_slice(row_of(&of_requests, *request, dim));
            let mut square = usize::try_from(*request)
                .ok()
                .and_then(|request| squares.get(request))
                .copied()
                .unwrap_or(0.0);
            square += add_fields(sum, candidate, dim);
            if !pass.contents.is_empty() {
                square += add_fields(sum, row_of(&pass.contents, inputs.of_candidate[at], dim), dim);
            }
            let of_sum: f32 = sum.iter().map(|x| x * x).sum();
            pass.logits.push(0.5 * (of_sum - square));
        }
        pass
    }

    /// Adds to the gradients of fields, of requests `user` and of candidates `candidate`; `of [n_candidates]` is that of
    /// the term.
    #[inline(always)]
    pub(super) fn backward(
        &self,
        inputs: TowerInputs<'_>,
        pass: &FmPass,
        of: &[f32],
        [user, candidate]: [&mut [f32]; 2],
    ) -> FmGradients {
        let (dim, n) = (self.dim, inputs.request_of.len());
        let (of_user, of_candidate) = (
            inputs.user.len() / inputs.n_requests.max(1),
            inputs.candidate.len() / n.max(1),
        );
        let mut out = FmGradients {
            contents: vec![0.0; pass.contents.len()],
            weight: None,
        };
        for (at, (sum, of)) in pass.sums.chunks_exact(dim).zip(of).enumerate() {
            let request = usize::try_from(inputs.request_of[at]).unwrap_or(0);
            let places = request * of_user..(request + 1) * of_user;
            back(&mut user[places.clone()], &inputs.user[places], sum, *of);
            let places = at * of_candidate..(at + 1) * of_candidate;
            back(
                &mut candidate[places.clone()],
                &inputs.candidate[places],
                sum,
                *of,
            );
            if !pass.contents.is_empty() {
                let content = usize::try_from(inputs.of_candidate[at]).unwrap_or(0);
                let places = content * dim..(content + 1) * dim;
                back(
                    &mut out.contents[places.clone()],
                    &pass.contents[places],
                    sum,
                    *of,
                );
            }
        }
        if let Some(layer) = &self.content {
            let n_contents = inputs.contents.len() / layer.n_in.max(1);
            let mut weight = vec![0.0; layer.weight.len()];
            let size = [dim, n_contents, layer.n_in];
            add_product(&mut weight, Lhs::Columns(&out.contents), inputs.contents, size);
            out.weight = Some(weight);
        }
        out
    }

    /// Adds what contents as fields pass on to contents, `[n_contents, out]`.
    pub(super) fn of_contents(&self, of: &[f32], contents: &mut [f32]) {
        if let Some(layer) = &self.content {
            let size = [of.len() / self.dim, self.dim, layer.n_in];
            add_product(contents, Lhs::Rows(of), &layer.weight, size);
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

/// A field's gradient is the sum of all others.
#[inline(always)]
fn back(out: &mut [f32], fields: &[f32], sum: &[f32], of: f32) {
    let dim = sum.len();
    for (out, field) in out.chunks_exact_mut(dim).zip(fields.chunks_exact(dim)) {
        for ((out, x), sum) in out.iter_mut().zip(field).zip(sum) {
            *out = of.mul_add(sum - x, *out);
        }
    }
}
