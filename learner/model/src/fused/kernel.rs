//! Small matrix products and the logistic function, written so that the compiler makes vector instructions of them.
//!
//! Products bring their own vector instructions; everything else here is inlined into a caller that [`pulp`] has compiled
//! for the machine at hand. The order of every sum is fixed, so one machine gives the same bits each time.

use pulp::{Arch, NullaryFnOnce};

/// Columns of a block of the result: one or two vector registers wide.
pub(super) const COLUMNS: usize = 16;
/// Columns of the block behind the last whole one.
const HALF: usize = 8;
/// Rows of a block: together with the columns as many sums as fit the registers.
const ROWS: usize = 8;
/// Columns of a result from which on it pays to turn the columns of a left side into rows first: read down, each number
/// costs an instruction more.
const WIDE: usize = 96;

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

    /// The rows from `row` on.
    #[inline(always)]
    pub(super) fn below(self, row: usize) -> Self {
        Self::of(self.values, self.stride, row * self.stride)
    }
}

/// The left side of a product.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// `[m, k]`, row after row.
    Rows(&'a [f32]),
    /// `[k, m]`, row after row: the transpose of what is multiplied.
    Columns(&'a [f32]),
    /// `[m, k]`, a part of a matrix.
    Part(Rows<'a>),
    /// `[k, m]`, a part of a matrix: the transpose of what is multiplied.
    Turned(Rows<'a>),
}

/// `c += a b`: `a [m, k]`, `b [k, n]` row after row, `c [m, n]` row after row.
pub(super) fn add_product(c: &mut [f32], a: Left<'_>, b: &[f32], [m, k, n]: [usize; 3]) {
    add_product_to(c, n, a, Rows::of(b, n, 0), [m, k, n]);
}

/// The same for parts of matrices: the rows of `c` are `stride` apart.
pub(super) fn add_product_to(c: &mut [f32], stride: usize, a: Left<'_>, b: Rows<'_>, size: [usize; 3]) {
    // Compiled once, not into each of its callers.
    Arch::new().dispatch(Product(c, stride, a, b, size));
}

/// `c = a b + row`: `a [m, k]`, `row [n]` added to each row. What `c` held is not read.
pub(super) fn set_product(c: &mut [f32], row: &[f32], a: &[f32], b: &[f32], size: [usize; 3]) {
    Arch::new().dispatch(SetProduct(c, row, a, b, size));
}

struct Product<'a>(&'a mut [f32], usize, Left<'a>, Rows<'a>, [usize; 3]);

impl NullaryFnOnce for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self(c, stride, a, b, [m, k, n]) = self;
        let (a, is_turned) = match a {
            Left::Rows(a) => (Rows::of(a, k, 0), false),
            Left::Part(a) => (a, false),
            Left::Columns(a) => (Rows::of(a, m, 0), true),
            Left::Turned(a) => (a, true),
        };
        if is_turned {
            columns_by(c, stride, a, b, [m, k, n]);
        } else {
            rows_by::<false>(c, stride, a, b, &[], [m, k, n]);
        }
    }
}

struct SetProduct<'a>(&'a mut [f32], &'a [f32], &'a [f32], &'a [f32], [usize; 3]);

impl NullaryFnOnce for SetProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self(c, row, a, b, [m, k, n]) = self;
        rows_by::<true>(c, n, Rows::of(a, k, 0), Rows::of(b, n, 0), row, [m, k, n]);
    }
}

