//! Similarity features: a candidate's content against what the user acted on and what the user passed over.
//!
//! The vectors are frozen, so these are features like the counters: as of the impression in training, as of now
//! in serving. On logs with titles they gain more than all other features.

use super::dense::logit;
use super::vectors::{ItemVectors, N_MODALITIES, VectorId, VectorReadGuard};

/// Similarity features of one modality, without the slate-centred ones.
pub(crate) const N_SIMILARITY: usize = 6;
/// Largest number of past items compared, for items acted on and for items passed over.
pub(crate) const N_PAST: usize = 50;
/// Newest actions whose mean similarity is the feature `recent`, count.
const N_RECENT: usize = 5;
/// Prior weight of the smoothed rate: neighbours of cosine 1 at the global rate.
const PRIOR_WEIGHT: f32 = 1.0;

/// The content of a user's recent past, newest last.
pub(crate) struct PastContent<'a> {
    acted: Vec<&'a ItemVectors>,
    passed: Vec<&'a ItemVectors>,
    /// Sum of the vectors acted on, by modality.
    sums: [Vec<f32>; N_MODALITIES],
}

impl<'a> PastContent<'a> {
    pub(crate) fn new(
        vectors: &'a VectorReadGuard<'_>,
        acted: impl Iterator<Item = VectorId>,
        passed: impl Iterator<Item = VectorId>,
    ) -> Self {
        let acted: Vec<_> = acted.filter_map(|id| vectors.get(id)).collect();
        let mut sums: [Vec<f32>; N_MODALITIES] = Default::default();
        for (modality, sum) in sums.iter_mut().enumerate() {
            for vector in acted.iter().filter_map(|item| values(item, modality)) {
                if sum.is_empty() {
                    sum.resize(vector.len(), 0.0);
                }
                for (sum, value) in sum.iter_mut().zip(vector) {
                    *sum += value;
                }
            }
        }
        Self {
            passed: passed.filter_map(|id| vectors.get(id)).collect(),
            acted,
            sums,
        }
    }

    /// True when there is nothing to compare with.
    pub(crate) fn is_empty(&self) -> bool {
        self.acted.is_empty() && self.passed.is_empty()
    }

    /// `[mean, max, top3, recent, ctr, passed]` of a candidate in one modality; 0 where nothing is known.
    ///
    /// - `mean`: cosine with the mean vector acted on.
    /// - `max`, `top3`, `recent`: largest cosine with an item acted on, mean of the three largest, mean of the
    ///   newest five.
    /// - `ctr`: log-odds of acting among past items weighted by squared cosine, minus the global log-odds.
    /// - `passed`: largest cosine with an item passed over.
    pub(crate) fn compare(&self, candidate: &ItemVectors, modality: usize, rate: f32) -> [f32; N_SIMILARITY] {
        let mut features = [0.0; N_SIMILARITY];
        let Some(vector) = values(candidate, modality) else {
            return features;
        };
        let cosines = |past: &[&ItemVectors]| -> Vec<f32> {
            let cosine = |item: &&ItemVectors| dot(values(item, modality)?, vector);
            past.iter().filter_map(cosine).collect()
        };
        let weight = |cosines: &[f32]| -> f32 { cosines.iter().map(|cosine| cosine.max(0.0).powi(2)).sum() };
        let (mut acted, passed) = (cosines(&self.acted), cosines(&self.passed));
        if acted.is_empty() && passed.is_empty() {
            return features;
        }
        let (positive, negative) = (weight(&acted), weight(&passed));
        let share = (positive + PRIOR_WEIGHT * rate) / (positive + negative + PRIOR_WEIGHT);
        features[4] = logit(share) - logit(rate);
        features[5] = passed.iter().copied().fold(0.0, f32::max);
        if acted.is_empty() {
            return features;
        }
        let norm = self.sums[modality].iter().map(|x| x * x).sum::<f32>().sqrt();
        features[0] = dot(&self.sums[modality], vector).unwrap_or(0.0) / norm.max(f32::MIN_POSITIVE);
        features[3] = mean(&acted[acted.len().saturating_sub(N_RECENT)..]);
        acted.sort_unstable_by(|a, b| b.total_cmp(a));
        features[1] = acted[0];
        features[2] = mean(&acted[..acted.len().min(3)]);
        features
    }
}

