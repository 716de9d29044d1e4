//! A second learner beside the serving one: it changes no bit of it, and is compared on predictions of its own.

use std::sync::Arc;

use ouzel_learner::model::ModelConfig;
use ouzel_learner::{LearnerConfig, SecondLearner, ServedBatch, Trainer};
use ouzel_sample::{Batch, Candidate, EventTime, ShownSlate, UserShare};

use super::world::{batches, configs};

fn everyone() -> UserShare {
    "100%".parse().unwrap()
}

/// Batches whose items were shown one batch earlier, each with items of its own, as after a restart.
fn stream() -> Vec<Batch> {
    let mut all = batches(3, 600);
    for n in 1..all.len() {
        let mut shown: Vec<ShownSlate> = Vec::new();
        for sample in &mut all[n].samples {
            let copy = Candidate {
                predicted: Default::default(),
                ..Candidate::clone(&sample.candidate)
            };
            sample.candidate = Arc::new(copy);
            match shown.last_mut() {
                Some(slate) if Arc::ptr_eq(&slate.request, &sample.request) => {
                    slate.candidates.push(Arc::clone(&sample.candidate));
                }
                _ => shown.push(ShownSlate {
                    request: Arc::clone(&sample.request),
                    candidates: vec![Arc::clone(&sample.candidate)],
                }),
            }
        }
        all[n - 1].shown = shown;
    }
    all
}

/// Learns the stream by a serving learner, and by a second one if there is one. Returns the serving one.
fn learn(second: Option<&mut SecondLearner>) -> Trainer {
    let (model, config) = configs();
    let mut serving = Trainer::new(model, config).unwrap();
    let mut second = second;
    for batch in stream() {
        serving.predict(&batch).unwrap();
        let report = serving.step(&batch).unwrap();
        if let Some(second) = &mut second {
            let served = ServedBatch {
                batch: &batch,
                taught: &serving.taught(&batch),
                logits: &report.logits,
            };
            let predicted: Vec<Option<f32>> = predictions(&batch);
            let (_, n_broken) = second.learn(served).unwrap();
            assert_eq!(n_broken, 0);
            assert_eq!(
                predictions(&batch),
                predicted,
                "those of the serving learner stay"
            );
        }
    }
    serving
}

fn predictions(batch: &Batch) -> Vec<Option<f32>> {
    let shown = batch.shown.iter().flat_map(|slate| &slate.candidates);
    let samples = batch.samples.iter().map(|sample| &sample.candidate);
    shown
        .chain(samples)
        .map(|candidate| candidate.predicted.get(0))
        .collect()
}

fn second(model: ModelConfig, config: LearnerConfig) -> SecondLearner {
    SecondLearner::new(Trainer::new(model, config).unwrap(), everyone(), EventTime(-1))
}

#[test]
fn the_same_model_learns_the_same_bits_and_differs_in_no_figure() {
    let (model, config) = configs();
    let mut twin = second(model, config);
    let mut serving = learn(Some(&mut twin));
    assert_eq!(twin.trainer().hash().unwrap(), serving.hash().unwrap());
    let task = twin.comparison().tasks()[0];
    assert!(task.serving.judged > 1000, "{task:?}");
    assert_eq!(task.serving, task.candidate);
    for difference in [task.difference, task.auc_difference, task.gauc_difference] {
        let difference = difference.unwrap();
        assert!(difference.low == 0.0 && difference.mean == 0.0 && difference.high == 0.0);
    }
    assert_eq!(learn(None).hash().unwrap(), serving.hash().unwrap());
}

#[test]
fn a_model_that_learns_nothing_is_worse_and_changes_no_bit_of_the_other() {
    let (model, mut config) = configs();
    config.optimizer.row_rate = 1e-6;
    config.optimizer.dense_rate = 1e-6;
    config.optimizer.block_rate = 1e-6;
    config.optimizer.wide_alpha = 1e-6;
    let wider = ModelConfig { dim: 4, ..model };
    let mut worse = second(wider, config);
    let mut serving = learn(Some(&mut worse));
    assert_eq!(serving.hash().unwrap(), learn(None).hash().unwrap());
    let task = worse.comparison().tasks()[0];
    assert_eq!(task.serving.judged, task.candidate.judged);
    let (loss, auc) = (task.difference.unwrap(), task.auc_difference.unwrap());
    assert!(loss.low > 0.0 && auc.high < 0.0, "{loss:?} {auc:?}");
    // A restored comparison goes on from the same figures.
    let dump = worse.comparison().dump();
    worse.restore_comparison(&dump).unwrap();
    let restored = worse.comparison().tasks()[0];
    assert_eq!(restored.serving.judged, task.serving.judged);
    assert_eq!(restored.auc_difference, task.auc_difference);
}

#[test]
fn memory_is_that_of_the_rows_and_bounded_by_their_cap() {
    let (model, config) = configs();
    let most_rows = config.max_rows;
    let new = Trainer::new(model.clone(), config.clone()).unwrap().memory();
    let learned = learn(None);
    let memory = learned.memory();
    assert!(new.now < memory.now && memory.now < memory.most);
    assert_eq!(new.most, memory.most);
    let half = LearnerConfig {
        max_rows: most_rows / 2,
        ..config
    };
    let halved = Trainer::new(model, half).unwrap().memory();
    assert!(halved.most < memory.most && halved.most > memory.most / 3);
}
