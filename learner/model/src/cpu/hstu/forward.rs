//! The forward pass of [`Hstu`], from embedding rows to each candidate's row after the layer.

#[cfg(doc)]
use super::entries::Entries;
use super::entries::PARTS;
use super::{Hstu, HstuInputs};
use crate::config::TOKEN_FIELDS;
use crate::cpu::activation::{sigmoid, silu};
use crate::cpu::gemm::{Lhs, MatrixView, add_product, add_product_to};
use crate::cpu::kernel::{COLUMNS, add, add_scaled, dot, row, row_mut, total};

const EPSILON: f32 = 1e-6;
/// Candidates that read a history together: their data stays in the nearest cache.
pub(super) const PIECE: usize = 32;

/// A forward pass, with what the backward pass needs.
#[derive(Debug, Default)]
pub(crate) struct HstuForward {
    /// The candidates' rows after the layer, `[n_candidates, width]`.
    pub(crate) output: Vec<f32>,
    /// Embedding rows of the histories, see [`Entries::gather`].
    pub(super) rows: Vec<f32>,
    /// Entries, `[n_entries, width]`.
    pub(super) entries: NormalizedRows,
    /// Scores of each slate, [`PIECE`] candidates at a time: `[n_entries, candidates * heads]`.
    pub(super) scores: Vec<f32>,
    /// Candidates, `[n_candidates, width]`.
    pub(super) candidates: NormalizedRows,
    /// Candidates projected, `[n_candidates, projected]`.
    pub(super) z: Vec<f32>,
    /// Queries of each head in the entries' space, `q K`, `[n_candidates, heads * width]`.
    pub(super) queries: Vec<f32>,
    /// Entries summed by their shares, for each head, `[n_candidates, heads * width]`.
    pub(super) sums: Vec<f32>,
    /// The sums of the shares, `[n_candidates, heads]`.
    pub(super) totals: Vec<f32>,
    /// Scores of candidates against themselves, `[n_candidates, heads]`.
    pub(super) own: Vec<f32>,
    /// What candidates read, `[n_candidates, values]`.
    pub(super) read: NormalizedRows,
    /// Inputs of the last layer, `[n_candidates, 3 values]`: gate, what was read, and gate times its norm.
    pub(super) last: Vec<f32>,
}

/// Rows of mean 0 and variance 1, and the factors that made the variance 1.
///
/// Unlike [`LayerNorm::normalize`](crate::cpu::layer_norm::LayerNorm::normalize) this computes the factors of all rows
/// together, in vector registers, and callers whose rows have mean 0 skip that step.
#[derive(Debug, Default)]
pub(super) struct NormalizedRows {
    pub(super) rows: Vec<f32>,
    pub(super) factors: Vec<f32>,
}

impl NormalizedRows {
    #[inline(always)]
    fn zeros(n: usize, width: usize) -> Self {
        Self {
            rows: vec![0.0; n * width],
            factors: vec![0.0; n],
        }
    }

    /// Scales rows of mean 0 to variance 1; their sums of squares are in place of the factors.
    #[inline(always)]
    fn scale_to_unit_variance(&mut self, width: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a width")]
        let share = 1.0 / width as f32;
        for factor in &mut self.factors {
            *factor = 1.0 / factor.mul_add(share, EPSILON).sqrt();
        }
        for (row, factor) in self.rows.chunks_exact_mut(width).zip(&self.factors) {
            for x in row {
                *x *= factor;
            }
        }
    }
}

impl HstuForward {
    #[inline(always)]
    pub(super) fn run(&mut self, block: &Hstu, inputs: HstuInputs<'_>) {
        self.entries(block, inputs);
        self.candidates(block, inputs);
        self.attend(block, inputs);
        self.read_self(block);
        self.last_layer(block);
    }

    /// Entries as sums of rows that are projected once each.
    #[inline(always)]
    fn entries(&mut self, block: &Hstu, inputs: HstuInputs<'_>) {
        let (dim, width) = (block.sizes.dim, block.sizes.width);
        self.rows = inputs.entries.gather(inputs.rows, dim);
        let begins = inputs.entries.begins(block.counts);
        let mut table = vec![0.0; begins[TOKEN_FIELDS] * width];
        for (field, begin) in begins.into_iter().enumerate().take(TOKEN_FIELDS) {
            let n = inputs.entries.n_of(field);
            add_product(
                &mut table[begin * width..],
                Lhs::Matrix(&self.rows[begin * dim..]),
                &block.token_centred[field * dim * width..],
                [n, dim, width],
            );
        }
        table.extend_from_slice(&block.context);
        self.entries = NormalizedRows::zeros(inputs.entries.places.len(), width);
        let NormalizedRows { rows, factors } = &mut self.entries;
        let entries = rows.chunks_exact_mut(width).zip(factors);
        for ((out, factor), places) in entries.zip(&inputs.entries.places) {
            let [item, about, action, position, time] = part_rows(&table, width, places);
            let parts = item.iter().zip(about).zip(action).zip(position).zip(time);
            for (x, ((((a, b), c), d), e)) in out.iter_mut().zip(parts) {
                *x = (a + b) + (c + d) + e;
            }
            *factor = dot(out, out);
        }
        self.entries.scale_to_unit_variance(width);
    }

