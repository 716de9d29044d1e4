//! Eigenvalues and eigenvectors of a symmetric matrix, by Householder tridiagonalization and implicit QL.
//!
//! Golub and Van Loan 2013, algorithms 8.3.1 and 8.3.3. Loops of our own, because the bits must not depend on a library's
//! choice of kernel: one machine computes the same bits each time.

use pulp::Arch;

use super::kernel::vectorized;

/// Iterations for one eigenvalue, of which two are usual.
const MAX_ITERATIONS: usize = 60;

/// Eigenvalues of a symmetric matrix, with its eigenvectors as rows.
#[derive(Debug)]
pub(super) struct Eigen {
    /// `[n]`, in no order.
    pub(super) values: Vec<f64>,
    /// `[n, n]`, row `i` belongs to value `i`.
    pub(super) vectors: Vec<f64>,
}

impl Eigen {
    /// Of a finite symmetric matrix `[n, n]`, which is overwritten.
    pub(super) fn new(matrix: &mut [f64], n: usize) -> Self {
        let mut out = Self {
            values: vec![0.0; n],
            vectors: vec![0.0; n * n],
        };
        Arch::new().dispatch(Run(matrix, n, &mut out));
        out
    }

    #[inline(always)]
    fn run(&mut self, matrix: &mut [f64], n: usize) {
        for (at, row) in self.vectors.chunks_exact_mut(n.max(1)).enumerate() {
            row[at] = 1.0;
        }
        let mut beside = vec![0.0; n];
        let factors = tridiagonalize(matrix, n, &mut self.values, &mut beside);
        diagonalize(&mut self.values, &mut beside, &mut self.vectors);
        // The reflections that were applied last are undone first.
        for (step, factor) in factors.iter().enumerate().rev() {
            let reflector = &matrix[step * n + step + 1..(step + 1) * n];
            for row in self.vectors.chunks_exact_mut(n) {
                let part = &mut row[step + 1..];
                let along = -factor * dot(reflector, part);
                add_scaled(part, along, reflector);
            }
        }
    }
}

/// Reflects the matrix to a tridiagonal one with this diagonal and the numbers `beside` it. Leaves the vector of each reflection in
/// the row of its step, right of the diagonal, and returns their factors: `I - factor v v^T`.
#[inline(always)]
fn tridiagonalize(matrix: &mut [f64], n: usize, diagonal: &mut [f64], beside: &mut [f64]) -> Vec<f64> {
    let mut factors = Vec::with_capacity(n);
    let (mut product, mut vector) = (vec![0.0; n], vec![0.0; n]);
    for step in 0..n {
        diagonal[step] = matrix[step * n + step];
        let m = n - step - 1;
        if m < 2 {
            if m == 1 {
                beside[step] = matrix[step * n + step + 1];
            }
            continue;
        }
        let (done, rest) = matrix.split_at_mut((step + 1) * n);
        let column = &mut done[step * n + step + 1..];
        let norm = dot(column, column).sqrt();
        if norm == 0.0 {
            factors.push(0.0);
            continue;
        }
        let reflected = -norm.copysign(column[0]);
        column[0] -= reflected;
        let factor = 1.0 / (norm * column[0].abs());
        beside[step] = reflected;
        factors.push(factor);
        let (vector, product) = (&mut vector[..m], &mut product[..m]);
        vector.copy_from_slice(column);
        for (out, row) in product.iter_mut().zip(rest.chunks_exact(n)) {
            *out = factor * dot(&row[step + 1..], vector);
        }
        let half = -0.5 * factor * dot(product, vector);
        add_scaled(product, half, vector);
        for (at, row) in rest.chunks_exact_mut(n).enumerate() {
            let (of_vector, of_product) = (-vector[at], -product[at]);
            for ((x, product), vector) in row[step + 1..].iter_mut().zip(&*product).zip(&*vector) {
                *x = of_vector.mul_add(*product, of_product.mul_add(*vector, *x));
            }
        }
    }
    factors
}

/// Rotates a tridiagonal matrix to its eigenvalues, and the rows of `vectors` with it.
#[inline(always)]
fn diagonalize(diagonal: &mut [f64], beside: &mut [f64], vectors: &mut [f64]) {
    let n = diagonal.len();
    for first in 0..n {
        for _ in 0..MAX_ITERATIONS {
            let is_small = |at: &usize| {
                beside[*at].abs() <= f64::EPSILON * (diagonal[*at].abs() + diagonal[at + 1].abs())
            };
            let last = (first..n - 1).find(is_small).unwrap_or(n - 1);
            if last == first {
                break;
            }
            sweep(diagonal, beside, vectors, first, last);
        }
    }
}

