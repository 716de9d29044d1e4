//! From rows to what each candidate is after the layer.

use super::super::gemm::{Lhs, Rows, add_product, add_product_to};
use super::super::kernel::{COLUMNS, add, add_scaled, dot, sigmoid, silu, total};
use super::entries::PARTS;
use super::{Hstu, HstuInputs};
use crate::config::TOKEN_FIELDS;

const EPSILON: f32 = 1e-6;
/// Candidates that read a history side by side: what belongs to them stays in the nearest cache.
pub(super) const SIDE_BY_SIDE: usize = 32;

/// A forward pass, as far as the backward pass needs it.
#[derive(Clone, Debug, Default)]
pub(crate) struct HstuPass {
    /// The candidates' rows after the layer, `[n_candidates, width]`.
    pub(crate) out: Vec<f32>,
    /// The embedding rows that histories read, [`Entries::gather`](super::Entries::gather).
    pub(super) rows: Vec<f32>,
    /// Entries, with mean 0 and deviation 1, `[n_entries, width]`.
    pub(super) entries: Normed,
    /// Of each slate in turn, [`SIDE_BY_SIDE`] candidates at a time: scores `[n_entries, candidates * heads]`.
    pub(super) scores: Vec<f32>,
    /// The same of candidates, `[n_candidates, width]`.
    pub(super) candidates: Normed,
    /// Candidates projected, `[n_candidates, projected]`.
    pub(super) z: Vec<f32>,
    /// What each head of a candidate multiplies an entry by, `[n_candidates, heads * width]`.
    pub(super) asks: Vec<f32>,
    /// Entries summed by their share, `[n_candidates, heads * width]`.
    pub(super) found: Vec<f32>,
    /// The shares' sums, `[n_candidates, heads]`.
    pub(super) sums: Vec<f32>,
    /// Scores of candidates by themselves, `[n_candidates, heads]`.
    pub(super) own: Vec<f32>,
    /// What was read, with mean 0 and deviation 1, `[n_candidates, values]`.
    pub(super) read: Normed,
    /// What goes into the last layer: gate, what was read, both multiplied; `[n_candidates, 3 values]`.
    pub(super) row: Vec<f32>,
}

/// Rows of mean 0 and deviation 1, and what they were multiplied by for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Normed {
    pub(super) rows: Vec<f32>,
    pub(super) scale: Vec<f32>,
}

impl Normed {
    #[inline(always)]
    fn zeros(n: usize, width: usize) -> Self {
        Self {
            rows: vec![0.0; n * width],
            scale: vec![0.0; n],
        }
    }
}

impl HstuPass {
    #[inline(always)]
    pub(super) fn run(&mut self, block: &Hstu, inputs: HstuInputs<'_>) {
        self.entries(block, inputs);
        self.candidates(block, inputs);
        self.attend(block, inputs);
        self.finish(block);
    }

    /// Entries as sums of rows that were projected once each.
    #[inline(always)]
    fn entries(&mut self, block: &Hstu, inputs: HstuInputs<'_>) {
        let (dim, width) = (block.sizes.dim, block.sizes.width);
        self.rows = inputs.entries.gather(inputs.rows, dim);
        let begins = inputs.entries.begins(block.counts);
        let n_projected = begins[TOKEN_FIELDS];
        let mut table = vec![0.0; n_projected * width];
        for (field, begin) in begins.into_iter().enumerate().take(TOKEN_FIELDS) {
            let n = inputs.entries.n_of(field);
            add_product(
                &mut table[begin * width..],
                Lhs::Rows(&self.rows[begin * dim..]),
                &block.token_centred[field * dim * width..],
                [n, dim, width],
            );
        }
        table.extend_from_slice(&block.context);
        self.entries = Normed::zeros(inputs.entries.places.len(), width);
        let Normed { rows, scale } = &mut self.entries;
        let entries = rows.chunks_exact_mut(width).zip(scale);
        for ((row, scale), places) in entries.zip(&inputs.entries.places) {
            let [item, about, action, position, time] = part_rows(&table, width, places);
            let parts = item.iter().zip(about).zip(action).zip(position).zip(time);
            for (x, ((((a, b), c), d), e)) in row.iter_mut().zip(parts) {
                *x = (a + b) + (c + d) + e;
            }
            *scale = dot(row, row);
        }
        to_deviation_one(&mut self.entries, width);
    }