fn values(vectors: &ItemVectors, modality: usize) -> Option<&[f32]> {
    Some(&vectors[modality].as_ref()?.values)
}

fn mean(values: &[f32]) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "at most N_PAST values")]
    let n = values.len() as f32;
    values.iter().sum::<f32>() / n
}

/// The dot product, in eight sums that the compiler vectorises; their fixed order fixes the bits.
///
/// `None` for vectors of different lengths, which come from different encoders.
fn dot(a: &[f32], b: &[f32]) -> Option<f32> {
    if a.len() != b.len() {
        return None;
    }
    let mut sums = [0.0f32; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    Some(sums.iter().sum::<f32>() + tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Id;
    use crate::features::vectors::{Vector, VectorTable};

    fn table(vectors: &[[f32; 3]]) -> VectorTable {
        let table = VectorTable::default();
        for (n, vector) in (0..).map(Id).zip(vectors) {
            table.put(n, [Vector::provided(vector), None]);
        }
        table
    }

    fn compare(table: &VectorTable, acted: &[u64], passed: &[u64], candidate: u64) -> [f32; N_SIMILARITY] {
        let vectors = table.read();
        let current = |ids: &[u64]| ids.iter().map(|id| table.current(Id(*id))).collect::<Vec<_>>();
        let past = PastContent::new(&vectors, current(acted).into_iter(), current(passed).into_iter());
        past.compare(vectors.get(table.current(Id(candidate))).unwrap(), 0, 0.1)
    }

    fn assert_close(a: f32, b: f32) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }

    fn assert_zero(features: [f32; N_SIMILARITY]) {
        assert!(features.iter().all(|x| x.abs() < f32::EPSILON), "{features:?}");
    }

    #[test]
    fn features_are_computed_from_the_cosines() {
        let table = table(&[[1., 0., 0.], [0., 1., 0.], [0., 0., 1.], [0.6, 0.8, 0.]]);
        let [mean, max, top3, recent, ctr, passed] = compare(&table, &[0, 1, 2], &[3], 3);
        assert_close(mean, 1.4 / 3f32.sqrt());
        assert_close(max, 0.8);
        assert_close(top3, 1.4 / 3.0);
        assert_close(recent, 1.4 / 3.0);
        assert_close(passed, 1.0);
        // Acted on: .36 + .64; passed over: 1; one neighbour at the global rate.
        assert_close(ctr, logit(1.1 / 3.0) - logit(0.1));
    }

    #[test]
    fn only_the_newest_are_recent_and_only_the_nearest_are_top() {
        let table = table(&[[1., 0., 0.], [0., 1., 0.]]);
        let [_, max, top3, recent, ..] = compare(&table, &[0, 1, 1, 1, 1, 1], &[], 0);
        assert_close(max, 1.0);
        assert_close(top3, 1.0 / 3.0);
        assert_close(recent, 0.0);
    }

    #[test]
    fn features_are_zero_without_a_past_or_without_content() {
        let table = table(&[[1., 0., 0.], [0., 1., 0.]]);
        assert_zero(compare(&table, &[], &[], 0));
        assert_zero(compare(&table, &[77], &[78], 0));
        let vectors = table.read();
        let past = PastContent::new(&vectors, [table.current(Id(0))].into_iter(), [].into_iter());
        let image = [None, Vector::provided(&[1.0, 0.0, 0.0])];
        assert_zero(past.compare(&image, 1, 0.1));
        let longer = [Vector::provided(&[1.0; 4]), None];
        assert_zero(past.compare(&longer, 0, 0.1));
    }

    #[test]
    fn a_dot_product_of_any_length_is_the_sum_of_products() {
        for n in [0u8, 1, 7, 8, 9, 31, 40] {
            let a: Vec<f32> = (0..n).map(f32::from).collect();
            let b: Vec<f32> = a.iter().map(|x| x + 1.0).collect();
            let expected: f32 = a.iter().map(|x| x * (x + 1.0)).sum();
            let scale = expected.max(1.0);
            assert_close(dot(&a, &b).unwrap() / scale, expected / scale);
        }
        assert_eq!(dot(&[1.0], &[1.0, 2.0]), None);
    }
}
