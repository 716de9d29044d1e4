//! Means of the catalog's content vectors, exact under additions and removals.
//!
//! Sums are integers, so a mean depends on the present vectors alone: not on their order, nor on vectors that were
//! there before. Dumps leave the sums out.

use std::collections::BTreeMap;

use super::{ItemVectors, N_MODALITIES};

/// Units of a fixed-point sum per 1. Rounding moves a mean by at most `2^-33`.
const UNITS: f64 = (1u64 << 32) as f64;

/// Sums of the items' current vectors, by modality and width.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct VectorMeans([BTreeMap<usize, VectorSum>; N_MODALITIES]);

#[derive(Debug, PartialEq)]
struct VectorSum {
    n: u32,
    sum: Vec<i64>,
}

impl VectorMeans {
    /// Adds the vectors of an item. A restored vector without numbers does not count.
    pub(crate) fn add(&mut self, vectors: &ItemVectors) {
        for (sums, vector) in self.0.iter_mut().zip(vectors) {
            let Some(values) = vector.as_ref().map(|vector| &vector.values) else {
                continue;
            };
            if values.is_empty() {
                continue;
            }
            let sum = sums.entry(values.len()).or_insert_with(|| VectorSum {
                n: 0,
                sum: vec![0; values.len()],
            });
            sum.n += 1;
            for (sum, value) in sum.sum.iter_mut().zip(values.iter()) {
                *sum = sum.wrapping_add(units(*value));
            }
        }
    }

    /// Removes the vectors of an item that were added before.
    pub(crate) fn remove(&mut self, vectors: &ItemVectors) {
        for (sums, vector) in self.0.iter_mut().zip(vectors) {
            let Some(values) = vector.as_ref().map(|vector| &vector.values) else {
                continue;
            };
            let Some(sum) = sums.get_mut(&values.len()) else {
                continue;
            };
            sum.n -= 1;
            for (sum, value) in sum.sum.iter_mut().zip(values.iter()) {
                *sum = sum.wrapping_sub(units(*value));
            }
            if sum.n == 0 {
                sums.remove(&values.len());
            }
        }
    }

    /// The mean of the vectors of this width; `None` without any.
    pub(crate) fn mean(&self, modality: usize, width: usize) -> Option<Vec<f32>> {
        let sum = self.0[modality].get(&width)?;
        let scale = 1.0 / (UNITS * f64::from(sum.n));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "a mean in f32 needs no more digits"
        )]
        let mean = |sum: &i64| (*sum as f64 * scale) as f32;
        Some(sum.sum.iter().map(mean).collect())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "vectors have length 1")]
fn units(value: f32) -> i64 {
    (f64::from(value) * UNITS).round() as i64
}