/// Starts from `from [n]` and writes where it `SETS`; else it adds to what is there.
#[inline(always)]
fn rows_by<const SETS: bool>(
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
        block::<_, SETS>(&mut c[row * stride..], stride, b, left, from, n);
        row += ROWS;
    }
    if row + 4 <= m {
        let left = line(row).zip(line(row + 1)).zip(line(row + 2)).zip(line(row + 3));
        let left = left.map(|(((a, b), c), d)| [*a, *b, *c, *d]);
        block::<_, SETS>(&mut c[row * stride..], stride, b, left, from, n);
        row += 4;
    }
    if row + 2 <= m {
        let left = line(row).zip(line(row + 1)).map(|(a, b)| [*a, *b]);
        block::<_, SETS>(&mut c[row * stride..], stride, b, left, from, n);
        row += 2;
    }
    if row < m {
        block::<_, SETS>(
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
fn columns_by(c: &mut [f32], stride: usize, a: Rows<'_>, b: Rows<'_>, [m, k, n]: [usize; 3]) {
    let mut turned = vec![0.0; if n >= WIDE { ROWS * k } else { 0 }];
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
                    turned[r * k + at] = value;
                }
            }
            rows_by::<false>(c, stride, Rows::of(&turned, k, 0), b, &[], [ROWS, k, n]);
        } else {
            block::<_, false>(c, stride, b, lines, &[], n);
        }
        row += ROWS;
    }
    while row < m {
        let left = a.values.chunks(a.stride).take(k).map(|line| [line[row]]);
        block::<_, false>(&mut c[row * stride..], stride, b, left, &[], n);
        row += 1;
    }
}

/// `R` rows of a product, `left` giving what each step of the sum multiplies.
#[inline(always)]
fn block<const R: usize, const SETS: bool>(
    c: &mut [f32],
    stride: usize,
    b: Rows<'_>,
    left: impl Iterator<Item = [f32; R]> + Clone,
    from: &[f32],
    n: usize,
) {
    let mut column = 0;
    while column + COLUMNS <= n {
        tile::<R, COLUMNS, SETS>(c, stride, b, column, from, left.clone());
        column += COLUMNS;
    }
    if column + HALF <= n {
        tile::<R, HALF, SETS>(c, stride, b, column, from, left.clone());
        column += HALF;
    }
    while column < n {
        tile::<R, 1, SETS>(c, stride, b, column, from, left.clone());
        column += 1;
    }
}

/// `R` rows and `C` columns of a product, summed in registers. Every sum runs in the order of `k`, whatever the tile.
#[inline(always)]
fn tile<const R: usize, const C: usize, const SETS: bool>(
    c: &mut [f32],
    stride: usize,
    b: Rows<'_>,
    column: usize,
    from: &[f32],
    left: impl Iterator<Item = [f32; R]>,
) {
    let mut sums = [[0.0f32; C]; R];
    if SETS {
        let from = &from[column..column + C];
        for sums in &mut sums {
            sums.copy_from_slice(from);
        }
    }
    for (left, line) in left.zip(b.values.chunks(b.stride)) {
        let line = &line[column..column + C];
        for (sums, a) in sums.iter_mut().zip(left) {
            for (sum, b) in sums.iter_mut().zip(line) {
                *sum = a.mul_add(*b, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (c, sum) in c[r * stride + column..][..C].iter_mut().zip(sums) {
            if SETS {
                *c = *sum;
            } else {
                *c += sum;
            }
        }
    }
}

/// `[rows, columns]` -> `[columns, rows]`
pub(super) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for column in 0..columns {
        out.extend((0..rows).map(|row| values[row * columns + column]));
    }
    out
}

/// The same for rows of `columns` into what is there.
#[inline(always)]
pub(super) fn transpose_to(out: &mut [f32], values: &[f32], columns: usize) {
    let rows = values.len() / columns.max(1);
    for (row, values) in values.chunks_exact(columns.max(1)).enumerate() {
        for (column, value) in values.iter().enumerate() {
            out[column * rows + row] = *value;
        }
    }
}

/// `out += x`
#[inline(always)]
pub(super) fn add(out: &mut [f32], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

/// `out += scale * x`
#[inline(always)]
pub(super) fn add_scaled(out: &mut [f32], scale: f32, x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = scale.mul_add(*x, *out);
    }
}

/// The sum of products, in as many sums side by side as a block has columns.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; COLUMNS];
    let (a, b) = (a.chunks_exact(COLUMNS), b.chunks_exact(COLUMNS));
    let mut rest = 0.0f32;
    for (a, b) in a.remainder().iter().zip(b.remainder()) {
        rest = a.mul_add(*b, rest);
    }
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.mul_add(*b, *sum);
        }
    }
    of_block(&sums) + rest
}

