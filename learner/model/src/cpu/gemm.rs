//! Small matrix products: a block of the result stays in registers while its sums run.
//!
//! They bring their own vector instructions, those of the machine at hand. The order of every sum is that of `k`, whatever
//! the block, so a row's bits do not depend on how many there are beside it.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::bf16;
use crate::config::MatmulPrecision;

/// Rows of a block: together with the columns as many sums as fit the registers.
const ROWS: usize = 8;
/// Columns of a result from which on it pays to turn the columns of a left side into rows first: read down, each number
/// costs an instruction more.
const WIDE: usize = 96;
/// Length of sums and columns of a result from which on rounded factors are faster.
const PACKED: usize = 32;

/// Rows of numbers, each `stride` behind the one before it.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    values: &'a [f32],
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Columns of a matrix with rows of `stride`, from `column` on.
    #[inline(always)]
    pub(super) fn of(values: &'a [f32], stride: usize, column: usize) -> Self {
        let values = values.get(column..).unwrap_or_default();
        Self { values, stride }
    }

    /// One row, with what lies behind it.
    #[inline(always)]
    pub(super) fn row(self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..]
    }

    /// The rows from `row` on.
    #[inline(always)]
    pub(super) fn below(self, row: usize) -> Self {
        Self::of(self.values, self.stride, row * self.stride)
    }
}

/// The left side of a product.
#[derive(Clone, Copy)]
pub(super) enum Lhs<'a> {
    /// `[m, k]`, row after row.
    Rows(&'a [f32]),
    /// `[k, m]`, row after row: the transpose of what is multiplied.
    Columns(&'a [f32]),
    /// `[m, k]`, a part of a matrix.
    Part(Rows<'a>),
    /// `[k, m]`, a part of a matrix: the transpose of what is multiplied.
    TransposedPart(Rows<'a>),
}

/// `c += a b`: `a [m, k]`, `b [k, n]` row after row, `c [m, n]` row after row.
pub(super) fn add_product(c: &mut [f32], a: Lhs<'_>, b: &[f32], [m, k, n]: [usize; 3]) {
    add_product_to(c, n, a, Rows::of(b, n, 0), [m, k, n]);
}

/// The same for parts of matrices: the rows of `c` are `stride` apart.
pub(super) fn add_product_to(c: &mut [f32], stride: usize, a: Lhs<'_>, b: Rows<'_>, size: [usize; 3]) {
    // Compiled once, not into each of its callers.
    Arch::new().dispatch(Product(c, stride, a, b, size));
}

/// `c = a b + row`: `a [m, k]`, `row [n]` added to each row. What `c` held is not read.
pub(super) fn set_product(c: &mut [f32], row: &[f32], a: &[f32], b: &[f32], size: [usize; 3]) {
    Arch::new().dispatch(SetProduct(c, row, a, b, size));
}

/// The same in the precision that a model is configured with.
impl MatmulPrecision {
    /// See [`add_product`].
    pub(super) fn add_product(self, c: &mut [f32], a: Lhs<'_>, b: &[f32], [m, k, n]: [usize; 3]) {
        self.add_product_to(c, n, a, Rows::of(b, n, 0), [m, k, n]);
    }

    /// See [`add_product_to`].
    pub(super) fn add_product_to(
        self,
        c: &mut [f32],
        stride: usize,
        a: Lhs<'_>,
        b: Rows<'_>,
        size: [usize; 3],
    ) {
        match self.is_bf16(size) {
            true => bf16::product(c, stride, a, b, None, size),
            false => add_product_to(c, stride, a, b, size),
        }
    }

    /// See [`set_product`].
    pub(super) fn set_product(self, c: &mut [f32], row: &[f32], a: &[f32], b: &[f32], size: [usize; 3]) {
        let [_, _, n] = size;
        match self.is_bf16(size) {
            true => bf16::product(c, n, Lhs::Rows(a), Rows::of(b, n, 0), Some(row), size),
            false => set_product(c, row, a, b, size),
        }
    }

    /// Whether factors are rounded. Those of small matrices are not: to pack them would take as long as it saves. How
    /// many rows there are decides nothing, so that a row's bits do not depend on it.
    fn is_bf16(self, [_, k, n]: [usize; 3]) -> bool {
        self == Self::Bf16 && k >= PACKED && n >= PACKED
    }
}

struct Product<'a>(&'a mut [f32], usize, Lhs<'a>, Rows<'a>, [usize; 3]);

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(c, stride, a, b, [m, k, n]) = self;
        let (a, is_transposed) = match a {
            Lhs::Rows(a) => (Rows::of(a, k, 0), false),
            Lhs::Part(a) => (a, false),
            Lhs::Columns(a) => (Rows::of(a, m, 0), true),
            Lhs::TransposedPart(a) => (a, true),
        };
        if is_transposed {
            columns_by(simd, c, stride, a, b, [m, k, n]);
        } else {
            rows_by::<S, false>(simd, c, stride, a, b, &[], [m, k, n]);
        }
    }
}

