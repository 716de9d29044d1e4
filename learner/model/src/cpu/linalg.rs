//! Matrix algebra of row-major slices for optimizers, by the products of this backend.
//!
//! The bits depend on the operands and the machine's vector instructions alone.

use super::eigen::Eigen;
use super::gemm::{Lhs, add_product};
use super::kernel::transpose;

/// The product of `a [m, k]` and `b [k, n]`, `[m, n]`.
#[must_use]
pub fn product(a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    let mut out = vec![0.0; m * n];
    add_product(&mut out, Lhs::Matrix(a), b, [m, k, n]);
    out
}

/// Adds `x x^T` of `x [rows, columns]` to `sum [rows, rows]`.
pub fn add_row_products(sum: &mut [f32], x: &[f32], [rows, columns]: [usize; 2]) {
    let transposed = transpose(x, rows, columns);
    add_product(sum, Lhs::Matrix(x), &transposed, [rows, columns, rows]);
}

/// Adds `x^T x` of `x [rows, columns]` to `sum [columns, columns]`.
pub fn add_column_products(sum: &mut [f32], x: &[f32], [rows, columns]: [usize; 2]) {
    add_product(sum, Lhs::Transposed(x), x, [columns, rows, columns]);
}

/// `(M + damping tr(M) / n I)^(-1/4)` of a positive semidefinite `M [n, n]`, `[n, n]`.
///
/// By eigenvalues in double precision. Of a matrix of zeros it is the identity.
#[must_use]
pub fn inverse_fourth_root(matrix: &[f32], n: usize, damping: f64) -> Vec<f32> {
    #[expect(clippy::cast_precision_loss, reason = "a layer's width")]
    let mean = matrix.iter().step_by(n + 1).map(|x| f64::from(*x)).sum::<f64>() / n as f64;
    if mean <= 0.0 {
        return (0..n * n)
            .map(|at| if at / n == at % n { 1.0 } else { 0.0 })
            .collect();
    }
    // Of mean eigenvalue 1, so that no square of a small number is lost.
    let mut scaled: Vec<f64> = matrix.iter().map(|x| f64::from(*x) / mean).collect();
    let Eigen { values, vectors } = Eigen::new(&mut scaled, n);
    let mut rows = Vec::with_capacity(n * n);
    for (value, vector) in values.iter().zip(vectors.chunks_exact(n.max(1))) {
        // Each of the two factors of the root takes half of its exponent.
        let factor = ((value.max(0.0) + damping) * mean).powf(-0.125);
        #[expect(clippy::cast_possible_truncation, reason = "the result is f32")]
        rows.extend(vector.iter().map(|x| (factor * x) as f32));
    }
    let mut root = vec![0.0; n * n];
    add_column_products(&mut root, &rows, [n, n]);
    root
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;
    use crate::cpu::testing::{Tolerance, close, made_up, tensor};

    #[test]
    fn products_are_those_of_libtorch() {
        let (a, b) = (made_up(1, 5 * 7), made_up(2, 7 * 3));
        let [of_a, of_b] = [tensor(&a, &[5, 7]), tensor(&b, &[7, 3])];
        close(
            "a b",
            &product(&a, &b, [5, 7, 3]),
            &of_a.matmul(&of_b),
            Tolerance::F32,
        );
        let (mut rows, mut columns) = (vec![1.0; 25], vec![1.0; 49]);
        add_row_products(&mut rows, &a, [5, 7]);
        add_column_products(&mut columns, &a, [5, 7]);
        close("a a^T", &rows, &(of_a.matmul(&of_a.tr()) + 1.0), Tolerance::F32);
        close(
            "a^T a",
            &columns,
            &(of_a.tr().matmul(&of_a) + 1.0),
            Tolerance::F32,
        );
    }

    #[test]
    fn the_root_is_that_of_libtorchs_eigenvalues() {
        for (n, rank, scale) in [(3usize, 3usize, 1.0f32), (24, 5, 1e-4), (64, 200, 1e-6)] {
            let x: Vec<f32> = made_up(7, n * rank).into_iter().map(|x| scale * x).collect();
            let mut matrix = vec![0.0; n * n];
            add_row_products(&mut matrix, &x, [n, rank]);
            let m = tensor(&matrix, &[n, n]).to_kind(Kind::Double);
            let size = i64::try_from(n).unwrap();
            let ridge = f64::try_from(m.trace()).unwrap() / f64::from(u8::try_from(n).unwrap()) * 1e-3;
            let (values, vectors) =
                (m + Tensor::eye(size, (Kind::Double, tch::Device::Cpu)) * ridge).linalg_eigh("L");
            let expected = (&vectors * values.pow_tensor_scalar(-0.25)).matmul(&vectors.tr());
            let found = inverse_fourth_root(&matrix, n, 1e-3);
            close("root", &found, &expected.to_kind(Kind::Float), Tolerance::F32);
            assert_eq!(found, inverse_fourth_root(&matrix, n, 1e-3), "the same bits");
        }
        assert_eq!(inverse_fourth_root(&[0.0; 4], 2, 1e-3), [1.0, 0.0, 0.0, 1.0]);
    }
}
