//! The backward pass of [`Din`], request by request: what the candidates of a request share is computed once.

use std::ops::Range;

use pulp::Arch;

use super::{Activations, Din, DinForward, HistoryInputs};
use crate::cpu::gemm::{Lhs, add_product, set_product};
use crate::cpu::kernel::{
    COLUMNS, add, add_scaled, dot_lanes, row, row_mut, runs, total, transpose, transpose_to, vectorized,
};
use crate::cpu::linear::LinearGradients;
use crate::cpu::weights::{Learning, NamedGradients};

/// Gradients, each shaped as its input or weight.
#[derive(Debug, Default)]
pub(crate) struct DinGradients {
    pub(crate) target: Vec<f32>,
    pub(crate) tokens: Vec<f32>,
    pub(crate) weights: NamedGradients,
}

/// A backward pass under way, with buffers that are reused from candidate to candidate.
struct Backward<'a> {
    din: &'a Din,
    inputs: HistoryInputs<'a>,
    pass: &'a DinForward,
    /// Whether gradients of weights are computed: they are a third of the work.
    learns: bool,
    target: Vec<f32>,
    tokens: Vec<f32>,
    /// Blocks of the first layer, `[first, width]`, for the gradients of its inputs.
    key: Vec<f32>,
    product: Vec<f32>,
    /// Gradients of the blocks of the first layer, `[width, first]`.
    of_key: Vec<f32>,
    of_product: Vec<f32>,
    /// Of the first layer before its activation, summed over a candidate's entries, `[n_candidates, first]`.
    of_queries: Vec<f32>,
    /// Of the second layer, `[second, first]` and `[second]`, and of the score layer, `[heads, second]` and `[heads]`.
    second: LinearGradients,
    score: LinearGradients,
    zeros: Vec<f32>,
    /// Of a candidate's hidden layers before their activation, `[n, first]` and `[n, second]`, and the transpose.
    of_hidden: Vec<f32>,
    of_last: Vec<f32>,
    of_last_transposed: Vec<f32>,
    /// A candidate's matrix: its gradient `[width, first]`, and its transpose.
    of_matrix: Vec<f32>,
    matrix: Vec<f32>,
    partial: Vec<f32>,
    /// For fixed weights: `of_hidden` summed over a request's candidates, and the gradient of one candidate's products
    /// `q * k`, `[n, width]`.
    of_all: Vec<f32>,
    of_products: Vec<f32>,
}

impl Din {
    /// Gradients from that of the output, `[n_candidates, heads * width]`.
    pub(crate) fn backward(
        &self,
        inputs: HistoryInputs<'_>,
        pass: &DinForward,
        gradient: &[f32],
        learning: Learning,
    ) -> DinGradients {
        let learns = learning.base || (learning.adapters && self.has_adapter());
        let inputs = inputs.with_tokens(&pass.tokens);
        let mut back = Backward::new(self, inputs, pass, learns);
        Arch::new().dispatch(Run(&mut back, gradient));
        let mut out = DinGradients {
            target: std::mem::take(&mut back.target),
            tokens: std::mem::take(&mut back.tokens),
            weights: NamedGradients::new(),
        };
        if learns {
            back.add_named(learning, &mut out.weights);
        }
        if learning.base && !self.times.is_empty() {
            let mut of_times = vec![0.0; self.times.len()];
            for (place, bucket) in inputs.times(self.times.len() / self.width) {
                add(
                    row_mut(&mut of_times, bucket, self.width),
                    row(&out.tokens, place, self.width),
                );
            }
            out.weights.push((format!("{}.time", self.prefix), of_times));
        }
        out
    }
}

impl<'a> Backward<'a> {
    fn new(din: &'a Din, inputs: HistoryInputs<'a>, pass: &'a DinForward, learns: bool) -> Self {
        let (width, first) = (din.width, din.first);
        let matrix = || vec![0.0; width * first];
        Self {
            din,
            inputs,
            pass,
            learns,
            target: vec![0.0; inputs.target.len()],
            tokens: vec![0.0; inputs.tokens.len()],
            key: transpose(&din.key, width, first),
            product: transpose(&din.product, width, first),
            of_key: matrix(),
            of_product: matrix(),
            of_queries: vec![0.0; inputs.request_of.len() * first],
            second: LinearGradients::merged(&din.second_layer),
            score: LinearGradients::merged(&din.score_layer),
            zeros: vec![0.0; first.max(width)],
            of_hidden: Vec::new(),
            of_last: Vec::new(),
            of_last_transposed: Vec::new(),
            of_matrix: matrix(),
            matrix: matrix(),
            partial: vec![0.0; width * COLUMNS],
            of_all: Vec::new(),
            of_products: Vec::new(),
        }
    }

