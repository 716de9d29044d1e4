//! What gates are for, in a generated world where they should pay: users who weigh the same things differently.

use std::sync::Arc;

use ouzel_learner::model::{ModelConfig, normal, uniform};
use ouzel_learner::{LearnerConfig, Trainer};
use ouzel_sample::{
    Batch, Batcher, Candidate, Dense, EventTime, FeatureConfig, FeatureState, Id, Impression, N_DENSE,
    Sample, ShownItem,
};

use crate::world::{self, show};

const USERS: u64 = 120;
const SLATE: u64 = 4;
const BATCH: usize = 64;

/// The features of an item that users weigh.
fn qualities(item: u64) -> [f32; 2] {
    [0, 1].map(|lane| normal(41, item, lane))
}

/// What a user makes of them: more of one of them, or less, is better.
fn worth(user: u64, [first, second]: [f32; 2]) -> f32 {
    match user % 4 {
        0 => first,
        1 => -first,
        2 => second,
        _ => -second,
    }
}

/// Items that are shown once, of which nothing is known but two live features.
fn world(n: u64) -> Vec<Batch> {
    let features = FeatureState::new(FeatureConfig::default());
    let mut batcher = Batcher::new(BATCH);
    (0..n)
        .filter_map(|request| {
            let user = request % USERS;
            let id = |lane: u64| request * SLATE + lane;
            let slate = Impression {
                request: Id(request),
                user: Id(user),
                ts: EventTime(i64::try_from(request).unwrap() * 60_000 + 1),
                items: (0..SLATE)
                    .map(|lane| ShownItem::new(Id(id(lane)), None))
                    .collect(),
                context: vec![],
                numbers: Vec::new(),
                known_actions: None,
            };
            let group = show(&features, &slate, |lane, item| {
                let p = 1.0 / (1.0 + (-3.0 * worth(user, qualities(item))).exp());
                uniform(42, request, lane) < p
            });
            let group: Vec<Sample> = group
                .into_iter()
                .map(|sample| {
                    let mut dense = vec![0.0; N_DENSE];
                    dense[..2].copy_from_slice(&qualities(sample.candidate.item.0));
                    let candidate = Candidate {
                        dense: Dense::try_from(dense).unwrap(),
                        ..(*sample.candidate).clone()
                    };
                    Sample {
                        candidate: Arc::new(candidate),
                        ..sample
                    }
                })
                .collect();
            batcher.push(group)
        })
        .collect()
}

/// AUC of the second half, each sample scored before it was learned from.
fn auc(model: ModelConfig, batches: &[Batch]) -> f64 {
    let learner = LearnerConfig {
        batch_min_samples: BATCH,
        ..LearnerConfig::default()
    };
    let mut trainer = Trainer::new(model, learner).unwrap();
    world::auc(&mut trainer, batches, batches.len() / 2)
}

#[test]
fn gates_by_user_learn_what_each_user_goes_by_where_plain_layers_do_not() {
    let batches = world(3_000);
    let of = |senet, ppnet| {
        let model = ModelConfig {
            senet,
            ppnet,
            ..ModelConfig::default()
        };
        auc(model, &batches)
    };
    let [plain, senet, ppnet] = [of(false, false), of(true, false), of(false, true)];
    println!("plain {plain}, gates of fields {senet}, gates of hidden layers {ppnet}");
    assert!(ppnet > plain + 0.005, "with gates {ppnet}, without {plain}");
}
