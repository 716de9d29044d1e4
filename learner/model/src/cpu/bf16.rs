//! MatmulPrecision of factors rounded to bf16, 8 bits of mantissa: processors with units for it multiply two pairs and add them
//! up in `f32` where they multiply one otherwise.
//!
//! Both sides are rounded and packed anew for each product, a pair of neighbours along the sum side by side in 32 bits.
//! The order of every sum is that of `k`, in pairs, whatever the block: a row's bits do not depend on how many there are
//! beside it. Without the units the factors are rounded and multiplied as ever: nothing is gained, and the same learned.

use super::gemm::{Lhs, MatrixView, add_product_to};

/// Whether this processor has units for products of factors rounded to bf16.
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

/// `c += a b`, or `c = a b + from` where there is such a row, the rows of `c` being `stride` apart.
pub(super) fn product(
    c: &mut [f32],
    stride: usize,
    a: Lhs<'_>,
    b: MatrixView<'_>,
    from: Option<&[f32]>,
    size: [usize; 3],
) {
    #[cfg(target_arch = "x86_64")]
    if has_bf16_units() {
        #[expect(unsafe_code, reason = "see SAFETY")]
        // SAFETY: the processor has the instructions that the function is compiled for.
        unsafe {
            x86::product(c, stride, a, b, from, size);
        }
        return;
    }
    by_rounding(c, stride, a, b, from, size);
}

/// The same on any processor.
fn by_rounding(
    c: &mut [f32],
    stride: usize,
    a: Lhs<'_>,
    b: MatrixView<'_>,
    from: Option<&[f32]>,
    [m, k, n]: [usize; 3],
) {
    if let Some(from) = from {
        for row in c.chunks_mut(stride.max(1)).take(m) {
            row[..n].copy_from_slice(from);
        }
    }
    let all = |x: MatrixView<'_>, rows: usize, columns: usize| -> Vec<f32> {
        let rows = (0..rows).flat_map(|row| &x.row(row)[..columns]);
        rows.map(|x| rounded(*x)).collect()
    };
    let b = all(b, k, n);
    let (left, is_transposed) = match a {
        Lhs::Matrix(a) => (all(MatrixView::new(a, k, 0), m, k), false),
        Lhs::View(a) => (all(a, m, k), false),
        Lhs::Transposed(a) => (all(MatrixView::new(a, m, 0), k, m), true),
        Lhs::TransposedView(a) => (all(a, k, m), true),
    };
    let left = match is_transposed {
        true => Lhs::Transposed(&left),
        false => Lhs::Matrix(&left),
    };
    add_product_to(c, stride, left, MatrixView::new(&b, n, 0), [m, k, n]);
}

/// To the nearest number of 8 bits of mantissa, to an even one where two are as near.
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
