//! Activations with their derivatives: ReLU, and SiLU `x s(x)` with the logistic function `s` (Elfwing et al. 2018).

/// ReLU in place. A NaN stays a NaN, so that the learner sees it and skips the step.
#[inline(always)]
pub(super) fn relu(x: &mut [f32]) {
    for x in x {
        *x = if *x < 0.0 { 0.0 } else { *x };
    }
}

/// Sets a gradient to 0 where the output of [`relu`] is not positive.
#[inline(always)]
pub(super) fn relu_backward(gradient: &mut [f32], output: &[f32]) {
    for (gradient, output) in gradient.iter_mut().zip(output) {
        *gradient = if *output > 0.0 { *gradient } else { 0.0 };
    }
}

/// SiLU of a row.
#[inline(always)]
pub(super) fn silu(out: &mut [f32], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = x * sigmoid(*x);
    }
}

/// SiLU of a row, whose inputs are replaced by the derivatives.
#[inline(always)]
pub(super) fn silu_with_slope(out: &mut [f32], x: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        let s = sigmoid(*x);
        *out = *x * s;
        *x = s * (1.0 - s).mul_add(*x, 1.0);
    }
}

/// The derivative of SiLU, `s (1 + x (1 - s))`.
#[inline(always)]
pub(super) fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 - s).mul_add(x, 1.0)
}

/// `1 / (1 + exp(-x))`, within a few units of the last place.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `exp(x)` of `x` clamped to `[-87, 87]`: a power of two times a polynomial on `[-ln 2 / 2, ln 2 / 2]`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding it rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let remainder = (-whole).mul_add(LN2_LOW, (-whole).mul_add(LN2_HIGH, x));
    let mut sum = 1.987_569_1e-4f32;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        sum = sum.mul_add(remainder, coefficient);
    }
    let fraction = sum.mul_add(remainder * remainder, remainder) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    fraction * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logistic_function_is_right_over_its_whole_range() {
        for step in -4000i16..=4000 {
            let x = f32::from(step) / 40.0;
            let expected = 1.0 / (1.0 + (-f64::from(x)).exp());
            let actual = f64::from(sigmoid(x));
            assert!(
                (actual - expected).abs() <= 3e-7 * expected + 1e-37,
                "{x}: {actual} {expected}"
            );
        }
    }
}
