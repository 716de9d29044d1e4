//! Matrix products with bf16 factors and `f32` sums: processors with units for them multiply pairs of factors at a time.
//!
//! Both sides are rounded to 8 bits of mantissa and packed anew for each product, two neighbours along the sum in 32 bits. Every
//! sum runs in the order of `k`, in pairs, whatever the block, so the bits of a row do not depend on the number of rows
//! beside it. Without such units the factors are rounded and multiplied in `f32`: the same is learned, at no gain.

use super::gemm::{Lhs, MatrixView, add_product_to};

/// Whether this processor has units for products of bf16 factors.
#[must_use]
pub fn has_bf16_units() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// `c += a b`, or `c = a b + start` where that row is given; the rows of `c` are `stride` floats apart.
pub(super) fn product(
    c: &mut [f32],
    stride: usize,
    a: Lhs<'_>,
    b: MatrixView<'_>,
    start: Option<&[f32]>,
    size: [usize; 3],
) {
    #[cfg(target_arch = "x86_64")]
    if has_bf16_units() {
        #[expect(unsafe_code, reason = "see SAFETY")]
        // SAFETY: the processor has the instructions that the function is compiled for.
        unsafe {
            x86::product(c, stride, a, b, start, size);
        }
        return;
    }
    product_by_rounding(c, stride, a, b, start, size);
}

/// [`product`] on any processor.
fn product_by_rounding(
    c: &mut [f32],
    stride: usize,
    a: Lhs<'_>,
    b: MatrixView<'_>,
    start: Option<&[f32]>,
    [m, k, n]: [usize; 3],
) {
    if let Some(start) = start {
        for row in c.chunks_mut(stride.max(1)).take(m) {
            row[..n].copy_from_slice(start);
        }
    }
    let round = |x: MatrixView<'_>, rows: usize, columns: usize| -> Vec<f32> {
        let rows = (0..rows).flat_map(|row| &x.row(row)[..columns]);
        rows.map(|x| rounded(*x)).collect()
    };
    let b = round(b, k, n);
    let b = MatrixView::new(&b, n, 0);
    match a.view(m, k) {
        (a, true) => add_product_to(c, stride, Lhs::Transposed(&round(a, k, m)), b, [m, k, n]),
        (a, false) => add_product_to(c, stride, Lhs::Matrix(&round(a, m, k)), b, [m, k, n]),
    }
}

/// Rounds to the nearest number with 8 bits of mantissa, to an even one on a tie.
fn rounded(x: f32) -> f32 {
    let bits = x.to_bits();
    let up = 0x7fff + ((bits >> 16) & 1);
    match x.is_nan() {
        true => x,
        false => f32::from_bits(bits.wrapping_add(up) & 0xffff_0000),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;
