//! Content interest: attention of the candidate's content vector over those of the history (EM3, Deng et al. 2024, section 3.3).
//!
//! What [`crate::blocks::interest`] computes: with query `q = W_q v`, keys `k_j = W_k v_j` and values `v_j`, the output is
//! `sum_j softmax_j(q k_j / sqrt(width)) v_j`. An adapter of keys adds `s (q B)(A v_j)` to a score, so a key is stored beside
//! `A v_j` and a query beside `s q B`, and one product of the two gives the score. Keys without that part may be cached by the
//! caller. A request's history is copied side by side while its candidates attend to it, and stays in the cache.

use std::ops::Range;

use pulp::Arch;

use super::gemm::{Lhs, MatrixView, add_product, add_product_to};
use super::kernel::{COLUMNS, index, row, runs, transpose, vectorized};
use super::linear::Linear;
use super::softmax::softmax;
use super::weights::BlockWeights;
use crate::config::ModelConfig;
use crate::error::Error;

mod backward;
#[cfg(test)]
mod tests;

/// The block with the weights of one moment.
#[derive(Debug)]
pub(crate) struct Interest {
    /// Floats of a content vector.
    n_in: usize,
    /// Floats of a query or key without the adapter's part.
    width: usize,
    /// Rank of the adapter of keys, padded to whole vector registers; 0 without one.
    rank: usize,
    /// `width + rank`
    extent: usize,
    query: Linear,
    key: Linear,
}

/// The inputs of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InterestInputs<'a> {
    /// Content vectors, `[n_contents, n_in]`, those of candidates first.
    pub(crate) vectors: &'a [f32],
    /// How many of them are candidates'.
    pub(crate) n_targets: usize,
    /// Their keys without the adapter's part, `[n_contents, width]`, where the caller has them.
    pub(crate) keys: Option<&'a [f32]>,
    /// The content of each candidate.
    pub(crate) of_candidate: &'a [i64],
    /// The content of each history entry, `[n_requests, len]`, and 1 where an entry has content.
    pub(crate) of_history: &'a [i64],
    pub(crate) valid: &'a [f32],
    pub(crate) len: usize,
    /// The request of each candidate.
    pub(crate) request_of: &'a [i64],
}

/// A forward pass.
#[derive(Debug, Default)]
pub(crate) struct InterestForward {
    /// The output of each candidate, `[n_candidates, n_in]`; 0 where its history has no content.
    pub(crate) output: Vec<f32>,
    /// Queries of the candidates' contents, `[n_targets, width]`.
    queries: Vec<f32>,
    /// Scaled queries beside the adapter's part, `[n_targets, extent]`.
    scaled_queries: Vec<f32>,
    /// Keys that the caller did not have, `[n_contents, width]`, and the adapter's part of all, `[n_contents, rank]`.
    keys: Vec<f32>,
    low_keys: Vec<f32>,
    /// Shares of history entries with content, candidate after candidate.
    shares: Vec<f32>,
}

impl Interest {
    /// The block with the weights of this moment.
    pub(crate) fn new(weights: BlockWeights<'_>, config: &ModelConfig) -> Result<Self, Error> {
        let n_in = config.content.out();
        let weights = weights.in_f32();
        let query = weights.linear("interest.query", n_in)?;
        let key = weights.linear("interest.key", n_in)?;
        let rank = key.adapter.as_ref().map_or(0, |adapter| adapter.rank);
        let rank = rank.next_multiple_of(COLUMNS);
        Ok(Self {
            n_in,
            width: key.n_out,
            rank,
            extent: key.n_out + rank,
            query,
            key,
        })
    }

    /// The output of each candidate.
    pub(crate) fn forward(&self, inputs: InterestInputs<'_>) -> InterestForward {
        let mut pass = InterestForward::default();
        Arch::new().dispatch(Forward(self, inputs, &mut pass));
        pass
    }

    #[inline(always)]
    fn forward_loops(&self, inputs: InterestInputs<'_>, pass: &mut InterestForward) {
        self.project_queries(inputs, pass);
        self.project_keys(inputs, pass);
        let keys = inputs.keys.unwrap_or(&pass.keys);
        let (n_in, extent) = (self.n_in, self.extent);
        pass.output = vec![0.0; inputs.request_of.len() * n_in];
        let mut history = History::default();
        for run in runs(inputs.request_of) {
            history.read(self, inputs, inputs.request_of[run.start], [keys, &pass.low_keys]);
            let (n, start) = (history.entries.len(), pass.shares.len());
            let queries = inputs.transposed_targets(run.clone(), &pass.scaled_queries, extent);
            let mut scores = vec![0.0; n * run.len()];
            let size = [n, extent, run.len()];
            add_product(&mut scores, Lhs::Matrix(&history.keys), &queries, size);
            pass.shares.extend(transpose(&scores, n, run.len()));
            for shares in pass.shares[start..].chunks_exact_mut(n.max(1)) {
                softmax(shares);
            }
            add_product(
                &mut pass.output[run.start * n_in..run.end * n_in],
                Lhs::Matrix(&pass.shares[start..]),
                &history.vectors,
                [run.len(), n, n_in],
            );
        }
    }