    /// Candidates' rows, their projection, and their queries in the entries' space.
    #[inline(always)]
    fn candidates(&mut self, block: &Hstu, inputs: HstuInputs<'_>) {
        let sizes = &block.sizes;
        let (width, token) = (sizes.width, TOKEN_FIELDS * sizes.dim);
        let n = inputs.tokens.len() / token;
        self.output = block.candidate.repeat(n);
        add_product(
            &mut self.output,
            Lhs::Matrix(inputs.tokens),
            &block.token.transposed,
            [n, token, width],
        );
        self.candidates = NormalizedRows::zeros(n, width);
        let NormalizedRows { rows, factors } = &mut self.candidates;
        let candidates = rows.chunks_exact_mut(width).zip(factors);
        for ((out, factor), x) in candidates.zip(self.output.chunks_exact(width)) {
            *factor = subtract_mean(out, x);
        }
        self.candidates.scale_to_unit_variance(width);
        self.z = block.project_bias.repeat(n);
        add_product(
            &mut self.z,
            Lhs::Matrix(&self.candidates.rows),
            &block.project_transposed,
            [n, width, sizes.projected()],
        );
        self.queries = vec![0.0; n * sizes.all_heads()];
        for head in 0..sizes.heads {
            let queries = MatrixView::new(&self.z, sizes.projected(), sizes.query_at(head));
            add_product_to(
                &mut self.queries[head * width..],
                sizes.all_heads(),
                Lhs::View(queries),
                MatrixView::new(&block.project, width, 0).rows_from(sizes.key_at(head)),
                [n, sizes.key, width],
            );
        }
    }

    /// Candidates read their request's history.
    #[inline(always)]
    fn attend(&mut self, block: &Hstu, inputs: HstuInputs<'_>) {
        let sizes = &block.sizes;
        let (width, heads, all_heads) = (sizes.width, sizes.heads, sizes.all_heads());
        let n_candidates = self.candidates.factors.len();
        self.sums = vec![0.0; n_candidates * all_heads];
        self.totals = vec![0.0; n_candidates * heads];
        let [mut active, mut sums, mut totals] = [(); 3].map(|()| Vec::new());
        let mut queries = PackedColumns::default();
        for (entries, slate) in inputs.requests() {
            let entry_rows = &self.entries.rows[entries.start * width..entries.end * width];
            for piece in slate.chunks(PIECE) {
                let columns = piece.len() * heads;
                queries.clear(columns, width);
                for (candidate, at) in piece.iter().zip((0..).step_by(heads)) {
                    let z = row(&self.z, *candidate, sizes.projected());
                    let rows = row(&self.queries, *candidate, all_heads).chunks_exact(width);
                    for (head, query) in rows.enumerate() {
                        let key_bias = &block.project_bias[sizes.key_at(head)..][..sizes.key];
                        let bias = dot(&z[sizes.query_at(head)..][..sizes.key], key_bias);
                        queries.put(at + head, query, bias);
                    }
                }
                let from = self.scores.len();
                queries.multiply(entry_rows, &mut self.scores);
                let scores = &self.scores[from..];
                active.resize(scores.len(), 0.0);
                silu(&mut active, scores);
                sums.clear();
                sums.resize(columns * width, 0.0);
                let size = [columns, entries.len(), width];
                add_product(&mut sums, Lhs::Transposed(&active), entry_rows, size);
                totals.clear();
                totals.resize(columns, 0.0);
                for active in active.chunks_exact(columns) {
                    add(&mut totals, active);
                }
                let of_piece = sums.chunks_exact(all_heads).zip(totals.chunks_exact(heads));
                for (candidate, (sums, totals)) in piece.iter().zip(of_piece) {
                    let out = row_mut(&mut self.sums, *candidate, all_heads);
                    add_scaled(out, sizes.share, sums);
                    let out = row_mut(&mut self.totals, *candidate, heads);
                    add_scaled(out, sizes.share, totals);
                }
            }
        }
    }

