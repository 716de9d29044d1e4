//! The backward pass of [`Hstu`]: from each candidate's row after the layer to embedding rows and weights.

use super::folded::FoldedGradients;
use super::forward::{HstuForward, PIECE, PackedColumns};
use super::{Hstu, HstuInputs};
use crate::config::TOKEN_FIELDS;
use crate::cpu::activation::{sigmoid, silu_slope};
use crate::cpu::gemm::{Lhs, MatrixView, add_product, add_product_to};
use crate::cpu::kernel::{add, add_scaled, dot, row, row_mut, total};
use crate::cpu::weights::{Learning, NamedGradients};

/// Gradients of a pass.
#[derive(Debug, Default)]
pub(crate) struct HstuGradients {
    /// Of candidates as tokens, `[n_candidates, TOKEN_FIELDS * dim]`.
    pub(crate) tokens: Vec<f32>,
    /// Of the histories' embedding rows, as [`Entries::scatter`](super::Entries::scatter) takes them.
    pub(crate) rows: Vec<f32>,
    pub(crate) weights: NamedGradients,
}

/// A backward pass under way: gradients by the fields of [`HstuForward`].
pub(super) struct Backward<'a> {
    block: &'a Hstu,
    pass: &'a HstuForward,
    /// Candidates, count.
    n: usize,
    learns: bool,
    folded: FoldedGradients,
    /// `[n_candidates, projected]`
    z: Vec<f32>,
    /// `[n_candidates, values]`
    read: Vec<f32>,
    /// `[n_candidates, heads * width]`, and `[n_candidates, heads]`.
    sums: Vec<f32>,
    totals: Vec<f32>,
    /// `[n_candidates, heads * width]`, and of what is added to a score, `[n_candidates, heads]`.
    queries: Vec<f32>,
    biases: Vec<f32>,
    /// Of the rows that entries are the sum of, `[n_table, width]`.
    table: Vec<f32>,
}

impl<'a> Backward<'a> {
    pub(super) fn new(block: &'a Hstu, inputs: HstuInputs<'_>, pass: &'a HstuForward, learns: bool) -> Self {
        let sizes = &block.sizes;
        let n = pass.candidates.factors.len();
        let n_projected = inputs.entries.begins(block.counts)[TOKEN_FIELDS];
        let n_table = n_projected + block.counts.iter().sum::<usize>();
        Self {
            block,
            pass,
            n,
            learns,
            folded: block.zeros(),
            z: vec![0.0; n * sizes.projected()],
            read: vec![0.0; n * sizes.values()],
            sums: vec![0.0; n * sizes.all_heads()],
            totals: vec![0.0; n * sizes.heads],
            queries: vec![0.0; n * sizes.all_heads()],
            biases: vec![0.0; n * sizes.heads],
            table: vec![0.0; n_table * sizes.width],
        }
    }

    #[inline(always)]
    pub(super) fn run(&mut self, inputs: HstuInputs<'_>, gradient: &[f32], out: &mut HstuGradients) {
        self.last_layer(gradient);
        self.read_self();
        self.sums();
        self.attend(inputs);
        self.queries();
        let candidates = self.candidates(gradient);
        out.tokens = self.tokens(inputs, &candidates);
        out.rows = self.rows(inputs);
    }

    /// The gradients of the weights that learn.
    pub(super) fn into_named(mut self, inputs: HstuInputs<'_>, learning: Learning) -> NamedGradients {
        let n_projected = inputs.entries.begins(self.block.counts)[TOKEN_FIELDS];
        let context = self.table.split_off(n_projected * self.block.sizes.width);
        self.block.unfold(self.folded, context, learning)
    }

