//! Loops over rows and the logistic function, written so that the compiler makes vector instructions of them.
//!
//! All of it is inlined into a caller that [`pulp`] has compiled for the machine at hand. The order of every sum is fixed,
//! so one machine gives the same bits each time.

/// Sums of a row that run side by side: one or two vector registers.
pub(super) const COLUMNS: usize = 16;

/// `[rows, columns]` -> `[columns, rows]`
pub(super) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    /// Square of numbers that stays in the cache while it is transposed.
    const SQUARE: usize = 16;
    let mut out = vec![0.0; rows * columns];
    for top in (0..rows).step_by(SQUARE) {
        let height = SQUARE.min(rows - top);
        for left in (0..columns).step_by(SQUARE) {
            for column in left..columns.min(left + SQUARE) {
                let line = &mut out[column * rows + top..][..height];
                for (row, out) in line.iter_mut().enumerate() {
                    *out = values[(top + row) * columns + column];
                }
            }
        }
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

/// [`silu`], its derivative in place of what it is of.
#[inline(always)]
pub(super) fn silu_and_slope(active: &mut [f32], x: &mut [f32]) {
    for (active, x) in active.iter_mut().zip(x) {
        let s = sigmoid(*x);
        *active = *x * s;
        *x = s * (1.0 - s).mul_add(*x, 1.0);
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
}
