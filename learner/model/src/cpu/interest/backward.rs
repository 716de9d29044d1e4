//! The way back of [`Interest`].

use pulp::{Arch, NullaryFnOnce};

use super::{Adapter, Interest, InterestInputs, InterestPass, Read, row};
use crate::cpu::gemm::{Lhs, Rows, add_product, add_product_to};
use crate::cpu::kernel::{add, dot, transpose};

/// Gradients. None goes back to contents as entries of a history: they learn as candidates.
#[derive(Debug, Default)]
pub(crate) struct InterestGradients {
    /// Of the candidates' contents, `[n_targets, n_in]`; empty where it was not asked for.
    pub(crate) targets: Vec<f32>,
    /// By name, of those that learn.
    pub(crate) weights: Vec<(&'static str, Vec<f32>)>,
}

/// Which weights learn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Learning {
    /// What makes contents.
    pub(crate) contents: bool,
    /// The layers themselves.
    pub(crate) base: bool,
    /// Their adapters.
    pub(crate) adapters: bool,
}

impl Interest {
    /// Gradients from that of what candidates found, `[n_candidates, n_in]`.
    pub(crate) fn backward(
        &self,
        inputs: InterestInputs<'_>,
        pass: &InterestPass,
        of_found: &[f32],
        learning: Learning,
    ) -> InterestGradients {
        let mut out = InterestGradients::default();
        Arch::new().dispatch(Backward(self, inputs, pass, of_found, learning, &mut out));
        out
    }

    #[inline(always)]
    fn backward_loops(
        &self,
        inputs: InterestInputs<'_>,
        pass: &InterestPass,
        of_found: &[f32],
        learning: Learning,
        out: &mut InterestGradients,
    ) {
        let (n_in, width, extent) = (self.n_in, self.width, self.extent);
        let n = inputs.vectors.len() / n_in.max(1);
        let keys = inputs.keys.unwrap_or(&pass.keys);
        let mut of_asks = vec![0.0; pass.asks.len()];
        let mut of_keys = vec![0.0; if learning.base { n * width } else { 0 }];
        let mut of_low_keys = vec![0.0; pass.low_keys.len()];
        // Of keys, only what an adapter adds may learn.
        let from = if learning.base { 0 } else { width };
        let mut weights = pass.weights.as_slice();
        let mut read = Read::default();
        for run in inputs.runs() {
            read.begin(self, inputs, inputs.request_of[run.start], [keys, &pass.low_keys]);
            let (n, n_run) = (read.entries.len(), run.len());
            if n == 0 {
                continue;
            }
            let (of_run, rest) = weights.split_at(n * n_run);
            weights = rest;
            // Gradients of weights, and from them of scores, `[entries, candidates]` and transposed.
            let of_found = transpose(&of_found[run.start * n_in..run.end * n_in], n_run, n_in);
            let mut of_weights = vec![0.0; n * n_run];
            add_product(
                &mut of_weights,
                Lhs::Rows(&read.vectors),
                &of_found,
                [n, n_in, n_run],
            );
            let mut of_scores = transpose(&of_weights, n, n_run);
            for (of, weights) in of_scores.chunks_exact_mut(n).zip(of_run.chunks_exact(n)) {
                let mean = dot(of, weights);
                for (of, weight) in of.iter_mut().zip(weights) {
                    *of = weight * (*of - mean);
                }
            }
            let mut of_run = vec![0.0; n_run * extent];
            add_product(&mut of_run, Lhs::Rows(&of_scores), &read.keys, [n_run, n, extent]);
            let mut asks = Vec::with_capacity(n_run * extent);
            for (candidate, of) in run.zip(of_run.chunks_exact(extent)) {
                let target = inputs.target(candidate);
                add(&mut of_asks[target * extent..(target + 1) * extent], of);
                asks.extend_from_slice(row(&pass.asks, target, extent));
            }
            let mut of_history = vec![0.0; n * extent];
            let columns = Rows::of(&asks, extent, from);
            let size = [n, n_run, extent - from];
            add_product_to(
                &mut of_history,
                extent - from,
                Lhs::Columns(&of_scores),
                columns,
                size,
            );
            for (entry, of) in read
                .entries
                .iter()
                .zip(of_history.chunks_exact((extent - from).max(1)))
            {
                let (of, of_low) = of.split_at(width - from);
                if learning.base {
                    add(&mut of_keys[entry * width..(entry + 1) * width], of);
                }
                add(&mut of_low_keys[entry * self.low..(entry + 1) * self.low], of_low);
            }
        }
        self.of_queries(inputs, pass, &of_asks, learning, out);
        self.of_keys(inputs, [&of_keys, &of_low_keys], learning, out);
    }

