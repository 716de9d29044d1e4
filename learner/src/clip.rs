//! Gradient clipping by global norm (Pascanu et al. 2013, algorithm 1).
//!
//! The norm is that of a whole gradient: of all dense weights together, or of all embedding rows of the batch. A
//! gradient is the sum over the batch's samples, not their mean, so its norm grows with the batch.

/// Which gradients of a step were clipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clipped {
    /// The gradient of the dense weights.
    pub dense: bool,
    /// The gradient of the embedding rows.
    pub rows: bool,
}

/// Factor that brings a gradient with this sum of squares to a norm of `max_norm`.
///
/// None where the norm is within the bound, or where `max_norm` is 0, which allows any.
pub(crate) fn factor(squares: f64, max_norm: f64) -> Option<f64> {
    let norm = squares.sqrt();
    (max_norm > 0.0 && norm > max_norm).then(|| max_norm / norm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_beyond_the_bound_gets_the_norm_allowed() {
        let by = factor(25.0, 0.5).unwrap();
        assert!((by - 0.1).abs() < 1e-12, "{by}");
    }

    #[test]
    fn a_gradient_within_the_bound_is_left_alone() {
        assert_eq!(factor(25.0, 5.0), None);
        assert_eq!(factor(25.0, 5.1), None);
        assert!(factor(25.0, 4.9).is_some());
        assert_eq!(factor(1e30, 0.0), None, "0 allows any");
        assert_eq!(factor(0.0, 1.0), None);
    }
}