    #[inline(always)]
    fn run(&mut self, gradient: &[f32]) {
        let (din, inputs, pass) = (self.din, self.inputs, self.pass);
        let (width, first, heads) = (din.width, din.first, din.heads);
        let mut of_scores = Vec::new();
        let mut pair = 0;
        for run in runs(inputs.request_of) {
            let request = inputs.request_of[run.start];
            let (history, n) = inputs.history(request, width);
            if n == 0 {
                continue;
            }
            let places = inputs.places(request, width);
            let transposed = transpose(history, n, width);
            let gradient = &gradient[run.start * heads * width..run.end * heads * width];
            let n_scores = run.len() * heads * n;
            let scores = &pass.scores[pair * heads..pair * heads + n_scores];
            of_scores.resize(n_scores, 0.0);
            let size = [run.len() * heads, width, n];
            set_product(&mut of_scores, &vec![0.0; n], gradient, &transposed, size);
            add_product(
                &mut self.tokens[places.clone()],
                Lhs::Transposed(scores),
                gradient,
                [n, run.len() * heads, width],
            );
            for of_scores in of_scores.chunks_exact(n * heads) {
                for (bias, of_scores) in self.score.bias.iter_mut().zip(of_scores.chunks_exact(n)) {
                    *bias += total(of_scores);
                }
            }
            self.begin_request(n);
            for (candidate, of_scores) in run.zip(of_scores.chunks_exact(n * heads)) {
                self.layers(candidate, pair..pair + n, of_scores);
                pair += n;
                if self.learns {
                    self.candidate_matrix(&transposed, candidate);
                    self.history(candidate, places.clone());
                } else {
                    self.fixed_products(history, candidate, places.clone());
                }
            }
            if !self.learns {
                self.fixed_keys(places);
            }
        }
        let query = transpose(&din.query, width, first);
        let size = [inputs.request_of.len(), first, width];
        add_product(&mut self.target, Lhs::Matrix(&self.of_queries), &query, size);
    }

    /// Clears the buffers of a request with `n` entries.
    fn begin_request(&mut self, n: usize) {
        self.of_all.clear();
        self.of_all.resize(n * self.din.first, 0.0);
        self.of_products.resize(n * self.din.width, 0.0);
    }

    /// From the scores of one candidate, `[heads, n]`, to its first layer before the activation.
    #[inline(always)]
    fn layers(&mut self, candidate: usize, pairs: Range<usize>, of_scores: &[f32]) {
        let din = self.din;
        let (first, second, n) = (din.first, din.second, of_scores.len() / din.heads);
        let [slopes, active] = self.pass.first.pairs(pairs.clone(), first);
        let [slopes_last, active_last] = self.pass.second.pairs(pairs, second);
        self.of_hidden.resize(n * first, 0.0);
        for values in [&mut self.of_last, &mut self.of_last_transposed] {
            values.resize(n * second, 0.0);
        }
        let rows = self.of_last.chunks_exact_mut(second);
        for (entry, (of_last, slopes)) in rows.zip(slopes_last.chunks_exact(second)).enumerate() {
            of_last.fill(0.0);
            for (head, weight) in din.score_layer.weight.chunks_exact(second).enumerate() {
                add_scaled(of_last, of_scores[head * n + entry], weight);
            }
            for ((of, slope), sum) in of_last.iter_mut().zip(slopes).zip(&mut self.second.bias) {
                *of *= slope;
                *sum += *of;
            }
        }
        if self.learns {
            let size = [din.heads, n, second];
            add_product(&mut self.score.weight, Lhs::Matrix(of_scores), active_last, size);
            transpose_to(&mut self.of_last_transposed, &self.of_last, second);
            let of_last = Lhs::Matrix(&self.of_last_transposed);
            let size = [second, n, first];
            din.precision
                .add_product(&mut self.second.weight, of_last, active, size);
        }
        din.precision.set_product(
            &mut self.of_hidden,
            &self.zeros[..first],
            &self.of_last,
            &din.second_layer.weight,
            [n, second, first],
        );
        let of_query = row_mut(&mut self.of_queries, candidate, first);
        let slopes = slopes.chunks_exact(first);
        for (of_hidden, slopes) in self.of_hidden.chunks_exact_mut(first).zip(slopes) {
            for ((of, slope), sum) in of_hidden.iter_mut().zip(slopes).zip(of_query.iter_mut()) {
                *of *= slope;
                *sum += *of;
            }
        }
    }

