//! Products with bf16 factors by the instructions of AVX-512 BF16.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    _mm512_storeu_si512,
};
use std::cell::Cell;

use crate::cpu::gemm::{Lhs, MatrixView};

/// `f32` sums of a register.
const LANES: usize = 16;
/// Rows of a block: with two registers of columns, enough sums to hide the latency of a product.
const ROWS: usize = 8;

thread_local! {
    /// Buffers of both packed sides, reused by the thousands of products of a step.
    static PACKED: Cell<[Vec<u32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// See [`super::product`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn product(
    c: &mut [f32],
    stride: usize,
    a: Lhs<'_>,
    b: MatrixView<'_>,
    start: Option<&[f32]>,
    [m, k, n]: [usize; 3],
) {
    if m == 0 || n == 0 {
        return;
    }
    let [mut left, mut right] = PACKED.take();
    pack_columns(&mut right, b, k, n);
    let (a, is_transposed) = a.view(m, k);
    match is_transposed {
        true => pack_columns(&mut left, a, k, m),
        false => pack_rows(&mut left, a, m, k),
    }
    let pairs = k.div_ceil(2);
    let mut product = Product {
        c,
        stride,
        left: &left,
        is_transposed,
        line: packed_row(k),
        right: &right,
        start,
        pairs,
        n,
    };
    let mut row = 0;
    while row < m {
        row += match m - row {
            ROWS.. => product.block::<ROWS>(row),
            4.. => product.block::<4>(row),
            2.. => product.block::<2>(row),
            _ => product.block::<1>(row),
        };
    }
    PACKED.set([left, right]);
}

/// Packed pairs of some rows of the left side.
#[derive(Clone, Copy)]
struct Lines<'a> {
    values: &'a [u32],
    /// Distance between rows, and between pairs of a row.
    row: usize,
    pair: usize,
}

impl Lines<'_> {
    /// A pair of a row, copied to all places of a register.
    #[target_feature(enable = "avx512f")]
    #[inline]
    #[expect(unsafe_code, reason = "see SAFETY")]
    fn broadcast(self, row: usize, pair: usize) -> __m512bh {
        let at = row * self.row + pair * self.pair;
        debug_assert!(at < self.values.len());
        // SAFETY: `block` asserts that the last pair of its last row is in bounds. A check of each pair would take as long as the product.
        let pair = unsafe { *self.values.get_unchecked(at) };
        bf16(_mm512_set1_epi32(pair.cast_signed()))
    }
}

/// A product of packed factors.
struct Product<'a> {
    c: &'a mut [f32],
    stride: usize,
    /// `[m, line]`, or `[m / LANES, pairs, LANES]` where it is transposed.
    left: &'a [u32],
    is_transposed: bool,
    line: usize,
    /// `[n / LANES, pairs, LANES]`
    right: &'a [u32],
    start: Option<&'a [f32]>,
    pairs: usize,
    n: usize,
}

impl Product<'_> {
    /// `R` rows from `row` on.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[inline]
    fn block<const R: usize>(&mut self, row: usize) -> usize {
        let left = if self.is_transposed {
            // The rows are in one panel: the blocks before it are full.
            let panel = &self.left[row / LANES * self.pairs * LANES..][..self.pairs * LANES];
            Lines {
                values: &panel[row % LANES..],
                row: 1,
                pair: LANES,
            }
        } else {
            Lines {
                values: &self.left[row * self.line..][..R * self.line],
                row: self.line,
                pair: 1,
            }
        };
        assert!(self.pairs == 0 || left.values.len() > (R - 1) * left.row + (self.pairs - 1) * left.pair);
        let n_panels = self.n.div_ceil(LANES);
        let mut at = 0;
        while at + 2 <= n_panels {
            self.tile::<R, 2>(row, at, left);
            at += 2;
        }
        if at < n_panels {
            self.tile::<R, 1>(row, at, left);
        }
        R
    }

    /// `R` rows of `P` panels of columns. One function, so that the sums stay in registers to the end.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[inline]
    fn tile<const R: usize, const P: usize>(&mut self, row: usize, at: usize, left: Lines<'_>) {
        let panel = self.pairs * LANES;
        let panels: [&[u32]; P] = std::array::from_fn(|p| &self.right[(at + p) * panel..][..panel]);
        let mut start = [_mm512_setzero_ps(); P];
        if let Some(row) = self.start {
            for (p, start) in start.iter_mut().enumerate() {
                *start = load_part(&row[(at + p) * LANES..]);
            }
        }
        let mut sums = [start; R];
        for pair in 0..self.pairs {
            let mut lines = [load_pairs(panels[0], pair * LANES); P];
            for (line, panel) in lines.iter_mut().zip(panels).skip(1) {
                *line = load_pairs(panel, pair * LANES);
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = left.broadcast(r, pair);
                for (sum, line) in sums.iter_mut().zip(lines) {
                    *sum = _mm512_dpbf16_ps(*sum, left, line);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let line = &mut self.c[(row + r) * self.stride..][..self.n];
            for (p, sum) in sums.iter().enumerate() {
                let line = &mut line[(at + p) * LANES..];
                match self.start {
                    Some(_) => store_part(line, *sum),
                    None => store_part(line, _mm512_add_ps(load_part(line), *sum)),
                }
            }
        }
    }
}

/// Pairs of a packed row, rounded up to whole registers.
fn packed_row(k: usize) -> usize {
    k.div_ceil(2 * LANES).max(1) * LANES
}

/// Packs pairs along rows: `[m, k]` to `[m, pairs]`, each row padded with zeros to whole registers.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_rows(out: &mut Vec<u32>, x: MatrixView<'_>, m: usize, k: usize) {
    let line = packed_row(k);
    out.resize(m * line, 0);
    for (row, out) in out.chunks_exact_mut(line).enumerate() {
        let x = &x.row(row)[..k];
        for (x, out) in x.chunks(2 * LANES).zip(out.chunks_exact_mut(LANES)) {
            let (low, high) = x.split_at(x.len().min(LANES));
            store_pairs(out, _mm512_cvtne2ps_pbh(load_part(high), load_part(low)));
        }
    }
}

