//! Models of several widths side by side: shares, sleep, snapshots, and the same scores in training and serving.

use ouzel_learner::loss::Policy;
use ouzel_learner::model::{FeatureSet, Inputs, MemberConfig, Model, ModelConfig, uniform};
use ouzel_learner::{LearnerConfig, Trainer};
use ouzel_sample::{Batch, Batcher, Candidate, Labels, Sample, SampleKind, VectorMap};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};

use crate::world::{batches, configs, slates};

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

/// Batches of fake negatives, whose positives come some batches later.
fn late_batches(n_requests: u64) -> Vec<Batch> {
    let at_once = batches(3, n_requests);
    let positives = |batch: &Batch| -> Vec<Sample> {
        let clicked = batch.samples.iter().filter(|s| s.labels.get(0) == Some(true));
        clicked
            .map(|sample| Sample {
                kind: SampleKind::LatePositive,
                action_record_ms: Some(1),
                ..sample.clone()
            })
            .collect()
    };
    let late = |(n, batch): (usize, &Batch)| {
        let mut samples = batch.samples.clone();
        for sample in &mut samples {
            sample.kind = SampleKind::EarlyNegative;
            sample.labels = Labels::UNKNOWN.with(0, false);
        }
        samples.extend(
            n.checked_sub(3)
                .map(|n| positives(&at_once[n]))
                .unwrap_or_default(),
        );
        Batch {
            samples,
            ..batch.clone()
        }
    };
    at_once.iter().enumerate().map(late).collect()
}

#[test]
fn late_positives_are_compared_by_predictions_that_a_snapshot_keeps() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (model, learner) = mixed(0.01);
    let learner = LearnerConfig {
        policy: Policy::Fnw,
        ..learner
    };
    let batches = late_batches(400);
    let (first, second) = batches.split_at(batches.len() - 20);
    let run = |learner: &LearnerConfig| {
        let mut trainer = Trainer::new(model.clone(), learner.clone()).unwrap();
        for batch in first {
            trainer.step(batch).unwrap();
        }
        trainer
    };
    let mut straight = run(&learner);
    let id = store.write(&draft(&mut straight)).unwrap();
    let snapshot = store.read(id).unwrap();
    assert!(snapshot.manifest().file("shown_logits.safetensors").is_some());
    let mut restored = Trainer::load(&snapshot, &model, learner.clone()).unwrap();
    for batch in second {
        let (a, b) = (straight.step(batch).unwrap(), restored.step(batch).unwrap());
        assert_eq!((a.logits, a.comparable_loss), (b.logits, b.comparable_loss));
    }
    assert_eq!(straight.hash().unwrap(), restored.hash().unwrap());

    // Without them shares are others; what each model has learned is the same.
    let mut forgetful = learner.clone();
    forgetful.optimizer.mixture_items = 0;
    let mut other = run(&forgetful);
    let mut kept = run(&learner);
    assert_ne!(other.shares(), kept.shares());
    let (other, kept) = (other.weights().unwrap(), kept.weights().unwrap());
    assert_eq!(other.dense, kept.dense);
    // Nor are there any where labels are certain.
    let (model, learner) = mixed(0.01);
    let mut certain = Trainer::new(model, learner).unwrap();
    for batch in &crate::world::batches(3, 40) {
        certain.step(batch).unwrap();
    }
    assert!(!draft(&mut certain).has("shown_logits.safetensors"));
}

/// Slates of the late world: the wide member sleeps by then.
const STRUCTURE_FROM: u64 = 8_000;

/// A narrow model and a wide member that read ids alone, so that what a user thinks of an item takes width.
fn narrow_and_wide() -> (ModelConfig, LearnerConfig) {
    let (mut model, mut learner) = configs();
    model.dim = 2;
    model.hidden = vec![4];
    model.features = FeatureSet {
        counters: false,
        similarity: false,
        shares: false,
        user_scales: false,
        titles: false,
        slate: false,
        ..FeatureSet::default()
    };
    model.members = vec![MemberConfig {
        dim: 16,
        hidden: vec![64, 16],
    }];
    learner.optimizer.mixture_rate = 0.2;
    // Steps that are too long for noise, so that the wide member loses it soon.
    learner.optimizer.row_rate = 0.2;
    learner.optimizer.dense_rate = 0.06;
    (model, learner)
}

/// Batches of slates whose clicks are noise, and from the slate `from` on a matrix of users and items without structure that
/// a narrow model could read.
fn noise_then_structure(n_requests: u64, from: u64) -> impl Iterator<Item = Batch> {
    let mut batcher = Batcher::new(64);
    let label = move |slate: u64, mut sample: Sample| {
        let (user, item) = (sample.request.user.0, sample.candidate.item.0);
        let is_liked = uniform(77, user, item) < 0.5;
        let rate = match (slate < from, is_liked) {
            (true, _) => 0.5,
            (false, liked) => {
                if liked {
                    0.9
                } else {
                    0.1
                }
            }
        };
        let is_clicked = uniform(78, sample.request.id.0, item) < rate;
        sample.labels = Labels::UNKNOWN.with(0, is_clicked);
        sample
    };
    let numbered = (0..).zip(slates(9, n_requests, [0.5, 0.5]));
    numbered.filter_map(move |(slate, samples)| {
        batcher.push(samples.into_iter().map(|sample| label(slate, sample)))
    })
}

