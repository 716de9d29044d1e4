//! Softmax attention of rows to the entries of their request, by head.

use std::ops::Range;

use crate::cpu::gemm::{Lhs, MatrixView, add_product_to};
use crate::cpu::kernel::{add_scaled, dot, row, row_mut};
use crate::cpu::softmax::{softmax, softmax_backward};

/// Consecutive rows that attend to the entries of one request.
#[derive(Debug)]
pub(in crate::cpu) struct Reader {
    /// The place of the first one among all rows.
    pub(super) first: usize,
    /// Their places among the rows that the layer computes.
    pub(super) active: Range<usize>,
    /// The entries of their request.
    pub(super) past: Range<usize>,
}

/// Heads of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) n: usize,
    pub(super) key: usize,
    pub(super) value: usize,
}

/// Projected rows.
#[derive(Clone, Copy)]
pub(super) struct Projected<'a> {
    /// Of active rows, `[n_active, keys]`.
    pub(super) query: &'a [f32],
    /// Of all rows, `[n, keys + values]`.
    pub(super) key_value: &'a [f32],
}

/// Gradients by the fields of [`Projected`].
#[derive(Debug)]
pub(super) struct ProjectedGradients {
    pub(super) query: Vec<f32>,
    pub(super) key_value: Vec<f32>,
}

impl Reader {
    /// Whether the rows are entries: they attend to those up to themselves. Others attend to all, and each to itself besides.
    fn is_past(&self) -> bool {
        self.first < self.past.end
    }

    /// Shares of a row and head: one for each entry, and one for the row itself where it is no entry.
    fn columns(&self) -> usize {
        self.past.len() + usize::from(!self.is_past())
    }

    /// Shares of a row that are not 0.
    fn visible(&self, at: usize) -> usize {
        match self.is_past() {
            true => self.first + at - self.past.start + 1,
            false => self.columns(),
        }
    }

    /// Number of shares of all rows and heads.
    fn n_shares(&self, heads: Heads) -> usize {
        heads.n * self.active.len() * self.columns()
    }
}

impl Heads {
    fn keys(self) -> usize {
        self.n * self.key
    }

    fn values(self) -> usize {
        self.n * self.value
    }

    /// Floats of a row's keys and values.
    fn stride(self) -> usize {
        self.keys() + self.values()
    }

