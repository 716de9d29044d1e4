//! The size of one step: clipping, the schedule, the choice of optimizer.

use ouzel_learner::model::Weights;
use ouzel_learner::{Clipped, DenseRule, LearnerConfig, Trainer};
use ouzel_sample::Batch;
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};

use crate::world::{batches, configs};

/// A trainer that has learned the first batches of the world, and what it says of the last of them.
fn learned(change: impl Fn(&mut LearnerConfig), n_batches: usize) -> (Trainer, Vec<Clipped>) {
    let (model, mut learner) = configs();
    change(&mut learner);
    let mut trainer = Trainer::new(model, learner).unwrap();
    let clipped = batches(1, 400)
        .iter()
        .take(n_batches)
        .map(|batch| trainer.step(batch).unwrap().clipped)
        .collect();
    (trainer, clipped)
}

/// All embedding weights, in the order of their rows.
fn rows(weights: &Weights) -> Vec<f32> {
    weights
        .rows
        .pages()
        .iter()
        .flat_map(|pages| pages.values.iter().flat_map(|page| page.to_vec()))
        .collect()
}

#[test]
fn clipping_reports_clipped_steps_and_changes_no_other() {
    let (mut off, none) = learned(|_| {}, 10);
    assert_eq!(none, [Clipped::default(); 10]);
    let (mut wide, none) = learned(
        |config| {
            config.optimizer.clip_dense = 1e6;
            config.optimizer.clip_rows = 1e6;
        },
        10,
    );
    assert_eq!(none, [Clipped::default(); 10]);
    assert_eq!(off.hash().unwrap(), wide.hash().unwrap());

    // Dense weights alone: rows get the gradients they would have got, in the first batch.
    let (mut dense, clipped) = learned(|config| config.optimizer.clip_dense = 1e-3, 1);
    let expected = Clipped {
        dense: true,
        rows: false,
    };
    assert_eq!(clipped, [expected]);
    let (mut off, _) = learned(|_| {}, 1);
    let (dense, off) = (dense.weights().unwrap(), off.weights().unwrap());
    assert_eq!(rows(&dense), rows(&off));

    // The rows alone.
    let (mut trainer, clipped) = learned(|config| config.optimizer.clip_rows = 1e-6, 1);
    let expected = Clipped {
        dense: false,
        rows: true,
    };
    assert_eq!(clipped, [expected]);
    let clipped = trainer.weights().unwrap();
    assert_ne!(rows(&clipped), rows(&off));
    assert_eq!(clipped.dense, off.dense);
}

/// The trainer as it comes back from a snapshot.
fn restored(trainer: &mut Trainer, config: LearnerConfig) -> Trainer {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    trainer.save(&mut draft).unwrap();
    let id = store.write(&draft).unwrap();
    Trainer::load(&store.read(id).unwrap(), trainer.model(), config).unwrap()
}

/// Learns the batches in one go, and with a restart in the middle: the two trainers.
fn with_and_without_a_restart(change: impl Fn(&mut LearnerConfig), batches: &[Batch]) -> [Trainer; 2] {
    let (model, mut learner) = configs();
    change(&mut learner);
    let (first, second) = batches.split_at(batches.len() / 2);
    let mut straight = Trainer::new(model, learner.clone()).unwrap();
    for batch in first {
        straight.step(batch).unwrap();
    }
    let mut again = restored(&mut straight, learner);
    for batch in second {
        straight.step(batch).unwrap();
        again.step(batch).unwrap();
    }
    [straight, again]
}

#[test]
fn the_first_step_of_a_warm_up_has_its_share_of_the_rate() {
    let (mut whole, _) = learned(|_| {}, 1);
    let n = batches(1, 400)[0].samples.len() as u64;
    let (mut part, _) = learned(|config| config.optimizer.warmup_samples = 4 * n, 1);
    let (model, learner) = configs();
    let mut start = Trainer::new(model, learner).unwrap();
    let [start, whole, part] = [&mut start, &mut whole, &mut part].map(|t| t.weights().unwrap());
    for (name, start) in &start.dense {
        let moved = whole.dense[name].values.iter().zip(&*part.dense[name].values);
        for ((whole, part), start) in moved.zip(&*start.values) {
            assert!(((whole - start) * 0.25 - (part - start)).abs() < 1e-6, "{name}");
        }
    }
    assert_ne!(rows(&whole), rows(&part));
    assert_eq!(
        whole.wide.pages(),
        part.wide.pages(),
        "the wide part has its own schedule"
    );
}

#[test]
fn a_restart_continues_the_schedule() {
    let batches = batches(2, 160);
    let change = |config: &mut LearnerConfig| {
        config.optimizer.warmup_samples = 400;
        config.optimizer.decay_samples = 100;
    };
    let [mut straight, mut again] = with_and_without_a_restart(change, &batches);
    assert_eq!(straight.hash().unwrap(), again.hash().unwrap());
    let [mut other, _] = with_and_without_a_restart(|config| config.optimizer.decay_samples = 100, &batches);
    assert_ne!(straight.hash().unwrap(), other.hash().unwrap());
}

#[test]
fn a_restart_continues_each_optimizer_of_dense_weights() {
    // The restart is between two roots of Shampoo.
    let batches = batches(3, 400);
    let hashes = [DenseRule::Adagrad, DenseRule::Adam, DenseRule::Shampoo].map(|dense| {
        let change = |config: &mut LearnerConfig| config.optimizer.dense = dense;
        let [mut straight, mut again] = with_and_without_a_restart(change, &batches);
        assert_eq!(straight.hash().unwrap(), again.hash().unwrap(), "{dense:?}");
        straight.hash().unwrap()
    });
    assert!(hashes[0] != hashes[1] && hashes[0] != hashes[2]);
}

#[test]
fn another_optimizer_keeps_the_weights_and_starts_new_state() {
    let (mut before, _) = learned(|config| config.optimizer.dense = DenseRule::Adagrad, 40);
    let (_, mut learner) = configs();
    learner.optimizer.dense = DenseRule::Adam;
    learner.optimizer.dense_rate = 1e-3;
    let mut after = restored(&mut before, learner.clone());
    let (held, taken) = (before.weights().unwrap(), after.weights().unwrap());
    assert_eq!(held.dense, taken.dense);
    assert_eq!(held.rows.pages(), taken.rows.pages());
    // Adam's first step is its rate, whatever the gradient.
    let batch = &batches(1, 400)[40];
    assert!(after.step(batch).unwrap().is_learned);
    let (moved, start) = (after.weights().unwrap(), &held.dense["first.bias"]);
    let moved = moved.dense["first.bias"].values.iter().zip(&*start.values);
    let steps: Vec<f32> = moved.map(|(after, before)| (after - before).abs()).collect();
    assert!(steps.iter().any(|step| (step - 1e-3).abs() < 1e-5), "{steps:?}");
    assert!(steps.iter().all(|step| *step < 1.01e-3), "{steps:?}");
    // And its state is a state to go on from.
    assert!(
        restored(&mut after, learner)
            .step(&batches(1, 400)[41])
            .unwrap()
            .is_learned
    );
}
