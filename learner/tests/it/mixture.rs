//! Models of several widths side by side: shares, sleep, snapshots, and the same scores in training and serving.

use ouzel_learner::model::{Inputs, MemberConfig, Model, ModelConfig};
use ouzel_learner::{LearnerConfig, Trainer};
use ouzel_sample::{Candidate, VectorMap};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};

use crate::world::{batches, configs};

/// The usual model with two members, shares that move at `rate`.
fn mixed(rate: f64) -> (ModelConfig, LearnerConfig) {
    let (mut model, mut learner) = configs();
    let member = |dim, hidden: &[usize]| MemberConfig {
        dim,
        hidden: hidden.to_vec(),
    };
    model.members = vec![member(4, &[8]), member(16, &[32, 8])];
    learner.optimizer.mixture_rate = rate;
    (model, learner)
}

fn draft(trainer: &mut Trainer) -> Draft {
    let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    trainer.save(&mut draft).unwrap();
    draft
}

#[test]
fn a_version_scores_what_the_mixture_predicts() {
    let (model, learner) = mixed(0.01);
    let mut trainer = Trainer::new(model, learner).unwrap();
    let mut batches = batches(5, 300);
    let next = batches.pop().unwrap();
    for batch in &batches {
        trainer.step(batch).unwrap();
    }
    let version = trainer.weights().unwrap();
    let shares: Vec<f32> = trainer.shares().into_iter().map(|(_, share)| share).collect();
    assert_eq!(version.shares, shares);
    assert!(
        (shares.iter().sum::<f32>() - 1.0).abs() < 1e-5 && (shares[0] - shares[1]).abs() > 1e-6,
        "{shares:?}"
    );
    let mut scorer = Model::for_inference(&version, tch::Device::Cpu).unwrap();
    // The first request of a batch has the version's prior.
    let first = next.samples[0].request.id;
    let slate = next
        .samples
        .iter()
        .take_while(|sample| sample.request.id == first);
    let candidates: Vec<Candidate> = slate.map(|sample| (*sample.candidate).clone()).collect();
    let request = &next.samples[0].request;
    let inputs = Inputs::of_request(&version.config, request, &candidates, &VectorMap::default());
    let served = scorer.score(&inputs, &version).unwrap();
    let predicted = trainer.step(&next).unwrap().logits;
    for (served, predicted) in served.iter().zip(&predicted) {
        assert!((served - predicted).abs() < 1e-5, "{served} {predicted}");
    }
}

#[test]
fn a_restored_mixture_continues_bit_for_bit_also_with_members_asleep() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for (rate, sleeps) in [(0.01, false), (20.0, true)] {
        let (model, learner) = mixed(rate);
        let batches = batches(3, if sleeps { 6000 } else { 400 });
        let (first, second) = batches.split_at(batches.len() - 20);
        let mut straight = Trainer::new(model.clone(), learner.clone()).unwrap();
        for batch in first {
            straight.step(batch).unwrap();
        }
        let asleep = straight.shares().iter().any(|(_, share)| *share == 0.0);
        assert_eq!(asleep, sleeps, "{:?}", straight.shares());
        let id = store.write(&draft(&mut straight)).unwrap();
        let mut restored = Trainer::load(&store.read(id).unwrap(), &model, learner).unwrap();
        for batch in second {
            let (a, b) = (straight.step(batch).unwrap(), restored.step(batch).unwrap());
            assert_eq!(a.logits, b.logits);
        }
        assert_eq!(straight.hash().unwrap(), restored.hash().unwrap());
    }
}