    #[inline(always)]
    fn project_queries(&self, inputs: InterestInputs<'_>, pass: &mut InterestForward) {
        let (n, width) = (inputs.n_targets, self.width);
        pass.queries = self.query.forward(&inputs.vectors[..n * self.n_in]);
        pass.scaled_queries = vec![0.0; n * self.extent];
        let scale = self.scale();
        let (mut low, mut rank, mut low_scale) = (Vec::new(), 0, 0.0);
        if let Some(adapter) = &self.key.adapter {
            (rank, low_scale) = (adapter.rank, adapter.scale * scale);
            low = vec![0.0; n * rank];
            add_product(&mut low, Lhs::Matrix(&pass.queries), &adapter.b, [n, width, rank]);
        }
        for (at, scaled) in pass.scaled_queries.chunks_exact_mut(self.extent).enumerate() {
            for (scaled, query) in scaled.iter_mut().zip(row(&pass.queries, at, width)) {
                *scaled = scale * query;
            }
            for (scaled, low) in scaled[width..].iter_mut().zip(row(&low, at, rank)) {
                *scaled = low_scale * low;
            }
        }
    }

    #[inline(always)]
    fn project_keys(&self, inputs: InterestInputs<'_>, pass: &mut InterestForward) {
        let n = inputs.vectors.len() / self.n_in.max(1);
        if inputs.keys.is_none() {
            pass.keys = vec![0.0; n * self.width];
            self.key.forward_merged(inputs.vectors, &mut pass.keys);
        }
        pass.low_keys = vec![0.0; n * self.rank];
        if let Some(adapter) = &self.key.adapter {
            add_product_to(
                &mut pass.low_keys,
                self.rank,
                Lhs::Matrix(inputs.vectors),
                MatrixView::new(&adapter.a_transposed, adapter.rank, 0),
                [n, self.n_in, adapter.rank],
            );
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a layer's width")]
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

/// The contents of a request's history, side by side.
#[derive(Debug, Default)]
struct History {
    /// Their places among the batch's contents.
    entries: Vec<usize>,
    /// `[n, extent]`
    keys: Vec<f32>,
    /// `[n, n_in]`
    vectors: Vec<f32>,
}

impl History {
    #[inline(always)]
    fn read(&mut self, block: &Interest, inputs: InterestInputs<'_>, request: i64, [keys, low]: [&[f32]; 2]) {
        self.entries = inputs.entries(request);
        self.keys.clear();
        self.vectors.clear();
        for entry in &self.entries {
            self.keys.extend_from_slice(row(keys, *entry, block.width));
            self.keys.extend_from_slice(row(low, *entry, block.rank));
            let vector = row(inputs.vectors, *entry, block.n_in);
            self.vectors.extend_from_slice(vector);
        }
    }
}

impl InterestInputs<'_> {
    /// The rows of the candidates' contents, transposed: `[width, candidates]`.
    #[inline(always)]
    fn transposed_targets(&self, run: Range<usize>, rows: &[f32], width: usize) -> Vec<f32> {
        let mut side_by_side = Vec::with_capacity(run.len() * width);
        for candidate in run.clone() {
            let target = index(self.of_candidate[candidate]);
            side_by_side.extend_from_slice(row(rows, target, width));
        }
        transpose(&side_by_side, run.len(), width)
    }

    /// The contents of a request's history.
    fn entries(&self, request: i64) -> Vec<usize> {
        let start = index(request) * self.len;
        let places = start..start + self.len;
        let entries = self.of_history[places.clone()].iter().zip(&self.valid[places]);
        entries
            .filter(|(_, valid)| **valid > 0.0)
            .filter_map(|(entry, _)| usize::try_from(*entry).ok())
            .collect()
    }
}

vectorized! {
    Forward<'a>(block: &'a Interest, inputs: InterestInputs<'a>, pass: &'a mut InterestForward)
        => block.forward_loops(inputs, pass)
}
