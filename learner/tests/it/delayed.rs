//! Streams whose positives come late, as each policy of the join tells them.

use std::sync::Arc;

use ouzel_learner::loss::Policy;
use ouzel_learner::model::{Inputs, Model, ModelConfig, uniform};
use ouzel_learner::validation::{Figures, ScoreLog};
use ouzel_learner::{Error, LearnerConfig, Trainer};
use ouzel_sample::{Batch, Batcher, Id, Labels, Sample, SampleKind, VectorMap};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};

use crate::world::{configs, slates};

const RATES: [f32; 2] = [0.05, 0.3];
const N_REQUESTS: u64 = 8_000;
/// All times in requests: the first sample under the policies that wait, and the longest delay.
const WAIT: u64 = 20;
const WINDOW: u64 = 200;

/// When the action comes after the impression. Actions on some items are mostly late, on others seldom.
fn delay(sample: &Sample) -> u64 {
    let (request, item) = (sample.request.id.0, sample.candidate.item.0);
    let is_late = uniform(5, request, item) < if item.is_multiple_of(3) { 0.8 } else { 0.3 };
    let (least, most) = if is_late {
        (WAIT + 1, WINDOW - 1)
    } else {
        (1, WAIT)
    };
    least + (uniform(6, request, item) * (most - least) as f32) as u64
}

/// The samples that the join would make of the world under a policy, in order of time.
fn stream(policy: Policy) -> Vec<Batch> {
    let mut told: Vec<(u64, Sample)> = Vec::new();
    for truth in slates(21, N_REQUESTS, RATES).flatten() {
        let (shown, delay) = (truth.request.id.0, delay(&truth));
        let comes = truth.labels.get(0) == Some(true);
        let is_late = comes && delay > WAIT;
        let mut tell = |after: u64, kind: SampleKind, y: bool, action_record_ms| {
            let sample = Sample {
                candidate: Arc::clone(&truth.candidate),
                labels: Labels::UNKNOWN.with(0, y),
                kind,
                action_record_ms,
                ..truth.clone()
            };
            told.push((shown + after, sample));
        };
        match policy {
            Policy::Plain => tell(WINDOW, SampleKind::Final, comes, None),
            Policy::Fnw | Policy::Fnc => {
                tell(0, SampleKind::EarlyNegative, false, None);
                if comes {
                    tell(delay, SampleKind::LatePositive, true, Some(0));
                }
            }
            Policy::EsDfm | Policy::Defer => {
                if comes && !is_late {
                    tell(WAIT, SampleKind::Final, true, None);
                } else {
                    tell(WAIT, SampleKind::EarlyNegative, false, None);
                }
                match (policy, is_late) {
                    (Policy::EsDfm, true) => tell(delay, SampleKind::LatePositive, true, Some(0)),
                    (Policy::Defer, true) => tell(delay, SampleKind::RealCopy, true, Some(0)),
                    (Policy::Defer, false) => tell(WINDOW, SampleKind::RealCopy, comes, None),
                    _ => {}
                }
            }
        }
    }
    told.sort_by_key(|(at, _)| *at);
    let mut batcher = Batcher::new(128);
    let mut batches: Vec<Batch> = told
        .chunk_by(|a, b| a.0 == b.0)
        .filter_map(|moment| batcher.push(moment.iter().map(|(_, sample)| sample.clone())))
        .collect();
    batches.extend(batcher.flush());
    batches
}

fn configs_of(policy: Policy, negative_rate: f32) -> (ModelConfig, LearnerConfig) {
    let (model, learner) = configs();
    let model = ModelConfig {
        output: policy.output(),
        auxiliary: policy.auxiliary(),
        ..model
    };
    let learner = LearnerConfig {
        policy,
        negative_sample_rate: negative_rate,
        ..learner
    };
    (model, learner)
}

/// Figures of the second half of a stream made for one policy and learned under another.
fn learned(told: Policy, policy: Policy, negative_rate: f32) -> Figures {
    let (model, learner) = configs_of(policy, negative_rate);
    let mut trainer = Trainer::new(model, learner).unwrap();
    let mut log = ScoreLog::default();
    for batch in stream(told) {
        let report = trainer.step(&batch).unwrap();
        assert!(report.is_learned);
        log.add(&batch, &report.logits);
    }
    assert_eq!(log.len() as u64, 4 * N_REQUESTS, "each item counts once");
    log.figures(log.middle())
}

#[test]
fn each_policy_learns_the_truth_from_its_own_stream() {
    let truth = learned(Policy::Plain, Policy::Plain, 1.0);
    for policy in [Policy::Fnw, Policy::Fnc, Policy::EsDfm, Policy::Defer] {
        for negative_rate in [1.0, 0.5] {
            let found = learned(policy, policy, negative_rate);
            println!("{policy:?} {negative_rate} {found:?}\n{truth:?}");
            assert_eq!(
                (found.judged, found.positives),
                (truth.judged, truth.positives),
                "{policy:?}"
            );
            let calibration = found.calibration.unwrap();
            assert!(
                (calibration - 1.0).abs() < 0.06,
                "{policy:?} {negative_rate} {found:?}"
            );
            assert!(
                found.auc.unwrap() > truth.auc.unwrap() - 0.03,
                "{policy:?} {found:?} {truth:?}"
            );
        }
    }
}

