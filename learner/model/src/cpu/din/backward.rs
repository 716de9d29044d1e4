//! The way back of [`Din`], request by request: what its candidates have in common is done once for all of them.

use std::ops::Range;

use super::{Activations, Din, DinGradients, DinInputs, DinPass};
use crate::cpu::gemm::{Lhs, add_product, set_product};
use crate::cpu::kernel::{COLUMNS, add, products, total, transpose, transpose_to};

/// What a way back collects and reuses from candidate to candidate.
struct Back<'a> {
    din: &'a Din,
    /// Whether the weights learn: their gradients are a third of the work.
    learns: bool,
    /// The matrices of the first layer as `[first, width]`, of the second as `[second, first]`.
    key: Vec<f32>,
    product: Vec<f32>,
    second: Vec<f32>,
    /// Gradients of the same as the block has them: `[width, first]`, `[second, first]`.
    of_key: Vec<f32>,
    of_product: Vec<f32>,
    of_second_weight: Vec<f32>,
    zeros: Vec<f32>,
    /// `[n, first]`, `[n, second]` and its transpose.
    of_hidden: Vec<f32>,
    of_last: Vec<f32>,
    of_last_turned: Vec<f32>,
    /// `[width, first]`, `[first, width]`
    of_matrix: Vec<f32>,
    transposed: Vec<f32>,
    partial: Vec<f32>,
    /// Of weights that stand still: the sum of `of_hidden` over a request's candidates, and of products with one
    /// candidate, `[n, width]`.
    of_all: Vec<f32>,
    of_products: Vec<f32>,
}

impl Din {
    #[inline(always)]
    pub(super) fn backward_loops(
        &self,
        inputs: DinInputs<'_>,
        pass: &DinPass,
        read: &[f32],
        learns: bool,
        out: &mut DinGradients,
    ) {
        let (width, first, second) = (self.width, self.first, self.second);
        let n_candidates = inputs.request_of.len();
        let mut back = Back::new(self, learns);
        out.second_bias = vec![0.0; second];
        out.score_weight = vec![0.0; second];
        let mut of_queries = vec![0.0; n_candidates * first];
        let mut of_scores = Vec::new();
        let mut pair = 0;
        for run in inputs.runs() {
            let request = inputs.request_of[run.start];
            let (history, n) = inputs.history(request, width);
            if n == 0 {
                continue;
            }
            let start = inputs.start(request, width);
            let at_history = start..start + n * width;
            let transposed = transpose(history, n, width);
            let read = &read[run.start * width..run.end * width];
            let scores = &pass.scores[pair..pair + run.len() * n];
            of_scores.resize(run.len() * n, 0.0);
            let zeros = vec![0.0; n];
            set_product(&mut of_scores, &zeros, read, &transposed, [run.len(), width, n]);
            let size = [n, run.len(), width];
            add_product(
                &mut out.tokens[at_history.clone()],
                Lhs::Columns(scores),
                read,
                size,
            );
            out.score_bias += total(&of_scores);
            back.begin(n);
            for (candidate, of_scores) in run.zip(of_scores.chunks_exact(n)) {
                let layers = [(&pass.first, first), (&pass.second, second)];
                let layers = layers.map(|(kept, width)| kept.of(pair * width..(pair + n) * width));
                pair += n;
                let of_query = &mut of_queries[candidate * first..(candidate + 1) * first];
                back.of_layers(layers, of_scores, of_query, out);
                let at = candidate * width..(candidate + 1) * width;
                let target = &inputs.target[at.clone()];
                let of_history = &mut out.tokens[at_history.clone()];
                if learns {
                    back.of_candidate(&transposed, target, &mut out.target[at]);
                    back.of_history(target, of_history);
                } else {
                    back.of_both(history, target, &mut out.target[at], of_history);
                }
            }
            if !learns {
                back.of_keys(&mut out.tokens[at_history]);
            }
        }
        out.first_bias = vec![0.0; first];
        for of_query in of_queries.chunks_exact(first) {
            add(&mut out.first_bias, of_query);
        }
        let query = transpose(&self.query, width, first);
        add_product(
            &mut out.target,
            Lhs::Rows(&of_queries),
            &query,
            [n_candidates, first, width],
        );
        if !learns {
            return;
        }
        let mut of_query = vec![0.0; width * first];
        add_product(
            &mut of_query,
            Lhs::Columns(inputs.target),
            &of_queries,
            [width, n_candidates, first],
        );
        out.first_weight = back.first_weight(&of_query);
        out.second_weight = back.of_second_weight;
    }
}

