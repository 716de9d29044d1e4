//! DIN's attention, candidate by candidate: what [`crate::blocks::din`] computes, and its gradients.
//!
//! The first layer's product block, `(q * k) Wp`, is `k (diag(q) Wp)`: with the block of `k` added, one small matrix a
//! candidate, by which the whole history is multiplied once. No pair is ever laid out, and histories are not padded.

use pulp::{Arch, NullaryFnOnce};

use super::gemm::{Lhs, add_product, set_product};
use super::grad_mode::GradMode;
use super::kernel::{silu, silu_and_slope, transpose};
use super::scratch::ScratchBuffer;
use crate::config::MatmulPrecision;

mod backward;
#[cfg(test)]
mod tests;

/// The block's weights, each matrix as `[in, out]` and as `[out, in]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Din {
    products: MatmulPrecision,
    width: usize,
    first: usize,
    second: usize,
    /// Of the query, of the key, of their product: `[width, first]`.
    query: Vec<f32>,
    key: Vec<f32>,
    product: Vec<f32>,
    first_bias: Vec<f32>,
    /// `[first, second]`
    second_weight: Vec<f32>,
    second_bias: Vec<f32>,
    score: Vec<f32>,
    score_bias: f32,
}

/// What it reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DinInputs<'a> {
    /// Candidates as tokens, `[n_candidates, width]`.
    pub(crate) target: &'a [f32],
    /// Histories as tokens, `[n_requests, len, width]`.
    pub(crate) tokens: &'a [f32],
    /// Entries of each history, `[n_requests]`.
    pub(crate) lens: &'a [usize],
    /// The request of each candidate, `[n_candidates]`.
    pub(crate) request_of: &'a [i64],
    /// Places for entries of a history, count.
    pub(crate) len: usize,
}

/// A forward pass; all but what was read is there for the backward pass alone.
#[derive(Debug, Default)]
pub(crate) struct DinPass {
    /// What each candidate read, `[n_candidates, width]`.
    pub(crate) read: Vec<f32>,
    first: Activations,
    second: Activations,
    /// `[pairs]`; of each request, those of a candidate after those of the one before it.
    scores: Vec<f32>,
}

/// What is kept of a layer, `[pairs, out]`.
#[derive(Debug, Default)]
struct Activations {
    /// The derivative of its activation.
    slopes: ScratchBuffer,
    /// What came out; of one candidate where the weights do not learn.
    active: ScratchBuffer,
}

impl Activations {
    /// Room for `n` numbers; for one candidate's `most` where they are not kept.
    fn new(back: GradMode, n: usize, most: usize) -> Self {
        let n_of = |is_kept| ScratchBuffer::new(if is_kept { n } else { most });
        Self {
            slopes: n_of(back != GradMode::None),
            active: n_of(back == GradMode::Weights),
        }
    }

    /// Where the next `n` numbers go, `done` of them being there.
    #[inline(always)]
    fn next(&mut self, back: GradMode, done: usize, n: usize) -> [&mut [f32]; 2] {
        let at = |is_kept: bool| if is_kept { done } else { 0 };
        let (slopes, active) = (at(back != GradMode::None), at(back == GradMode::Weights));
        [
            &mut self.slopes[slopes..slopes + n],
            &mut self.active[active..active + n],
        ]
    }
}

/// Gradients, shaped as what they are of; those of weights as the layers' own, `[out, in]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct DinGradients {
    pub(crate) target: Vec<f32>,
    pub(crate) tokens: Vec<f32>,
    /// `[first, 4 width]`
    pub(crate) first_weight: Vec<f32>,
    pub(crate) first_bias: Vec<f32>,
    pub(crate) second_weight: Vec<f32>,
    pub(crate) second_bias: Vec<f32>,
    pub(crate) score_weight: Vec<f32>,
    pub(crate) score_bias: f32,
}

