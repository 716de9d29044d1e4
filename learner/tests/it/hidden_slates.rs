//! Requests whose slate is hidden while they are learned.

use ouzel_learner::model::{Inputs, Model};
use ouzel_learner::{StepReport, Trainer};
use ouzel_sample::{Batch, Candidate, VectorMap};

use crate::world::{batches, configs};

fn trained(rate: f32, batches: &[Batch]) -> Trainer {
    let (model, mut learner) = configs();
    learner.optimizer.hidden_slate_rate = rate;
    let mut trainer = Trainer::new(model, learner).unwrap();
    for batch in batches {
        trainer.step(batch).unwrap();
    }
    trainer
}

#[test]
fn hidden_slates_are_learned_hidden_and_predicted_as_shown() {
    let mut batches = batches(4, 200);
    let next = batches.pop().unwrap();
    let mut trainer = trained(1.0, &batches);
    let version = trainer.weights().unwrap();
    let first = next.samples[0].request.id;
    let slate = next
        .samples
        .iter()
        .take_while(|sample| sample.request.id == first);
    let mut candidates: Vec<Candidate> = slate.map(|sample| (*sample.candidate).clone()).collect();
    let score = |candidates: &[Candidate]| {
        let request = &next.samples[0].request;
        let inputs = Inputs::of_request(&version.config, request, candidates, &VectorMap::default());
        let mut scorer = Model::for_inference(&version, tch::Device::Cpu).unwrap();
        scorer.score(&inputs, &version).unwrap()
    };
    let shown = score(&candidates);
    for candidate in &mut candidates {
        version.norm.centre_on_means(candidate.dense.values_mut());
    }
    let hidden = score(&candidates);
    let StepReport { logits, .. } = trainer.step(&next).unwrap();
    for ((shown, hidden), predicted) in shown.iter().zip(&hidden).zip(&logits) {
        assert!((shown - predicted).abs() < 1e-5, "{shown} {predicted}");
        assert!((hidden - predicted).abs() > 1e-4, "{hidden} {predicted}");
    }
}

#[test]
fn the_rate_chooses_which_requests_are_hidden() {
    let batches = batches(4, 100);
    let hashes = [0.0, 0.3, 0.3, 1.0].map(|rate| trained(rate, &batches).hash().unwrap());
    assert_eq!(hashes[1], hashes[2], "the same requests in every run");
    assert!(hashes[0] != hashes[1] && hashes[1] != hashes[3] && hashes[0] != hashes[3]);
}
