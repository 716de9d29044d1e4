//! Matrix products whose blocks of the result stay in registers while their sums run.
//!
//! Compiled for the vector instructions of the machine. Every sum runs in the order of `k`, whatever the block, so the bits of
//! a row do not depend on the number of rows beside it.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::bf16;
use crate::config::MatmulPrecision;

/// Rows of a block.
const ROWS: usize = 8;
/// Columns of a result from which a transposed left side is first copied to rows: reading a number down a column costs
/// one instruction more.
const COPY_COLUMNS: usize = 96;
/// Length of sums and columns of a result from which bf16 factors are faster than `f32` ones.
const MIN_BF16: usize = 32;

/// Some columns of a row-major matrix.
#[derive(Clone, Copy)]
pub(super) struct MatrixView<'a> {
    values: &'a [f32],
    stride: usize,
}

impl<'a> MatrixView<'a> {
    /// The columns from `column` on, of a matrix with rows of `stride` floats.
    #[inline(always)]
    pub(super) fn new(values: &'a [f32], stride: usize, column: usize) -> Self {
        let values = values.get(column..).unwrap_or_default();
        Self { values, stride }
    }

    /// A row, and all values behind it.
    #[inline(always)]
    pub(super) fn row(self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..]
    }

    /// The rows from `row` on.
    #[inline(always)]
    pub(super) fn rows_from(self, row: usize) -> Self {
        Self::new(self.values, self.stride, row * self.stride)
    }
}

/// The left side of a product.
#[derive(Clone, Copy)]
pub(super) enum Lhs<'a> {
    /// `[m, k]`
    Matrix(&'a [f32]),
    /// `[k, m]`, the transpose of the factor.
    Transposed(&'a [f32]),
    /// `[m, k]`, columns of a wider matrix.
    View(MatrixView<'a>),
    /// `[k, m]`, columns of a wider matrix that hold the transpose of the factor.
    TransposedView(MatrixView<'a>),
}

impl<'a> Lhs<'a> {
    /// The stored matrix, and whether it is the transpose of the factor `[m, k]`.
    #[inline(always)]
    pub(super) fn view(self, m: usize, k: usize) -> (MatrixView<'a>, bool) {
        match self {
            Lhs::Matrix(a) => (MatrixView::new(a, k, 0), false),
            Lhs::View(a) => (a, false),
            Lhs::Transposed(a) => (MatrixView::new(a, m, 0), true),
            Lhs::TransposedView(a) => (a, true),
        }
    }
}

/// `c += a b`: `a [m, k]`, `b [k, n]`, `c [m, n]`.
pub(super) fn add_product(c: &mut [f32], a: Lhs<'_>, b: &[f32], [m, k, n]: [usize; 3]) {
    add_product_to(c, n, a, MatrixView::new(b, n, 0), [m, k, n]);
}

/// `c += a b` for columns of wider matrices: the rows of `c` are `stride` floats apart.
pub(super) fn add_product_to(c: &mut [f32], stride: usize, a: Lhs<'_>, b: MatrixView<'_>, size: [usize; 3]) {
    // Compiled once, not into each of its callers.
    Arch::new().dispatch(AddProduct(Output { values: c, stride }, a, b, size));
}

/// `c = a b + row`: `a [m, k]`, `row [n]` added to each row. The previous contents of `c` are not read.
pub(super) fn set_product(c: &mut [f32], row: &[f32], a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) {
    let c = Output { values: c, stride: n };
    let b = Rhs {
        matrix: MatrixView::new(b, n, 0),
        start: row,
        n,
    };
    Arch::new().dispatch(SetProduct(c, MatrixView::new(a, k, 0), b, [m, k]));
}

/// Products in the precision of a model's configuration.
impl MatmulPrecision {
    /// See [`add_product`].
    pub(super) fn add_product(self, c: &mut [f32], a: Lhs<'_>, b: &[f32], [m, k, n]: [usize; 3]) {
        self.add_product_to(c, n, a, MatrixView::new(b, n, 0), [m, k, n]);
    }

    /// See [`add_product_to`].
    pub(super) fn add_product_to(
        self,
        c: &mut [f32],
        stride: usize,
        a: Lhs<'_>,
        b: MatrixView<'_>,
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
            true => bf16::product(c, n, Lhs::Matrix(a), MatrixView::new(b, n, 0), Some(row), size),
            false => set_product(c, row, a, b, size),
        }
    }

    /// Whether factors are rounded to bf16: packing small matrices would cost more than it saves. The number of rows is not
    /// considered, so that the bits of a row do not depend on it.
    fn is_bf16(self, [_, k, n]: [usize; 3]) -> bool {
        self == Self::Bf16 && k >= MIN_BF16 && n >= MIN_BF16
    }
}

/// The result of a product, rows of `stride` floats.
struct Output<'a> {
    values: &'a mut [f32],
    stride: usize,
}

impl Output<'_> {
    #[inline(always)]
    fn rows_from(&mut self, row: usize) -> Output<'_> {
        Output {
            values: &mut self.values[row * self.stride..],
            stride: self.stride,
        }
    }
}

