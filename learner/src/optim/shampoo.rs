//! Shampoo for one matrix, grafted to Adagrad (Gupta et al. 2018, alg. 1; Anil et al. 2020, section 3).
//!
//! `L += G G^T`, `R += G^T G` and `V = L^(-1/4) G R^(-1/4)` for the gradient `G`; the step is `V` at the length of Adagrad's
//! step. A side of 384 or more has no factor of its own: its root would cost more than it is worth. A vector, and a matrix
//! with no factor, takes Adagrad's step.

use ouzel_model::linalg::{add_column_products, add_row_products, inverse_fourth_root, product};

/// Sides from this length on have no factor.
const MAX_SIDE: usize = 384;
/// Added to the diagonal of a factor before its root, as a share of the factor's mean eigenvalue.
const DAMPING: f64 = 1e-3;
/// Steps between two roots, after the first steps.
const ROOT_EVERY: u64 = 10;
/// First steps, each of which computes the roots: factors change fast while they are young.
const FIRST_STEPS: u64 = 20;

/// The sides of a weight that have a factor, and their lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sides {
    /// Rows and columns.
    pub(super) shape: [usize; 2],
    /// Whether rows have a factor, and columns.
    pub(super) has: [bool; 2],
}

impl Sides {
    /// Of a weight of this shape; none for a vector, and for a matrix whose sides are all too long.
    pub(super) fn of(shape: &[i64]) -> Option<Self> {
        let [rows, columns] = shape else { return None };
        let shape = [usize::try_from(*rows).ok()?, usize::try_from(*columns).ok()?];
        let has = shape.map(|side| side < MAX_SIDE);
        (shape.iter().all(|side| *side > 1) && has.contains(&true)).then_some(Self { shape, has })
    }
}

/// The sum of products of one side, with its root, `[n, n]` each.
#[derive(Debug)]
pub(super) struct Factor<'a> {
    pub(super) sum: &'a mut [f32],
    pub(super) root: &'a mut [f32],
}

impl Factor<'_> {
    /// Computes the root anew when it is due at the `n`-th step, or has never been.
    fn refresh(&mut self, side: usize, n: u64) {
        let is_due = n <= FIRST_STEPS || n % ROOT_EVERY == 1;
        if is_due || self.root[0] == 0.0 {
            self.root
                .copy_from_slice(&inverse_fourth_root(self.sum, side, DAMPING));
        }
    }
}

/// Turns Adagrad's step of a matrix into Shampoo's at the `n`-th step, from 1. `factors` are those that [`Sides`] says.
///
/// # Shapes
/// `gradient [rows, columns]`, `step [rows, columns]`
pub(super) fn precondition(
    sides: Sides,
    mut factors: [Option<Factor<'_>>; 2],
    gradient: &[f32],
    step: &mut [f32],
    n: u64,
) {
    if gradient.iter().all(|g| *g == 0.0) {
        return;
    }
    let [rows, columns] = sides.shape;
    let mut direction = gradient.to_vec();
    if let Some(left) = &mut factors[0] {
        add_row_products(left.sum, gradient, sides.shape);
        left.refresh(rows, n);
        direction = product(left.root, &direction, [rows, rows, columns]);
    }
    if let Some(right) = &mut factors[1] {
        add_column_products(right.sum, gradient, sides.shape);
        right.refresh(columns, n);
        direction = product(&direction, right.root, [rows, columns, columns]);
    }
    #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
    let scale = (norm(step) / (norm(&direction) + 1e-12)) as f32;
    for (step, direction) in step.iter_mut().zip(direction) {
        *step = scale * direction;
    }
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use ouzel_model::normal;
    use tch::{Device, Kind, Tensor};

    use super::*;

    fn gradient(step: u64, n: usize) -> Vec<f32> {
        (0..n as u64).map(|lane| 1e-3 * normal(3, step, lane)).collect()
    }

    fn matrix(values: &[f32], [rows, columns]: [usize; 2]) -> Tensor {
        let shape = [rows, columns].map(|side| i64::try_from(side).unwrap());
        Tensor::from_slice(values).view(shape).to_kind(Kind::Double)
    }

    /// `(M + 1e-3 tr M / n I)^(-1/4)` by libtorch.
    fn root(sum: &Tensor) -> Tensor {
        let n = sum.size()[0];
        let ridge = 1e-3 * f64::try_from(sum.trace()).unwrap() / n as f64;
        let damped = sum + Tensor::eye(n, (Kind::Double, Device::Cpu)) * ridge;
        let (values, vectors) = damped.linalg_eigh("L");
        (&vectors * values.pow_tensor_scalar(-0.25)).matmul(&vectors.tr())
    }

    #[test]
    fn the_steps_are_those_of_the_formula() {
        let shape = [5usize, 9];
        let sides = Sides::of(&[5, 9]).unwrap();
        let mut sums = [vec![0.0f32; 25], vec![0.0f32; 81]];
        let mut roots = sums.clone();
        let eye = |n| Tensor::zeros([n, n], (Kind::Double, Device::Cpu));
        let (mut left, mut right) = (eye(5), eye(9));
        let (mut of_left, mut of_right) = (eye(5), eye(9));
        for n in 1..=45 {
            let gradient = gradient(n, 45);
            let adagrad: Vec<f32> = gradient.iter().map(|g| 3.0 * g.signum()).collect();
            let mut step = adagrad.clone();
            let [left_sum, right_sum] = &mut sums;
            let [left_root, right_root] = &mut roots;
            let factors = [(left_sum, left_root), (right_sum, right_root)];
            let factors = factors.map(|(sum, root)| Some(Factor { sum, root }));
            precondition(sides, factors, &gradient, &mut step, n);

            let g = matrix(&gradient, shape);
            left += g.matmul(&g.tr());
            right += g.tr().matmul(&g);
            if n <= 20 || n % 10 == 1 {
                (of_left, of_right) = (root(&left), root(&right));
            }
            let direction = of_left.matmul(&g).matmul(&of_right);
            let length = matrix(&adagrad, shape).norm() / direction.norm();
            let apart = (direction * length - matrix(&step, shape)).abs().max();
            assert!(f64::try_from(apart).unwrap() < 1e-3, "step {n}");
        }
    }

    #[test]
    fn vectors_and_long_sides_have_no_factor() {
        let has = |shape: &[i64]| Sides::of(shape).map(|sides| sides.has);
        assert_eq!(has(&[64]), None);
        assert_eq!(has(&[1, 64]), None);
        assert_eq!(has(&[64, 32]), Some([true, true]));
        assert_eq!(has(&[64, 384]), Some([true, false]));
        assert_eq!(has(&[1280, 383]), Some([false, true]));
        assert_eq!(has(&[384, 384]), None);
    }

    #[test]
    fn a_gradient_of_zeros_changes_nothing_and_a_first_one_after_it_finds_its_root() {
        let sides = Sides::of(&[2, 400]).unwrap();
        let (mut sum, mut root) = (vec![0.0f32; 4], vec![0.0f32; 4]);
        let mut step = vec![0.0f32; 800];
        let mut run = |gradient: &[f32], step: &mut [f32], n| {
            let left = Factor {
                sum: &mut sum,
                root: &mut root,
            };
            precondition(sides, [Some(left), None], gradient, step, n);
        };
        run(&[0.0; 800], &mut step, 24);
        assert!(step.iter().all(|x| *x == 0.0));
        step.fill(0.5);
        run(&gradient(1, 800), &mut step, 25);
        assert!(
            (norm(&step) - 0.5 * 800f64.sqrt()).abs() < 1e-3,
            "as long as Adagrad's"
        );
    }
}
