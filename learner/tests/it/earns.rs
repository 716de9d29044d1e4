//! What the blocks over histories and contents are for, each in a generated world where it should pay: it beats the
//! model without it by a margin, or it is off by default.

use ouzel_learner::model::{
    ContentConfig, InterestConfig, LoraConfig, ModelConfig, SequenceConfig, SequenceKind, normal, uniform,
};
use ouzel_learner::{LearnerConfig, OptimizerConfig, Trainer};
use ouzel_sample::{
    Attribute, AttributeField, Batch, Batcher, EventTime, FeatureConfig, FeatureState, Id, Impression, Item,
    Sample, ShownItem,
};

use crate::world::{auc, show};

/// Candidates of a slate.
const SLATE: u64 = 4;
/// Samples of a batch.
const BATCH: usize = 64;
/// Numbers in a content vector.
const WIDTH: usize = 16;
/// Actions in the past of a user who comes once.
const PAST: usize = 40;
/// Kinds that an item may be of.
const KINDS: u64 = 6;

fn learner() -> LearnerConfig {
    LearnerConfig {
        batch_min_samples: BATCH,
        optimizer: OptimizerConfig {
            block_rate: 0.01,
            ..OptimizerConfig::default()
        },
        ..LearnerConfig::default()
    }
}

fn pick(key: u64, lane: u64, n: u64) -> u64 {
    u64::from((uniform(11, key, lane) * 1e6) as u32) % n
}

fn impression(request: u64, user: u64, items: impl Iterator<Item = u64>) -> Impression {
    Impression {
        request: Id(request),
        user: Id(user),
        ts: EventTime(i64::try_from(request).unwrap() * 60_000 + 1),
        items: items.map(|item| ShownItem::new(Id(item), None)).collect(),
        context: vec![],
        numbers: Vec::new(),
        known_actions: None,
    }
}

fn item(id: u64, about: Option<u64>, vector: Vec<f32>) -> Item {
    let attribute = |value| Attribute {
        field: AttributeField::Category,
        value: Id(1_000_000 + value),
    };
    Item {
        id: Id(id),
        name: format!("item {id}"),
        ts: EventTime(0),
        attributes: about.map(attribute).into_iter().collect(),
        tag_names: vec![],
        numbers: vec![],
        has_title: false,
        texts: vec![],
        image: None,
        vectors: vec![("text".into(), vector)],
    }
}

/// Thirty users whose interest in one of six topics lasts for eight of their requests, `n` requests in all.
fn drifting(n: u64) -> Vec<Batch> {
    const USERS: u64 = 30;
    let features = FeatureState::new(FeatureConfig::default());
    for id in 0..600 {
        features.put_item(item(id, Some(id % KINDS), vec![]));
    }
    let mut batcher = Batcher::new(BATCH);
    (0..n)
        .filter_map(|request| {
            let user = request % USERS;
            let phase = (request / USERS + user) / 8;
            let interest = pick(user, 100 + phase, KINDS);
            let first = pick(request, 1, KINDS);
            let of = |lane: u64| KINDS * pick(request, 10 + lane, 100) + (first + lane) % KINDS;
            let slate = impression(request, user, (0..SLATE).map(of));
            batcher.push(show(&features, &slate, |lane, item| {
                let rate = if item % KINDS == interest { 0.9 } else { 0.05 };
                uniform(12, request, 30 + lane) < rate
            }))
        })
        .collect()
}

/// Users who come once, with a history from before: in it, items of a kind are either dear or cheap, and the user
/// clicks on that kind or does not. All candidates are new. Items have two kinds, a topic and a style, which stand in
/// their content alone; what users go by is the topic, and from the `drift`-th request on the style.
fn cold(n: u64, drift: u64) -> Vec<Batch> {
    const POOL: u64 = 3_000;
    let features = FeatureState::new(FeatureConfig {
        history_contents: PAST,
        ..FeatureConfig::default()
    });
    // Of topic, style and price, all combinations in turn.
    let kinds = |id: u64| [id % KINDS, id / KINDS % KINDS];
    let put = |id: u64, kinds: [u64; 2], price: f32| {
        let mut vector: Vec<f32> = (0..WIDTH as u64).map(|lane| 0.1 * normal(13, id, lane)).collect();
        for (part, kind) in (0..).zip(kinds) {
            vector[usize::try_from(part * KINDS + kind).unwrap()] += 1.0;
        }
        vector[WIDTH - 1] += price;
        features.put_item(item(id, None, vector));
    };
    const COMBINATIONS: u64 = KINDS * KINDS * 2;
    for id in 0..POOL {
        let price = if (id / (KINDS * KINDS)).is_multiple_of(2) {
            1.0
        } else {
            -1.0
        };
        put(id, kinds(id), price);
    }
    let mut batcher = Batcher::new(BATCH);
    (0..n)
        .filter_map(|request| {
            let part = usize::from(request >= drift);
            let likes = |kinds: [u64; 2]| uniform(14, request, kinds[part]) < 0.5;
            let past: Vec<Id> = (0..PAST as u64)
                .map(|i| {
                    let kind = pick(request, 200 + i, KINDS * KINDS);
                    let dear = if likes(kinds(kind)) { 0 } else { KINDS * KINDS };
                    Id(kind + dear + COMBINATIONS * pick(request, 400 + i, POOL / COMBINATIONS))
                })
                .collect();
            features.seed_history(Id(request), &past, EventTime(0));
            let of = |lane: u64| kinds(pick(request, 20 + lane, KINDS * KINDS));
            let id = |lane: u64| POOL + request * SLATE + lane;
            for lane in 0..SLATE {
                put(id(lane), of(lane), 0.0);
            }
            let slate = impression(request, request, (0..SLATE).map(id));
            let group: Vec<Sample> = show(&features, &slate, |lane, _| {
                let rate = if likes(of(lane)) { 0.8 } else { 0.05 };
                uniform(15, request, 30 + lane) < rate
            });
            batcher.push(group)
        })
        .map(|mut batch| {
            let requests = batch.samples.iter().map(|sample| &*sample.request);
            let candidates = batch.samples.iter().map(|sample| &*sample.candidate);
            batch.vectors = features.vectors_of(requests, candidates);
            batch
        })
        .collect()
}

