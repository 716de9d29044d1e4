//! SIM: a search in a long past, through the whole trainer.

use ouzel_learner::model::{LongHistoryConfig, ModelConfig, SequenceConfig, SequenceKind, uniform};
use ouzel_learner::{LearnerConfig, OptimizerConfig, Trainer};
use ouzel_sample::{
    Action, Batch, Batcher, EventTime, FeatureConfig, FeatureState, Id, Impression, ShownItem,
};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};

use crate::backends::holds;
use crate::blocks::em3;
use crate::world::{self, batches_with_content, show};

/// Samples of a batch.
const BATCH: usize = 64;
const USERS: u64 = 600;
/// Categories of candidates, and items of each category: the first half of one style, the other half of the other.
const CATEGORIES: u64 = 20;
const ITEMS: u64 = 10;
/// Actions of a user in a category, long ago.
const EARLY: u64 = 6;
/// Actions of a user since then, all in other categories.
const SINCE: u64 = 2_000;

fn with_long_history(model: ModelConfig) -> ModelConfig {
    ModelConfig {
        long_history: LongHistoryConfig {
            enabled: true,
            len: 8,
            ..LongHistoryConfig::default()
        },
        ..model
    }
}

fn pick(key: u64, lane: u64, n: u64) -> u64 {
    u64::from((uniform(21, key, lane) * 1e6) as u32) % n
}

/// The style that a user likes in a category, which says nothing of other categories and users.
fn likes(user: u64, category: u64) -> u64 {
    pick(user, 1_000 + category, 2)
}

fn put_items(features: &FeatureState) {
    for id in 0..(CATEGORIES + 5) * ITEMS {
        features.put_item(world::item(id, 1_000_000 + id / ITEMS));
    }
}

/// Users who acted on items of one style in each category, 2,000 actions ago and more. Then each of them sees each category
/// once, two at a time, and clicks on that style.
fn buried() -> Vec<Batch> {
    let features = FeatureState::new(FeatureConfig {
        long_len: 8,
        ..FeatureConfig::default()
    });
    put_items(&features);
    let act = |user: u64, item: u64, ts: u64| {
        let action = Action {
            request: None,
            item: Id(item),
            user: Id(user),
            ts: EventTime(i64::try_from(ts).unwrap() * 1_000),
            task: 0,
            value: None,
        };
        features.add_action(&action, &[], None);
    };
    for user in 0..USERS {
        for n in 0..CATEGORIES * EARLY {
            let category = n % CATEGORIES;
            let item = likes(user, category) * ITEMS / 2 + pick(user, 2_000 + n, ITEMS / 2);
            act(user, category * ITEMS + item, n);
        }
        for n in 0..SINCE {
            let item = pick(user, 5_000 + n, 5 * ITEMS);
            act(user, CATEGORIES * ITEMS + item, CATEGORIES * EARLY + n);
        }
    }
    let mut batcher = Batcher::new(BATCH);
    (0..USERS * CATEGORIES / 2)
        .filter_map(|request| {
            let (user, visit) = (request % USERS, request / USERS);
            // One item of either style in each of two categories.
            let items = (0..4u64).map(|lane| {
                let category = (2 * visit + lane / 2 + user) % CATEGORIES;
                category * ITEMS + lane % 2 * ITEMS / 2 + pick(request, 10 + lane, ITEMS / 2)
            });
            let slate = Impression {
                request: Id(request),
                user: Id(user),
                ts: EventTime(i64::try_from(3_000 + request).unwrap() * 1_000),
                items: items.map(|item| ShownItem::new(Id(item), None)).collect(),
                context: vec![],
                numbers: Vec::new(),
                known_actions: None,
            };
            batcher.push(show(&features, &slate, |lane, item| {
                let (category, style) = (item / ITEMS, item % ITEMS / (ITEMS / 2));
                let rate = if style == likes(user, category) { 0.85 } else { 0.1 };
                uniform(22, request, 30 + lane) < rate
            }))
        })
        .collect()
}

fn auc(model: ModelConfig, batches: &[Batch]) -> f64 {
    let learner = LearnerConfig {
        batch_min_samples: BATCH,
        optimizer: OptimizerConfig {
            block_rate: 0.01,
            ..OptimizerConfig::default()
        },
        ..LearnerConfig::default()
    };
    let mut trainer = Trainer::new(model, learner).unwrap();
    world::auc(&mut trainer, batches, batches.len() / 2)
}

#[test]
fn a_search_finds_what_the_newest_actions_do_not_show() {
    let batches = buried();
    let din = ModelConfig {
        hidden: vec![32],
        sequence: SequenceConfig {
            kind: SequenceKind::Din,
            ..SequenceConfig::default()
        },
        ..ModelConfig::default()
    };
    let sim = auc(with_long_history(din.clone()), &batches);
    let din = auc(din, &batches);
    println!("sim {sim}, din {din}");
    assert!(sim > din + 0.05, "sim {sim}, din {din}");
}

#[test]
fn the_cpu_backend_learns_the_search_unit_as_torch_does() {
    for (kind, freeze_samples) in [(SequenceKind::Mean, 0), (SequenceKind::Din, 300)] {
        let (model, learner) = em3(kind, freeze_samples);
        let mut model = with_long_history(model);
        if freeze_samples > 0 {
            model.long_history.heads = 2;
            model.lora.layers.push("long.second".to_owned());
        }
        holds(model, learner);
    }
}

#[test]
fn a_restored_trainer_with_a_long_history_continues_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let batches = batches_with_content(3, 240);
    assert!(batches.iter().any(|batch| {
        let samples = batch.samples.iter();
        samples.clone().any(|sample| sample.candidate.past.is_some())
    }));
    let (model, learner) = em3(SequenceKind::Din, 500);
    let model = with_long_history(model);
    let learn = |trainer: &mut Trainer, batches: &[Batch]| {
        for batch in batches {
            assert!(trainer.step(batch).unwrap().is_learned);
        }
    };
    for at in [5, 20] {
        let mut straight = Trainer::new(model.clone(), learner.clone()).unwrap();
        learn(&mut straight, &batches[..at]);
        let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
        straight.save(&mut draft).unwrap();
        let id = store.write(&draft).unwrap();
        learn(&mut straight, &batches[at..]);
        let mut restored = Trainer::load(&store.read(id).unwrap(), &model, learner.clone()).unwrap();
        learn(&mut restored, &batches[at..]);
        assert_eq!(straight.hash().unwrap(), restored.hash().unwrap(), "from {at}");
    }
}
