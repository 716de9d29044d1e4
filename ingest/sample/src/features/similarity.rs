//! How like a candidate's content is to what the user acted on, and to what the user passed over.
//!
//! The vectors are frozen, so these are features like the counters: as of the impression in training, as of now
//! in serving. On logs with titles they are the largest single gain of all features.

use crate::features::dense::logit;
use crate::features::vectors::{ItemVectors, N_MODALITIES, VectorId, VectorList};

/// Features of one modality, without their slate-centred twins.
pub(crate) const N_SIMILARITY: usize = 6;
/// Past items that are compared with, of each kind, count.
pub(crate) const N_PAST: usize = 50;
/// Newest actions whose mean similarity is a feature, count.
const N_RECENT: usize = 5;
/// Similarity that a smoothed rate starts with, in whole neighbours at the global rate.
const PRIOR_WEIGHT: f32 = 1.0;

/// The content of a user's recent past, newest last.
pub(crate) struct Past<'a> {
    acted: Vec<&'a ItemVectors>,
    passed: Vec<&'a ItemVectors>,
    /// Sum of the vectors acted on, by modality.
    sums: [Vec<f32>; N_MODALITIES],
}

impl<'a> Past<'a> {
    pub(crate) fn new(
        list: &'a VectorList<'_>,
        acted: impl Iterator<Item = VectorId>,
        passed: impl Iterator<Item = VectorId>,
    ) -> Self {
        let acted: Vec<_> = acted.filter_map(|id| list.get(id)).collect();
        let mut sums: [Vec<f32>; N_MODALITIES] = Default::default();
        for (modality, sum) in sums.iter_mut().enumerate() {
            for vector in acted.iter().filter_map(|vectors| values(vectors, modality)) {
                if sum.is_empty() {
                    sum.resize(vector.len(), 0.0);
                }
                for (sum, value) in sum.iter_mut().zip(vector) {
                    *sum += value;
                }
            }
        }
        Self {
            passed: passed.filter_map(|id| list.get(id)).collect(),
            acted,
            sums,
        }
    }

    /// Whether there is anything to compare with.
    pub(crate) fn is_empty(&self) -> bool {
        self.acted.is_empty() && self.passed.is_empty()
    }