impl Activations {
    /// Slopes, and outputs where they were kept.
    fn of(&self, at: Range<usize>) -> [&[f32]; 2] {
        [&self.slopes[at.clone()], self.active.get(at).unwrap_or_default()]
    }
}

impl<'a> Back<'a> {
    fn new(din: &'a Din, learns: bool) -> Self {
        let (width, first, second) = (din.width, din.first, din.second);
        let matrix = || vec![0.0; width * first];
        Self {
            key: transpose(&din.key, width, first),
            product: transpose(&din.product, width, first),
            second: transpose(&din.second_weight, first, second),
            of_key: matrix(),
            of_product: matrix(),
            of_second_weight: vec![0.0; second * first],
            zeros: vec![0.0; first],
            of_matrix: matrix(),
            transposed: matrix(),
            partial: vec![0.0; width * COLUMNS],
            of_hidden: Vec::new(),
            of_last: Vec::new(),
            of_last_turned: Vec::new(),
            of_all: Vec::new(),
            of_products: Vec::new(),
            learns,
            din,
        }
    }

    /// A request with a history of `n`.
    fn begin(&mut self, n: usize) {
        self.of_all.clear();
        self.of_all.resize(n * self.din.first, 0.0);
        self.of_products.resize(n * self.din.width, 0.0);
    }

    /// From the gradients of one candidate's scores, `[n]`, to those before its first activation; their sum is
    /// `of_query [first]`.
    #[inline(always)]
    fn of_layers(
        &mut self,
        [of_first, of_second]: [[&[f32]; 2]; 2],
        of_scores: &[f32],
        of_query: &mut [f32],
        out: &mut DinGradients,
    ) {
        let (first, second, n) = (self.din.first, self.din.second, of_scores.len());
        let ([slopes, active], [slopes_last, active_last]) = (of_first, of_second);
        self.of_hidden.resize(n * first, 0.0);
        for values in [&mut self.of_last, &mut self.of_last_turned] {
            values.resize(n * second, 0.0);
        }
        let rows = self.of_last.chunks_exact_mut(second);
        for ((of_last, slopes), of_score) in rows.zip(slopes_last.chunks_exact(second)).zip(of_scores) {
            let weights = self.din.score.iter().zip(&mut out.second_bias);
            for ((of, slope), (weight, sum)) in of_last.iter_mut().zip(slopes).zip(weights) {
                *of = slope * (of_score * weight);
                *sum += *of;
            }
        }
        if self.learns {
            let size = [1, n, second];
            add_product(&mut out.score_weight, Lhs::Rows(of_scores), active_last, size);
            transpose_to(&mut self.of_last_turned, &self.of_last, second);
            self.din.products.add_product(
                &mut self.of_second_weight,
                Lhs::Rows(&self.of_last_turned),
                active,
                [second, n, first],
            );
        }
        self.din.products.set_product(
            &mut self.of_hidden,
            &self.zeros,
            &self.of_last,
            &self.second,
            [n, second, first],
        );
        let slopes = slopes.chunks_exact(first);
        for (of_hidden, slopes) in self.of_hidden.chunks_exact_mut(first).zip(slopes) {
            for ((of, slope), sum) in of_hidden.iter_mut().zip(slopes).zip(of_query.iter_mut()) {
                *of *= slope;
                *sum += *of;
            }
        }
    }

