//! Running mean and variance of the live features, by which a model normalizes them.
//!
//! A feature `x` is read as `x' = .5 clip((x - mean) / sqrt(variance + .01), -5, 5)`, with the statistics of everything
//! learned before. They are part of a version: a scorer normalizes with those that its weights were learned with.

use ouzel_sample::{Candidate, FeatureQuery, FeatureState, N_DENSE, Request, centred_pairs};

/// Samples that the statistics cover: older ones fade by `n / WINDOW` in a batch of `n`.
const WINDOW: f64 = 20_000.0;
/// Added to a variance, so that a feature that hardly moves is not blown up.
const FLOOR: f32 = 0.01;
/// A normalized feature is this share of its distance from the mean in standard deviations.
const SHARE: f32 = 0.5;
/// Variance of a distance from the slate's mean below which slates have one item.
const LEAST_VARIANCE: f32 = 1e-6;
/// Largest magnitude of a normalized feature: [`SHARE`] of 5 standard deviations.
pub(crate) const LIMIT: f32 = 2.5;

/// Mean and variance of each live feature over the samples seen so far.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureNorm {
    /// Number of samples observed; with 0 features are read as they are.
    pub n_samples: u64,
    /// Running mean, `[N_DENSE]`.
    pub mean: Vec<f32>,
    /// Running variance, `[N_DENSE]`.
    pub variance: Vec<f32>,
}

impl Default for FeatureNorm {
    fn default() -> Self {
        Self {
            n_samples: 0,
            mean: vec![0.0; N_DENSE],
            variance: vec![1.0; N_DENSE],
        }
    }
}

impl FeatureNorm {
    /// Observes a batch of live features, each row `[N_DENSE]`, in order.
    ///
    /// With `n` rows after `N` earlier ones, `r = max(n / 20000, n / (N + n))`, at most 1: `mean += r (m - mean)` for the
    /// batch's mean `m`, then `variance += r (s - variance)` for the mean square `s` of the distances from the new mean. A
    /// feature with a value that is not finite keeps its statistics.
    pub fn observe<'a>(&mut self, rows: impl Iterator<Item = &'a [f32]> + Clone) {
        let n = rows.clone().count();
        if n == 0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
        let (batch, all) = (n as f64, (self.n_samples + n as u64) as f64);
        let share = (batch / WINDOW).max(batch / all).min(1.0);
        let mut sums = vec![0.0f64; N_DENSE];
        for row in rows.clone() {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += f64::from(*x);
            }
        }
        let moved = |old: f32, new: f64| single(f64::from(old) + share * (new - f64::from(old)));
        let means: Vec<f32> = self
            .mean
            .iter()
            .zip(&sums)
            .map(|(mean, sum)| moved(*mean, sum / batch))
            .collect();
        let mut squares = vec![0.0f64; N_DENSE];
        for row in rows {
            for ((square, x), mean) in squares.iter_mut().zip(row).zip(&means) {
                *square += (f64::from(*x) - f64::from(*mean)).powi(2);
            }
        }
        let kept = self.mean.iter_mut().zip(&mut self.variance);
        for ((mean, variance), (new_mean, square)) in kept.zip(means.into_iter().zip(squares)) {
            let new_variance = moved(*variance, square / batch);
            if new_mean.is_finite() && new_variance.is_finite() {
                (*mean, *variance) = (new_mean, new_variance);
            }
        }
        self.n_samples += n as u64;
    }

    /// Reads the features of a request for `query.items`, of which `top_k` will be shown, as serving scores it.
    ///
    /// Without `top_k` it is taken to show [`FeatureState::shown_of`] its candidates. Where fewer are shown than asked for, the
    /// slate is not known: see [`centre_on_means`](Self::centre_on_means).
    #[must_use]
    pub fn read_candidates(
        &self,
        features: &FeatureState,
        query: &FeatureQuery<'_>,
        top_k: Option<usize>,
    ) -> (Request, Vec<Candidate>) {
        let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        let n_items = count(query.items.len());
        let n_shown = top_k.map_or_else(|| features.shown_of(n_items), |n| count(n).min(n_items));
        let (request, mut candidates) = features.read(&FeatureQuery {
            slate_size: Some(n_shown),
            ..*query
        });
        if n_shown < n_items {
            for candidate in &mut candidates {
                self.centre_on_means(candidate.dense.values_mut());
            }
        }
        (request, candidates)
    }

    /// Fills the slate-centred features of a candidate, `[N_DENSE]`, whose slate is not known: a value minus its running mean.
    ///
    /// A request for many candidates says little of the few that will be shown. So a score depends on no other candidate, and
    /// the candidates of a request differ by the same as in a slate. Where slates have one item, these features are always 0.
    pub fn centre_on_means(&self, features: &mut [f32]) {
        for (value, distance) in centred_pairs() {
            let varies = self.n_samples > 0 && self.variance[distance] > LEAST_VARIANCE;
            features[distance] = if varies {
                features[value] - self.mean[value]
            } else {
                0.0
            };
        }
    }

    /// The transform of the features; none before the first batch, whose features are read as they are.
    pub(crate) fn scale(&self) -> Option<FeatureScale> {
        (self.n_samples > 0).then(|| FeatureScale {
            mean: self.mean.clone(),
            factor: self
                .variance
                .iter()
                .map(|variance| SHARE / (variance + FLOOR).sqrt())
                .collect(),
        })
    }
}

