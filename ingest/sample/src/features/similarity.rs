//! Similarity features: a candidate's content against what the user acted on and what the user passed over.
//!
//! The vectors are frozen, so these are features like the counters: as of the impression in training, as of now
//! in serving. On logs with titles they gain more than all other features.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::dense::logit;
use super::vectors::{ItemVectors, N_MODALITIES, VectorId, VectorMeans, VectorReadGuard};

/// Similarity features of one modality, without the slate-centred ones.
pub(crate) const N_SIMILARITY: usize = 6;
/// Largest number of past items compared, for items acted on and for items passed over.
pub(crate) const N_PAST: usize = 50;
/// Newest actions whose mean similarity is the feature `recent`, count.
const N_RECENT: usize = 5;
/// Prior weight of the smoothed rate: neighbours of cosine 1 at the global rate.
const PRIOR_WEIGHT: f32 = 1.0;

/// Shortest sum of directions that has a direction itself, and shortest distance from the mean that has one.
const MIN_LENGTH: f32 = 1e-3;

/// A past item's vector and the reciprocal of its distance from the catalog's mean; 0 for a vector at the mean.
struct PastVector<'a> {
    values: &'a [f32],
    scale: f32,
}

/// The content of a user's recent past in one modality, newest last.
#[derive(Default)]
struct PastModality<'a> {
    acted: Vec<PastVector<'a>>,
    passed: Vec<PastVector<'a>>,
    /// The catalog's mean and the length of the sum of the directions acted on, by width.
    centres: BTreeMap<usize, (Vec<f32>, f32)>,
}

/// The content of a user's recent past.
///
/// All cosines are of directions from the mean of the catalog's vectors: encoders place all texts in a narrow cone, and
/// what two texts share beyond the language is in how they differ from the mean.
pub(crate) struct PastContent<'a>([PastModality<'a>; N_MODALITIES]);

impl<'a> PastContent<'a> {
    pub(crate) fn new(
        vectors: &'a VectorReadGuard<'_>,
        means: &VectorMeans,
        acted: impl Iterator<Item = VectorId>,
        passed: impl Iterator<Item = VectorId>,
    ) -> Self {
        let acted: Vec<_> = acted.filter_map(|id| vectors.get(id)).collect();
        let passed: Vec<_> = passed.filter_map(|id| vectors.get(id)).collect();
        let mut modality = 0..;
        Self([(); N_MODALITIES].map(|()| {
            let modality = modality.next().unwrap_or_default();
            PastModality::new(modality, means, &acted, &passed)
        }))
    }

    /// True when there is nothing to compare with.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|past| past.centres.is_empty())
    }

    /// `[mean, max, top3, recent, ctr, passed]` of a candidate in one modality; 0 where nothing is known.
    ///
    /// - `mean`: cosine with the mean direction acted on.
    /// - `max`, `top3`, `recent`: largest cosine with an item acted on, mean of the three largest, mean of the
    ///   newest five.
    /// - `ctr`: log-odds of acting among past items weighted by squared cosine, minus the global log-odds.
    /// - `passed`: largest cosine with an item passed over.
    pub(crate) fn compare(&self, candidate: &ItemVectors, modality: usize, rate: f32) -> [f32; N_SIMILARITY] {
        let mut features = [0.0; N_SIMILARITY];
        let past = &self.0[modality];
        let Some(values) = values(candidate, modality) else {
            return features;
        };
        let Some((mean_vector, sum_length)) = past.centres.get(&values.len()) else {
            return features;
        };
        let direction = direction(values, mean_vector);
        let offset = dot(&direction, mean_vector).unwrap_or_default();
        let cosines = |past: &[PastVector<'_>]| -> Vec<f32> {
            let cosine = |item: &PastVector<'_>| Some((dot(&direction, item.values)? - offset) * item.scale);
            past.iter().filter_map(cosine).collect()
        };
        let weight = |cosines: &[f32]| -> f32 { cosines.iter().map(|cosine| cosine.max(0.0).powi(2)).sum() };
        let (mut acted, passed) = (cosines(&past.acted), cosines(&past.passed));
        let (positive, negative) = (weight(&acted), weight(&passed));
        let share = (positive + PRIOR_WEIGHT * rate) / (positive + negative + PRIOR_WEIGHT);
        features[4] = logit(share) - logit(rate);
        features[5] = passed.iter().copied().fold(0.0, f32::max);
        if acted.is_empty() {
            return features;
        }
        features[0] = acted.iter().sum::<f32>() / sum_length.max(MIN_LENGTH);
        features[3] = mean(&acted[acted.len().saturating_sub(N_RECENT)..]);
        acted.sort_unstable_by(|a, b| b.total_cmp(a));
        features[1] = acted[0];
        features[2] = mean(&acted[..acted.len().min(3)]);
        features
    }
}

