//! Deep Interest Network: attention of a candidate over the history by an MLP (Zhou et al. 2018, section 4.3).
//!
//! What [`crate::blocks::din`] computes: with layers on `[q, k, q - k, q * k]`, SiLU between them and no normalisation of the
//! scores, the output is `sum_j score(q, k_j) k_j`. The first layer's block of the product, `(q * k) W_p`, is `k (diag(q) W_p)`:
//! with the block of `k` added, one small matrix a candidate, by which the whole history is multiplied once. No pair of
//! candidate and entry is laid out in memory, and histories are not padded. Several heads differ in their scores alone.

use pulp::Arch;

use super::activation::{silu, silu_with_slope};
use super::gemm::{Lhs, add_product, set_product};
use super::grad_mode::GradMode;
use super::history_inputs::HistoryInputs;
use super::kernel::{add, row, row_mut, runs, vectorized};
use super::linear::Linear;
use super::scratch::ScratchBuffer;
use super::weights::BlockWeights;
use crate::config::{DinShape, MatmulPrecision, ModelConfig, TOKEN_FIELDS};
use crate::error::Error;

mod backward;
#[cfg(test)]
mod tests;

/// The block with the weights of one moment, adapters merged.
#[derive(Debug)]
pub(crate) struct Din {
    /// First part of the names of its weights.
    prefix: &'static str,
    precision: MatmulPrecision,
    /// Width of a token, and of the two hidden layers.
    width: usize,
    first: usize,
    second: usize,
    heads: usize,
    /// Rows that are added to entries by the time to the request, `[n_buckets, width]`; empty without.
    times: Vec<f32>,
    /// Blocks of the first layer for the query, the key and their product, `[width, first]` each.
    query: Vec<f32>,
    key: Vec<f32>,
    product: Vec<f32>,
    first_layer: Linear,
    second_layer: Linear,
    score_layer: Linear,
}

/// A forward pass; all but the output is there for the backward pass alone.
#[derive(Debug, Default)]
pub(crate) struct DinForward {
    /// `[n_candidates, heads * width]`
    pub(crate) output: Vec<f32>,
    /// Histories with their times, shaped as [`HistoryInputs::tokens`]; empty where entries carry none.
    tokens: Vec<f32>,
    first: Activations,
    second: Activations,
    /// `[pairs * heads]`, a pair being a candidate and an entry; candidate after candidate, and of one head after head.
    scores: Vec<f32>,
}

/// A hidden layer's outputs and the derivatives of its activation, `[pairs, out]`.
///
/// Where no gradient needs one of them, its buffer holds those of one candidate, which stay in the nearest cache.
#[derive(Debug, Default)]
struct Activations {
    slopes: ScratchBuffer,
    outputs: ScratchBuffer,
}

impl Activations {
    /// Buffers of `n` floats, or of `n_candidate` where only one candidate's are held.
    fn new(mode: GradMode, n: usize, n_candidate: usize) -> Self {
        let buffer = |holds_all| ScratchBuffer::new(if holds_all { n } else { n_candidate });
        Self {
            slopes: buffer(mode != GradMode::None),
            outputs: buffer(mode == GradMode::Weights),
        }
    }

    /// Slopes and outputs of a candidate, `n` floats from `start` on.
    #[inline(always)]
    fn candidate(&mut self, mode: GradMode, start: usize, n: usize) -> [&mut [f32]; 2] {
        let at = |holds_all: bool| if holds_all { start } else { 0 };
        let (slopes, outputs) = (at(mode != GradMode::None), at(mode == GradMode::Weights));
        [
            &mut self.slopes[slopes..slopes + n],
            &mut self.outputs[outputs..outputs + n],
        ]
    }
}

impl Din {
    /// The block with the weights of this moment.
    pub(crate) fn new(
        weights: BlockWeights<'_>,
        config: &ModelConfig,
        shape: DinShape,
    ) -> Result<Self, Error> {
        let (width, prefix) = (TOKEN_FIELDS * config.dim, shape.prefix);
        let [first, second] = shape.hidden;
        let layer = |name: &str, n_in: usize| -> Result<Linear, Error> {
            Ok(weights.linear(&format!("{prefix}.{name}"), n_in)?.merged())
        };
        let first_layer = layer("first", 4 * width)?;
        // The transposed weight holds blocks of q, k, q - k and q * k, `[width, first]` each.
        let blocks: Vec<&[f32]> = first_layer.transposed.chunks_exact(width * first).collect();
        let combine = |block: usize, by: fn(f32, f32) -> f32| -> Vec<f32> {
            let pairs = blocks[block].iter().zip(blocks[2]);
            pairs.map(|(x, difference)| by(*x, *difference)).collect()
        };
        let times = weights.find(&format!("{prefix}.time"));
        Ok(Self {
            prefix,
            precision: weights.precision(),
            width,
            first,
            second,
            heads: shape.heads,
            times: times.unwrap_or_default().to_vec(),
            query: combine(0, |x, difference| x + difference),
            key: combine(1, |x, difference| x - difference),
            product: blocks[3].to_vec(),
            second_layer: layer("second", first)?,
            score_layer: layer("score", second)?,
            first_layer,
        })
    }