    /// From a candidate's matrix to the weights that it is made of and to the candidate. `history [width, n]`
    #[inline(always)]
    fn candidate_matrix(&mut self, history: &[f32], candidate: usize) {
        let (width, first) = (self.din.width, self.din.first);
        self.din.precision.set_product(
            &mut self.of_matrix,
            &self.zeros[..first],
            history,
            &self.of_hidden,
            [width, history.len() / width, first],
        );
        let target = row(self.inputs.target, candidate, width);
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
            partial.copy_from_slice(&dot_lanes(of, product));
        }
        let of_target = row_mut(&mut self.target, candidate, width);
        for (of, partial) in of_target.iter_mut().zip(self.partial.chunks_exact(COLUMNS)) {
            *of += total(partial);
        }
    }

    /// From a candidate's first layer to the history, through the candidate's matrix.
    #[inline(always)]
    fn history(&mut self, candidate: usize, places: Range<usize>) {
        let (width, first) = (self.din.width, self.din.first);
        let target = row(self.inputs.target, candidate, width);
        let rows = self.key.chunks_exact(width).zip(self.product.chunks_exact(width));
        for (out, (key, product)) in self.matrix.chunks_exact_mut(width).zip(rows) {
            for (((out, key), product), q) in out.iter_mut().zip(key).zip(product).zip(target) {
                *out = q.mul_add(*product, *key);
            }
        }
        let size = [places.len() / width, first, width];
        let of_hidden = Lhs::Matrix(&self.of_hidden);
        let of_history = &mut self.tokens[places];
        self.din
            .precision
            .add_product(of_history, of_hidden, &self.matrix, size);
    }

    /// For fixed weights: to candidate and history through their product. The gradient of the candidate's matrix is not needed, and the
    /// part of the keys waits for all candidates of the request.
    #[inline(always)]
    fn fixed_products(&mut self, history: &[f32], candidate: usize, places: Range<usize>) {
        let (width, first) = (self.din.width, self.din.first);
        add(&mut self.of_all, &self.of_hidden);
        self.din.precision.set_product(
            &mut self.of_products,
            &self.zeros[..width],
            &self.of_hidden,
            &self.product,
            [history.len() / width, first, width],
        );
        let target = row(self.inputs.target, candidate, width);
        let of_target = row_mut(&mut self.target, candidate, width);
        let of_history = self.tokens[places].chunks_exact_mut(width);
        let rows = self
            .of_products
            .chunks_exact(width)
            .zip(history.chunks_exact(width));
        for ((of, history), of_history) in rows.zip(of_history) {
            let sides = of_target.iter_mut().zip(of_history).zip(target);
            for ((of, x), ((of_target, of_history), q)) in of.iter().zip(history).zip(sides) {
                *of_target = of.mul_add(*x, *of_target);
                *of_history = of.mul_add(*q, *of_history);
            }
        }
    }

    /// For fixed weights: to the history through the block of the key, from all candidates of a request.
    #[inline(always)]
    fn fixed_keys(&mut self, places: Range<usize>) {
        let (width, first) = (self.din.width, self.din.first);
        let size = [places.len() / width, first, width];
        let of_all = Lhs::Matrix(&self.of_all);
        let of_history = &mut self.tokens[places];
        self.din
            .precision
            .add_product(of_history, of_all, &self.key, size);
    }

    /// Adds the gradients of the weights that learn.
    fn add_named(self, learning: Learning, out: &mut NamedGradients) {
        let din = self.din;
        let first = LinearGradients {
            weight: self.first_weight(),
            bias: self.first_bias(),
            ..LinearGradients::default()
        };
        for (name, layer, gradients) in [
            ("first", &din.first_layer, first),
            ("second", &din.second_layer, self.second),
            ("score", &din.score_layer, self.score),
        ] {
            let name = format!("{}.{name}", din.prefix);
            gradients.split_merged(layer, learning).add_named(&name, out);
        }
    }

    fn first_bias(&self) -> Vec<f32> {
        let mut bias = vec![0.0; self.din.first];
        for of_query in self.of_queries.chunks_exact(self.din.first) {
            add(&mut bias, of_query);
        }
        bias
    }

    /// The gradient of the first layer's weight, `[first, 4 width]`: blocks of q, k, q - k and q * k.
    fn first_weight(&self) -> Vec<f32> {
        let (width, first) = (self.din.width, self.din.first);
        let mut of_query = vec![0.0; width * first];
        let targets = Lhs::Transposed(self.inputs.target);
        let size = [width, self.inputs.request_of.len(), first];
        add_product(&mut of_query, targets, &self.of_queries, size);
        let gradient = |at: usize| {
            let (row, block, i) = (at / (4 * width), at / width % 4, at % width);
            let from = i * first + row;
            match block {
                0 => of_query[from],
                1 => self.of_key[from],
                2 => of_query[from] - self.of_key[from],
                _ => self.of_product[from],
            }
        };
        (0..first * 4 * width).map(gradient).collect()
    }
}

impl Activations {
    /// Slopes and, where they were kept, outputs of some pairs.
    fn pairs(&self, pairs: Range<usize>, width: usize) -> [&[f32]; 2] {
        let at = pairs.start * width..pairs.end * width;
        [&self.slopes[at.clone()], self.outputs.get(at).unwrap_or_default()]
    }
}

vectorized! {
    Run<'a, 'b>(back: &'a mut Backward<'b>, gradient: &'a [f32]) => back.run(gradient)
}
