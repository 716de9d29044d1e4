//! From the gradient of what each candidate is after the layer to those of rows and weights.

use super::super::gemm::{Lhs, Rows, add_product, add_product_to};
use super::super::kernel::{add, add_scaled, dot, sigmoid, slope, total};
use super::fold::Folded;
use super::forward::{HstuPass, SIDE_BY_SIDE, TransposedPart};
use super::{Hstu, HstuInputs};
use crate::config::TOKEN_FIELDS;

/// Gradients of a pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct HstuGradients {
    /// Of candidates as tokens, `[n_candidates, TOKEN_FIELDS * dim]`.
    pub(crate) tokens: Vec<f32>,
    /// Of the rows that histories read, as [`Entries::scatter`](super::Entries::scatter) takes them.
    pub(crate) rows: Vec<f32>,
    /// Of weights by name; none where they stand still.
    pub(crate) weights: Vec<(&'static str, Vec<f32>)>,
}

/// What goes from one part of the pass back to the one before it.
struct Back<'a> {
    block: &'a Hstu,
    pass: &'a HstuPass,
    /// Candidates, count.
    n: usize,
    learns: bool,
    folded: Folded,
    /// By the candidates projected, `[n_candidates, projected]`.
    z: Vec<f32>,
    /// By what was read, `[n_candidates, values]`.
    read: Vec<f32>,
    /// By entries summed, `[n_candidates, heads * width]`, and by the shares' sums, `[n_candidates, heads]`.
    found: Vec<f32>,
    sums: Vec<f32>,
    /// By what entries are multiplied with, `[n_candidates, heads * width]`, and what is added, `[n_candidates, heads]`.
    asks: Vec<f32>,
    biases: Vec<f32>,
    /// By the rows that entries are the sum of, `[n_table, width]`.
    table: Vec<f32>,
}

impl HstuGradients {
    #[inline(always)]
    pub(super) fn run(
        &mut self,
        block: &Hstu,
        inputs: HstuInputs<'_>,
        pass: &HstuPass,
        out: &[f32],
        learns: bool,
    ) {
        let sizes = &block.sizes;
        let n = pass.candidates.scale.len();
        let begins = inputs.entries.begins(block.counts);
        let n_table = begins[TOKEN_FIELDS] + block.counts.iter().sum::<usize>();
        let mut back = Back {
            block,
            pass,
            n,
            learns,
            folded: block.zeros(),
            z: vec![0.0; n * sizes.projected()],
            read: vec![0.0; n * sizes.values()],
            found: vec![0.0; n * sizes.spread()],
            sums: vec![0.0; n * sizes.heads],
            asks: vec![0.0; n * sizes.spread()],
            biases: vec![0.0; n * sizes.heads],
            table: vec![0.0; n_table * sizes.width],
        };
        back.finish(out);
        back.heads();
        back.attend(inputs);
        let candidates = back.candidates(out);
        self.tokens = back.tokens(inputs, &candidates);
        self.rows = back.rows(inputs);
        if learns {
            let context = begins[TOKEN_FIELDS] * sizes.width;
            back.folded.context = back.table.split_off(context);
            self.weights = block.unfold(back.folded);
        }
    }
}