    /// The output of each candidate.
    pub(crate) fn forward(&self, inputs: HistoryInputs<'_>, mode: GradMode) -> DinForward {
        let mut pass = DinForward::default();
        let tokens = self.timed(inputs);
        Arch::new().dispatch(Forward(self, inputs.with_tokens(&tokens), mode, &mut pass));
        pass.tokens = tokens;
        pass
    }

    /// Histories with the rows of their times; empty where entries carry none.
    fn timed(&self, inputs: HistoryInputs<'_>) -> Vec<f32> {
        if self.times.is_empty() {
            return Vec::new();
        }
        let mut tokens = inputs.tokens.to_vec();
        for (place, bucket) in inputs.times(self.times.len() / self.width) {
            add(
                row_mut(&mut tokens, place, self.width),
                row(&self.times, bucket, self.width),
            );
        }
        tokens
    }

    /// Whether an adapter learns through the block's weights.
    pub(crate) fn has_adapter(&self) -> bool {
        let layers = [&self.first_layer, &self.second_layer, &self.score_layer];
        layers.iter().any(|layer| layer.adapter.is_some())
    }

    /// Writes a candidate's matrix `W_k + diag(q) W_p`, `[width, first]`.
    #[inline(always)]
    fn candidate_matrix(&self, target: &[f32], out: &mut [f32]) {
        let rows = self
            .key
            .chunks_exact(self.first)
            .zip(self.product.chunks_exact(self.first));
        for ((out, (key, product)), q) in out.chunks_exact_mut(self.first).zip(rows).zip(target) {
            for ((out, key), product) in out.iter_mut().zip(key).zip(product) {
                *out = q.mul_add(*product, *key);
            }
        }
    }

    #[inline(always)]
    fn forward_loops(&self, inputs: HistoryInputs<'_>, mode: GradMode, pass: &mut DinForward) {
        let (width, first, second) = (self.width, self.first, self.second);
        let n_candidates = inputs.request_of.len();
        let lens = inputs
            .request_of
            .iter()
            .map(|request| inputs.history(*request, width).1);
        let (n_pairs, longest): (usize, usize) = (lens.clone().sum(), lens.max().unwrap_or(0));
        pass.first = Activations::new(mode, n_pairs * first, longest * first);
        pass.second = Activations::new(mode, n_pairs * second, longest * second);
        let heads = self.heads;
        pass.scores = vec![0.0; n_pairs * heads];
        pass.output = vec![0.0; n_candidates * heads * width];
        let mut matrix = vec![0.0; width * first];
        let mut of_queries = vec![0.0; n_candidates * first];
        let size = [n_candidates, width, first];
        let bias = &self.first_layer.bias;
        set_product(&mut of_queries, bias, inputs.target, &self.query, size);
        let mut pair = 0;
        for run in runs(inputs.request_of) {
            let (history, n) = inputs.history(inputs.request_of[run.start], width);
            let start = pair;
            let targets = inputs.target[run.start * width..run.end * width]
                .chunks_exact(width)
                .zip(of_queries[run.start * first..run.end * first].chunks_exact(first));
            for (target, of_query) in targets {
                self.candidate_matrix(target, &mut matrix);
                let [hidden, active] = pass.first.candidate(mode, pair * first, n * first);
                let size = [n, width, first];
                self.precision
                    .set_product(hidden, of_query, history, &matrix, size);
                activate(mode, active, hidden);
                let [last, active_last] = pass.second.candidate(mode, pair * second, n * second);
                self.second_layer.forward_merged(active, last);
                activate(mode, active_last, last);
                self.score(active_last, &mut pass.scores[pair * heads..(pair + n) * heads]);
                pair += n;
            }
            let output = &mut pass.output[run.start * heads * width..run.end * heads * width];
            let scores = Lhs::Matrix(&pass.scores[start * heads..pair * heads]);
            add_product(output, scores, history, [run.len() * heads, n, width]);
        }
    }

    /// Scores `[heads, n]` from the outputs of the second layer, in `f32` whatever the precision.
    #[inline(always)]
    fn score(&self, active: &[f32], scores: &mut [f32]) {
        let layer = &self.score_layer;
        let n = active.len() / self.second;
        for head in 0..self.heads {
            let scores = row_mut(scores, head, n);
            let (weight, bias) = (row(&layer.weight, head, self.second), row(&layer.bias, head, 1));
            set_product(scores, bias, active, weight, [n, self.second, 1]);
        }
    }
}

/// SiLU; where gradients are computed, its derivatives replace the inputs.
#[inline(always)]
fn activate(mode: GradMode, active: &mut [f32], x: &mut [f32]) {
    match mode {
        GradMode::None => silu(active, x),
        GradMode::Inputs | GradMode::Weights => silu_with_slope(active, x),
    }
}

vectorized! {
    Forward<'a>(block: &'a Din, inputs: HistoryInputs<'a>, mode: GradMode, pass: &'a mut DinForward)
        => block.forward_loops(inputs, mode, pass)
}