/// The right side of a product `[k, n]`, and the row that its sums start from.
#[derive(Clone, Copy)]
struct Rhs<'a> {
    matrix: MatrixView<'a>,
    /// `[n]`; not read by products that are added.
    start: &'a [f32],
    n: usize,
}

struct AddProduct<'a>(Output<'a>, Lhs<'a>, MatrixView<'a>, [usize; 3]);

impl WithSimd for AddProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(c, a, matrix, [m, k, n]) = self;
        let b = Rhs {
            matrix,
            start: &[],
            n,
        };
        match a.view(m, k) {
            (a, true) => transposed_product(simd, c, a, b, [m, k]),
            (a, false) => product::<S, false>(simd, c, a, b, [m, k]),
        }
    }
}

struct SetProduct<'a>(Output<'a>, MatrixView<'a>, Rhs<'a>, [usize; 2]);

impl WithSimd for SetProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self(c, a, b, size) = self;
        product::<S, true>(simd, c, a, b, size);
    }
}

/// `c = a b + start` if `SETS`, else `c += a b`.
#[inline(always)]
fn product<S: Simd, const SETS: bool>(
    simd: S,
    mut c: Output<'_>,
    a: MatrixView<'_>,
    b: Rhs<'_>,
    [m, k]: [usize; 2],
) {
    let line = |row: usize| a.values[row * a.stride..][..k].iter();
    let mut row = 0;
    while row + ROWS <= m {
        // Zipped into one iterator, the rows need no bounds check at each step.
        let first = line(row).zip(line(row + 1)).zip(line(row + 2)).zip(line(row + 3));
        let second = line(row + 4)
            .zip(line(row + 5))
            .zip(line(row + 6))
            .zip(line(row + 7));
        let left = first
            .zip(second)
            .map(|((((a, b), c), d), (((e, f), g), h))| [*a, *b, *c, *d, *e, *f, *g, *h]);
        block::<S, _, SETS>(simd, c.rows_from(row), left, b);
        row += ROWS;
    }
    if row + 4 <= m {
        let left = line(row).zip(line(row + 1)).zip(line(row + 2)).zip(line(row + 3));
        let left = left.map(|(((a, b), c), d)| [*a, *b, *c, *d]);
        block::<S, _, SETS>(simd, c.rows_from(row), left, b);
        row += 4;
    }
    if row + 2 <= m {
        let left = line(row).zip(line(row + 1)).map(|(a, b)| [*a, *b]);
        block::<S, _, SETS>(simd, c.rows_from(row), left, b);
        row += 2;
    }
    if row < m {
        block::<S, _, SETS>(simd, c.rows_from(row), line(row).map(|a| [*a]), b);
    }
}

/// `c += a b` where `a [k, m]` is the transpose of the factor.
#[inline(always)]
fn transposed_product<S: Simd>(
    simd: S,
    mut c: Output<'_>,
    a: MatrixView<'_>,
    b: Rhs<'_>,
    [m, k]: [usize; 2],
) {
    let copies = b.n >= COPY_COLUMNS;
    let mut rows = vec![0.0; if copies { ROWS * k } else { 0 }];
    let mut row = 0;
    while row + ROWS <= m {
        let lines = a.values.chunks(a.stride).take(k).map(|line| {
            let mut left = [0.0; ROWS];
            left.copy_from_slice(&line[row..row + ROWS]);
            left
        });
        let c = c.rows_from(row);
        if copies {
            for (at, left) in lines.enumerate() {
                for (r, value) in left.into_iter().enumerate() {
                    rows[r * k + at] = value;
                }
            }
            product::<S, false>(simd, c, MatrixView::new(&rows, k, 0), b, [ROWS, k]);
        } else {
            block::<S, _, false>(simd, c, lines, b);
        }
        row += ROWS;
    }
    while row < m {
        let left = a.values.chunks(a.stride).take(k).map(|line| [line[row]]);
        block::<S, _, false>(simd, c.rows_from(row), left, b);
        row += 1;
    }
}

