//! Online calibration, as training reports it and as it is served.

use ouzel_learner::loss::Policy;
use ouzel_learner::model::{Inputs, Model};
use ouzel_learner::validation::ScoreLog;
use ouzel_learner::{Error, LearnerConfig, Trainer};
use ouzel_sample::{Batch, Batcher};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};

use crate::world::{configs, slates};

const RATES: [f32; 2] = [0.1, 0.4];
const N_REQUESTS: u64 = 24_000;

/// The world, its negatives weighing a fifth of what they should: as if four of five had been dropped upstream and
/// nobody had said so.
fn thinned() -> impl Iterator<Item = Batch> {
    let mut batcher = Batcher::new(256);
    slates(31, N_REQUESTS, RATES).filter_map(move |mut slate| {
        for sample in &mut slate {
            if sample.labels.get(0) == Some(false) {
                sample.weight = 0.2;
            }
        }
        batcher.push(slate)
    })
}

fn trainer(calibrate: bool) -> Trainer {
    let (model, learner) = configs();
    let learner = LearnerConfig { calibrate, ..learner };
    Trainer::new(model, learner).unwrap()
}

/// Calibration of the second half.
fn calibration(calibrate: bool) -> f64 {
    let mut trainer = trainer(calibrate);
    let mut log = ScoreLog::default();
    for batch in thinned() {
        let report = trainer.step(&batch).unwrap();
        log.add(&batch, &report.logits);
    }
    log.figures(log.middle()).calibration.unwrap()
}

#[test]
fn calibration_corrects_a_stream_that_lost_negatives() {
    let (without, with) = (calibration(false), calibration(true));
    println!("{without} {with}");
    assert!(without > 1.3, "{without}");
    assert!((with - 1.0).abs() < 0.02, "{with}");
}

#[test]
fn a_calibrated_score_is_served_as_reported_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut trainer = trainer(true);
    let mut n_jumps = 0;
    let mut batches = thinned().take(82);
    for batch in batches.by_ref().take(80) {
        n_jumps += trainer.step(&batch).unwrap().jumped.len();
    }
    assert!(n_jumps > 0, "from nothing to here is a jump");
    let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    trainer.save(&mut draft).unwrap();
    let id = store.write(&draft).unwrap();
    let snapshot = store.read(id).unwrap();
    let mut restored = Trainer::load(&snapshot, trainer.model(), trainer.config().clone()).unwrap();

    let weights = restored.weights().unwrap();
    assert_eq!(weights.calibration, trainer.weights().unwrap().calibration);
    assert!(weights.calibration[0].shift < -0.1, "{:?}", weights.calibration);
    let batch = batches.next().unwrap();
    // The first request of a batch is predicted with the prior that the version before it is served with.
    let first = batch
        .samples
        .chunk_by(|a, b| a.request.id == b.request.id)
        .next()
        .unwrap();
    let served = Model::new(&weights, tch::Device::Cpu)
        .unwrap()
        .score(
            &Inputs::of_samples(&weights.config, first, &batch.vectors),
            &weights,
        )
        .unwrap();
    assert_eq!(served, trainer.step(&batch).unwrap().logits[..first.len()]);
    restored.step(&batch).unwrap();
    let last = batches.next().unwrap();
    trainer.step(&last).unwrap();
    restored.step(&last).unwrap();
    assert_eq!(trainer.hash().unwrap(), restored.hash().unwrap());

    // Without it the same snapshot serves what the network says.
    let mut off = Trainer::load(&snapshot, trainer.model(), self::trainer(false).config().clone()).unwrap();
    let identity = off.weights().unwrap().calibration[0];
    assert_eq!(
        (identity.scale.to_bits(), identity.shift.to_bits()),
        (1.0f32.to_bits(), 0)
    );
}

#[test]
fn calibration_under_a_policy_without_certain_negatives_is_refused() {
    let (model, learner) = configs();
    let learner = LearnerConfig {
        policy: Policy::Fnw,
        calibrate: true,
        ..learner
    };
    let refused = Trainer::new(model, learner).unwrap_err();
    assert!(
        matches!(&refused, Error::Config(error) if error.key == "learner.calibrate"),
        "{refused}"
    );
}
