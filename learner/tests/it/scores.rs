use ouzel_learner::Trainer;
use ouzel_learner::model::{Inputs, Model};
use ouzel_sample::{Batch, Candidate, Sample, VectorMap};

use crate::world::{batches, configs};

/// A trainer, the batches that it has learned and those that it has not.
fn trained() -> (Trainer, Vec<Batch>, Vec<Batch>) {
    let (model, learner) = configs();
    let mut trainer = Trainer::new(model, learner).unwrap();
    let mut batches = batches(5, 300);
    let rest = batches.split_off(batches.len() - 3);
    for batch in &batches {
        trainer.step(batch).unwrap();
    }
    (trainer, batches, rest)
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= 1e-6 + 1e-6 * expected.abs(),
            "{found} {expected}"
        );
    }
}

#[test]
fn the_scorer_gives_what_the_trainer_predicts_also_for_ids_it_has_never_seen() {
    let (mut trainer, batches, rest) = trained();
    let weights = trainer.weights().unwrap();
    let mut model = Model::new(&weights, tch::Device::Cpu).unwrap();
    let expected = trainer.step(&rest[0]).unwrap().logits;
    let mut prior = weights.prior[0];
    let labels = |samples: &[Sample]| {
        let came = samples.iter().filter(|s| s.labels.get(0) == Some(true)).count();
        (samples.len() as f32, came as f32)
    };
    let (mut n, mut came) = batches.iter().fold((0.0, 0.0), |(n, came), batch| {
        let of = labels(&batch.samples);
        (n + of.0, came + of.1)
    });
    let served: Vec<f32> = rest[0]
        .samples
        .chunk_by(|a, b| a.request.id == b.request.id)
        .flat_map(|slate| {
            // The version's prior for the first request, then what the labels of the batch so far make of it.
            model.set_prior(&[prior]);
            (n, came) = (n + labels(slate).0, came + labels(slate).1);
            prior = ((came + 0.05) / (n - came + 0.95)).ln();
            let candidates: Vec<Candidate> = slate.iter().map(|s| (*s.candidate).clone()).collect();
            let inputs = Inputs::of_request(
                &weights.config,
                &slate[0].request,
                &candidates,
                &VectorMap::default(),
            );
            model.score(&inputs, &weights).unwrap()
        })
        .collect();
    assert_close(&served, &expected);
}

#[test]
fn neither_the_batch_nor_the_slate_nor_the_order_changes_a_logit() {
    let (mut trainer, _, rest) = trained();
    let weights = trainer.weights().unwrap();
    let mut model = Model::new(&weights, tch::Device::Cpu).unwrap();
    let mut score = |samples: &[Sample]| {
        model
            .score(
                &Inputs::of_samples(&weights.config, samples, &VectorMap::default()),
                &weights,
            )
            .unwrap()
    };
    let samples: Vec<Sample> = rest.iter().flat_map(|batch| batch.samples.clone()).collect();
    let together = score(&samples);
    let one_by_one: Vec<f32> = samples
        .iter()
        .flat_map(|s| score(std::slice::from_ref(s)))
        .collect();
    assert_close(&one_by_one, &together);
    let reversed: Vec<Sample> = samples.iter().rev().cloned().collect();
    let mut back = score(&reversed);
    back.reverse();
    assert_close(&back, &together);
}
