use std::sync::Arc;

use ouzel_learner::Trainer;
use ouzel_learner::validation::{Progressive, ScoreLog};
use ouzel_sample::{Dense, EventTime, N_DENSE};

use crate::world::{batches, configs};

#[test]
fn the_model_beats_popularity_and_is_calibrated_on_a_world_it_can_learn() {
    let (model, learner) = configs();
    let mut trainer = Trainer::new(model, learner).unwrap();
    let (mut log, mut progressive) = (ScoreLog::default(), Progressive::new(2000, 1));
    for batch in batches(1, 3000) {
        let report = trainer.step(&batch).unwrap();
        assert!(report.is_learned);
        log.add(&batch, &report.logits);
        progressive.add(&batch, &report.logits);
    }
    let half = log.figures(log.middle());
    let auc = half.auc.unwrap();
    assert!(auc > 0.78, "the noise allows .85, got {half:?}");
    assert!(auc > log.popularity(log.middle()).0.unwrap() + 0.1);
    assert!(half.gauc.unwrap() > 0.78, "{half:?}");
    assert!((half.calibration.unwrap() - 1.0).abs() < 0.05, "{half:?}");
    assert!(half.ne.unwrap() < 0.85, "{half:?}");
    let (all, total) = (log.figures(EventTime::MIN), progressive.total());
    assert_eq!((all.judged, all.positives), (total.judged, total.positives));
    assert!(
        (all.auc.unwrap() - total.auc.unwrap()).abs() < 1e-3,
        "binned {total:?}, exact {all:?}"
    );
    assert!(progressive.window().auc.unwrap() > 0.78);
}

#[test]
fn a_batch_that_is_not_finite_changes_no_weight_and_is_reported() {
    let (model, learner) = configs();
    let mut trainer = Trainer::new(model, learner).unwrap();
    let mut batches = batches(1, 40);
    for batch in &batches {
        trainer.step(batch).unwrap();
    }
    let mut poisoned = batches.pop().unwrap();
    poisoned.seq += 1;
    let mut candidate = (*poisoned.samples[0].candidate).clone();
    candidate.dense = Dense::new([f32::NAN; N_DENSE]);
    poisoned.samples[0].candidate = Arc::new(candidate);
    let rows = trainer.n_rows();
    let before = trainer.weights().unwrap();
    let report = trainer.step(&poisoned).unwrap();
    let after = trainer.weights().unwrap();
    assert!(!report.is_learned);
    assert_eq!((before.dense, before.norm), (after.dense, after.norm));
    assert_eq!(before.rows.pages(), after.rows.pages());
    assert_eq!(before.wide.pages(), after.wide.pages());
    assert_eq!((trainer.n_rows(), trainer.next_batch()), (rows, poisoned.seq + 1));
}
