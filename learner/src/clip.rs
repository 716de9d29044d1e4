//! Gradient clipping by global norm (Pascanu et al. 2013, algorithm 1).
//!
//! The norm is that of a whole gradient: of all dense weights together, or of all embedding rows of the batch. A
//! gradient is the sum over the batch's samples, not their mean, so its norm grows with the batch.

use tch::{Kind, TchError, Tensor};

use ouzel_model::host_slice::values;

/// Which gradients of a step were longer than allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clipped {
    /// That of the dense weights.
    pub dense: bool,
    /// That of the embedding rows.
    pub rows: bool,
}

/// What a gradient whose squares sum to `squares` is multiplied by to have a norm of at most `most`; none when it
/// is short enough, or when `most` is 0, which allows any.
pub(crate) fn factor(squares: f64, most: f64) -> Option<f64> {
    let norm = squares.sqrt();
    (most > 0.0 && norm > most).then(|| most / norm)
}

/// Sum of the squares of plain numbers; finite exactly when all of them are.
pub(crate) fn squares(gradient: &[f32]) -> f64 {
    // Side by side: a single sum would wait for itself.
    let mut sums = [0.0f64; 8];
    let pieces = gradient.chunks_exact(sums.len());
    let rest: f64 = pieces.remainder().iter().map(|g| f64::from(*g).powi(2)).sum();
    for piece in pieces {
        for (sum, g) in sums.iter_mut().zip(piece) {
            *sum += f64::from(*g).powi(2);
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Sum of the squares of all tensors, in their order; not finite when one of them is not.
pub(crate) fn squares_of(gradients: &[Option<Tensor>]) -> Result<f64, TchError> {
    let mut total = 0.0;
    for gradient in gradients.iter().flatten() {
        let gradient = gradient.f_contiguous()?;
        total += match values(&gradient) {
            Some(values) => squares(values),
            None => f64::try_from(gradient.f_square()?.f_sum(Kind::Double)?)?,
        };
    }
    Ok(total)
}

/// Multiplies plain numbers in place.
pub(crate) fn scale(gradient: &mut [f32], factor: f64) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a factor in (0, 1) needs no more digits"
    )]
    let factor = factor as f32;
    for g in gradient {
        *g *= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_that_is_too_long_keeps_its_direction_and_gets_the_norm_allowed() {
        let mut gradient = [3.0f32, 0.0, -4.0];
        let by = factor(squares(&gradient), 0.5).unwrap();
        scale(&mut gradient, by);
        for (found, expected) in gradient.iter().zip([0.3, 0.0, -0.4]) {
            assert!((found - expected).abs() < 1e-7, "{gradient:?}");
        }
        assert!((squares(&gradient).sqrt() - 0.5).abs() < 1e-7);
    }

    #[test]
    fn a_gradient_that_is_short_enough_is_left_alone() {
        assert_eq!(factor(25.0, 5.0), None);
        assert_eq!(factor(25.0, 5.1), None);
        assert!(factor(25.0, 4.9).is_some());
        assert_eq!(factor(1e30, 0.0), None, "0 allows any");
        assert_eq!(factor(0.0, 1.0), None);
    }

    #[test]
    fn the_norm_is_over_all_tensors_and_tells_what_is_not_finite() {
        let tensors = [
            Some(Tensor::from_slice(&[1.0f32, 2.0])),
            None,
            Some(Tensor::from_slice(&[-3.0f32, 0.0]).view([2, 1])),
        ];
        assert!((squares_of(&tensors).unwrap() - 14.0).abs() < 1e-12);
        assert!((squares(&[1.0, 2.0, -3.0]) - 14.0).abs() < 1e-12);
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(!squares(&[1.0, bad]).is_finite());
            assert!(
                !squares_of(&[Some(Tensor::from_slice(&[bad]))])
                    .unwrap()
                    .is_finite()
            );
        }
        assert!(squares(&[f32::MAX; 100]).is_finite());
    }
}
