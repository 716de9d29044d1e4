//! Learning from a share of the negatives.

use ouzel_learner::loss::sigmoid;
use ouzel_learner::model::{FeatureSet, ModelConfig};
use ouzel_learner::{Error, LearnerConfig, OptimizerConfig, Trainer};
use ouzel_sample::{Batcher, Id};

use crate::world::{batches, configs, rate, slates};

const RATES: [f32; 2] = [0.02, 0.1];
const N_REQUESTS: u64 = 60_000;

#[test]
fn predictions_stay_calibrated_to_all_that_was_shown() {
    // Few negatives are noisy, and a noisy logit has a mean probability above its own: learn slowly, from features in their
    // own small scales.
    let model = ModelConfig {
        hidden: vec![8],
        features: FeatureSet {
            normalize: false,
            ..FeatureSet::default()
        },
        ..ModelConfig::default()
    };
    for negative_rate in [1.0, 0.1, 0.01] {
        let config = LearnerConfig {
            optimizer: OptimizerConfig {
                dense_rate: 0.003,
                row_rate: 0.01,
                wide_alpha: 0.01,
                ..OptimizerConfig::default()
            },
            negative_sample_rate: negative_rate,
            ..LearnerConfig::default()
        };
        let mut trainer = Trainer::new(model.clone(), config).unwrap();
        let mut batcher = Batcher::new(512);
        let (mut predicted, mut expected) = (0.0, 0.0);
        let (mut n_learned, mut n_positive, mut n) = (0usize, 0usize, 0usize);
        for batch in slates(11, N_REQUESTS, RATES).filter_map(|slate| batcher.push(slate)) {
            let report = trainer.step(&batch).unwrap();
            assert_eq!(report.logits.len(), batch.samples.len());
            n_learned += report.n_learned;
            n += batch.samples.len();
            n_positive += batch
                .samples
                .iter()
                .filter(|s| s.labels.get(0) == Some(true))
                .count();
            if batch.samples[0].request.id > Id(N_REQUESTS / 2) {
                predicted += report.logits.iter().map(|z| f64::from(sigmoid(*z))).sum::<f64>();
                expected += batch
                    .samples
                    .iter()
                    .map(|s| f64::from(rate(s, RATES)))
                    .sum::<f64>();
            }
        }
        let calibration = predicted / expected;
        // What few negatives leave unknown of their own rate: two standard deviations.
        let tolerance = (2.0 / ((n_learned - n_positive) as f64).sqrt()).max(0.02);
        assert!(
            (calibration - 1.0).abs() < tolerance,
            "{negative_rate}: {calibration}, {tolerance} is allowed"
        );
        let share = (n_learned - n_positive) as f32 / (n - n_positive) as f32;
        assert!(
            (share / negative_rate - 1.0).abs() < 0.1,
            "{negative_rate}: {share}"
        );
    }
}

#[test]
fn a_batch_without_kept_samples_changes_prior_and_feature_statistics_only() {
    let (model, learner) = configs();
    let config = LearnerConfig {
        negative_sample_rate: 1e-6,
        ..learner
    };
    let mut trainer = Trainer::new(model, config).unwrap();
    let mut batch = batches(1, 8).remove(0);
    batch.samples.retain(|sample| sample.labels.get(0) == Some(false));
    let before = trainer.weights().unwrap();
    let report = trainer.step(&batch).unwrap();
    let after = trainer.weights().unwrap();
    assert_eq!((report.n_learned, report.is_learned), (0, true));
    // The prior starts at 5 %, and falls with every request.
    let start = (0.05f32 / 0.95).ln();
    assert!(
        report.logits.iter().all(|z| *z < start + 0.01),
        "{:?}",
        report.logits
    );
    assert_eq!(report.logits.len(), batch.samples.len());
    assert_eq!(before.dense, after.dense);
    assert_eq!(trainer.n_rows(), (0, 0));
    assert!(after.prior[0] < before.prior[0]);
    assert_eq!(
        (before.norm.n_samples, after.norm.n_samples),
        (0, batch.samples.len() as u64)
    );
}

#[test]
fn a_negative_rate_outside_0_to_1_is_refused() {
    for negative_rate in [0.0, -0.1, 1.1, f32::NAN] {
        let (model, learner) = configs();
        let config = LearnerConfig {
            negative_sample_rate: negative_rate,
            ..learner
        };
        let refused = Trainer::new(model, config).unwrap_err();
        assert!(matches!(refused, Error::Config(_)), "{refused}");
    }
}