/// The transform of normalized features, `clip(factor (x - mean), -LIMIT, LIMIT)`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FeatureScale {
    /// `[N_DENSE]`
    pub(crate) mean: Vec<f32>,
    /// `.5 / sqrt(variance + .01)`, `[N_DENSE]`.
    pub(crate) factor: Vec<f32>,
}

impl FeatureScale {
    /// Normalizes the features of a candidate, `[N_DENSE]`; a NaN stays one.
    #[inline(always)]
    pub(crate) fn apply(&self, features: &mut [f32]) {
        for ((x, mean), factor) in features.iter_mut().zip(&self.mean).zip(&self.factor) {
            *x = ((*x - mean) * factor).clamp(-LIMIT, LIMIT);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "statistics are f32")]
fn single(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, value: impl Fn(usize, usize) -> f32) -> Vec<Vec<f32>> {
        (0..n)
            .map(|row| (0..N_DENSE).map(|lane| value(row, lane)).collect())
            .collect()
    }

    fn observe(norm: &mut FeatureNorm, rows: &[Vec<f32>]) {
        norm.observe(rows.iter().map(Vec::as_slice));
    }

    #[test]
    fn the_statistics_are_those_of_the_formula() {
        let mut norm = FeatureNorm::default();
        assert_eq!(norm.scale(), None, "the first batch is read as it is");
        let value = |row: usize, lane: usize| f32::from(u8::try_from((row * 7 + lane) % 11).unwrap()) - 3.0;
        let (mut mean, mut variance, mut n_before) = ([0.0f64; N_DENSE], [1.0f64; N_DENSE], 0.0);
        for n in [64usize, 70, 64] {
            let batch = rows(n, |row, lane| value(row + n, lane));
            observe(&mut norm, &batch);
            let n = f64::from(u32::try_from(n).unwrap());
            let r = (n / 20_000.0).max(n / (n_before + n));
            n_before += n;
            for lane in 0..N_DENSE {
                let column = || batch.iter().map(|row| f64::from(row[lane]));
                mean[lane] += r * (column().sum::<f64>() / n - mean[lane]);
                let square = column().map(|x| (x - mean[lane]).powi(2)).sum::<f64>() / n;
                variance[lane] += r * (square - variance[lane]);
                assert!((f64::from(norm.mean[lane]) - mean[lane]).abs() < 1e-5);
                assert!((f64::from(norm.variance[lane]) - variance[lane]).abs() < 1e-4);
            }
        }
        let mut features = vec![2.0; N_DENSE];
        features[1] = 1e9;
        norm.scale().unwrap().apply(&mut features);
        let expected = 0.5 * (2.0 - mean[0]) / (variance[0] + 0.01).sqrt();
        assert!((f64::from(features[0]) - expected).abs() < 1e-5);
        assert!((features[1] - 2.5).abs() < 1e-6);
    }

    #[test]
    fn an_unknown_slate_is_centred_on_running_means() {
        let pairs: Vec<(usize, usize)> = centred_pairs().collect();
        assert_eq!(pairs.len(), 22);
        let (value, distance) = pairs[0];
        let mut norm = FeatureNorm::default();
        let mut features = vec![3.0; N_DENSE];
        norm.centre_on_means(&mut features);
        assert!(features[distance].abs() < 1e-9, "nothing was observed yet");
        // Slates of two: the distances are 1 and -1.
        let slates = rows(64, |row, lane| match (row % 2, lane) {
            (0, lane) if lane == distance => 1.0,
            (_, lane) if lane == distance => -1.0,
            (_, lane) if pairs.iter().any(|(_, distance)| *distance == lane) => 0.0,
            _ => 2.0,
        });
        observe(&mut norm, &slates);
        features[value] = 5.0;
        norm.centre_on_means(&mut features);
        assert!((features[distance] - 3.0).abs() < 1e-5);
        assert!(
            features[pairs[1].1].abs() < 1e-9,
            "always 0 where slates have one item"
        );
    }

    #[test]
    fn old_samples_fade_and_a_value_that_is_not_finite_changes_nothing() {
        let mut norm = FeatureNorm {
            n_samples: 1 << 40,
            ..FeatureNorm::default()
        };
        observe(
            &mut norm,
            &rows(200, |_, lane| if lane == 3 { f32::NAN } else { 1.0 }),
        );
        assert!((norm.mean[0] - 0.01).abs() < 1e-6, "n / 20000, not n / (N + n)");
        assert!(norm.mean[3].abs() < 1e-9 && (norm.variance[3] - 1.0).abs() < 1e-9);
        // More rows than the window replace the statistics, no more than that.
        let mut norm = FeatureNorm::default();
        observe(&mut norm, &rows(30_000, |_, _| 4.0));
        assert!((norm.mean[0] - 4.0).abs() < 1e-6 && norm.variance[0].abs() < 1e-6);
        let before = norm.clone();
        observe(&mut norm, &[]);
        assert_eq!(norm, before);
    }
}
