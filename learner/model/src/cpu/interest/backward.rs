//! The backward pass of [`Interest`].

use std::ops::Range;

use pulp::Arch;

use super::{History, Interest, InterestForward, InterestInputs};
use crate::cpu::gemm::{Lhs, MatrixView, add_product, add_product_to};
use crate::cpu::kernel::{add, dot, index, row, row_mut, runs, transpose, vectorized};
use crate::cpu::linear::LinearGradients;
use crate::cpu::softmax::softmax_backward;
use crate::cpu::weights::{Learning, NamedGradients};

/// Gradients. Contents of the history take none: they learn when they are candidates.
#[derive(Debug, Default)]
pub(crate) struct InterestGradients {
    /// Of the candidates' contents, `[n_targets, n_in]`; empty while contents do not learn.
    pub(crate) targets: Vec<f32>,
    pub(crate) weights: NamedGradients,
}

/// A backward pass under way.
struct Backward<'a> {
    block: &'a Interest,
    inputs: InterestInputs<'a>,
    pass: &'a InterestForward,
    learning: Learning,
    /// Of the scaled queries, `[n_targets, extent]`.
    scaled_queries: Vec<f32>,
    /// Of the keys where they learn, `[n_contents, width]`, and of the adapter's part, `[n_contents, rank]`.
    keys: Vec<f32>,
    low_keys: Vec<f32>,
    out: InterestGradients,
}