    /// Through the last layer, the gates and the norm of what was read.
    #[inline(always)]
    fn last_layer(&mut self, gradient: &[f32]) {
        let sizes = &self.block.sizes;
        let (width, values, n) = (sizes.width, sizes.values(), self.n);
        let mut of_last = vec![0.0; n * 3 * values];
        let size = [n, width, 3 * values];
        add_product(&mut of_last, Lhs::Matrix(gradient), &self.block.out.weight, size);
        if self.learns {
            let size = [width, n, 3 * values];
            let of_out = &mut self.folded.out;
            add_product(of_out, Lhs::Transposed(gradient), &self.pass.last, size);
        }
        let mut of_normed = vec![0.0; values];
        let (by, bias) = (&self.block.out_norm.weight, &self.block.out_norm.bias);
        let of_norm = &mut self.folded.out_norm;
        for candidate in 0..n {
            let normed = row(&self.pass.read.rows, candidate, values);
            let (of_gate, of_last) = row(&of_last, candidate, 3 * values).split_at(values);
            let (of_read, of_gated) = of_last.split_at(values);
            let gate = &row(&self.pass.last, candidate, 3 * values)[..values];
            let z = &row(&self.pass.z, candidate, sizes.projected())[..values];
            let of_z = &mut row_mut(&mut self.z, candidate, sizes.projected())[..values];
            // Short loops, which the compiler turns into vector instructions.
            for (of_z, z) in of_z.iter_mut().zip(z) {
                *of_z = silu_slope(*z);
            }
            let affine = normed.iter().zip(by).zip(bias);
            for (((of_z, of_gate), of_gated), ((x, by), bias)) in
                of_z.iter_mut().zip(of_gate).zip(of_gated).zip(affine)
            {
                *of_z *= of_gated.mul_add(x.mul_add(*by, *bias), *of_gate);
            }
            for ((of, of_gated), gate) in of_normed.iter_mut().zip(of_gated).zip(gate) {
                *of = of_gated * gate;
            }
            add(&mut of_norm.bias, &of_normed);
            for ((of_by, of), x) in of_norm.weight.iter_mut().zip(&of_normed).zip(normed) {
                *of_by = of.mul_add(*x, *of_by);
            }
            for (of, by) in of_normed.iter_mut().zip(by) {
                *of *= by;
            }
            #[expect(clippy::cast_precision_loss, reason = "a width")]
            let share = 1.0 / values as f32;
            let mean = share * total(&of_normed);
            let along = share * dot(&of_normed, normed);
            let factor = self.pass.read.factors[candidate];
            let out = row_mut(&mut self.read, candidate, values).iter_mut().zip(of_read);
            for ((out, of_read), (of, x)) in out.zip(of_normed.iter().zip(normed)) {
                *out = factor.mul_add((-along).mul_add(*x, of - mean), *of_read);
            }
        }
    }

    /// From what was read to what candidates read of themselves, and to the sums of shares.
    #[inline(always)]
    fn read_self(&mut self) {
        let sizes = &self.block.sizes;
        for candidate in 0..self.n {
            let z = row(&self.pass.z, candidate, sizes.projected());
            let of_z = row_mut(&mut self.z, candidate, sizes.projected());
            for head in 0..sizes.heads {
                let at = candidate * sizes.heads + head;
                let read = &row(&self.read, candidate, sizes.values())[head * sizes.value..][..sizes.value];
                let own = self.pass.own[at];
                let values = sizes.value_at(head)..sizes.value_at(head + 1);
                let share = own * sigmoid(own) * sizes.share;
                add_scaled(&mut of_z[values.clone()], share, read);
                let of_score = dot(read, &z[values.clone()]) * silu_slope(own) * sizes.share;
                let (query, key) = (sizes.query_at(head), sizes.key_at(head));
                add_scaled(&mut of_z[query..][..sizes.key], of_score, &z[key..][..sizes.key]);
                add_scaled(&mut of_z[key..][..sizes.key], of_score, &z[query..][..sizes.key]);
                self.totals[at] = dot(read, &self.block.project_bias[values.clone()]);
                let of_bias = &mut self.folded.project_bias[values];
                add_scaled(of_bias, self.pass.totals[at], read);
            }
        }
    }

    /// From what was read to the sums of entries, and to the projection of values.
    #[inline(always)]
    fn sums(&mut self) {
        let sizes = &self.block.sizes;
        let (n, width, all_heads) = (self.n, sizes.width, sizes.all_heads());
        for head in 0..sizes.heads {
            let read = MatrixView::new(&self.read, sizes.values(), head * sizes.value);
            let project = MatrixView::new(&self.block.project, width, 0);
            add_product_to(
                &mut self.sums[head * width..],
                all_heads,
                Lhs::View(read),
                project.rows_from(sizes.value_at(head)),
                [n, sizes.value, width],
            );
            if self.learns {
                add_product_to(
                    &mut self.folded.project[sizes.value_at(head) * width..],
                    width,
                    Lhs::TransposedView(read),
                    MatrixView::new(&self.pass.sums, all_heads, head * width),
                    [sizes.value, n, width],
                );
            }
        }
    }