    fn scale(self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "a width")]
        let key = self.key as f32;
        key.sqrt().recip()
    }

    /// A row's value of a head.
    #[inline(always)]
    fn value_of(self, key_value: &[f32], at: usize, head: usize) -> &[f32] {
        &row(key_value, at, self.stride())[self.keys() + head * self.value..][..self.value]
    }

    /// A row's key of a head.
    #[inline(always)]
    fn key_of(self, key_value: &[f32], at: usize, head: usize) -> &[f32] {
        &row(key_value, at, self.stride())[head * self.key..][..self.key]
    }

    /// Some columns of the rows of `past`, transposed and scaled: `[width, n]`.
    #[inline(always)]
    fn transposed(
        self,
        key_value: &[f32],
        past: &Range<usize>,
        columns: Range<usize>,
        scale: f32,
    ) -> Vec<f32> {
        let n = past.len();
        let mut out = vec![0.0; columns.len() * n];
        for (entry, at) in past.clone().enumerate() {
            let values = &row(key_value, at, self.stride())[columns.clone()];
            for (column, value) in values.iter().enumerate() {
                out[column * n + entry] = scale * value;
            }
        }
        out
    }

    /// Shares of all rows and heads, reader after reader and head after head, `[n_active, columns]` each, and what the rows read,
    /// `[n_active, values]`.
    #[inline(always)]
    pub(super) fn forward(self, readers: &[Reader], rows: Projected<'_>) -> (Vec<f32>, Vec<f32>) {
        let n_shares = readers.iter().map(|reader| reader.n_shares(self)).sum();
        let mut shares = vec![0.0; n_shares];
        let mut read = vec![0.0; rows.query.len() / self.keys() * self.values()];
        let mut at = 0;
        for reader in readers {
            for head in 0..self.n {
                let n = reader.active.len() * reader.columns();
                self.read_head(reader, head, rows, (&mut shares[at..at + n], &mut read));
                at += n;
            }
        }
        (shares, read)
    }

    #[inline(always)]
    fn read_head(
        self,
        reader: &Reader,
        head: usize,
        rows: Projected<'_>,
        (shares, read): (&mut [f32], &mut [f32]),
    ) {
        let (m, n, columns) = (reader.active.len(), reader.past.len(), reader.columns());
        let queries =
            MatrixView::new(rows.query, self.keys(), head * self.key).rows_from(reader.active.start);
        if n > 0 {
            let key = head * self.key..(head + 1) * self.key;
            let keys = self.transposed(rows.key_value, &reader.past, key, self.scale());
            let keys = MatrixView::new(&keys, n, 0);
            add_product_to(shares, columns, Lhs::View(queries), keys, [m, self.key, n]);
        }
        for (at, shares) in shares.chunks_exact_mut(columns).enumerate() {
            if !reader.is_past() {
                let query = &queries.row(at)[..self.key];
                let own = dot(query, self.key_of(rows.key_value, reader.first + at, head));
                shares[n] = self.scale() * own;
            }
            let (visible, hidden) = shares.split_at_mut(reader.visible(at));
            softmax(visible);
            hidden.fill(0.0);
        }
        if n > 0 {
            let values = MatrixView::new(rows.key_value, self.stride(), self.keys() + head * self.value);
            add_product_to(
                &mut read[reader.active.start * self.values() + head * self.value..],
                self.values(),
                Lhs::View(MatrixView::new(shares, columns, 0)),
                values.rows_from(reader.past.start),
                [m, n, self.value],
            );
        }
        if !reader.is_past() {
            for (at, shares) in shares.chunks_exact(columns).enumerate() {
                let read = row_mut(read, reader.active.start + at, self.values());
                let read = &mut read[head * self.value..][..self.value];
                add_scaled(
                    read,
                    shares[n],
                    self.value_of(rows.key_value, reader.first + at, head),
                );
            }
        }
    }

    /// From the gradient of what the rows read, `[n_active, values]`, to that of queries, keys and values.
    #[inline(always)]
    pub(super) fn backward(
        self,
        readers: &[Reader],
        rows: Projected<'_>,
        mut shares: &[f32],
        of_read: &[f32],
    ) -> ProjectedGradients {
        let mut out = ProjectedGradients {
            query: vec![0.0; rows.query.len()],
            key_value: vec![0.0; rows.key_value.len()],
        };
        for reader in readers {
            for head in 0..self.n {
                let (of_head, later) = shares.split_at(reader.active.len() * reader.columns());
                shares = later;
                let of_scores = self.scores_back(reader, head, rows, (of_head, of_read), &mut out);
                self.products_back(reader, head, rows, &of_scores, &mut out);
            }
        }
        out
    }

    /// Adds the gradients of values; returns that of the scores before their scale, `[n_active, columns]`.
    #[inline(always)]
    fn scores_back(
        self,
        reader: &Reader,
        head: usize,
        rows: Projected<'_>,
        (shares, of_read): (&[f32], &[f32]),
        out: &mut ProjectedGradients,
    ) -> Vec<f32> {
        let (m, n, columns) = (reader.active.len(), reader.past.len(), reader.columns());
        let column = self.keys() + head * self.value;
        let of_read =
            MatrixView::new(of_read, self.values(), head * self.value).rows_from(reader.active.start);
        let mut of_scores = vec![0.0; shares.len()];
        if n > 0 {
            let values = self.transposed(rows.key_value, &reader.past, column..column + self.value, 1.0);
            let values = MatrixView::new(&values, n, 0);
            add_product_to(
                &mut of_scores,
                columns,
                Lhs::View(of_read),
                values,
                [m, self.value, n],
            );
            add_product_to(
                &mut out.key_value[reader.past.start * self.stride() + column..],
                self.stride(),
                Lhs::TransposedView(MatrixView::new(shares, columns, 0)),
                of_read,
                [n, m, self.value],
            );
        }
        let rows_of = of_scores
            .chunks_exact_mut(columns)
            .zip(shares.chunks_exact(columns));
        for (at, (of_scores, shares)) in rows_of.enumerate() {
            if !reader.is_past() {
                let place = reader.first + at;
                let of_read = &of_read.row(at)[..self.value];
                of_scores[n] = dot(of_read, self.value_of(rows.key_value, place, head));
                let of_value = row_mut(&mut out.key_value, place, self.stride());
                add_scaled(&mut of_value[column..][..self.value], shares[n], of_read);
            }
            // A hidden place has no share, and so no gradient.
            softmax_backward(of_scores, shares, dot(of_scores, shares));
            for of in of_scores {
                *of *= self.scale();
            }
        }
        of_scores
    }

    /// Adds the gradients of queries and keys.
    #[inline(always)]
    fn products_back(
        self,
        reader: &Reader,
        head: usize,
        rows: Projected<'_>,
        of_scores: &[f32],
        out: &mut ProjectedGradients,
    ) {
        let (m, n, columns) = (reader.active.len(), reader.past.len(), reader.columns());
        let column = head * self.key;
        let queries = MatrixView::new(rows.query, self.keys(), column).rows_from(reader.active.start);
        if n > 0 {
            let keys = MatrixView::new(rows.key_value, self.stride(), column).rows_from(reader.past.start);
            add_product_to(
                &mut out.query[reader.active.start * self.keys() + column..],
                self.keys(),
                Lhs::View(MatrixView::new(of_scores, columns, 0)),
                keys,
                [m, n, self.key],
            );
            add_product_to(
                &mut out.key_value[reader.past.start * self.stride() + column..],
                self.stride(),
                Lhs::TransposedView(MatrixView::new(of_scores, columns, 0)),
                queries,
                [n, m, self.key],
            );
        }
        if reader.is_past() {
            return;
        }
        for (at, of_scores) in of_scores.chunks_exact(columns).enumerate() {
            let (place, of) = (reader.first + at, of_scores[n]);
            let of_query = row_mut(&mut out.query, reader.active.start + at, self.keys());
            add_scaled(
                &mut of_query[column..][..self.key],
                of,
                self.key_of(rows.key_value, place, head),
            );
            let of_key = row_mut(&mut out.key_value, place, self.stride());
            add_scaled(
                &mut of_key[column..][..self.key],
                of,
                &queries.row(at)[..self.key],
            );
        }
    }
}