/// Without the policy's loss each stream teaches something else: the test above could fail.
#[test]
fn a_stream_taken_as_if_its_labels_were_certain_teaches_too_little() {
    for policy in [Policy::Fnw, Policy::EsDfm, Policy::Defer] {
        let found = learned(policy, Policy::Plain, 1.0);
        println!("{policy:?} {found:?}");
        assert!(found.calibration.unwrap() < 0.93, "{policy:?} {found:?}");
    }
}

#[test]
fn serving_undoes_fake_negatives_as_training_reports_them() {
    let (model, learner) = configs_of(Policy::Fnc, 1.0);
    let mut trainer = Trainer::new(model, learner).unwrap();
    let mut batches = stream(Policy::Fnc);
    batches.truncate(100);
    let last = batches.pop().unwrap();
    for batch in &batches {
        trainer.step(batch).unwrap();
    }
    // The first request of a batch is predicted with the prior that the version before it is served with.
    let first = last
        .samples
        .chunk_by(|a, b| a.request.id == b.request.id)
        .next()
        .unwrap();
    let weights = trainer.weights().unwrap();
    let mut model = Model::new(&weights, tch::Device::Cpu).unwrap();
    let served = model
        .score(
            &Inputs::of_samples(&weights.config, first, &VectorMap::default()),
            &weights,
        )
        .unwrap();
    let reported = trainer.step(&last).unwrap().logits;
    assert_eq!(served, reported[..first.len()]);
    let plain = ModelConfig {
        output: Policy::Plain.output(),
        ..weights.config.clone()
    };
    let plain = ouzel_learner::model::Weights {
        config: plain,
        ..weights.clone()
    };
    let mut raw = Model::new(&plain, tch::Device::Cpu).unwrap();
    let raw = raw.score(
        &Inputs::of_samples(&plain.config, first, &VectorMap::default()),
        &plain,
    );
    assert!(raw.unwrap().iter().zip(&served).all(|(raw, z)| raw < z));
}

#[test]
fn auxiliary_heads_leave_the_primary_logits_alone_and_are_part_of_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for policy in [Policy::EsDfm, Policy::Defer] {
        let (model, learner) = configs_of(policy, 0.5);
        let batches = stream(policy);
        let (first, second) = (&batches[..75], &batches[75..100]);
        let mut straight = Trainer::new(model.clone(), learner.clone()).unwrap();
        for batch in first {
            straight.step(batch).unwrap();
        }
        let before = straight.weights().unwrap();
        let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
        straight.save(&mut draft).unwrap();
        let id = store.write(&draft).unwrap();
        let mut restored = Trainer::load(&store.read(id).unwrap(), &model, learner).unwrap();
        for batch in second {
            straight.step(batch).unwrap();
            restored.step(batch).unwrap();
        }
        assert_eq!(straight.hash().unwrap(), restored.hash().unwrap(), "{policy:?}");
        let after = straight.weights().unwrap();
        assert_eq!(after.dense["aux.weight"].shape, [policy.auxiliary(), 64]);
        assert_ne!(
            before.dense["aux.weight"], after.dense["aux.weight"],
            "{policy:?}"
        );

        // Other auxiliary weights, the same scores.
        let inputs = Inputs::of_samples(&after.config, &second[0].samples, &VectorMap::default());
        let score = |weights: &ouzel_learner::model::Weights| {
            Model::new(weights, tch::Device::Cpu)
                .unwrap()
                .score(&inputs, weights)
                .unwrap()
        };
        let mut other = after.clone();
        other
            .dense
            .insert("aux.weight".into(), before.dense["aux.weight"].clone());
        assert_eq!(score(&after), score(&other));
    }
}

#[test]
fn a_pooled_head_is_refused_where_samples_do_not_come_as_whole_slates() {
    let policies = [Policy::Fnw, Policy::Fnc, Policy::EsDfm, Policy::Defer];
    let late = policies.map(|policy| (policy, 1.0));
    for (policy, negative_rate) in late.into_iter().chain([(Policy::Plain, 0.5)]) {
        let (model, learner) = configs_of(policy, negative_rate);
        let model = ModelConfig {
            pool_slate: true,
            ..model
        };
        let refused = Trainer::new(model, learner).unwrap_err().to_string();
        assert!(refused.contains("model.pool_slate"), "{refused}");
    }
}

#[test]
fn a_model_made_for_another_policy_is_refused() {
    let (model, _) = configs_of(Policy::Plain, 1.0);
    let (_, learner) = configs_of(Policy::EsDfm, 1.0);
    let refused = Trainer::new(model, learner).unwrap_err();
    assert!(matches!(refused, Error::Policy { .. }), "{refused}");
    assert!(refused.to_string().contains("EsDfm needs a model"), "{refused}");
}

#[test]
fn ids_of_the_stream_are_those_of_the_world() {
    let told: Vec<Id> = stream(Policy::Fnw)
        .iter()
        .flat_map(|batch| &batch.samples)
        .filter(|sample| sample.kind == SampleKind::EarlyNegative)
        .map(|sample| sample.request.id)
        .collect();
    assert_eq!(told.len() as u64, 4 * N_REQUESTS);
}
