//! Loops over the vectors of the towers, compiled for the machine's vector instructions.

use pulp::Arch;

use crate::cpu::activation::{silu, silu_slope};
use crate::cpu::kernel::{dot, vectorized};

/// Added to the squared length of a vector, so that one of zeros stays finite.
const EPSILON: f32 = 1e-12;

/// SiLU of each value.
pub(super) fn activate(x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    Arch::new().dispatch(Activate(&mut out, x));
    out
}

/// Multiplies a gradient by the slope of SiLU at its inputs.
pub(super) fn activate_backward(gradient: &mut [f32], x: &[f32]) {
    Arch::new().dispatch(ActivateBackward(gradient, x));
}

/// Scales each row to length 1. Returns the lengths, `[n]`.
pub(super) fn normalize(z: &mut [f32], width: usize) -> Vec<f32> {
    let mut lengths = Vec::with_capacity(z.len() / width.max(1));
    Arch::new().dispatch(Normalize(z, width, &mut lengths));
    lengths
}

/// Replaces the gradient of vectors of length 1 by that of the rows they were made of.
///
/// What of a gradient is along its vector changes the length alone, which does not count.
pub(super) fn normalize_backward(gradient: &mut [f32], vectors: &[f32], lengths: &[f32], width: usize) {
    Arch::new().dispatch(NormalizeBackward(gradient, vectors, lengths, width));
}

/// The products of a vector with each of `vectors [n, width]`, `[n]`; of vectors of length 1 their cosines.
#[must_use]
pub fn similarities(vector: &[f32], vectors: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; vectors.len() / vector.len().max(1)];
    Arch::new().dispatch(Similarities(vector, vectors, &mut out));
    out
}

#[inline(always)]
fn activate_backward_loop(gradient: &mut [f32], x: &[f32]) {
    for (gradient, x) in gradient.iter_mut().zip(x) {
        *gradient *= silu_slope(*x);
    }
}

#[inline(always)]
fn normalize_loop(z: &mut [f32], width: usize, lengths: &mut Vec<f32>) {
    for z in z.chunks_exact_mut(width.max(1)) {
        let length = (dot(z, z) + EPSILON).sqrt();
        z.iter_mut().for_each(|z| *z /= length);
        lengths.push(length);
    }
}

#[inline(always)]
fn normalize_backward_loop(gradient: &mut [f32], vectors: &[f32], lengths: &[f32], width: usize) {
    let rows = gradient
        .chunks_exact_mut(width.max(1))
        .zip(vectors.chunks_exact(width.max(1)));
    for ((gradient, vector), length) in rows.zip(lengths) {
        let along = dot(gradient, vector);
        for (g, v) in gradient.iter_mut().zip(vector) {
            *g = (*g - along * v) / length;
        }
    }
}

#[inline(always)]
fn similarities_loop(vector: &[f32], vectors: &[f32], out: &mut [f32]) {
    for (item, out) in vectors.chunks_exact(vector.len().max(1)).zip(out) {
        *out = dot(vector, item);
    }
}

vectorized! {
    Activate<'a>(out: &'a mut [f32], x: &'a [f32]) => silu(out, x)
}

vectorized! {
    ActivateBackward<'a>(gradient: &'a mut [f32], x: &'a [f32]) => activate_backward_loop(gradient, x)
}

vectorized! {
    Normalize<'a>(z: &'a mut [f32], width: usize, lengths: &'a mut Vec<f32>) => normalize_loop(z, width, lengths)
}

vectorized! {
    NormalizeBackward<'a>(
        gradient: &'a mut [f32],
        vectors: &'a [f32],
        lengths: &'a [f32],
        width: usize,
    ) => normalize_backward_loop(gradient, vectors, lengths, width)
}

vectorized! {
    Similarities<'a>(vector: &'a [f32], vectors: &'a [f32], out: &'a mut [f32])
        => similarities_loop(vector, vectors, out)
}