/// The sum of numbers, in the same way.
#[inline(always)]
pub(super) fn total(x: &[f32]) -> f32 {
    let mut sums = [0.0f32; COLUMNS];
    let x = x.chunks_exact(COLUMNS);
    let rest: f32 = x.remainder().iter().sum();
    for x in x {
        add(&mut sums, x);
    }
    of_block(&sums) + rest
}

/// Halves onto halves. Not inlined: the compiler would cut the sums before it into pieces for this.
#[inline(never)]
fn of_block(sums: &[f32; COLUMNS]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| sums[i] + sums[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// `x / (1 + exp(-x))`
#[inline(always)]
pub(super) fn silu(out: &mut [f32], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = x * sigmoid(*x);
    }
}

/// The derivative of [`silu`].
#[inline(always)]
pub(super) fn slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 - s).mul_add(x, 1.0)
}

/// `1 / (1 + exp(-x))` to within some units of the last place: exponentials by a polynomial on `[-ln 2 / 2, ln 2 / 2]`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding it rounds to whole numbers, which then stand in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = (-whole).mul_add(LN2_LOW, (-whole).mul_add(LN2_HIGH, x));
    let mut sum = 1.987_569_1e-4f32;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        sum = sum.mul_add(rest, coefficient);
    }
    let fraction = sum.mul_add(rest * rest, rest) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    fraction * power
}

/// The sums of products that [`dot`] adds up at its end, so that many of those ends can come together.
#[inline(always)]
pub(super) fn products(a: &[f32], b: &[f32]) -> [f32; COLUMNS] {
    let mut sums = [0.0f32; COLUMNS];
    let (a, b) = (a.chunks_exact(COLUMNS), b.chunks_exact(COLUMNS));
    for ((sum, a), b) in sums.iter_mut().zip(a.remainder()).zip(b.remainder()) {
        *sum = a.mul_add(*b, *sum);
    }
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.mul_add(*b, *sum);
        }
    }
    sums
}

/// [`silu`] and its derivative.
#[inline(always)]
pub(super) fn silu_and_slope(active: &mut [f32], slopes: &mut [f32], x: &[f32]) {
    for ((active, slope), x) in active.iter_mut().zip(slopes).zip(x) {
        let s = sigmoid(*x);
        *active = x * s;
        *slope = s * (1.0 - s).mul_add(*x, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logistic_function_is_right_over_its_whole_range() {
        for step in -4000i16..=4000 {
            let x = f32::from(step) / 40.0;
            let expected = 1.0 / (1.0 + (-f64::from(x)).exp());
            let found = f64::from(sigmoid(x));
            assert!(
                (found - expected).abs() <= 3e-7 * expected + 1e-37,
                "{x}: {found} {expected}"
            );
        }
    }

    #[test]
    fn products_of_every_shape_are_sums_of_products() {
        let number = |at: usize| crate::normal(3, at as u64, 0);
        for m in [1, 5, 6, 13] {
            for k in [1, 7, 16] {
                for n in [1, 15, 16, 17, 40] {
                    let a: Vec<f32> = (0..m * k).map(number).collect();
                    let b: Vec<f32> = (0..k * n).map(|at| number(at + 1000)).collect();
                    let turned: Vec<f32> = (0..k * m).map(|at| a[(at % m) * k + at / m]).collect();
                    let row: Vec<f32> = (0..n).map(|at| number(at + 2000)).collect();
                    let mut set = vec![f32::NAN; m * n];
                    set_product(&mut set, &row, &a, &b, [m, k, n]);
                    for left in [Left::Rows(&a), Left::Columns(&turned)] {
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
