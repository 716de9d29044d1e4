//! Small matrix products and the logistic function, written so that the compiler makes vector instructions of them.
//!
//! Everything here is inlined into a caller that [`pulp`] has compiled for the machine at hand. The order of every
//! sum is fixed, so one machine gives the same bits each time.

/// Columns of a block of the result: one or two vector registers wide.
const COLUMNS: usize = 16;
/// Rows of a block: together with the columns as many sums as fit the registers.
const ROWS: usize = 8;

/// The left side of a product.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// `[m, k]`, row after row.
    Rows(&'a [f32]),
    /// `[k, m]`, row after row: the transpose of what is multiplied.
    Columns(&'a [f32]),
}

/// `c += a b`: `a [m, k]`, `b [k, n]` row after row, `c [m, n]` row after row.
#[inline(always)]
pub(super) fn add_product(c: &mut [f32], a: Left<'_>, b: &[f32], [m, k, n]: [usize; 3]) {
    let mut row = 0;
    while row + ROWS <= m {
        rows::<ROWS>(c, a, b, row, [m, k, n]);
        row += ROWS;
    }
    while row < m {
        rows::<1>(c, a, b, row, [m, k, n]);
        row += 1;
    }
}

/// `R` rows of the product from `row` on.
#[inline(always)]
fn rows<const R: usize>(c: &mut [f32], a: Left<'_>, b: &[f32], row: usize, [m, k, n]: [usize; 3]) {
    let whole = n - n % COLUMNS;
    for column in (0..whole).step_by(COLUMNS) {
        let mut sums = [[0.0f32; COLUMNS]; R];
        for i in 0..k {
            let Some(line) = b.get(i * n + column..i * n + column + COLUMNS) else {
                return;
            };
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = match a {
                    Left::Rows(a) => a[(row + r) * k + i],
                    Left::Columns(a) => a[i * m + row + r],
                };
                for (sum, b) in sums.iter_mut().zip(line) {
                    *sum = a.mul_add(*b, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let at = (row + r) * n + column;
            for (c, sum) in c[at..at + COLUMNS].iter_mut().zip(sums) {
                *c += sum;
            }
        }
    }
    for r in row..row + R {
        for column in whole..n {
            let mut sum = 0.0f32;
            for i in 0..k {
                let a = match a {
                    Left::Rows(a) => a[r * k + i],
                    Left::Columns(a) => a[i * m + r],
                };
                sum = a.mul_add(b[i * n + column], sum);
            }
            c[r * n + column] += sum;
        }
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
    sums.iter().sum::<f32>() + rest
}

/// `1 / (1 + exp(-x))` to within some units of the last place: exponentials by a polynomial on `[-ln 2 / 2, ln 2 / 2]`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn exp(x: f32) -> f32 {
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
                    for left in [Left::Rows(&a), Left::Columns(&turned)] {
                        let mut c = vec![1.0; m * n];
                        add_product(&mut c, left, &b, [m, k, n]);
                        for (at, found) in c.iter().enumerate() {
                            let (row, column) = (at / n, at % n);
                            let sum: f32 = (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum();
                            assert!((found - 1.0 - sum).abs() < 1e-4, "{m} {k} {n}");
                        }
                    }
                }
            }
        }
    }
}