impl Interest {
    /// Gradients from that of the output, `[n_candidates, n_in]`.
    pub(crate) fn backward(
        &self,
        inputs: InterestInputs<'_>,
        pass: &InterestForward,
        gradient: &[f32],
        learning: Learning,
    ) -> InterestGradients {
        let n = inputs.vectors.len() / self.n_in.max(1);
        let mut back = Backward {
            block: self,
            inputs,
            pass,
            learning,
            scaled_queries: vec![0.0; pass.scaled_queries.len()],
            keys: vec![0.0; if learning.base { n * self.width } else { 0 }],
            low_keys: vec![0.0; pass.low_keys.len()],
            out: InterestGradients::default(),
        };
        Arch::new().dispatch(Run(&mut back, gradient));
        back.out
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn run(&mut self, gradient: &[f32]) {
        let (inputs, pass, n_in) = (self.inputs, self.pass, self.block.n_in);
        let keys = inputs.keys.unwrap_or(&pass.keys);
        let mut shares = pass.shares.as_slice();
        let mut history = History::default();
        for run in runs(inputs.request_of) {
            let request = inputs.request_of[run.start];
            history.read(self.block, inputs, request, [keys, &pass.low_keys]);
            let (n, n_run) = (history.entries.len(), run.len());
            if n == 0 {
                continue;
            }
            let (of_run, later) = shares.split_at(n * n_run);
            shares = later;
            // Gradients of the shares `[entries, candidates]`, then of the scores `[candidates, entries]`.
            let gradient = transpose(&gradient[run.start * n_in..run.end * n_in], n_run, n_in);
            let mut of_shares = vec![0.0; n * n_run];
            let size = [n, n_in, n_run];
            add_product(&mut of_shares, Lhs::Matrix(&history.vectors), &gradient, size);
            let mut of_scores = transpose(&of_shares, n, n_run);
            for (of, shares) in of_scores.chunks_exact_mut(n).zip(of_run.chunks_exact(n)) {
                let mean = dot(of, shares);
                softmax_backward(of, shares, mean);
            }
            self.scores(run, &history, &of_scores);
        }
        self.queries();
        self.keys();
    }

    /// From the scores of a run of candidates, `[candidates, entries]`, to queries and keys.
    #[inline(always)]
    fn scores(&mut self, run: Range<usize>, history: &History, of_scores: &[f32]) {
        let (width, rank, extent) = (self.block.width, self.block.rank, self.block.extent);
        let (n, n_run) = (history.entries.len(), run.len());
        let mut of_queries = vec![0.0; n_run * extent];
        let size = [n_run, n, extent];
        add_product(&mut of_queries, Lhs::Matrix(of_scores), &history.keys, size);
        let mut queries = Vec::with_capacity(n_run * extent);
        for (candidate, of) in run.zip(of_queries.chunks_exact(extent)) {
            let target = index(self.inputs.of_candidate[candidate]);
            add(row_mut(&mut self.scaled_queries, target, extent), of);
            queries.extend_from_slice(row(&self.pass.scaled_queries, target, extent));
        }
        // While the base stands still, only the adapter's part of keys takes gradients.
        let from = if self.learning.base { 0 } else { width };
        let mut of_history = vec![0.0; n * extent];
        add_product_to(
            &mut of_history,
            extent - from,
            Lhs::Transposed(of_scores),
            MatrixView::new(&queries, extent, from),
            [n, n_run, extent - from],
        );
        let rows = of_history.chunks_exact((extent - from).max(1));
        for (entry, of) in history.entries.iter().zip(rows) {
            let (of, of_low) = of.split_at(width - from);
            if self.learning.base {
                add(row_mut(&mut self.keys, *entry, width), of);
            }
            add(row_mut(&mut self.low_keys, *entry, rank), of_low);
        }
    }

    /// From the scaled queries to the layer of queries, to `B` of the adapter of keys, and to contents.
    #[inline(always)]
    fn queries(&mut self) {
        let (block, learning, n) = (self.block, self.learning, self.inputs.n_targets);
        let (width, extent) = (block.width, block.extent);
        let targets = &self.inputs.vectors[..n * block.n_in];
        let scale = block.scale();
        let mut of_queries = columns(&self.scaled_queries, extent, 0..width, scale);
        if let Some(adapter) = &block.key.adapter {
            let places = width..width + adapter.rank;
            let of_low = columns(&self.scaled_queries, extent, places, scale * adapter.scale);
            let size = [n, adapter.rank, width];
            add_product(&mut of_queries, Lhs::Matrix(&of_low), &adapter.b_transposed, size);
            if learning.adapters {
                let b = transposed_product(&self.pass.queries, width, &of_low, adapter.rank);
                self.out.weights.push(("interest.key.lora_b".to_owned(), b));
            }
        }
        let mut layer = LinearGradients::new(&block.query, learning);
        let mut of_targets = vec![0.0; if learning.contents { targets.len() } else { 0 }];
        let inputs = learning.contents.then_some(of_targets.as_mut_slice());
        block.query.backward(targets, &of_queries, &mut layer, inputs);
        layer.add_named("interest.query", &mut self.out.weights);
        self.out.targets = of_targets;
    }

    /// From keys to their layer, and to `A` of its adapter.
    #[inline(always)]
    fn keys(&mut self) {
        let (block, vectors) = (self.block, self.inputs.vectors);
        if self.learning.base {
            let weight = transposed_product(&self.keys, block.width, vectors, block.n_in);
            self.out.weights.push(("interest.key.weight".to_owned(), weight));
        }
        if let (Some(adapter), true) = (&block.key.adapter, self.learning.adapters) {
            let of_low = columns(&self.low_keys, block.rank, 0..adapter.rank, 1.0);
            let a = transposed_product(&of_low, adapter.rank, vectors, block.n_in);
            self.out.weights.push(("interest.key.lora_a".to_owned(), a));
        }
    }
}

/// Some columns of rows of `stride` floats, scaled.
#[inline(always)]
fn columns(values: &[f32], stride: usize, columns: Range<usize>, scale: f32) -> Vec<f32> {
    let rows = values.chunks_exact(stride);
    rows.flat_map(|row| &row[columns.clone()])
        .map(|x| scale * x)
        .collect()
}

/// The transpose of `a [n, m]` times `b [n, k]`, `[m, k]`.
#[inline(always)]
fn transposed_product(a: &[f32], m: usize, b: &[f32], k: usize) -> Vec<f32> {
    let mut out = vec![0.0; m * k];
    add_product(&mut out, Lhs::Transposed(a), b, [m, a.len() / m.max(1), k]);
    out
}

vectorized! {
    Run<'a, 'b>(back: &'a mut Backward<'b>, gradient: &'a [f32]) => back.run(gradient)
}