struct SetProduct<'a>(&'a mut [f32], &'a [f32], &'a [f32], &'a [f32], [usize; 3]);

impl WithSimd for SetProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(c, row, a, b, [m, k, n]) = self;
        rows_by::<S, true>(simd, c, n, Rows::of(a, k, 0), Rows::of(b, n, 0), row, [m, k, n]);
    }
}

/// Starts from `from [n]` and writes where it `SETS`; else it adds to what is there.
#[inline(always)]
fn rows_by<S: Simd, const SETS: bool>(
    simd: S,
    c: &mut [f32],
    stride: usize,
    a: Rows<'_>,
    b: Rows<'_>,
    from: &[f32],
    [m, k, n]: [usize; 3],
) {
    let line = |row: usize| a.values[row * a.stride..][..k].iter();
    let mut row = 0;
    while row + ROWS <= m {
        // Side by side in one iterator, they need no check of their own at each step.
        let first = line(row).zip(line(row + 1)).zip(line(row + 2)).zip(line(row + 3));
        let second = line(row + 4)
            .zip(line(row + 5))
            .zip(line(row + 6))
            .zip(line(row + 7));
        let left = first
            .zip(second)
            .map(|((((a, b), c), d), (((e, f), g), h))| [*a, *b, *c, *d, *e, *f, *g, *h]);
        block::<S, _, SETS>(simd, &mut c[row * stride..], stride, b, left, from, n);
        row += ROWS;
    }
    if row + 4 <= m {
        let left = line(row).zip(line(row + 1)).zip(line(row + 2)).zip(line(row + 3));
        let left = left.map(|(((a, b), c), d)| [*a, *b, *c, *d]);
        block::<S, _, SETS>(simd, &mut c[row * stride..], stride, b, left, from, n);
        row += 4;
    }
    if row + 2 <= m {
        let left = line(row).zip(line(row + 1)).map(|(a, b)| [*a, *b]);
        block::<S, _, SETS>(simd, &mut c[row * stride..], stride, b, left, from, n);
        row += 2;
    }
    if row < m {
        block::<S, _, SETS>(
            simd,
            &mut c[row * stride..],
            stride,
            b,
            line(row).map(|a| [*a]),
            from,
            n,
        );
    }
}

#[inline(always)]
fn columns_by<S: Simd>(
    simd: S,
    c: &mut [f32],
    stride: usize,
    a: Rows<'_>,
    b: Rows<'_>,
    [m, k, n]: [usize; 3],
) {
    let mut transposed = vec![0.0; if n >= WIDE { ROWS * k } else { 0 }];
    let mut row = 0;
    while row + ROWS <= m {
        let lines = a.values.chunks(a.stride).take(k).map(|line| {
            let mut left = [0.0; ROWS];
            left.copy_from_slice(&line[row..row + ROWS]);
            left
        });
        let c = &mut c[row * stride..];
        if n >= WIDE {
            for (at, left) in lines.enumerate() {
                for (r, value) in left.into_iter().enumerate() {
                    transposed[r * k + at] = value;
                }
            }
            rows_by::<S, false>(simd, c, stride, Rows::of(&transposed, k, 0), b, &[], [ROWS, k, n]);
        } else {
            block::<S, _, false>(simd, c, stride, b, lines, &[], n);
        }
        row += ROWS;
    }
    while row < m {
        let left = a.values.chunks(a.stride).take(k).map(|line| [line[row]]);
        block::<S, _, false>(simd, &mut c[row * stride..], stride, b, left, &[], n);
        row += 1;
    }
}