fn em3(has_interest: bool, rank: usize) -> ModelConfig {
    ModelConfig {
        hidden: vec![32],
        content: ContentConfig {
            enabled: true,
            vector_widths: [WIDTH, 0],
            width: 16,
            ..ContentConfig::default()
        },
        interest: InterestConfig {
            enabled: has_interest,
            width: 16,
            history_len: PAST,
        },
        lora: LoraConfig {
            rank,
            ..LoraConfig::default()
        },
        ..ModelConfig::default()
    }
}

#[test]
fn sequence_blocks_follow_interests_that_drift_where_the_mean_of_a_long_history_does_not() {
    // HSTU learns to attend at a time that differs by seed: after 2,000 to 10,000 of these requests.
    let batches = drifting(16_000);
    let of = |(kind, time_buckets, next_entry_weight)| {
        let model = ModelConfig {
            hidden: vec![32],
            sequence: SequenceConfig {
                kind,
                time_buckets,
                ..SequenceConfig::default()
            },
            ..ModelConfig::default()
        };
        let mut learner = learner();
        learner.optimizer.next_entry_weight = next_entry_weight;
        let mut trainer = Trainer::new(model, learner).unwrap();
        auc(&mut trainer, &batches, batches.len() * 3 / 4)
    };
    let [mean, din, timed, hstu, gru, dien, taught, sasrec, bst] = [
        (SequenceKind::Mean, false, 0.0),
        (SequenceKind::Din, false, 0.0),
        (SequenceKind::Din, true, 0.0),
        (SequenceKind::Hstu, false, 0.0),
        (SequenceKind::Gru, false, 0.0),
        (SequenceKind::Dien, false, 0.0),
        (SequenceKind::Dien, false, 0.2),
        (SequenceKind::Sasrec, false, 0.0),
        (SequenceKind::Bst, false, 0.0),
    ]
    .map(of);
    println!(
        "hstu {hstu}, gru {gru}, dien {dien} and with its auxiliary loss {taught}, sasrec {sasrec}, bst {bst}, din {din} and with times {timed}, the mean {mean}"
    );
    assert!(hstu > mean + 0.03, "hstu {hstu}, the mean {mean}");
    assert!(gru > mean + 0.1, "gru {gru}, the mean {mean}");
    // DIN, without an order, cannot tell the present interest from former ones. DIEN shares its updates among all entries, by a
    // softmax, so that it follows slowly.
    assert!(dien > mean + 0.03, "dien {dien}, the mean {mean}");
    assert!(dien > din + 0.02, "dien {dien}, din {din}");
    assert!(sasrec > mean + 0.1, "sasrec {sasrec}, the mean {mean}");
    assert!(bst > mean + 0.15, "bst {bst}, the mean {mean}");
    // Times tell the present interest from former ones.
    assert!(timed > din + 0.15, "din with times {timed}, without {din}");
}

#[test]
fn content_interest_finds_in_a_long_past_what_a_cold_candidate_is_worth() {
    let batches = cold(3_000, u64::MAX);
    let of = |has_interest| {
        let mut trainer = Trainer::new(em3(has_interest, 0), learner()).unwrap();
        auc(&mut trainer, &batches, batches.len() / 2)
    };
    let [without, with] = [false, true].map(of);
    println!("with {with}, without {without}");
    assert!(with > without + 0.06, "with {with}, without {without}");
}

#[test]
fn adapters_of_a_frozen_base_follow_a_drift_within_a_thousand_events() {
    let drift = 2_500;
    let batches = cold(drift + 2_000, drift);
    let is_before = |batch: &Batch| batch.samples[0].request.id.0 < drift;
    let (warm, rest) = batches.split_at(batches.partition_point(is_before));
    let of = |rank| {
        let mut trainer = Trainer::new(em3(true, rank), learner()).unwrap();
        let before = auc(&mut trainer, warm, warm.len() / 2);
        trainer.freeze().unwrap();
        (before, auc(&mut trainer, rest, rest.len() / 2))
    };
    let [(before, without), (_, with)] = [0, 8].map(of);
    println!("before {before}, with {with}, without {without}");
    assert!(
        without < before - 0.1,
        "there is a drift: {before}, then {without}"
    );
    assert!(with > without + 0.04, "with {with}, without {without}");
}

#[test]
fn the_contrast_of_ids_and_contents_is_off_by_default() {
    // In the world of cold candidates a weight of .01 or .1 changes the figures by .001 either way.
    assert!(OptimizerConfig::default().contrast_weight <= 0.0);
}

#[test]
fn the_auxiliary_loss_of_dien_is_off_by_default() {
    // In the world of drifting interests a weight of .2 costs .07.
    assert!(OptimizerConfig::default().next_entry_weight <= 0.0);
}