/// Packs pairs of rows: `[k, n]` to `[n / LANES, pairs, LANES]`, padded with zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack_columns(out: &mut Vec<u32>, x: MatrixView<'_>, k: usize, n: usize) {
    /// Interleaves two registers: the first number of both, the second number of both, and so on.
    #[rustfmt::skip]
    const INTERLEAVE: [u16; 2 * LANES] = [
        0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31,
    ];
    let interleave = load_order(&INTERLEAVE);
    let pairs = k.div_ceil(2);
    out.resize(n.div_ceil(LANES) * pairs * LANES, 0);
    for pair in 0..pairs {
        let above = &x.row(2 * pair)[..n];
        let below = match 2 * pair + 1 < k {
            true => &x.row(2 * pair + 1)[..n],
            false => &[],
        };
        let panels = out[pair * LANES..].chunks_mut(pairs * LANES);
        let rows = above
            .chunks(LANES)
            .zip(below.chunks(LANES).chain(std::iter::repeat(&[][..])));
        for (out, (above, below)) in panels.zip(rows) {
            let both = _mm512_cvtne2ps_pbh(load_part(below), load_part(above));
            store_pairs(out, bf16(_mm512_permutexvar_epi16(interleave, integers(both))));
        }
    }
}

/// Loads a register, padded with zeros where the slice is shorter.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_part(x: &[f32]) -> __m512 {
    match x.first_chunk::<LANES>() {
        Some(x) => load(x),
        None => {
            let mut part = [0.0; LANES];
            part[..x.len()].copy_from_slice(x);
            load(&part)
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store_part(x: &mut [f32], values: __m512) {
    if let Some(x) = x.first_chunk_mut::<LANES>() {
        store(x, values);
    } else {
        let mut all = [0.0; LANES];
        store(&mut all, values);
        x.copy_from_slice(&all[..x.len()]);
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
#[expect(unsafe_code, reason = "see SAFETY")]
fn load(x: &[f32; LANES]) -> __m512 {
    // SAFETY: the array holds the numbers that are read.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
#[expect(unsafe_code, reason = "see SAFETY")]
fn store(x: &mut [f32; LANES], values: __m512) {
    // SAFETY: the array has room for the numbers that are written.
    unsafe { _mm512_storeu_ps(x.as_mut_ptr(), values) }
}

#[target_feature(enable = "avx512f")]
#[inline]
#[expect(unsafe_code, reason = "see SAFETY")]
fn load_pairs(x: &[u32], at: usize) -> __m512bh {
    let x: &[u32] = &x[at..at + LANES];
    // SAFETY: the slice holds the pairs that are read.
    bf16(unsafe { _mm512_loadu_si512(x.as_ptr().cast()) })
}

#[target_feature(enable = "avx512f")]
#[inline]
#[expect(unsafe_code, reason = "see SAFETY")]
fn store_pairs(x: &mut [u32], pairs: __m512bh) {
    let x = &mut x[..LANES];
    // SAFETY: the slice has room for the pairs that are written.
    unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), integers(pairs)) }
}

#[target_feature(enable = "avx512f")]
#[inline]
#[expect(unsafe_code, reason = "see SAFETY")]
fn load_order(x: &[u16; 2 * LANES]) -> __m512i {
    // SAFETY: the array holds the numbers that are read.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// Reinterprets a register.
#[inline]
#[expect(unsafe_code, reason = "see SAFETY")]
fn bf16(x: __m512i) -> __m512bh {
    // SAFETY: both types have 512 bits, and every pattern is valid.
    unsafe { std::mem::transmute(x) }
}

/// Reinterprets a register.
#[inline]
#[expect(unsafe_code, reason = "see SAFETY")]
fn integers(x: __m512bh) -> __m512i {
    // SAFETY: as in `bf16`.
    unsafe { std::mem::transmute(x) }
}
