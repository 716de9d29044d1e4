//! Embedding rows cached on the learner's device: the same bits for any size of the cache.

use ouzel_learner::model::{Dims, ModelConfig, SequenceKind};
use ouzel_learner::{FeatureRules, LearnerConfig, OptimizerConfig, RowRules, StepReport, Trainer, UserRules};
use ouzel_sample::settings::Period;
use ouzel_sample::{Batch, EventTime};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};

use crate::backends::holds;
use crate::blocks::em3;
use crate::world::{batches_with_content, unpredicted};

const HOUR_MS: i64 = 3_600_000;

/// Rows that wait, expire, are deleted and are too many, those of items narrower than the others.
fn lively() -> (ModelConfig, LearnerConfig) {
    let (model, learner) = em3(SequenceKind::Din, 0);
    let model = ModelConfig {
        dims: Dims {
            item: 4,
            ..Dims::default()
        },
        ..model
    };
    let learner = LearnerConfig {
        optimizer: OptimizerConfig {
            clip_rows: 0.5,
            contrast_weight: 0.05,
            ..learner.optimizer.clone()
        },
        max_rows: 40,
        rows: RowRules {
            expire_after: Period::from_ms(3 * HOUR_MS),
            user: UserRules {
                rate: 0.02,
                ..UserRules::default()
            },
            item: FeatureRules {
                min_samples: 3,
                min_users: 2,
                ..FeatureRules::default()
            },
            ..RowRules::default()
        },
        ..learner
    };
    (model, learner)
}

/// Batches of five minutes a request, of which every seventh deletes an item.
fn batches() -> Vec<Batch> {
    let mut batches = batches_with_content(5, 300);
    for (n, batch) in batches.iter_mut().enumerate() {
        for sample in &mut batch.samples {
            let mut request = (*sample.request).clone();
            request.ts = EventTime(request.ts.0 / 1000 * HOUR_MS / 12);
            sample.request = request.into();
        }
        if n % 7 == 6 {
            batch.deleted.push(batch.samples[0].candidate.item);
        }
    }
    batches
}

fn trainer(device_rows: usize) -> Trainer {
    let (model, learner) = lively();
    let learner = LearnerConfig {
        device_rows,
        ..learner
    };
    Trainer::new(model, learner).unwrap().on_torch().unwrap()
}

fn learn(trainer: &mut Trainer, batches: &[Batch]) -> Vec<StepReport> {
    unpredicted(batches);
    batches.iter().map(|batch| trainer.step(batch).unwrap()).collect()
}

#[test]
fn cache_size_versions_and_restarts_change_no_bit() {
    let batches = batches();
    let (mut roomy, mut narrow, mut versioned) = (trainer(1_000_000), trainer(1), trainer(30));
    let expected = learn(&mut roomy, &batches);
    let sum = |of: fn(&StepReport) -> usize| expected.iter().map(of).sum::<usize>();
    for n in [
        sum(|r| r.n_forgotten),
        sum(|r| r.n_expired),
        sum(|r| r.n_deleted),
        sum(|r| r.n_admitted),
    ] {
        assert!(n > 0, "the world is lively");
    }
    assert!(expected.iter().any(|report| report.clipped.rows));
    assert_eq!(expected, learn(&mut narrow, &batches));
    let hash = roomy.hash().unwrap();
    assert_eq!(hash, narrow.hash().unwrap());

    // One that publishes after every step, and goes on from a snapshot halfway.
    let (first, second) = batches.split_at(batches.len() / 2);
    let mut reports: Vec<StepReport> = Vec::new();
    for batch in first {
        reports.extend(learn(&mut versioned, std::slice::from_ref(batch)));
        let _version = versioned.weights().unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    versioned.save(&mut draft).unwrap();
    let id = store.write(&draft).unwrap();
    let (model, learner) = lively();
    let restored = Trainer::load(&store.read(id).unwrap(), &model, learner).unwrap();
    let mut restored = restored.on_torch().unwrap();
    reports.extend(learn(&mut restored, second));
    assert_eq!(expected, reports);
    assert_eq!(hash, restored.hash().unwrap());
}

#[test]
fn rows_cached_on_a_device_learn_like_rows_in_the_tables() {
    let (model, learner) = lively();
    // Which rows are forgotten beyond a bound is decided by their last bits.
    let learner = LearnerConfig {
        max_rows: 1_000_000,
        device_rows: 20,
        ..learner
    };
    holds(model, learner);
}