    /// The gradient of the candidate's small matrix, to the weights that it is made of and to the candidate.
    /// `history [width, n]`
    #[inline(always)]
    fn of_candidate(&mut self, history: &[f32], target: &[f32], of_target: &mut [f32]) {
        let (width, first) = (self.din.width, self.din.first);
        self.din.products.set_product(
            &mut self.of_matrix,
            &self.zeros,
            history,
            &self.of_hidden,
            [width, history.len() / width, first],
        );
        let rows = self
            .of_matrix
            .chunks_exact(first)
            .zip(self.of_key.chunks_exact_mut(first))
            .zip(self.of_product.chunks_exact_mut(first))
            .zip(self.din.product.chunks_exact(first))
            .zip(self.partial.chunks_exact_mut(COLUMNS));
        for (((((of, of_key), of_product), product), partial), q) in rows.zip(target) {
            for ((of, of_key), of_product) in of.iter().zip(of_key).zip(of_product) {
                *of_key += of;
                *of_product = q.mul_add(*of, *of_product);
            }
            partial.copy_from_slice(&products(of, product));
        }
        for (of, partial) in of_target.iter_mut().zip(self.partial.chunks_exact(COLUMNS)) {
            *of += total(partial);
        }
    }

    /// To candidate and history `[n, width]` through their product, by weights that stand still: their own gradient, by
    /// which [`Self::of_candidate`] comes to the candidate's, is not needed, and the key's part waits for all candidates.
    #[inline(always)]
    fn of_both(&mut self, history: &[f32], target: &[f32], of_target: &mut [f32], of_history: &mut [f32]) {
        let (width, first) = (self.din.width, self.din.first);
        let n = history.len() / width;
        add(&mut self.of_all, &self.of_hidden);
        self.din.products.set_product(
            &mut self.of_products,
            &vec![0.0; width],
            &self.of_hidden,
            &self.product,
            [n, first, width],
        );
        let rows = self
            .of_products
            .chunks_exact(width)
            .zip(history.chunks_exact(width));
        for ((of, history), of_history) in rows.zip(of_history.chunks_exact_mut(width)) {
            let sides = of_target.iter_mut().zip(of_history).zip(target);
            for ((of, x), ((of_target, of_history), q)) in of.iter().zip(history).zip(sides) {
                *of_target = of.mul_add(*x, *of_target);
                *of_history = of.mul_add(*q, *of_history);
            }
        }
    }

    /// To a history through its part of the first layer, from all candidates of the request.
    #[inline(always)]
    fn of_keys(&mut self, of_history: &mut [f32]) {
        let (width, first) = (self.din.width, self.din.first);
        let n = of_history.len() / width;
        let size = [n, first, width];
        self.din
            .products
            .add_product(of_history, Lhs::Rows(&self.of_all), &self.key, size);
    }

    /// Adds to the gradient of the history, `[n, width]`.
    #[inline(always)]
    fn of_history(&mut self, target: &[f32], of_history: &mut [f32]) {
        let (width, first) = (self.din.width, self.din.first);
        let rows = self.key.chunks_exact(width).zip(self.product.chunks_exact(width));
        for (out, (key, product)) in self.transposed.chunks_exact_mut(width).zip(rows) {
            for (((out, key), product), q) in out.iter_mut().zip(key).zip(product).zip(target) {
                *out = q.mul_add(*product, *key);
            }
        }
        let n = of_history.len() / width;
        self.din.products.add_product(
            of_history,
            Lhs::Rows(&self.of_hidden),
            &self.transposed,
            [n, first, width],
        );
    }

    /// The first layer's gradient as its weight is laid out, `[first, 4 width]`: blocks of q, k, q - k and q * k.
    fn first_weight(&self, of_query: &[f32]) -> Vec<f32> {
        let (width, first) = (self.din.width, self.din.first);
        let of = |at: usize| {
            let (row, block, i) = (at / (4 * width), at / width % 4, at % width);
            let from = i * first + row;
            match block {
                0 => of_query[from],
                1 => self.of_key[from],
                2 => of_query[from] - self.of_key[from],
                _ => self.of_product[from],
            }
        };
        (0..first * 4 * width).map(of).collect()
    }
}
