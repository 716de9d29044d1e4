use super::*;

/// [`product`] with the processor's units, where it has them, and without.
type Product = fn(&mut [f32], usize, Lhs<'_>, MatrixView<'_>, Option<&[f32]>, [usize; 3]);
const BOTH: [Product; 2] = [product, product_by_rounding];

fn numbers(stream: u64, n: usize) -> Vec<f32> {
    (0..n as u64).map(|at| crate::normal(3, stream, at)).collect()
}

/// `a b + start` of rounded factors; each factor is given with its stride and first column.
fn expected(a: (&[f32], usize, usize), b: (&[f32], usize, usize), from: &[f32], k: usize) -> Vec<f64> {
    let at = |(x, stride, start): (&[f32], usize, usize), row, column| {
        f64::from(rounded(x[row * stride + column + start]))
    };
    let m = a.0.len() / a.1;
    let sums = (0..m).flat_map(|row| {
        from.iter().enumerate().map(move |(column, from)| {
            let sum: f64 = (0..k).map(|i| at(a, row, i) * at(b, i, column)).sum();
            sum + f64::from(*from)
        })
    });
    sums.collect()
}

fn close(found: &[f32], expected: &[f64], size: [usize; 3]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let apart = (f64::from(*found) - expected).abs();
        assert!(apart < 2e-5, "{size:?}: {found} {expected}");
    }
}

#[test]
fn products_of_every_shape_are_sums_of_rounded_products() {
    for m in [1, 2, 5, 7, 8, 13, 17, 50] {
        for k in [1, 2, 7, 16, 31, 32, 33, 64] {
            for n in [1, 15, 16, 17, 32, 40, 70] {
                BOTH.iter().for_each(|product| check(product, [m, k, n]));
            }
        }
    }
}

fn check(product: &Product, size @ [m, k, n]: [usize; 3]) {
    let (a, b, row) = (numbers(0, m * k), numbers(1, k * n), numbers(2, n));
    let transposed: Vec<f32> = (0..k * m).map(|at| a[(at % m) * k + at / m]).collect();
    let (left, right) = ((a.as_slice(), k, 0), (b.as_slice(), n, 0));
    let mut set = vec![f32::NAN; m * n];
    product(
        &mut set,
        n,
        Lhs::Matrix(&a),
        MatrixView::new(&b, n, 0),
        Some(&row),
        size,
    );
    close(&set, &expected(left, right, &row, k), size);

    // Into columns of a wider matrix, whose other columns keep their values.
    let ones = vec![1.0; n];
    for left_side in [Lhs::Matrix(&a), Lhs::Transposed(&transposed)] {
        let mut wide = vec![1.0; m * (n + 2)];
        product(&mut wide, n + 2, left_side, MatrixView::new(&b, n, 0), None, size);
        let (sums, rest): (Vec<_>, Vec<_>) = wide.chunks(n + 2).map(|row| row.split_at(n)).unzip();
        close(&sums.concat(), &expected(left, right, &ones, k), size);
        assert!(rest.concat().iter().all(|x| x.to_bits() == 1f32.to_bits()));
    }

    // Factors that are columns of wider matrices.
    let (a, b) = (numbers(4, m * (k + 3)), numbers(5, k * (n + 5)));
    let mut sums = vec![0.0; m * n];
    let part = Lhs::View(MatrixView::new(&a, k + 3, 2));
    product(&mut sums, n, part, MatrixView::new(&b, n + 5, 4), None, size);
    let zeros = vec![0.0; n];
    close(&sums, &expected((&a, k + 3, 2), (&b, n + 5, 4), &zeros, k), size);
}

#[test]
fn a_row_has_the_same_bits_beside_any_others() {
    let size @ [m, k, n] = [23, 37, 50];
    let (a, b) = (numbers(0, m * k), numbers(1, k * n));
    for product in BOTH {
        let mut all = vec![0.0; m * n];
        product(
            &mut all,
            n,
            Lhs::Matrix(&a),
            MatrixView::new(&b, n, 0),
            None,
            size,
        );
        for (a, expected) in a.chunks(k).zip(all.chunks(n)) {
            let mut one = vec![0.0; n];
            product(
                &mut one,
                n,
                Lhs::Matrix(a),
                MatrixView::new(&b, n, 0),
                None,
                [1, k, n],
            );
            assert_eq!(one, expected);
        }
    }
}

#[test]
fn rounding_is_to_the_nearest_and_keeps_nan_and_infinity() {
    for (x, expected) in [
        (1.0, 1.0),
        (1.003, 1.0),
        (1.005, 1.0 + 2.0 / 256.0),
        (1.0 + 1.0 / 256.0, 1.0),
        (-1.0 - 3.0 / 256.0, -1.0 - 4.0 / 256.0),
    ] {
        assert_eq!(rounded(x).to_bits(), f32::to_bits(expected), "{x}");
    }
    assert!(rounded(f32::NAN).is_nan() && rounded(f32::INFINITY).is_infinite());
    for product in BOTH {
        let mut out = [0.0];
        product(
            &mut out,
            1,
            Lhs::Matrix(&[f32::NAN, 1.0]),
            MatrixView::new(&[1.0, 1.0], 1, 0),
            None,
            [1, 2, 1],
        );
        assert!(out[0].is_nan());
    }
}