    /// Through the attention to entries and to the candidates' queries.
    #[inline(always)]
    fn attend(&mut self, inputs: HstuInputs<'_>) {
        let sizes = &self.block.sizes;
        let (width, heads, all_heads) = (sizes.width, sizes.heads, sizes.all_heads());
        let mut columns_of_sums = PackedColumns::default();
        let [mut of_scores, mut active, mut of_entries] = [(); 3].map(|()| Vec::new());
        let [mut queries, mut sums, mut of_queries] = [(); 3].map(|()| Vec::new());
        let mut scores = self.pass.scores.as_slice();
        for (entries, slate) in inputs.requests() {
            let n = entries.len();
            let rows = &self.pass.entries.rows[entries.start * width..entries.end * width];
            of_entries.clear();
            of_entries.resize(n * width, 0.0);
            for piece in slate.chunks(PIECE) {
                let columns = piece.len() * heads;
                columns_of_sums.clear(columns, width);
                queries.clear();
                sums.clear();
                for (candidate, at) in piece.iter().zip((0..).step_by(heads)) {
                    let of_sums = row(&self.sums, *candidate, all_heads);
                    for (head, of_sums) in of_sums.chunks_exact(width).enumerate() {
                        columns_of_sums.put(at + head, of_sums, self.totals[candidate * heads + head]);
                    }
                    sums.extend_from_slice(of_sums);
                    queries.extend_from_slice(row(&self.pass.queries, *candidate, all_heads));
                }
                // The gradients of the activated scores, then of the scores.
                of_scores.clear();
                columns_of_sums.multiply(rows, &mut of_scores);
                let (of_piece, later) = scores.split_at(n * columns);
                scores = later;
                active.resize(n * columns, 0.0);
                for (active, score) in active.iter_mut().zip(of_piece) {
                    *active = sigmoid(*score);
                }
                // A loop of its own: with the exponential in it, the compiler would not vectorise it.
                for ((active, of), score) in active.iter_mut().zip(&mut of_scores).zip(of_piece) {
                    let s = *active;
                    *of *= s * (1.0 - s).mul_add(*score, 1.0) * sizes.share;
                    *active = score * s * sizes.share;
                }
                let size = [n, columns, width];
                add_product(&mut of_entries, Lhs::Matrix(&of_scores), &queries, size);
                add_product(&mut of_entries, Lhs::Matrix(&active), &sums, size);
                of_queries.clear();
                of_queries.resize(columns * width, 0.0);
                let size = [columns, n, width];
                add_product(&mut of_queries, Lhs::Transposed(&of_scores), rows, size);
                for (candidate, of_queries) in piece.iter().zip(of_queries.chunks_exact(all_heads)) {
                    row_mut(&mut self.queries, *candidate, all_heads).copy_from_slice(of_queries);
                }
                for of_scores in of_scores.chunks_exact(columns) {
                    for (candidate, of) in piece.iter().zip(of_scores.chunks_exact(heads)) {
                        add(row_mut(&mut self.biases, *candidate, heads), of);
                    }
                }
            }
            let normalized = rows
                .chunks_exact(width)
                .zip(&self.pass.entries.factors[entries.clone()]);
            let of_rows = of_entries.chunks_exact_mut(width).zip(normalized);
            for ((of, (x, factor)), places) in of_rows.zip(&inputs.entries.places[entries]) {
                normalized_backward(of, x, *factor);
                for place in places {
                    add(row_mut(&mut self.table, *place, width), of);
                }
            }
        }
    }