    /// `[mean, max, top3, recent, ctr, passed]` of a candidate in one modality; 0 where nothing is known.
    ///
    /// `mean` is the cosine with the mean vector acted on; `max` and `top3` are of the cosines with each of them,
    /// `recent` their mean over the newest; `ctr` is the log-odds of acting, over the global log-odds, among past
    /// items weighted by the square of their cosine; `passed` the largest cosine with an item passed over.
    pub(crate) fn compare(&self, candidate: &ItemVectors, modality: usize, rate: f32) -> [f32; N_SIMILARITY] {
        let mut out = [0.0; N_SIMILARITY];
        let Some(vector) = values(candidate, modality) else {
            return out;
        };
        let cosines = |past: &[&ItemVectors]| -> Vec<f32> {
            let of = |past: &&ItemVectors| dot(values(past, modality)?, vector);
            past.iter().filter_map(of).collect()
        };
        let weight = |cosines: &[f32]| -> f32 { cosines.iter().map(|cosine| cosine.max(0.0).powi(2)).sum() };
        let (mut acted, passed) = (cosines(&self.acted), cosines(&self.passed));
        if acted.is_empty() && passed.is_empty() {
            return out;
        }
        let (for_it, against) = (weight(&acted), weight(&passed));
        let share = (for_it + PRIOR_WEIGHT * rate) / (for_it + against + PRIOR_WEIGHT);
        out[4] = logit(share) - logit(rate);
        out[5] = passed.iter().copied().fold(0.0, f32::max);
        if acted.is_empty() {
            return out;
        }
        let norm = self.sums[modality].iter().map(|x| x * x).sum::<f32>().sqrt();
        out[0] = dot(&self.sums[modality], vector).unwrap_or(0.0) / norm.max(f32::MIN_POSITIVE);
        out[3] = mean(&acted[acted.len().saturating_sub(N_RECENT)..]);
        acted.sort_unstable_by(|a, b| b.total_cmp(a));
        out[1] = acted[0];
        out[2] = mean(&acted[..acted.len().min(3)]);
        out
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

/// The dot product in eight sums side by side, which the compiler turns into vector instructions; the order is
/// fixed, so the bits are. Nothing for vectors of two encoders, whose lengths differ.
fn dot(a: &[f32], b: &[f32]) -> Option<f32> {
    if a.len() != b.len() {
        return None;
    }
    let mut sums = [0.0f32; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    Some(sums.iter().sum::<f32>() + rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Id;
    use crate::features::vectors::{Vector, VectorTable};

    fn contents(vectors: &[[f32; 3]]) -> VectorTable {
        let contents = VectorTable::default();
        for (n, vector) in (0..).map(Id).zip(vectors) {
            contents.put(n, [Vector::given(vector), None]);
        }
        contents
    }

    fn compare(contents: &VectorTable, acted: &[u64], passed: &[u64], candidate: u64) -> [f32; N_SIMILARITY] {
        let list = contents.list();
        let of = |ids: &[u64]| ids.iter().map(|id| contents.of(Id(*id))).collect::<Vec<_>>();
        let past = Past::new(&list, of(acted).into_iter(), of(passed).into_iter());
        past.compare(list.get(contents.of(Id(candidate))).unwrap(), 0, 0.1)
    }

    fn close(a: f32, b: f32) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }

    fn says_nothing(features: [f32; N_SIMILARITY]) {
        assert!(features.iter().all(|x| x.abs() < f32::EPSILON), "{features:?}");
    }

    #[test]
    fn features_are_those_of_the_cosines() {
        let contents = contents(&[[1., 0., 0.], [0., 1., 0.], [0., 0., 1.], [0.6, 0.8, 0.]]);
        let [mean, max, top3, recent, ctr, passed] = compare(&contents, &[0, 1, 2], &[3], 3);
        close(mean, 1.4 / 3f32.sqrt());
        close(max, 0.8);
        close(top3, 1.4 / 3.0);
        close(recent, 1.4 / 3.0);
        close(passed, 1.0);
        // AttributedAction on: .36 + .64; passed over: 1; one neighbour at the global rate.
        close(ctr, logit(1.1 / 3.0) - logit(0.1));
    }

    #[test]
    fn only_the_newest_are_recent_and_only_the_nearest_are_top() {
        let contents = contents(&[[1., 0., 0.], [0., 1., 0.]]);
        let [_, max, top3, recent, ..] = compare(&contents, &[0, 1, 1, 1, 1, 1], &[], 0);
        close(max, 1.0);
        close(top3, 1.0 / 3.0);
        close(recent, 0.0);
    }

    #[test]
    fn without_a_past_or_without_content_nothing_is_said() {
        let contents = contents(&[[1., 0., 0.], [0., 1., 0.]]);
        says_nothing(compare(&contents, &[], &[], 0));
        says_nothing(compare(&contents, &[77], &[78], 0));
        let list = contents.list();
        let past = Past::new(&list, [contents.of(Id(0))].into_iter(), [].into_iter());
        let image = [None, Vector::given(&[1.0, 0.0, 0.0])];
        says_nothing(past.compare(&image, 1, 0.1));
        let longer = [Vector::given(&[1.0; 4]), None];
        says_nothing(past.compare(&longer, 0, 0.1));
    }

    #[test]
    fn a_dot_product_of_any_length_is_the_sum_of_products() {
        for n in [0u8, 1, 7, 8, 9, 31, 40] {
            let a: Vec<f32> = (0..n).map(f32::from).collect();
            let expected: f32 = a.iter().map(|x| x * (x + 1.0)).sum();
            let b: Vec<f32> = a.iter().map(|x| x + 1.0).collect();
            close(
                dot(&a, &b).unwrap() / expected.max(1.0),
                expected / expected.max(1.0),
            );
        }
        assert_eq!(dot(&[1.0], &[1.0, 2.0]), None);
    }
}