    #[inline(always)]
    fn candidates(&mut self, block: &Hstu, inputs: HstuInputs<'_>) {
        let sizes = &block.sizes;
        let (width, token) = (sizes.width, TOKEN_FIELDS * sizes.dim);
        let n = inputs.tokens.len() / token;
        self.out = block.candidate.repeat(n);
        add_product(
            &mut self.out,
            Lhs::Rows(inputs.tokens),
            &block.token_turned,
            [n, token, width],
        );
        self.candidates = Normed::zeros(n, width);
        let Normed { rows, scale } = &mut self.candidates;
        let candidates = rows.chunks_exact_mut(width).zip(scale);
        for ((row, scale), x) in candidates.zip(self.out.chunks_exact(width)) {
            *scale = to_mean_zero(row, x);
        }
        to_deviation_one(&mut self.candidates, width);
        self.z = block.project_bias.repeat(n);
        add_product(
            &mut self.z,
            Lhs::Rows(&self.candidates.rows),
            &block.project_turned,
            [n, width, sizes.projected()],
        );
        // A score is q (K x + b): what q K is, entries need no keys of their own, and by the same token no values.
        self.asks = vec![0.0; n * sizes.spread()];
        for head in 0..sizes.heads {
            add_product_to(
                &mut self.asks[head * width..],
                sizes.spread(),
                Lhs::Part(Rows::of(&self.z, sizes.projected(), sizes.query_at(head))),
                Rows::of(&block.project, width, 0).below(sizes.key_at(head)),
                [n, sizes.key, width],
            );
        }
    }

    /// Candidates read their request's history.
    #[inline(always)]
    fn attend(&mut self, block: &Hstu, inputs: HstuInputs<'_>) {
        let sizes = &block.sizes;
        let (width, heads) = (sizes.width, sizes.heads);
        let n_candidates = self.candidates.scale.len();
        self.found = vec![0.0; n_candidates * sizes.spread()];
        self.sums = vec![0.0; n_candidates * heads];
        let [mut active, mut found, mut sums] = [(); 3].map(|()| Vec::new());
        let mut transposed = TransposedPart::default();
        for (entries, slate) in inputs.requests() {
            let entry_rows = &self.entries.rows[entries.start * width..entries.end * width];
            for piece in slate.chunks(SIDE_BY_SIDE) {
                let columns = piece.len() * heads;
                transposed.clear(columns, width);
                for (candidate, at) in piece.iter().zip((0..).step_by(heads)) {
                    for head in 0..heads {
                        let query =
                            &self.z[candidate * sizes.projected() + sizes.query_at(head)..][..sizes.key];
                        let bias = dot(query, &block.project_bias[sizes.key_at(head)..][..sizes.key]);
                        let asks = &self.asks[candidate * sizes.spread() + head * width..][..width];
                        transposed.put(at + head, asks, bias);
                    }
                }
                let from = self.scores.len();
                transposed.multiply(entry_rows, &mut self.scores);
                let scores = &self.scores[from..];
                active.resize(scores.len(), 0.0);
                silu(&mut active, scores);
                found.clear();
                found.resize(columns * width, 0.0);
                let n = entries.len();
                add_product(&mut found, Lhs::Columns(&active), entry_rows, [columns, n, width]);
                sums.clear();
                sums.resize(columns, 0.0);
                for active in active.chunks_exact(columns) {
                    add(&mut sums, active);
                }
                let of_pieces = found.chunks_exact(sizes.spread()).zip(sums.chunks_exact(heads));
                for (candidate, (found, sums)) in piece.iter().zip(of_pieces) {
                    let out = &mut self.found[candidate * sizes.spread()..][..sizes.spread()];
                    add_scaled(out, sizes.share, found);
                    add_scaled(&mut self.sums[candidate * heads..][..heads], sizes.share, sums);
                }
            }
        }
    }