    #[inline(always)]
    fn of_queries(
        &self,
        inputs: InterestInputs<'_>,
        pass: &InterestPass,
        of_asks: &[f32],
        learning: Learning,
        out: &mut InterestGradients,
    ) {
        let (n, n_in, width) = (inputs.n_targets, self.n_in, self.width);
        let targets = &inputs.vectors[..n * n_in];
        let scale = self.scale();
        let mut of_queries = part(of_asks, self.extent, 0..width, scale);
        if let Some(adapter) = &self.key.adapter {
            let places = width..width + adapter.rank;
            let of_low = part(of_asks, self.extent, places, scale * adapter.scale);
            add_product(
                &mut of_queries,
                Lhs::Rows(&of_low),
                &adapter.b_transposed,
                [n, adapter.rank, width],
            );
            if learning.adapters {
                let b = columns_by(&pass.queries, width, &of_low, adapter.rank);
                out.weights.push(("interest.key.lora_b", b));
            }
        }
        if learning.base {
            let weight = columns_by(&of_queries, width, targets, n_in);
            out.weights.push(("interest.query.weight", weight));
        }
        let of_low = self
            .query
            .adapter
            .as_ref()
            .map(|adapter| adapter.back(&of_queries, width));
        if let (Some(adapter), Some(of_low), true) = (&self.query.adapter, &of_low, learning.adapters) {
            let scaled: Vec<f32> = pass.low_queries.iter().map(|x| adapter.scale * x).collect();
            let b = columns_by(&of_queries, width, &scaled, adapter.rank);
            out.weights.push(("interest.query.lora_b", b));
            let a = columns_by(of_low, adapter.rank, targets, n_in);
            out.weights.push(("interest.query.lora_a", a));
        }
        if learning.contents {
            out.targets = vec![0.0; n * n_in];
            let size = [n, width, n_in];
            add_product(&mut out.targets, Lhs::Rows(&of_queries), &self.query.weight, size);
            if let (Some(adapter), Some(of_low)) = (&self.query.adapter, &of_low) {
                let size = [n, adapter.rank, n_in];
                add_product(&mut out.targets, Lhs::Rows(of_low), &adapter.a, size);
            }
        }
    }

    #[inline(always)]
    fn of_keys(
        &self,
        inputs: InterestInputs<'_>,
        [of_keys, of_low_keys]: [&[f32]; 2],
        learning: Learning,
        out: &mut InterestGradients,
    ) {
        let (n_in, width) = (self.n_in, self.width);
        if learning.base {
            let weight = columns_by(of_keys, width, inputs.vectors, n_in);
            out.weights.push(("interest.key.weight", weight));
        }
        if let (Some(adapter), true) = (&self.key.adapter, learning.adapters) {
            let of_low = part(of_low_keys, self.low, 0..adapter.rank, 1.0);
            let a = columns_by(&of_low, adapter.rank, inputs.vectors, n_in);
            out.weights.push(("interest.key.lora_a", a));
        }
    }
}

impl Adapter {
    /// From the gradient of what it adds to, `[n, width]`, to that of `A x`, `[n, rank]`.
    #[inline(always)]
    fn back(&self, of: &[f32], width: usize) -> Vec<f32> {
        let n = of.len() / width.max(1);
        let mut low = vec![0.0; n * self.rank];
        add_product(&mut low, Lhs::Rows(of), &self.b, [n, width, self.rank]);
        low.iter_mut().for_each(|x| *x *= self.scale);
        low
    }
}

/// Some columns of rows, scaled.
#[inline(always)]
fn part(values: &[f32], stride: usize, columns: std::ops::Range<usize>, scale: f32) -> Vec<f32> {
    let rows = values.chunks_exact(stride);
    rows.flat_map(|row| &row[columns.clone()])
        .map(|x| scale * x)
        .collect()
}

/// The transpose of `a [n, m]` by `b [n, k]`: `[m, k]`.
#[inline(always)]
fn columns_by(a: &[f32], m: usize, b: &[f32], k: usize) -> Vec<f32> {
    let mut out = vec![0.0; m * k];
    add_product(&mut out, Lhs::Columns(a), b, [m, a.len() / m.max(1), k]);
    out
}

struct Backward<'a>(
    &'a Interest,
    InterestInputs<'a>,
    &'a InterestPass,
    &'a [f32],
    Learning,
    &'a mut InterestGradients,
);

impl NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.0.backward_loops(self.1, self.2, self.3, self.4, self.5);
    }
}