    /// From the queries in the entries' space to the candidates' queries, and to the projection of keys.
    #[inline(always)]
    fn queries(&mut self) {
        let sizes = &self.block.sizes;
        let (n, width, projected) = (self.n, sizes.width, sizes.projected());
        for head in 0..sizes.heads {
            let (query, key) = (sizes.query_at(head), sizes.key_at(head));
            let of_queries = MatrixView::new(&self.queries, sizes.all_heads(), head * width);
            add_product_to(
                &mut self.z[query..],
                projected,
                Lhs::View(of_queries),
                MatrixView::new(&self.block.project_transposed, projected, key),
                [n, width, sizes.key],
            );
            for candidate in 0..n {
                let of_bias = self.biases[candidate * sizes.heads + head];
                let at = candidate * projected + query;
                let bias = &self.block.project_bias[key..][..sizes.key];
                add_scaled(&mut self.z[at..][..sizes.key], of_bias, bias);
                let query = &self.pass.z[at..][..sizes.key];
                add_scaled(&mut self.folded.project_bias[key..][..sizes.key], of_bias, query);
            }
            if self.learns {
                add_product_to(
                    &mut self.folded.project[key * width..],
                    width,
                    Lhs::TransposedView(MatrixView::new(&self.pass.z, projected, query)),
                    of_queries,
                    [sizes.key, n, width],
                );
            }
        }
    }

    /// Through projection and norm to the candidates' rows before the layer, `[n_candidates, width]`.
    #[inline(always)]
    fn candidates(&mut self, gradient: &[f32]) -> Vec<f32> {
        let sizes = &self.block.sizes;
        let (n, width, projected) = (self.n, sizes.width, sizes.projected());
        let rows = &self.pass.candidates.rows;
        if self.learns {
            let of_project = &mut self.folded.project;
            add_product(of_project, Lhs::Transposed(&self.z), rows, [projected, n, width]);
            for of_z in self.z.chunks_exact(projected) {
                add(&mut self.folded.project_bias, of_z);
            }
        }
        let mut out = vec![0.0; n * width];
        let size = [n, projected, width];
        add_product(&mut out, Lhs::Matrix(&self.z), &self.block.project, size);
        let normalized = rows.chunks_exact(width).zip(&self.pass.candidates.factors);
        for (of, (x, factor)) in out.chunks_exact_mut(width).zip(normalized) {
            normalized_backward(of, x, *factor);
        }
        // The layer adds to its input.
        add(&mut out, gradient);
        out
    }

    /// From the candidates' rows to their tokens.
    #[inline(always)]
    fn tokens(&mut self, inputs: HstuInputs<'_>, candidates: &[f32]) -> Vec<f32> {
        let width = self.block.sizes.width;
        let (n, token) = (self.n, self.block.token.n_in);
        let mut out = vec![0.0; n * token];
        let weight = &self.block.token.weight;
        add_product(&mut out, Lhs::Matrix(candidates), weight, [n, width, token]);
        if self.learns {
            let of_token = &mut self.folded.token;
            let size = [width, n, token];
            add_product(of_token, Lhs::Transposed(candidates), inputs.tokens, size);
            for of in candidates.chunks_exact(width) {
                add(&mut self.folded.candidate, of);
            }
        }
        out
    }

    /// From the projected rows of histories to the embedding rows.
    #[inline(always)]
    fn rows(&mut self, inputs: HstuInputs<'_>) -> Vec<f32> {
        let (dim, width) = (self.block.sizes.dim, self.block.sizes.width);
        let token = self.block.token.n_in;
        let mut out = vec![0.0; self.pass.rows.len()];
        let begins = inputs.entries.begins(self.block.counts);
        for (field, begin) in begins.into_iter().enumerate().take(TOKEN_FIELDS) {
            let n = inputs.entries.n_of(field);
            let projected = &self.table[begin * width..(begin + n) * width];
            add_product_to(
                &mut out[begin * dim..],
                dim,
                Lhs::Matrix(projected),
                MatrixView::new(&self.block.token.weight, token, field * dim),
                [n, width, dim],
            );
            if self.learns {
                add_product_to(
                    &mut self.folded.token[field * dim..],
                    token,
                    Lhs::Transposed(projected),
                    MatrixView::new(&self.pass.rows, dim, 0).rows_from(begin),
                    [width, n, dim],
                );
            }
        }
        out
    }
}

/// Through the scaling to variance 1, for a gradient that is to have mean 0 as the row has.
#[inline(always)]
fn normalized_backward(gradient: &mut [f32], x: &[f32], factor: f32) {
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    let along = dot(gradient, x) / x.len() as f32;
    for (gradient, x) in gradient.iter_mut().zip(x) {
        *gradient = factor * (-along).mul_add(*x, *gradient);
    }
}