    /// Candidates read themselves; then gates and the last layer.
    #[inline(always)]
    fn finish(&mut self, block: &Hstu) {
        let sizes = &block.sizes;
        let (width, values, heads) = (sizes.width, sizes.values(), sizes.heads);
        let n = self.candidates.scale.len();
        self.row = vec![0.0; n * 3 * values];
        self.own = vec![0.0; n * heads];
        let rows = self.row.chunks_exact_mut(3 * values);
        let of_candidates = self.z.chunks_exact(sizes.projected()).zip(rows);
        let of_heads = self
            .own
            .chunks_exact_mut(heads)
            .zip(self.sums.chunks_exact(heads));
        for ((z, row), (own, sums)) in of_candidates.zip(of_heads) {
            let (gate, read) = row.split_at_mut(values);
            silu(gate, &z[..values]);
            for head in 0..heads {
                let query = &z[sizes.query_at(head)..][..sizes.key];
                own[head] = dot(query, &z[sizes.key_at(head)..][..sizes.key]);
                let share = own[head] * sigmoid(own[head]) * sizes.share;
                let out = &mut read[head * sizes.value..][..sizes.value];
                add_scaled(out, share, &z[sizes.value_at(head)..][..sizes.value]);
                add_scaled(
                    out,
                    sums[head],
                    &block.project_bias[sizes.value_at(head)..][..sizes.value],
                );
            }
        }
        for head in 0..heads {
            add_product_to(
                &mut self.row[values + head * sizes.value..],
                3 * values,
                Lhs::Part(Rows::of(&self.found, sizes.spread(), head * width)),
                Rows::of(&block.project_turned, sizes.projected(), sizes.value_at(head)),
                [n, width, sizes.value],
            );
        }
        self.read = Normed::zeros(n, values);
        let Normed { rows, scale } = &mut self.read;
        let normed = rows.chunks_exact_mut(values).zip(scale);
        for (row, (normed, scale)) in self.row.chunks_exact(3 * values).zip(normed) {
            *scale = to_mean_zero(normed, &row[values..2 * values]);
        }
        to_deviation_one(&mut self.read, values);
        let normed = self.read.rows.chunks_exact(values);
        for (row, normed) in self.row.chunks_exact_mut(3 * values).zip(normed) {
            let (gate, rest) = row.split_at_mut(values);
            let norm = block.out_norm[0].iter().zip(&block.out_norm[1]);
            for (((out, gate), x), (by, bias)) in rest[values..].iter_mut().zip(gate).zip(normed).zip(norm) {
                *out = *gate * x.mul_add(*by, *bias);
            }
        }
        add_product(
            &mut self.out,
            Lhs::Rows(&self.row),
            &block.out_turned,
            [n, 3 * values, width],
        );
    }
}

/// Rows of a table.
#[inline(always)]
fn part_rows<'a>(table: &'a [f32], width: usize, places: &[usize; PARTS]) -> [&'a [f32]; PARTS] {
    let row = |place: usize| &table[place * width..(place + 1) * width];
    let [a, b, c, d, e] = *places;
    [row(a), row(b), row(c), row(d), row(e)]
}

/// Brings rows of mean 0 to deviation 1, their sums of squares being where what they were multiplied by will be.
#[inline(always)]
fn to_deviation_one(normed: &mut Normed, width: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    let share = 1.0 / width as f32;
    for scale in &mut normed.scale {
        *scale = 1.0 / scale.mul_add(share, EPSILON).sqrt();
    }
    for (row, scale) in normed.rows.chunks_exact_mut(width).zip(&normed.scale) {
        for x in row {
            *x *= scale;
        }
    }
}

/// Takes a row's mean off; what is left as a sum of squares.
#[inline(always)]
fn to_mean_zero(out: &mut [f32], x: &[f32]) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    let mean = total(x) / x.len() as f32;
    for (out, x) in out.iter_mut().zip(x) {
        *out = x - mean;
    }
    dot(out, out)
}

/// Vectors as columns of a matrix, as many as fill whole blocks of a product.
#[derive(Debug, Default)]
pub(super) struct TransposedPart {
    columns: usize,
    stride: usize,
    /// `[width, stride]`
    values: Vec<f32>,
    /// Added to each product, `[stride]`.
    bias: Vec<f32>,
    products: Vec<f32>,
}

impl TransposedPart {
    /// Makes room for so many vectors of `width`.
    #[inline(always)]
    pub(super) fn clear(&mut self, columns: usize, width: usize) {
        self.columns = columns;
        self.stride = columns.next_multiple_of(COLUMNS);
        self.values.clear();
        self.values.resize(self.stride * width, 0.0);
        self.bias.clear();
        self.bias.resize(self.stride, 0.0);
    }

    #[inline(always)]
    pub(super) fn put(&mut self, column: usize, vector: &[f32], bias: f32) {
        self.bias[column] = bias;
        for (line, value) in self.values.chunks_exact_mut(self.stride).zip(vector) {
            line[column] = *value;
        }
    }

    /// Appends the products of all rows `[n, width]` with all vectors, `[n, columns]`.
    #[inline(always)]
    pub(super) fn multiply(&mut self, rows: &[f32], out: &mut Vec<f32>) {
        let width = self.values.len() / self.stride.max(1);
        let n = rows.len() / width.max(1);
        self.products.clear();
        for _ in 0..n {
            self.products.extend_from_slice(&self.bias);
        }
        let size = [n, width, self.stride];
        add_product(&mut self.products, Lhs::Rows(rows), &self.values, size);
        for products in self.products.chunks_exact(self.stride.max(1)) {
            out.extend_from_slice(&products[..self.columns]);
        }
    }
}