impl Back<'_> {
    /// Through the last layer, the gates and the norm of what was read.
    #[inline(always)]
    fn finish(&mut self, out: &[f32]) {
        let sizes = &self.block.sizes;
        let (width, values, n) = (sizes.width, sizes.values(), self.n);
        let mut of_rows = vec![0.0; n * 3 * values];
        add_product(
            &mut of_rows,
            Lhs::Rows(out),
            &self.block.out,
            [n, width, 3 * values],
        );
        if self.learns {
            let of_out = &mut self.folded.out;
            add_product(of_out, Lhs::Columns(out), &self.pass.row, [width, n, 3 * values]);
        }
        let mut of_normed = vec![0.0; values];
        let [by, bias] = &self.block.out_norm;
        let [of_by, of_bias] = &mut self.folded.out_norm;
        for candidate in 0..n {
            let at = candidate * values..(candidate + 1) * values;
            let normed = &self.pass.read.rows[at.clone()];
            let row = &of_rows[3 * at.start..3 * at.end];
            let (of_gate, rest) = row.split_at(values);
            let (of_read, of_gated) = rest.split_at(values);
            let gate = &self.pass.row[3 * at.start..][..values];
            let z = &self.pass.z[candidate * sizes.projected()..][..values];
            let of_z = &mut self.z[candidate * sizes.projected()..][..values];
            // Short loops, of which the compiler makes vectors.
            for (of_z, z) in of_z.iter_mut().zip(z) {
                *of_z = slope(*z);
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
            add(of_bias, &of_normed);
            for ((of_by, of), x) in of_by.iter_mut().zip(&of_normed).zip(normed) {
                *of_by = of.mul_add(*x, *of_by);
            }
            for (of, by) in of_normed.iter_mut().zip(by) {
                *of *= by;
            }
            #[expect(clippy::cast_precision_loss, reason = "a width")]
            let share = 1.0 / values as f32;
            let mean = share * total(&of_normed);
            let along = share * dot(&of_normed, normed);
            let scale = self.pass.read.scale[candidate];
            let out = self.read[at].iter_mut().zip(of_read);
            for ((out, of_read), (of, x)) in out.zip(of_normed.iter().zip(normed)) {
                *out = scale.mul_add((-along).mul_add(*x, of - mean), *of_read);
            }
        }
    }

    /// From what was read to what candidates read of themselves, and to entries summed.
    #[inline(always)]
    fn heads(&mut self) {
        let sizes = &self.block.sizes;
        let (n, width, projected, spread) = (self.n, sizes.width, sizes.projected(), sizes.spread());
        for candidate in 0..n {
            let z = &self.pass.z[candidate * projected..][..projected];
            let of_z = &mut self.z[candidate * projected..][..projected];
            for head in 0..sizes.heads {
                let at = candidate * sizes.heads + head;
                let read = &self.read[candidate * sizes.values() + head * sizes.value..][..sizes.value];
                let own = self.pass.own[at];
                let value_at = sizes.value_at(head)..sizes.value_at(head + 1);
                add_scaled(
                    &mut of_z[value_at.clone()],
                    own * sigmoid(own) * sizes.share,
                    read,
                );
                let of_score = dot(read, &z[value_at.clone()]) * slope(own) * sizes.share;
                let (query, key) = (sizes.query_at(head), sizes.key_at(head));
                add_scaled(&mut of_z[query..][..sizes.key], of_score, &z[key..][..sizes.key]);
                add_scaled(&mut of_z[key..][..sizes.key], of_score, &z[query..][..sizes.key]);
                self.sums[at] = dot(read, &self.block.project_bias[value_at.clone()]);
                add_scaled(&mut self.folded.project_bias[value_at], self.pass.sums[at], read);
            }
        }
        for head in 0..sizes.heads {
            let read = Rows::of(&self.read, sizes.values(), head * sizes.value);
            add_product_to(
                &mut self.found[head * width..],
                spread,
                Lhs::Part(read),
                Rows::of(&self.block.project, width, 0).below(sizes.value_at(head)),
                [n, sizes.value, width],
            );
            if self.learns {
                add_product_to(
                    &mut self.folded.project[sizes.value_at(head) * width..],
                    width,
                    Lhs::TransposedPart(read),
                    Rows::of(&self.pass.found, spread, head * width),
                    [sizes.value, n, width],
                );
            }
        }
    }

    /// Through the attention to entries and what was asked of them.
    #[inline(always)]
    fn attend(&mut self, inputs: HstuInputs<'_>) {
        let sizes = &self.block.sizes;
        let (width, heads, spread) = (sizes.width, sizes.heads, sizes.spread());
        let mut transposed = TransposedPart::default();
        let [mut of_active, mut active, mut of_entries] = [(); 3].map(|()| Vec::new());
        let [mut asks, mut found, mut of_asks] = [(); 3].map(|()| Vec::new());
        let mut scores = self.pass.scores.as_slice();
        for (entries, slate) in inputs.requests() {
            let n = entries.len();
            let rows = &self.pass.entries.rows[entries.start * width..entries.end * width];
            of_entries.clear();
            of_entries.resize(n * width, 0.0);
            for piece in slate.chunks(SIDE_BY_SIDE) {
                let columns = piece.len() * heads;
                transposed.clear(columns, width);
                asks.clear();
                found.clear();
                for (candidate, at) in piece.iter().zip((0..).step_by(heads)) {
                    let of_found = &self.found[candidate * spread..][..spread];
                    for (head, of_found) in of_found.chunks_exact(width).enumerate() {
                        transposed.put(at + head, of_found, self.sums[candidate * heads + head]);
                    }
                    found.extend_from_slice(of_found);
                    asks.extend_from_slice(&self.pass.asks[candidate * spread..][..spread]);
                }
                of_active.clear();
                transposed.multiply(rows, &mut of_active);
                let (these, rest) = scores.split_at(n * columns);
                scores = rest;
                active.resize(n * columns, 0.0);
                for (active, score) in active.iter_mut().zip(these) {
                    *active = sigmoid(*score);
                }
                // A loop of its own: with the exponential in it, the compiler makes no vectors of it.
                for ((active, of), score) in active.iter_mut().zip(&mut of_active).zip(these) {
                    let s = *active;
                    *of *= s * (1.0 - s).mul_add(*score, 1.0) * sizes.share;
                    *active = score * s * sizes.share;
                }
                let of_scores = &of_active;
                add_product(&mut of_entries, Lhs::Rows(of_scores), &asks, [n, columns, width]);
                add_product(&mut of_entries, Lhs::Rows(&active), &found, [n, columns, width]);
                of_asks.clear();
                of_asks.resize(columns * width, 0.0);
                add_product(&mut of_asks, Lhs::Columns(of_scores), rows, [columns, n, width]);
                for (candidate, of_asks) in piece.iter().zip(of_asks.chunks_exact(spread)) {
                    self.asks[candidate * spread..][..spread].copy_from_slice(of_asks);
                }
                for of_scores in of_scores.chunks_exact(columns) {
                    for (candidate, of) in piece.iter().zip(of_scores.chunks_exact(heads)) {
                        add(&mut self.biases[candidate * heads..][..heads], of);
                    }
                }
            }
            let entry_rows = rows
                .chunks_exact(width)
                .zip(&self.pass.entries.scale[entries.clone()]);
            let of_rows = of_entries.chunks_exact_mut(width).zip(entry_rows);
            for ((of, (row, scale)), places) in of_rows.zip(&inputs.entries.places[entries]) {
                from_deviation_one(of, row, *scale);
                for place in places {
                    add(&mut self.table[place * width..][..width], of);
                }
            }
        }
    }

    /// From what was asked to the candidates' rows before the layer, `[n_candidates, width]`.
    #[inline(always)]
    fn candidates(&mut self, out: &[f32]) -> Vec<f32> {
        let sizes = &self.block.sizes;
        let (n, width, projected, spread) = (self.n, sizes.width, sizes.projected(), sizes.spread());
        for head in 0..sizes.heads {
            let (query, key) = (sizes.query_at(head), sizes.key_at(head));
            add_product_to(
                &mut self.z[query..],
                projected,
                Lhs::Part(Rows::of(&self.asks, spread, head * width)),
                Rows::of(&self.block.project_turned, projected, key),
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
                    Lhs::TransposedPart(Rows::of(&self.pass.z, projected, query)),
                    Rows::of(&self.asks, spread, head * width),
                    [sizes.key, n, width],
                );
            }
        }
        let rows = &self.pass.candidates.rows;
        if self.learns {
            let of_project = &mut self.folded.project;
            add_product(of_project, Lhs::Columns(&self.z), rows, [projected, n, width]);
            for of_z in self.z.chunks_exact(projected) {
                add(&mut self.folded.project_bias, of_z);
            }
        }
        let mut of_normed = vec![0.0; n * width];
        add_product(
            &mut of_normed,
            Lhs::Rows(&self.z),
            &self.block.project,
            [n, projected, width],
        );
        let normed = rows.chunks_exact(width).zip(&self.pass.candidates.scale);
        for (of, (row, scale)) in of_normed.chunks_exact_mut(width).zip(normed) {
            from_deviation_one(of, row, *scale);
        }
        // The layer adds to what came in.
        add(&mut of_normed, out);
        of_normed
    }

    /// Gradients of the candidates' tokens.
    #[inline(always)]
    fn tokens(&mut self, inputs: HstuInputs<'_>, candidates: &[f32]) -> Vec<f32> {
        let (n, width, token) = (
            self.n,
            self.block.sizes.width,
            TOKEN_FIELDS * self.block.sizes.dim,
        );
        let mut out = vec![0.0; n * token];
        add_product(
            &mut out,
            Lhs::Rows(candidates),
            &self.block.token,
            [n, width, token],
        );
        if self.learns {
            let of_token = &mut self.folded.token;
            add_product(
                of_token,
                Lhs::Columns(candidates),
                inputs.tokens,
                [width, n, token],
            );
            for of in candidates.chunks_exact(width) {
                add(&mut self.folded.candidate, of);
            }
        }
        out
    }

    /// Gradients of the rows that histories read.
    #[inline(always)]
    fn rows(&mut self, inputs: HstuInputs<'_>) -> Vec<f32> {
        let (dim, width) = (self.block.sizes.dim, self.block.sizes.width);
        let mut out = vec![0.0; self.pass.rows.len()];
        let begins = inputs.entries.begins(self.block.counts);
        for (field, begin) in begins.into_iter().enumerate().take(TOKEN_FIELDS) {
            let n = inputs.entries.n_of(field);
            let projected = &self.table[begin * width..(begin + n) * width];
            add_product_to(
                &mut out[begin * dim..],
                dim,
                Lhs::Rows(projected),
                Rows::of(&self.block.token, TOKEN_FIELDS * dim, field * dim),
                [n, width, dim],
            );
            if self.learns {
                add_product_to(
                    &mut self.folded.token[field * dim..],
                    TOKEN_FIELDS * dim,
                    Lhs::Columns(projected),
                    Rows::of(&self.pass.rows, dim, 0).below(begin),
                    [width, n, dim],
                );
            }
        }
        out
    }
}

/// Back through [`super::forward`]'s way to deviation 1, of a gradient whose mean is 0 as the row's is.
#[inline(always)]
fn from_deviation_one(of: &mut [f32], row: &[f32], scale: f32) {
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    let along = dot(of, row) / row.len() as f32;
    for (of, x) in of.iter_mut().zip(row) {
        *of = scale * (-along).mul_add(*x, *of);
    }
}
