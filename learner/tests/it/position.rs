//! Position bias: an item is not judged by where it was shown.

use ouzel_learner::model::{FeatureSet, ModelConfig, PositionKind, uniform};
use ouzel_learner::{LearnerConfig, Trainer};
use ouzel_sample::{
    Batch, Batcher, EventTime, FeatureConfig, FeatureQuery, FeatureState, Id, Impression, ShownItem,
    ShownSlate, VectorMap,
};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};

use crate::world::{show, unpredicted};

/// Probability of a click by position, whatever the item.
const RATES: [f32; 4] = [0.5, 0.1, 0.05, 0.02];
/// Requests of the log.
const N_REQUESTS: u64 = 800;

/// Items 1 and 2 are equally good; the first is shown first in 85 of 100 requests, and the second in the others.
fn log(features: &FeatureState) -> Vec<Batch> {
    let mut batcher = Batcher::new(64);
    let slates = (0..N_REQUESTS).filter_map(|request| {
        let order = match uniform(21, request, 0) < 0.85 {
            true => [1, 2, 3, 4],
            false => [2, 1, 3, 4],
        };
        let items = (0..).zip(order);
        let slate = Impression {
            request: Id(100 + request),
            user: Id(request % 40),
            ts: EventTime(i64::try_from(request).unwrap() * 10_000 + 1),
            items: items
                .map(|(position, item)| ShownItem::new(Id(item), Some(position)))
                .collect(),
            context: vec![],
            numbers: vec![],
            known_actions: None,
        };
        let is_clicked = |lane: u64, _| uniform(22, request, lane) < RATES[usize::try_from(lane).unwrap()];
        batcher.push(show(features, &slate, is_clicked))
    });
    slates.collect()
}

/// The probabilities of items 1 and 2 after the log, asked for together, and the calibration of the log's second half.
fn learned(position: PositionKind, counters: bool) -> ([f32; 2], f32) {
    let model = ModelConfig {
        position,
        features: FeatureSet {
            counters,
            ..FeatureSet::default()
        },
        ..ModelConfig::default()
    };
    let features = FeatureState::new(FeatureConfig::default());
    let mut trainer = Trainer::new(model, LearnerConfig::default()).unwrap();
    let batches = log(&features);
    let (mut predicted, mut came) = (0.0, 0.0);
    for batch in &batches {
        let report = trainer.step(batch).unwrap();
        if batch.seq > batches.len() as u64 / 2 {
            predicted += report.logits.iter().map(|z| sigmoid(*z)).sum::<f32>();
            let labels = batch
                .samples
                .iter()
                .map(|sample| sample.labels.get(0) == Some(true));
            came += labels.map(|y| f32::from(u8::from(y))).sum::<f32>();
        }
    }
    let items = [1, 2].map(|item| ShownItem::new(Id(item), None));
    let (request, candidates) = features.read(&FeatureQuery {
        request: Id(1),
        user: Id(7),
        ts: EventTime(i64::try_from(N_REQUESTS).unwrap() * 10_000),
        context: &[],
        numbers: &[],
        items: &items,
        slate_size: Some(4),
    });
    let slate = ShownSlate {
        request: request.into(),
        candidates: candidates.into_iter().map(Into::into).collect(),
    };
    trainer
        .predict_shown(std::slice::from_ref(&slate), &VectorMap::default())
        .unwrap();
    let scores = [0, 1].map(|at| sigmoid(slate.candidates[at].predicted.get(0).unwrap()));
    (scores, predicted / came)
}

fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + (-z).exp())
}

#[test]
fn equally_good_items_score_alike_wherever_they_were_shown() {
    for counters in [false, true] {
        let ([first, second], _) = learned(PositionKind::None, counters);
        assert!(first > 2.0 * second, "without positions: {first} {second}");
        for position in [PositionKind::Additive, PositionKind::Pal] {
            let ([first, second], calibration) = learned(position, counters);
            println!("{position:?}: {first} {second}, calibration {calibration}");
            assert!(
                first < 1.1 * second && second < 1.1 * first,
                "{position:?}: {first} {second}"
            );
            assert!((calibration - 1.0).abs() < 0.1, "{position:?}: {calibration}");
        }
    }
}

#[test]
fn examination_is_learned_alike_on_both_backends_and_restored_to_the_bit() {
    let model = ModelConfig {
        position: PositionKind::Pal,
        ..ModelConfig::default()
    };
    let learner = LearnerConfig::default();
    let batches = log(&FeatureState::new(FeatureConfig::default()));
    let (first, second) = batches.split_at(batches.len() / 2);
    let new = || Trainer::new(model.clone(), learner.clone()).unwrap();
    let (mut cpu, mut torch) = (new(), new().on_torch().unwrap());
    for batch in first {
        unpredicted(std::slice::from_ref(batch));
        let [one, other] = [&mut cpu, &mut torch].map(|trainer| trainer.step(batch).unwrap());
        assert!((one.loss - other.loss).abs() < 1e-3, "{one:?} {other:?}");
        for (one, other) in one.logits.iter().zip(&other.logits) {
            assert!((one - other).abs() < 2e-3, "{one} {other}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    cpu.save(&mut draft).unwrap();
    let snapshot = store.read(store.write(&draft).unwrap()).unwrap();
    let mut restored = Trainer::load(&snapshot, &model, learner.clone()).unwrap();
    for batch in second {
        unpredicted(std::slice::from_ref(batch));
        let [one, other] = [&mut cpu, &mut restored].map(|trainer| trainer.step(batch).unwrap());
        assert_eq!(one.logits, other.logits);
    }
    assert_eq!(cpu.hash().unwrap(), restored.hash().unwrap());
    let additive = ModelConfig {
        position: PositionKind::Additive,
        ..model
    };
    let refused = Trainer::load(&snapshot, &additive, learner)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("model.position"), "{refused}");
}