/// `R` rows of a product; `left` yields the factors of each step of the sums.
#[inline(always)]
fn block<S: Simd, const R: usize, const SETS: bool>(
    simd: S,
    mut c: Output<'_>,
    left: impl Iterator<Item = [f32; R]> + Clone,
    b: Rhs<'_>,
) {
    let mut column = 0;
    // Where half of the registers hold the sums of a tile, it reads ten numbers for sixteen multiply-adds; a narrow one reads
    // nine for eight.
    while S::REGISTER_COUNT >= 32 && column + 2 * S::F32_LANES <= b.n {
        tile::<S, R, 2, SETS>(simd, c.rows_from(0), left.clone(), b, column);
        column += 2 * S::F32_LANES;
    }
    while column + S::F32_LANES <= b.n {
        tile::<S, R, 1, SETS>(simd, c.rows_from(0), left.clone(), b, column);
        column += S::F32_LANES;
    }
    if column < b.n {
        last_columns::<S, R, SETS>(simd, c, left, b, column..b.n);
    }
}

/// `R` rows of a product by `W` registers of columns, from `column` on.
#[inline(always)]
fn tile<S: Simd, const R: usize, const W: usize, const SETS: bool>(
    simd: S,
    c: Output<'_>,
    left: impl Iterator<Item = [f32; R]>,
    b: Rhs<'_>,
    column: usize,
) {
    let columns = column..column + W * S::F32_LANES;
    let start = match SETS {
        true => registers::<S, W>(&b.start[columns.clone()]),
        false => [simd.splat_f32s(0.0); W],
    };
    let mut sums = [start; R];
    for (left, line) in left.zip(b.matrix.values.chunks(b.matrix.stride)) {
        let line = registers::<S, W>(&line[columns.clone()]);
        for (sums, left) in sums.iter_mut().zip(left) {
            let left = simd.splat_f32s(left);
            for (sum, line) in sums.iter_mut().zip(line) {
                *sum = simd.mul_add_f32s(left, line, *sum);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        let c = S::as_mut_simd_f32s(&mut c.values[r * c.stride..][columns.clone()]).0;
        for (c, sum) in c.iter_mut().zip(sums) {
            *c = match SETS {
                true => sum,
                false => simd.add_f32s(*c, sum),
            };
        }
    }
}

/// `W` registers of a row that has as many.
#[inline(always)]
fn registers<S: Simd, const W: usize>(line: &[f32]) -> [S::f32s; W] {
    let line = S::as_simd_f32s(line).0;
    std::array::from_fn(|at| line[at])
}

/// `R` rows of a product by its last columns, fewer than a register holds.
#[inline(always)]
fn last_columns<S: Simd, const R: usize, const SETS: bool>(
    simd: S,
    c: Output<'_>,
    left: impl Iterator<Item = [f32; R]>,
    b: Rhs<'_>,
    columns: Range<usize>,
) {
    let start = match SETS {
        true => simd.partial_load_f32s(&b.start[columns.clone()]),
        false => simd.splat_f32s(0.0),
    };
    let mut sums = [start; R];
    for (left, line) in left.zip(b.matrix.values.chunks(b.matrix.stride)) {
        let line = simd.partial_load_f32s(&line[columns.clone()]);
        for (sum, left) in sums.iter_mut().zip(left) {
            *sum = simd.mul_add_f32s(simd.splat_f32s(left), line, *sum);
        }
    }
    for (r, sum) in sums.into_iter().enumerate() {
        let c = &mut c.values[r * c.stride..][columns.clone()];
        let sum = match SETS {
            true => sum,
            false => simd.add_f32s(simd.partial_load_f32s(c), sum),
        };
        simd.partial_store_f32s(c, sum);
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
                for n in [1, 15, 16, 17, 40, 100] {
                    let a: Vec<f32> = (0..m * k).map(number).collect();
                    let b: Vec<f32> = (0..k * n).map(|at| number(at + 1000)).collect();
                    let transposed: Vec<f32> = (0..k * m).map(|at| a[(at % m) * k + at / m]).collect();
                    let row: Vec<f32> = (0..n).map(|at| number(at + 2000)).collect();
                    let mut set = vec![f32::NAN; m * n];
                    set_product(&mut set, &row, &a, &b, [m, k, n]);
                    for left in [Lhs::Matrix(&a), Lhs::Transposed(&transposed)] {
                        let mut added = vec![1.0; m * n];
                        add_product(&mut added, left, &b, [m, k, n]);
                        for (at, (added, set)) in added.iter().zip(&set).enumerate() {
                            let (line, column) = (at / n, at % n);
                            let sum: f32 = (0..k).map(|i| a[line * k + i] * b[i * n + column]).sum();
                            assert!((added - 1.0 - sum).abs() < 1e-4, "{m} {k} {n}");
                            assert!((set - row[column] - sum).abs() < 1e-4, "{m} {k} {n}");
                        }
                    }
                }
            }
        }
    }
}