/// The log-loss of served predictions, nats a sample.
fn log_loss(logits: &[f32], batch: &Batch) -> f64 {
    let losses = logits.iter().zip(&batch.samples).map(|(z, sample)| {
        let is_clicked = sample.labels.get(0) == Some(true);
        f64::from((1.0 + (if is_clicked { -z } else { *z }).exp()).ln())
    });
    losses.sum::<f64>() / batch.samples.len() as f64
}

/// Whether the member has state: awake or on trial.
fn has_member(trainer: &mut Trainer) -> bool {
    draft(trainer).has("member1.trainer.json")
}

fn share_of_member(trainer: &Trainer) -> f32 {
    trainer.shares()[1].1
}

#[test]
fn a_width_that_sleeps_wakes_for_a_structure_that_shows_late_and_wins() {
    let (model, learner) = narrow_and_wide();
    let mut trainer = Trainer::new(model.clone(), learner.clone()).unwrap();
    let mut alone = Trainer::new(
        ModelConfig {
            members: Vec::new(),
            ..model
        },
        learner,
    )
    .unwrap();
    let (mut fell_asleep, mut won) = (false, None);
    let (mut losses, mut losses_alone) = (Vec::new(), Vec::new());
    for batch in noise_then_structure(40_000, STRUCTURE_FROM) {
        let logits = trainer.step(&batch).unwrap().logits;
        crate::world::unpredicted(std::slice::from_ref(&batch));
        let logits_alone = alone.step(&batch).unwrap().logits;
        let n = batch.seq * 64;
        fell_asleep |= share_of_member(&trainer) == 0.0;
        if fell_asleep && won.is_none() && share_of_member(&trainer) > 0.0 {
            won = Some(n);
        }
        if won.is_some_and(|since| n >= since + 10_000) {
            losses.push(log_loss(&logits, &batch));
            losses_alone.push(log_loss(&logits_alone, &batch));
        }
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (mixed, narrow) = (mean(&losses), mean(&losses_alone));
    println!(
        "won after {won:?} samples: {mixed} against {narrow}, {:?}",
        trainer.shares()
    );
    assert!(fell_asleep, "the wide member never slept");
    assert!(losses.len() > 100, "it won after {won:?} samples");
    assert!(mixed < narrow - 0.01, "{mixed} {narrow}");
    assert!(share_of_member(&trainer) > 0.5, "{:?}", trainer.shares());
}

#[test]
fn a_width_that_the_log_does_not_want_sleeps_again_after_its_trial() {
    let (model, learner) = narrow_and_wide();
    let mut trainer = Trainer::new(model.clone(), learner.clone()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut restored: Option<Trainer> = None;
    let (mut had, mut changes) = (true, Vec::new());
    for batch in noise_then_structure(45_000, u64::MAX) {
        let a = trainer.step(&batch).unwrap().logits;
        if let Some(restored) = &mut restored {
            crate::world::unpredicted(std::slice::from_ref(&batch));
            assert_eq!(a, restored.step(&batch).unwrap().logits);
        }
        if batch.seq % 10 != 0 {
            continue;
        }
        let has = has_member(&mut trainer);
        let is_within_trial = changes.len() == 2 && batch.seq.is_multiple_of(100);
        if has != had {
            had = has;
            changes.push(batch.seq * 64);
        }
        // Where it falls asleep, at the start of the trial, within it and at its end.
        if changes.last() == Some(&(batch.seq * 64)) || is_within_trial {
            let id = store.write(&draft(&mut trainer)).unwrap();
            let again = Trainer::load(&store.read(id).unwrap(), &model, learner.clone()).unwrap();
            if let Some(mut restored) = restored.replace(again) {
                assert_eq!(trainer.hash().unwrap(), restored.hash().unwrap());
            }
        }
        assert!(changes.is_empty() || share_of_member(&trainer) == 0.0);
        assert!(changes.len() < 2 || trainer.weights().unwrap().shares == [1.0, 0.0]);
    }
    let [slept, tried, slept_again] = changes[..] else {
        panic!("asleep, on trial and asleep, after samples {changes:?}");
    };
    println!("asleep after {slept}, on trial after {tried}, asleep after {slept_again}");
    assert!(tried >= 4 * slept - 1_000 && slept_again <= tried + 21_000);
    let mut restored = restored.unwrap();
    assert_eq!(trainer.hash().unwrap(), restored.hash().unwrap());
}
