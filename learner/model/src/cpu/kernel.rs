//! Loops over rows that the compiler turns into vector instructions.
//!
//! All of them are inlined into a caller that [`pulp`] compiles for the machine, see [`vectorized`]. The order of every sum is
//! fixed, so one machine computes the same bits each time.

/// Sums of a row that run side by side: one or two vector registers.
pub(super) const COLUMNS: usize = 16;

/// Defines a call that [`pulp::Arch::dispatch`] compiles for the machine's vector instructions.
///
/// A closure would not do: the compiler compiles it by itself, without the instructions that it is called for.
macro_rules! vectorized {
    ($name:ident<$($lifetime:lifetime),+>($($field:ident: $type:ty),+ $(,)?) => $body:expr) => {
        struct $name<$($lifetime),+>($($type),+);

        impl<$($lifetime),+> pulp::NullaryFnOnce for $name<$($lifetime),+> {
            type Output = ();

            #[inline(always)]
            fn call(self) {
                let Self($($field),+) = self;
                $body;
            }
        }
    };
}
pub(super) use vectorized;

/// The transpose of a matrix `[rows, columns]`.
pub(super) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    /// Edge of a square that stays in the cache while it is transposed.
    const EDGE: usize = 16;
    let mut out = vec![0.0; rows * columns];
    for top in (0..rows).step_by(EDGE) {
        let height = EDGE.min(rows - top);
        for left in (0..columns).step_by(EDGE) {
            for column in left..columns.min(left + EDGE) {
                let line = &mut out[column * rows + top..][..height];
                for (row, out) in line.iter_mut().enumerate() {
                    *out = values[(top + row) * columns + column];
                }
            }
        }
    }
    out
}

/// Writes the transpose of rows of `columns` floats to `out`.
#[inline(always)]
pub(super) fn transpose_to(out: &mut [f32], values: &[f32], columns: usize) {
    let rows = values.len() / columns.max(1);
    for (row, values) in values.chunks_exact(columns.max(1)).enumerate() {
        for (column, value) in values.iter().enumerate() {
            out[column * rows + row] = *value;
        }
    }
}

/// Row `at` of a matrix with rows of `width` floats.
#[inline(always)]
pub(super) fn row(values: &[f32], at: usize, width: usize) -> &[f32] {
    &values[at * width..(at + 1) * width]
}

/// Row `at` of a matrix with rows of `width` floats, to be written.
#[inline(always)]
pub(super) fn row_mut(values: &mut [f32], at: usize, width: usize) -> &mut [f32] {
    &mut values[at * width..(at + 1) * width]
}

/// An index of the batch's inputs, which are `i64` for libtorch.
#[inline(always)]
pub(super) fn index(at: i64) -> usize {
    usize::try_from(at).unwrap_or(0)
}

/// Ranges of consecutive candidates with the same request.
pub(super) fn runs(request_of: &[i64]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    request_of.chunk_by(|a, b| a == b).map(move |run| {
        at += run.len();
        at - run.len()..at
    })
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

/// The dot product of two rows, in [`COLUMNS`] sums side by side.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; COLUMNS];
    let (a, b) = (a.chunks_exact(COLUMNS), b.chunks_exact(COLUMNS));
    let mut tail = 0.0f32;
    for (a, b) in a.remainder().iter().zip(b.remainder()) {
        tail = a.mul_add(*b, tail);
    }
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.mul_add(*b, *sum);
        }
    }
    sum_of_lanes(&sums) + tail
}

/// The dot product of two rows before its [`COLUMNS`] sums are added up: [`total`] adds those of many rows at once.
#[inline(always)]
pub(super) fn dot_lanes(a: &[f32], b: &[f32]) -> [f32; COLUMNS] {
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

/// The sum of a row, in [`COLUMNS`] sums side by side.
#[inline(always)]
pub(super) fn total(x: &[f32]) -> f32 {
    let mut sums = [0.0f32; COLUMNS];
    let x = x.chunks_exact(COLUMNS);
    let tail: f32 = x.remainder().iter().sum();
    for x in x {
        add(&mut sums, x);
    }
    sum_of_lanes(&sums) + tail
}

/// Adds the upper half to the lower one until one sum is left. Not inlined: the compiler would split the loop before it.
#[inline(never)]
fn sum_of_lanes(sums: &[f32; COLUMNS]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| sums[i] + sums[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}