impl Din {
    /// From the layers' weights: `first [first, 4 width]`, `second [second, first]`, `score [1, second]`.
    pub(crate) fn new(
        [first, first_bias]: [&[f32]; 2],
        [second, second_bias]: [&[f32]; 2],
        [score, score_bias]: [&[f32]; 2],
        products: MatmulPrecision,
    ) -> Self {
        let (n_first, n_second) = (first_bias.len(), second_bias.len());
        let width = first.len() / n_first.max(1) / 4;
        // [out, 4 width] holds blocks of q, k, q - k and q * k.
        let block = |i: usize, out: usize, at: usize| first[out * 4 * width + at * width + i];
        let transposed = |of: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
            (0..width * n_first)
                .map(|at| of(at / n_first, at % n_first))
                .collect()
        };
        Self {
            products,
            width,
            first: n_first,
            second: n_second,
            query: transposed(&|i, out| block(i, out, 0) + block(i, out, 2)),
            key: transposed(&|i, out| block(i, out, 1) - block(i, out, 2)),
            product: transposed(&|i, out| block(i, out, 3)),
            first_bias: first_bias.to_vec(),
            second_weight: transpose(second, n_second, n_first),
            second_bias: second_bias.to_vec(),
            score: score.to_vec(),
            score_bias: score_bias.first().copied().unwrap_or(0.0),
        }
    }

    /// What each candidate reads of its history. What no gradient asks for is not kept: one candidate's stays in the
    /// nearest cache and makes room for the next one's.
    pub(crate) fn forward(&self, inputs: DinInputs<'_>, back: GradMode) -> DinPass {
        let mut pass = DinPass::default();
        Arch::new().dispatch(Forward(self, inputs, back, &mut pass));
        pass
    }

    /// Gradients, `read` being that of what the candidates read; those of weights only where they `learn`.
    pub(crate) fn backward(
        &self,
        inputs: DinInputs<'_>,
        pass: &DinPass,
        read: &[f32],
        learns: bool,
    ) -> DinGradients {
        let mut out = DinGradients {
            target: vec![0.0; inputs.target.len()],
            tokens: vec![0.0; inputs.tokens.len()],
            ..DinGradients::default()
        };
        Arch::new().dispatch(Backward(self, inputs, pass, read, learns, &mut out));
        out
    }

    /// `Wk + diag(q) Wp`, `[width, first]`.
    #[inline(always)]
    fn of_candidate(&self, target: &[f32], out: &mut [f32]) {
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
    fn forward_loops(&self, inputs: DinInputs<'_>, back: GradMode, pass: &mut DinPass) {
        let (width, first, second) = (self.width, self.first, self.second);
        let lens = inputs
            .request_of
            .iter()
            .map(|request| inputs.history(*request, width).1);
        let (n_pairs, most): (usize, usize) = (lens.clone().sum(), lens.max().unwrap_or(0));
        pass.first = Activations::new(back, n_pairs * first, most * first);
        pass.second = Activations::new(back, n_pairs * second, most * second);
        pass.scores = vec![0.0; n_pairs];
        pass.read = vec![0.0; inputs.target.len()];
        let mut of_candidate = vec![0.0; width * first];
        let mut of_queries = vec![0.0; inputs.request_of.len() * first];
        set_product(
            &mut of_queries,
            &self.first_bias,
            inputs.target,
            &self.query,
            [inputs.request_of.len(), width, first],
        );
        let (mut done, mut pair) = (0, 0);
        for run in inputs.runs() {
            let (history, n) = inputs.history(inputs.request_of[run.start], width);
            let scores = &mut pass.scores[pair..pair + run.len() * n];
            pair += run.len() * n;
            let at = run.start * width..run.end * width;
            let targets = inputs.target[at.clone()]
                .chunks_exact(width)
                .zip(of_queries[run.start * first..run.end * first].chunks_exact(first));
            for ((target, of_query), scores) in targets.zip(scores.chunks_exact_mut(n.max(1))) {
                self.of_candidate(target, &mut of_candidate);
                let [hidden, active] = pass.first.next(back, done * first, n * first);
                let size = [n, width, first];
                self.products
                    .set_product(hidden, of_query, history, &of_candidate, size);
                activate(back, active, hidden);
                let [last, active_last] = pass.second.next(back, done * second, n * second);
                let size = [n, first, second];
                self.products
                    .set_product(last, &self.second_bias, active, &self.second_weight, size);
                activate(back, active_last, last);
                done += n;
                set_product(
                    scores,
                    &[self.score_bias],
                    active_last,
                    &self.score,
                    [n, second, 1],
                );
            }
            add_product(
                &mut pass.read[at],
                Lhs::Rows(scores),
                history,
                [run.len(), n, width],
            );
        }
    }
}

/// [`silu`], its derivative in place of what it is of where a gradient goes back.
#[inline(always)]
fn activate(back: GradMode, active: &mut [f32], x: &mut [f32]) {
    match back {
        GradMode::None => silu(active, x),
        GradMode::Inputs | GradMode::Weights => silu_and_slope(active, x),
    }
}

/// The passes as things to call, not closures: a closure is compiled by itself, without the vector instructions that
/// it is called for.
struct Forward<'a>(&'a Din, DinInputs<'a>, GradMode, &'a mut DinPass);

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.forward_loops(self.1, self.2, self.3);
    }
}

struct Backward<'a>(
    &'a Din,
    DinInputs<'a>,
    &'a DinPass,
    &'a [f32],
    bool,
    &'a mut DinGradients,
);

impl NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.backward_loops(self.1, self.2, self.3, self.4, self.5);
    }
}

impl<'a> DinInputs<'a> {
    fn start(&self, request: i64, width: usize) -> usize {
        usize::try_from(request).unwrap_or(0) * self.len * width
    }

    /// Candidates of one request that stand together, run by run.
    fn runs(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let mut at = 0;
        self.request_of.chunk_by(|a, b| a == b).map(move |run| {
            at += run.len();
            at - run.len()..at
        })
    }

    /// The entries of a request's history, `[n, width]`, and their count.
    fn history(&self, request: i64, width: usize) -> (&'a [f32], usize) {
        let n = usize::try_from(request)
            .ok()
            .and_then(|request| self.lens.get(request))
            .copied()
            .unwrap_or(0);
        let start = self.start(request, width);
        (&self.tokens[start..start + n * width], n)
    }
}