    /// Gates, and what candidates read of themselves and through the bias of values.
    #[inline(always)]
    fn read_self(&mut self, block: &Hstu) {
        let sizes = &block.sizes;
        let (values, heads) = (sizes.values(), sizes.heads);
        let n = self.candidates.factors.len();
        self.last = vec![0.0; n * 3 * values];
        self.own = vec![0.0; n * heads];
        let rows = self.last.chunks_exact_mut(3 * values);
        let of_candidates = self.z.chunks_exact(sizes.projected()).zip(rows);
        let of_heads = self
            .own
            .chunks_exact_mut(heads)
            .zip(self.totals.chunks_exact(heads));
        for ((z, last), (own, totals)) in of_candidates.zip(of_heads) {
            let (gate, read) = last.split_at_mut(values);
            silu(gate, &z[..values]);
            for head in 0..heads {
                let query = &z[sizes.query_at(head)..][..sizes.key];
                own[head] = dot(query, &z[sizes.key_at(head)..][..sizes.key]);
                let share = own[head] * sigmoid(own[head]) * sizes.share;
                let out = &mut read[head * sizes.value..][..sizes.value];
                add_scaled(out, share, &z[sizes.value_at(head)..][..sizes.value]);
                let bias = &block.project_bias[sizes.value_at(head)..][..sizes.value];
                add_scaled(out, totals[head], bias);
            }
        }
    }

    /// What candidates read of the history, the norm of it all, and the last layer.
    #[inline(always)]
    fn last_layer(&mut self, block: &Hstu) {
        let sizes = &block.sizes;
        let (width, values) = (sizes.width, sizes.values());
        let n = self.candidates.factors.len();
        for head in 0..sizes.heads {
            let sums = MatrixView::new(&self.sums, sizes.all_heads(), head * width);
            let (projected, at) = (sizes.projected(), sizes.value_at(head));
            add_product_to(
                &mut self.last[values + head * sizes.value..],
                3 * values,
                Lhs::View(sums),
                MatrixView::new(&block.project_transposed, projected, at),
                [n, width, sizes.value],
            );
        }
        self.read = NormalizedRows::zeros(n, values);
        let NormalizedRows { rows, factors } = &mut self.read;
        let normalized = rows.chunks_exact_mut(values).zip(factors);
        for (last, (out, factor)) in self.last.chunks_exact(3 * values).zip(normalized) {
            *factor = subtract_mean(out, &last[values..2 * values]);
        }
        self.read.scale_to_unit_variance(values);
        let normalized = self.read.rows.chunks_exact(values);
        for (last, normalized) in self.last.chunks_exact_mut(3 * values).zip(normalized) {
            let (gate, rest) = last.split_at_mut(values);
            let norm = block.out_norm.weight.iter().zip(&block.out_norm.bias);
            let gated = rest[values..].iter_mut().zip(gate).zip(normalized).zip(norm);
            for (((out, gate), x), (by, bias)) in gated {
                *out = *gate * x.mul_add(*by, *bias);
            }
        }
        add_product(
            &mut self.output,
            Lhs::Matrix(&self.last),
            &block.out.transposed,
            [n, 3 * values, width],
        );
    }
}

/// The rows that an entry is the sum of.
#[inline(always)]
fn part_rows<'a>(table: &'a [f32], width: usize, places: &[usize; PARTS]) -> [&'a [f32]; PARTS] {
    let [a, b, c, d, e] = *places;
    let part = |place| row(table, place, width);
    [part(a), part(b), part(c), part(d), part(e)]
}

/// Writes a row minus its mean. Returns the sum of squares.
#[inline(always)]
fn subtract_mean(out: &mut [f32], x: &[f32]) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    let mean = total(x) / x.len() as f32;
    for (out, x) in out.iter_mut().zip(x) {
        *out = x - mean;
    }
    dot(out, out)
}

/// Vectors as columns of a matrix, padded to whole blocks of a product.
#[derive(Debug, Default)]
pub(super) struct PackedColumns {
    columns: usize,
    stride: usize,
    /// `[width, stride]`
    values: Vec<f32>,
    /// Added to each product, `[stride]`.
    bias: Vec<f32>,
    products: Vec<f32>,
}

impl PackedColumns {
    /// Makes room for vectors of `width` floats.
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
        add_product(&mut self.products, Lhs::Matrix(rows), &self.values, size);
        for products in self.products.chunks_exact(self.stride.max(1)) {
            out.extend_from_slice(&products[..self.columns]);
        }
    }
}
