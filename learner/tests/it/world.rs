//! A small generated world: users like some items, items repeat, slates of four.

use std::sync::Arc;

use ouzel_learner::model::{ModelConfig, uniform};
use ouzel_learner::validation::ScoreLog;
use ouzel_learner::{LearnerConfig, Trainer};
use ouzel_sample::{
    Action, Attribute, AttributeField, Batch, Batcher, EventTime, FeatureConfig, FeatureQuery, FeatureState,
    Id, Impression, Item, Labels, PartitionId, Position, Sample, SampleKind, ShownItem, Stream,
};

const N_USERS: u64 = 20;
const N_ITEMS: u64 = 30;
/// Numbers in a content vector.
pub(crate) const N_CONTENT: usize = 8;

pub(crate) fn configs() -> (ModelConfig, LearnerConfig) {
    let learner = LearnerConfig {
        batch_min_samples: 32,
        ..LearnerConfig::default()
    };
    (ModelConfig::default(), learner)
}

/// Batches of `n_requests` slates. A user clicks an item when both are of the same parity, with some noise.
pub(crate) fn batches(seed: u64, n_requests: u64) -> Vec<Batch> {
    let mut batcher = Batcher::new(32);
    slates(seed, n_requests, [0.15, 0.85])
        .filter_map(|slate| batcher.push(slate))
        .collect()
}

/// The same with a content vector for each item, which tells its parity among noise.
pub(crate) fn batches_with_content(seed: u64, n_requests: u64) -> Vec<Batch> {
    let config = FeatureConfig {
        history_contents: 20,
        long_len: 8,
        ..FeatureConfig::default()
    };
    let features = Arc::new(FeatureState::new(config));
    let mut batcher = Batcher::new(32);
    slates_of(&features, seed, n_requests, [0.15, 0.85])
        .filter_map(|slate| batcher.push(slate))
        .map(|mut batch| {
            let requests = batch.samples.iter().map(|sample| &*sample.request);
            let candidates = batch.samples.iter().map(|sample| &*sample.candidate);
            batch.vectors = features.vectors_of(requests, candidates);
            batch
        })
        .collect()
}

/// An item of a category, without content.
pub(crate) fn item(id: u64, category: u64) -> Item {
    Item {
        id: Id(id),
        name: format!("item {id}"),
        ts: EventTime(0),
        attributes: vec![Attribute {
            field: AttributeField::Category,
            value: Id(category),
        }],
        tag_names: vec![],
        numbers: vec![],
        has_title: false,
        texts: vec![],
        image: None,
        vectors: vec![],
    }
}

/// AUC of the batches from index `from` on, each sample scored before it was learned from.
pub(crate) fn auc(trainer: &mut Trainer, batches: &[Batch], from: usize) -> f64 {
    let mut log = ScoreLog::default();
    unpredicted(batches);
    for (at, batch) in batches.iter().enumerate() {
        let report = trainer.step(batch).unwrap();
        if at >= from {
            log.add(batch, &report.logits);
        }
    }
    log.figures(EventTime::MIN).auc.unwrap()
}

/// Forgets what another trainer predicted of these samples: the first prediction is the one that validation keeps.
pub(crate) fn unpredicted(batches: &[Batch]) {
    for sample in batches.iter().flat_map(|batch| &batch.samples) {
        sample.candidate.predicted.set(&[]);
    }
}

/// The same world slate by slate, its click rates given: of items of the other parity and of the same.
pub(crate) fn slates(seed: u64, n_requests: u64, rates: [f32; 2]) -> impl Iterator<Item = Vec<Sample>> {
    let features = Arc::new(FeatureState::new(FeatureConfig::default()));
    slates_of(&features, seed, n_requests, rates)
}

fn slates_of(
    features: &Arc<FeatureState>,
    seed: u64,
    n_requests: u64,
    rates: [f32; 2],
) -> impl Iterator<Item = Vec<Sample>> + use<> {
    let features = Arc::clone(features);
    for id in 0..N_ITEMS {
        features.put_item(Item {
            vectors: vec![("text".into(), content(id))],
            ..item(id, 100 + id % 5)
        });
    }
    (0..n_requests).map(move |request| {
        let pick = |lane: u64, n: u64| (u64::from((uniform(seed, request, lane) * 1e6) as u32)) % n;
        let user = pick(0, N_USERS);
        let first = pick(1, N_ITEMS);
        let items = (0..4)
            .map(|i| ShownItem::new(Id((first + 7 * i) % N_ITEMS), u16::try_from(i).ok()))
            .collect();
        let impression = Impression {
            request: Id(request),
            user: Id(user),
            ts: EventTime(i64::try_from(request).unwrap() * 1000),
            items,
            context: vec![Id(500 + request % 3)],
            numbers: Vec::new(),
            known_actions: None,
        };
        show(&features, &impression, |lane, item| {
            let draw = uniform(seed, request, 10 + lane);
            if item % 2 == user % 2 {
                draw < rates[1]
            } else {
                draw >= 1.0 - rates[0]
            }
        })
    })
}

/// The click rate of a sample of [`slates`].
pub(crate) fn rate(sample: &Sample, rates: [f32; 2]) -> f32 {
    rates[usize::from(sample.candidate.item.0 % 2 == sample.request.user.0 % 2)]
}

/// A vector whose first number is the item's parity.
fn content(item: u64) -> Vec<f32> {
    let mut vector: Vec<f32> = (0..N_CONTENT as u64)
        .map(|lane| uniform(3, item, lane) - 0.5)
        .collect();
    vector[0] = if item.is_multiple_of(2) { 1.0 } else { -1.0 };
    vector
}

/// The samples of a slate, in whose place and on which item `clicked` says whether there is a click.
pub(crate) fn show(
    features: &FeatureState,
    impression: &Impression,
    clicked: impl Fn(u64, u64) -> bool,
) -> Vec<Sample> {
    let ask = FeatureQuery::of(impression);
    let (request, candidates) = features.read(&ask);
    features.add_impression(impression);
    let request = Arc::new(request);
    let shown_at = Position {
        partition: PartitionId {
            stream: Stream::Impressions,
            partition: 0,
        },
        offset: 0,
    };
    let mut group = Vec::new();
    for (lane, candidate) in (0u64..).zip(candidates) {
        let y = clicked(lane, candidate.item.0);
        if y {
            let action = Action {
                request: Some(request.id),
                item: candidate.item,
                user: request.user,
                ts: request.ts,
                task: 0,
                value: None,
            };
            features.add_action(&action, &request.context, Some(request.n_items));
        }
        group.push(Sample {
            seq: 0,
            request: Arc::clone(&request),
            candidate: Arc::new(candidate),
            labels: Labels::UNKNOWN.with(0, y),
            values: Vec::new(),
            kind: SampleKind::Final,
            weight: 1.0,
            shown_at,
            action_record_ms: None,
        });
    }
    group
}
