//! How far one step moves the weights: clipping, the schedule, the choice of optimizer.

use ouzel_learner::model::Weights;
use ouzel_learner::{Clipped, LearnerConfig, Trainer};

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
    weights.rows.pages().values.iter().flat_map(|page| page.to_vec()).collect()
}

#[test]
fn clipping_counts_the_steps_it_shortens_and_leaves_the_others_alone() {
    let (mut off, none) = learned(|_| {}, 10);
    assert_eq!(none, [Clipped::default(); 10]);
    let (mut wide, none) = learned(
        |config| {
            config.clip_dense = 1e6;
            config.clip_rows = 1e6;
        },
        10,
    );
    assert_eq!(none, [Clipped::default(); 10]);
    assert_eq!(off.hash().unwrap(), wide.hash().unwrap());

    // Dense weights alone: rows get the gradients they would have got, in the first batch.
    let (mut dense, clipped) = learned(|config| config.clip_dense = 1e-3, 1);
    let expected = Clipped {
        dense: true,
        rows: false,
    };
    assert_eq!(clipped, [expected]);
    let (mut off, _) = learned(|_| {}, 1);
    let (dense, off) = (dense.weights().unwrap(), off.weights().unwrap());
    assert_eq!(rows(&dense), rows(&off));

    // The rows alone.
    let (mut trainer, clipped) = learned(|config| config.clip_rows = 1e-6, 1);
    let expected = Clipped {
        dense: false,
        rows: true,
    };
    assert_eq!(clipped, [expected]);
    let clipped = trainer.weights().unwrap();
    assert_ne!(rows(&clipped), rows(&off));
    assert_eq!(clipped.dense, off.dense);
}