impl<'a> PastModality<'a> {
    fn new(
        modality: usize,
        means: &VectorMeans,
        acted: &[&'a ItemVectors],
        passed: &[&'a ItemVectors],
    ) -> Self {
        let mut past = Self::default();
        let mut sums: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
        for item in acted.iter().filter_map(|item| values(item, modality)) {
            if let Some(vector) = past.centred(modality, means, item) {
                let (mean_vector, _) = &past.centres[&item.len()];
                let sum = sums.entry(item.len()).or_insert_with(|| vec![0.0; item.len()]);
                for ((sum, value), mean) in sum.iter_mut().zip(item).zip(mean_vector) {
                    *sum += (value - mean) * vector.scale;
                }
                past.acted.push(vector);
            }
        }
        for item in passed.iter().filter_map(|item| values(item, modality)) {
            let vector = past.centred(modality, means, item);
            past.passed.extend(vector);
        }
        for (width, sum) in sums {
            if let Some((_, length)) = past.centres.get_mut(&width) {
                *length = dot(&sum, &sum).unwrap_or_default().sqrt();
            }
        }
        past
    }

    /// A vector with its distance from the mean, which `centres` has from then on; `None` where there is no mean.
    fn centred(&mut self, modality: usize, means: &VectorMeans, values: &'a [f32]) -> Option<PastVector<'a>> {
        let width = values.len();
        if let Entry::Vacant(entry) = self.centres.entry(width) {
            entry.insert((means.mean(modality, width)?, 0.0));
        }
        let (mean, _) = &self.centres[&width];
        Some(PastVector {
            values,
            scale: reciprocal(distance(values, mean)),
        })
    }
}

/// The direction from the mean to a vector, of length 1; zeros for a vector at the mean.
fn direction(values: &[f32], mean: &[f32]) -> Vec<f32> {
    let scale = reciprocal(distance(values, mean));
    values
        .iter()
        .zip(mean)
        .map(|(value, mean)| (value - mean) * scale)
        .collect()
}

fn distance(values: &[f32], mean: &[f32]) -> f32 {
    sum_terms(values, mean, |value, mean| (value - mean) * (value - mean)).sqrt()
}

fn reciprocal(length: f32) -> f32 {
    if length < MIN_LENGTH { 0.0 } else { 1.0 / length }
}

fn values(vectors: &ItemVectors, modality: usize) -> Option<&[f32]> {
    Some(&vectors[modality].as_ref()?.values)
}

fn mean(values: &[f32]) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "at most N_PAST values")]
    let n = values.len() as f32;
    values.iter().sum::<f32>() / n
}

/// The dot product; `None` for vectors of different lengths, which come from different encoders.
fn dot(a: &[f32], b: &[f32]) -> Option<f32> {
    (a.len() == b.len()).then(|| sum_terms(a, b, |a, b| a * b))
}

/// A sum over two vectors of one length, in eight sums that the compiler vectorises; their fixed order fixes the bits.
fn sum_terms(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail = a.remainder().iter().zip(b.remainder());
    let tail: f32 = tail.map(|(a, b)| term(*a, *b)).sum();
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += term(*a, *b);
        }
    }
    sums.iter().sum::<f32>() + tail
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
        let (vectors, means) = (table.read(), table.means());
        let current = |ids: &[u64]| ids.iter().map(|id| table.current(Id(*id))).collect::<Vec<_>>();
        let (acted, passed) = (current(acted).into_iter(), current(passed).into_iter());
        let past = PastContent::new(&vectors, &means, acted, passed);
        past.compare(vectors.get(table.current(Id(candidate))).unwrap(), 0, 0.1)
    }

    fn assert_close(a: f32, b: f32) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }

    fn assert_zero(features: [f32; N_SIMILARITY]) {
        assert!(features.iter().all(|x| x.abs() < f32::EPSILON), "{features:?}");
    }

    /// Four vectors of length 1 whose mean is `(.4, 0, 0)`.
    fn cone() -> VectorTable {
        let root = 0.84f32.sqrt();
        table(&[
            [0.4, root, 0.],
            [0.4, -root, 0.],
            [0.4, 0., root],
            [0.4, 0., -root],
        ])
    }

    #[test]
    fn features_are_computed_from_the_cosines_of_directions_from_the_mean() {
        let [mean, max, top3, recent, ctr, passed] = compare(&cone(), &[0, 0, 2], &[1, 3], 0);
        // The direction of 0 is (0, 1, 0), that of 2 is (0, 0, 1), and 1 and 3 point the other way.
        assert_close(mean, 2.0 / 5f32.sqrt());
        assert_close(max, 1.0);
        assert_close(top3, 2.0 / 3.0);
        assert_close(recent, 2.0 / 3.0);
        assert_close(passed, 0.0);
        // Acted on: 1 + 1; passed over: none; one neighbour at the global rate.
        assert_close(ctr, logit(2.1 / 3.0) - logit(0.1));
    }

    #[test]
    fn only_the_newest_are_recent_and_only_the_nearest_are_top() {
        let [_, max, top3, recent, ..] = compare(&cone(), &[0, 2, 2, 2, 2, 2], &[], 0);
        assert_close(max, 1.0);
        assert_close(top3, 1.0 / 3.0);
        assert_close(recent, 0.0);
    }

    #[test]
    fn features_are_zero_without_a_past_or_without_content() {
        let table = cone();
        assert_zero(compare(&table, &[], &[], 0));
        assert_zero(compare(&table, &[77], &[78], 0));
        let (vectors, means) = (table.read(), table.means());
        let acted = [table.current(Id(0))].into_iter();
        let past = PastContent::new(&vectors, &means, acted, [].into_iter());
        let image = [None, Vector::provided(&[1.0, 0.0, 0.0])];
        assert_zero(past.compare(&image, 1, 0.1));
        let longer = [Vector::provided(&[1.0; 4]), None];
        assert_zero(past.compare(&longer, 0, 0.1));
    }

    #[test]
    fn a_vector_at_the_mean_has_no_direction() {
        let one = table(&[[0.6, 0.8, 0.]]);
        assert_zero(compare(&one, &[0], &[0], 0));
        // Two opposite directions acted on have no mean direction.
        let [mean, max, ..] = compare(&cone(), &[0, 1], &[], 0);
        assert!(mean.abs() < 1e-3, "{mean}");
        assert_close(max, 1.0);
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