/// `R` rows of a product, `left` giving what each step of the sum multiplies.
#[inline(always)]
fn block<S: Simd, const R: usize, const SETS: bool>(
    simd: S,
    c: &mut [f32],
    stride: usize,
    b: Rows<'_>,
    left: impl Iterator<Item = [f32; R]> + Clone,
    from: &[f32],
    n: usize,
) {
    for column in (0..n).step_by(S::F32_LANES) {
        let columns = column..n.min(column + S::F32_LANES);
        if columns.len() == S::F32_LANES {
            tile::<S, R, SETS, true>(simd, c, stride, b, columns, from, left.clone());
        } else {
            tile::<S, R, SETS, false>(simd, c, stride, b, columns, from, left.clone());
        }
    }
}

/// `R` rows of a product and as many columns as a vector register has lanes, or fewer where it is not `FULL`. Every sum
/// runs in the order of `k`, whatever the tile.
#[inline(always)]
fn tile<S: Simd, const R: usize, const SETS: bool, const FULL: bool>(
    simd: S,
    c: &mut [f32],
    stride: usize,
    b: Rows<'_>,
    columns: Range<usize>,
    from: &[f32],
    left: impl Iterator<Item = [f32; R]>,
) {
    let start = match SETS {
        true => load::<S, FULL>(simd, &from[columns.clone()]),
        false => simd.splat_f32s(0.0),
    };
    let mut sums = [start; R];
    for (left, line) in left.zip(b.values.chunks(b.stride)) {
        let line = load::<S, FULL>(simd, &line[columns.clone()]);
        for (sum, left) in sums.iter_mut().zip(left) {
            *sum = simd.mul_add_f32s(simd.splat_f32s(left), line, *sum);
        }
    }
    for (r, sum) in sums.into_iter().enumerate() {
        let c = &mut c[r * stride..][columns.clone()];
        let sum = match SETS {
            true => sum,
            false => simd.add_f32s(load::<S, FULL>(simd, c), sum),
        };
        match FULL {
            true => S::as_mut_simd_f32s(c).0[0] = sum,
            false => simd.partial_store_f32s(c, sum),
        }
    }
}
/// A register's worth of a row, or what there is of it.
#[inline(always)]
fn load<S: Simd, const FULL: bool>(simd: S, line: &[f32]) -> S::f32s {
    match FULL {
        true => S::as_simd_f32s(line).0[0],
        false => simd.partial_load_f32s(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_every_shape_are_sums_of_products() {
        let number = |at: usize| crate::normal(3, at as u64, 0);
        for m in [1, 5, 6, 13] {
            for k in [1, 7, 16] {
                for n in [1, 15, 16, 17, 40] {
                    let a: Vec<f32> = (0..m * k).map(number).collect();
                    let b: Vec<f32> = (0..k * n).map(|at| number(at + 1000)).collect();
                    let transposed: Vec<f32> = (0..k * m).map(|at| a[(at % m) * k + at / m]).collect();
                    let row: Vec<f32> = (0..n).map(|at| number(at + 2000)).collect();
                    let mut set = vec![f32::NAN; m * n];
                    set_product(&mut set, &row, &a, &b, [m, k, n]);
                    for left in [Lhs::Rows(&a), Lhs::Columns(&transposed)] {
                        let mut c = vec![1.0; m * n];
                        add_product(&mut c, left, &b, [m, k, n]);
                        for (at, (found, set)) in c.iter().zip(&set).enumerate() {
                            let (line, column) = (at / n, at % n);
                            let sum: f32 = (0..k).map(|i| a[line * k + i] * b[i * n + column]).sum();
                            assert!((found - 1.0 - sum).abs() < 1e-4, "{m} {k} {n}");
                            assert!((set - row[column] - sum).abs() < 1e-4, "{m} {k} {n}");
                        }
                    }
                }
            }
        }
    }
}