/// One implicit QL step between two rows, with Wilkinson's shift.
#[inline(always)]
fn sweep(diagonal: &mut [f64], beside: &mut [f64], vectors: &mut [f64], first: usize, last: usize) {
    let n = diagonal.len();
    let ratio = (diagonal[first + 1] - diagonal[first]) / (2.0 * beside[first]);
    let shift = beside[first] / (ratio + ratio.hypot(1.0).copysign(ratio));
    let mut g = diagonal[last] - diagonal[first] + shift;
    let (mut sine, mut cosine, mut moved) = (1.0, 1.0, 0.0);
    for at in (first..last).rev() {
        let (f, b) = (sine * beside[at], cosine * beside[at]);
        let length = f.hypot(g);
        beside[at + 1] = length;
        if length == 0.0 {
            diagonal[at + 1] -= moved;
            beside[last] = 0.0;
            return;
        }
        (sine, cosine) = (f / length, g / length);
        g = diagonal[at + 1] - moved;
        let r = (diagonal[at] - g) * sine + 2.0 * cosine * b;
        moved = sine * r;
        diagonal[at + 1] = g + moved;
        g = cosine * r - b;
        let (low, high) = vectors[at * n..(at + 2) * n].split_at_mut(n);
        for (low, high) in low.iter_mut().zip(high) {
            let (x, y) = (*low, *high);
            *high = sine.mul_add(x, cosine * y);
            *low = cosine.mul_add(x, -(sine * y));
        }
    }
    diagonal[first] -= moved;
    beside[first] = g;
    beside[last] = 0.0;
}

/// The dot product of two rows, in eight sums side by side.
#[inline(always)]
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let mut tail = 0.0f64;
    for (a, b) in a.remainder().iter().zip(b.remainder()) {
        tail = a.mul_add(*b, tail);
    }
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.mul_add(*b, *sum);
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// `out += scale * x`
#[inline(always)]
fn add_scaled(out: &mut [f64], scale: f64, x: &[f64]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = scale.mul_add(*x, *out);
    }
}

vectorized! {
    Run<'a>(matrix: &'a mut [f64], n: usize, out: &'a mut Eigen) => out.run(matrix, n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::made_up;

    /// A symmetric matrix of this rank.
    fn matrix(n: usize, rank: usize) -> Vec<f64> {
        let rows: Vec<f64> = made_up(3, n * rank).into_iter().map(f64::from).collect();
        let of = |i: usize, j: usize| {
            let [a, b] = [i, j].map(|row| &rows[row * rank..(row + 1) * rank]);
            a.iter().zip(b).map(|(a, b)| a * b).sum()
        };
        (0..n * n).map(|at| of(at / n, at % n)).collect()
    }

    #[test]
    fn the_vectors_rebuild_the_matrix_and_are_orthogonal() {
        for (n, rank) in [
            (1, 1),
            (2, 2),
            (3, 1),
            (8, 8),
            (24, 24),
            (65, 20),
            (40, 60),
            (7, 0),
        ] {
            let expected = matrix(n, rank);
            let Eigen { values, vectors } = Eigen::new(&mut expected.clone(), n);
            let largest = expected.iter().fold(1.0f64, |largest, x| largest.max(x.abs()));
            for i in 0..n {
                for j in 0..n {
                    let entry: f64 = (0..n)
                        .map(|k| vectors[k * n + i] * values[k] * vectors[k * n + j])
                        .sum();
                    assert!(
                        (entry - expected[i * n + j]).abs() < 1e-12 * largest * n as f64,
                        "{n} {rank}"
                    );
                    let product = dot(&vectors[i * n..(i + 1) * n], &vectors[j * n..(j + 1) * n]);
                    let identity = if i == j { 1.0 } else { 0.0 };
                    assert!(
                        (product - identity).abs() < 1e-12,
                        "{n} {rank} {i} {j}: {product}"
                    );
                }
            }
        }
    }

    #[test]
    fn diagonal_matrices_keep_their_values() {
        let mut diagonal = vec![0.0; 16];
        for (at, value) in [3.0, -1.0, 0.0, 3.0].into_iter().enumerate() {
            diagonal[at * 5] = value;
        }
        let mut found = Eigen::new(&mut diagonal, 4).values;
        found.sort_by(f64::total_cmp);
        assert_eq!(found, [-1.0, 0.0, 3.0, 3.0]);
    }
}
