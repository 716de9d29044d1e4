//! Retrieval in a world of latent tastes: beside popularity, matrix factorisation and the truth.

use std::collections::{BTreeMap, HashMap, HashSet};

use ouzel_learner::model::{ModelConfig, RetrievalConfig, TowerItem, normal, uniform};
use ouzel_learner::validation::Recall;
use ouzel_learner::{Trainer, WeightOutcome};
use ouzel_sample::{
    Batch, Batcher, EventTime, FeatureConfig, FeatureState, Id, Impression, Sample, ShownItem,
};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Store};

use crate::world::{self, N_CONTENT, batches_with_content, configs, show, unpredicted};

const N_USERS: u64 = 300;
const N_ITEMS: u64 = 400;
/// Latent dimensions of the world, and factors of the factorisation.
const N_LATENT: u64 = 4;
const SLATE: u64 = 6;

/// A user or an item of the world.
fn latent(stream: u64, id: u64) -> Vec<f32> {
    (0..N_LATENT).map(|lane| normal(11 + stream, id, lane)).collect()
}

/// The log-odds that a user clicks an item: taste, and the item's quality.
fn log_odds(user: u64, item: u64) -> f32 {
    let taste: f32 = latent(0, user)
        .iter()
        .zip(latent(1, item))
        .map(|(u, v)| u * v)
        .sum();
    1.2 * taste + 0.7 * normal(13, item, 0) - 1.5
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Batches of this many slates, items of which nobody has acted on before, and the catalog.
fn world(n_requests: u64) -> (Vec<Batch>, Vec<TowerItem>) {
    let features = FeatureState::new(FeatureConfig::default());
    for id in 0..N_ITEMS {
        features.put_item(world::item(id, 1_000_000 + id % 7));
    }
    let mut acted: HashSet<(u64, u64)> = HashSet::new();
    let mut batcher = Batcher::new(64);
    let mut batches = Vec::new();
    for request in 0..n_requests {
        let pick = |lane: u64, n: u64| u64::from((uniform(7, request, lane) * 1e6) as u32) % n;
        let user = pick(0, N_USERS);
        let mut items: Vec<u64> = Vec::new();
        for lane in 1.. {
            let item = pick(lane, N_ITEMS);
            if !items.contains(&item) && !acted.contains(&(user, item)) {
                items.push(item);
            }
            if items.len() as u64 == SLATE {
                break;
            }
        }
        let impression = Impression {
            request: Id(request),
            user: Id(user),
            ts: EventTime(i64::try_from(request).unwrap() * 1000),
            items: items.iter().map(|item| ShownItem::new(Id(*item), None)).collect(),
            context: vec![],
            numbers: Vec::new(),
            known_actions: None,
        };
        let group = show(&features, &impression, |lane, item| {
            uniform(8, request, lane) < sigmoid(log_odds(user, item))
        });
        let positives = group.iter().filter(|sample| sample.labels.get(0) == Some(true));
        acted.extend(positives.map(|sample| (user, sample.candidate.item.0)));
        batches.extend(batcher.push(group));
    }
    let items = (0..N_ITEMS).map(|id| TowerItem::new(Id(id), [Id(1_000_000 + id % 7)].into_iter(), None));
    (batches, items.collect())
}

fn with_towers(own_rows: bool) -> ModelConfig {
    ModelConfig {
        retrieval: RetrievalConfig {
            width: 32,
            own_rows,
            ..RetrievalConfig::default()
        },
        ..ModelConfig::default()
    }
}

fn positives(batch: &Batch) -> impl Iterator<Item = &Sample> {
    batch
        .samples
        .iter()
        .filter(|sample| sample.labels.get(0) == Some(true))
}

/// Recall at `k` of the positives of these batches by a score of user and item, among items that the user did not act on.
fn recall(batches: &[Batch], k: usize, score: impl Fn(u64, u64) -> f32) -> f64 {
    let (mut n, mut n_within) = (0.0, 0.0);
    for sample in batches.iter().flat_map(positives) {
        let user = sample.request.user.0;
        let acted: HashSet<u64> = sample.request.history.iter().map(|entry| entry.item.0).collect();
        let own = score(user, sample.candidate.item.0);
        let others = (0..N_ITEMS).filter(|item| !acted.contains(item));
        n += 1.0;
        if others.filter(|item| score(user, *item) > own).count() < k {
            n_within += 1.0;
        }
    }
    n_within / n
}

/// Implicit matrix factorisation by alternating least squares (Hu, Koren and Volinsky 2008) of the positives of batches.
fn factorise(batches: &[Batch]) -> impl Fn(u64, u64) -> f32 + use<> {
    const F: usize = 6;
    let (confidence, ridge) = (10.0f64, 3.0f64);
    let mut of: [BTreeMap<u64, Vec<u64>>; 2] = Default::default();
    for sample in batches.iter().flat_map(positives) {
        let (user, item) = (sample.request.user.0, sample.candidate.item.0);
        of[0].entry(user).or_default().push(item);
        of[1].entry(item).or_default().push(user);
    }
    let start = |stream: u64, n: u64| -> Vec<[f64; F]> {
        let row = |id: u64| std::array::from_fn(|f| 0.1 * f64::from(normal(stream, id, f as u64)));
        (0..n).map(row).collect()
    };
    let mut factors = [start(31, N_USERS), start(32, N_ITEMS)];
    for _ in 0..15 {
        for side in [0, 1] {
            let others = factors[1 - side].clone();
            let mut gram = [[0.0f64; F]; F];
            for x in &others {
                for (i, row) in gram.iter_mut().enumerate() {
                    (0..F).for_each(|j| row[j] += x[i] * x[j]);
                }
            }
            for (id, own) in factors[side].iter_mut().enumerate() {
                let (mut a, mut b) = (gram, [0.0f64; F]);
                (0..F).for_each(|i| a[i][i] += ridge);
                for other in of[side].get(&(id as u64)).into_iter().flatten() {
                    let x = others[usize::try_from(*other).unwrap()];
                    for i in 0..F {
                        b[i] += (1.0 + confidence) * x[i];
                        (0..F).for_each(|j| a[i][j] += confidence * x[i] * x[j]);
                    }
                }
                *own = solve(a, b);
            }
        }
    }
    move |user, item| {
        let [users, items] = &factors;
        let (u, v) = (
            users[usize::try_from(user).unwrap()],
            items[usize::try_from(item).unwrap()],
        );
        u.iter().zip(v).map(|(u, v)| u * v).sum::<f64>() as f32
    }
}

/// Solves a positive definite system by elimination.
fn solve<const F: usize>(mut a: [[f64; F]; F], mut b: [f64; F]) -> [f64; F] {
    for i in 0..F {
        for j in i + 1..F {
            let factor = a[j][i] / a[i][i];
            (i..F).for_each(|k| a[j][k] -= factor * a[i][k]);
            b[j] -= factor * b[i];
        }
    }
    for i in (0..F).rev() {
        let rest: f64 = (i + 1..F).map(|k| a[i][k] * b[k]).sum();
        b[i] = (b[i] - rest) / a[i][i];
    }
    b
}

/// Learns all batches, measuring the last quarter. Returns recall at 50 of retrieval and of popularity.
fn run(model: ModelConfig, batches: &[Batch], items: &[TowerItem]) -> [f64; 2] {
    let (_, learner) = configs();
    let mut trainer = Trainer::new(model, learner).unwrap();
    let mut recall = Recall::default();
    for (at, batch) in batches.iter().enumerate() {
        if at >= batches.len() * 3 / 4 {
            recall.measure(&mut trainer, batch, items).unwrap();
        }
        trainer.step(batch).unwrap();
    }
    let figures = recall.figures().unwrap();
    assert_eq!(figures.skipped, 0);
    [figures.retrieval.recall_50, figures.popularity.recall_50]
}

#[test]
fn towers_beat_popularity_and_come_near_a_factorisation() {
    let (batches, items) = world(6000);
    let last = &batches[batches.len() * 3 / 4..];
    let [own, popularity] = run(with_towers(true), &batches, &items);
    let [shared, _] = run(with_towers(false), &batches, &items);
    let factorised = recall(last, 50, factorise(&batches[..batches.len() * 3 / 4]));
    let known: HashMap<(u64, u64), f32> = (0..N_USERS)
        .flat_map(|user| (0..N_ITEMS).map(move |item| ((user, item), log_odds(user, item))))
        .collect();
    let truth = recall(last, 50, |user, item| known[&(user, item)]);
    println!(
        "own {own:.3} shared {shared:.3} popularity {popularity:.3} als {factorised:.3} truth {truth:.3}"
    );
    assert!(own > popularity + 0.05, "{own} {popularity}");
    assert!(shared > popularity + 0.05, "{shared} {popularity}");
    assert!(own > 0.8 * factorised, "{own} {factorised}");
    assert!(shared > 0.9 * factorised, "{shared} {factorised}");
}

/// A model with towers that read content vectors too, and batches of a small world with them.
fn with_content() -> (ModelConfig, Vec<Batch>) {
    let mut model = with_towers(true);
    model.content.vector_widths = [N_CONTENT, 0];
    (model, batches_with_content(3, 300))
}

#[test]
fn the_ranker_is_the_same_bit_for_bit_with_towers() {
    let (with, batches) = with_content();
    let without = ModelConfig {
        retrieval: RetrievalConfig::default(),
        ..with.clone()
    };
    let shared = ModelConfig {
        retrieval: RetrievalConfig {
            own_rows: false,
            ..with.retrieval
        },
        ..with.clone()
    };
    let logits = |model: &ModelConfig| -> Vec<u32> {
        unpredicted(&batches);
        let mut trainer = Trainer::new(model.clone(), configs().1).unwrap();
        let of_batch = |batch| trainer.step(batch).unwrap().logits.into_iter().map(f32::to_bits);
        batches.iter().flat_map(of_batch).collect()
    };
    let expected = logits(&without);
    assert!(logits(&with) == expected && logits(&shared) == expected);
}

#[test]
fn towers_are_restored_and_carried_over_and_continue_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (model, batches) = with_content();
    let learner = configs().1;
    let (first, second) = batches.split_at(batches.len() / 2);
    let mut straight = Trainer::new(model.clone(), learner.clone()).unwrap();
    let mut n_positives = 0;
    for batch in first {
        n_positives += straight.step(batch).unwrap().retrieval.n_positives;
    }
    assert!(n_positives > 200, "{n_positives}");
    let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
    straight.save(&mut draft).unwrap();
    let snapshot = store.read(store.write(&draft).unwrap()).unwrap();
    for batch in second {
        straight.step(batch).unwrap();
    }
    let expected = straight.hash().unwrap();

    let mut restored = Trainer::load(&snapshot, &model, learner.clone()).unwrap();
    unpredicted(&batches);
    for batch in second {
        restored.step(batch).unwrap();
    }
    assert_eq!(restored.hash().unwrap(), expected);

    let (mut same, done) = Trainer::migrate(&snapshot, &model, learner.clone()).unwrap();
    assert_eq!(done.n_parameters(WeightOutcome::Anew), 0, "{done:?}");
    unpredicted(&batches);
    for batch in second {
        same.step(batch).unwrap();
    }
    assert_eq!(same.hash().unwrap(), expected);

    // Towers of another width start anew, and the ranker is kept.
    let wider = ModelConfig {
        retrieval: RetrievalConfig {
            width: 16,
            ..model.retrieval
        },
        ..model
    };
    let (mut wider, done) = Trainer::migrate(&snapshot, &wider, learner).unwrap();
    assert!(
        done.notes.iter().any(|note| note.contains("model.retrieval")),
        "{done:?}"
    );
    let is_tower = |name: &str| name.starts_with("retrieval.");
    let anew = done
        .weights
        .iter()
        .filter(|(_, _, outcome)| *outcome == WeightOutcome::Anew);
    assert!(
        anew.clone().count() > 0 && anew.clone().all(|(name, _, _)| is_tower(name)),
        "{done:?}"
    );
    assert!(wider.step(&second[0]).unwrap().retrieval.is_learned);
}
