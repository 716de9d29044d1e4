//! Samples trained and candidates scored a second, on one thread.
//!
//! The peer is `tests/peers/recipe_torch.py`, the same model in PyTorch. With `OUZEL_BENCH_DUMP=DIR` the worlds
//! are written there as JSON for it instead, so that both sides work on the same batches.

mod world;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use divan::Bencher;
use divan::counter::ItemsCount;
use serde_json::{Value, json};

use ouzel_learner::model::{
    Inputs, LongHistoryConfig, Model, ModelConfig, SequenceConfig, SequenceKind, Weights,
};
use ouzel_learner::{LearnerConfig, Trainer};
use ouzel_sample::{Batch, Candidate, FeatureState, Impression, Request, VectorMap};

use world::{BATCH, FEED, FILMS, World, read};

const WORLDS: [&World; 2] = [&FILMS, &FEED];
/// Most candidates of a scored request.
const MOST: u64 = 1_000;
/// Actions that a candidate reads of the long past.
const LONG_LEN: usize = 50;

fn main() {
    match std::env::var_os("OUZEL_BENCH_DUMP") {
        Some(folder) => dump(Path::new(&folder)).expect("the folder to dump to can be written"),
        None => divan::main(),
    }
}

/// One step: score the batch, learn from it.
#[divan::bench(args = WORLDS, min_time = 3)]
fn train(bencher: Bencher<'_, '_>, world: &World) {
    let batches = world.batches();
    let mut trainer = trained(&batches);
    let mut next = batches.iter().cycle();
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        let batch = next.next().expect("a cycle has no end");
        trainer.step(batch).expect("a world is learned from")
    });
}

/// One request, from its ids and features to scores.
#[divan::bench(args = [100, 1000], min_time = 3)]
fn score(bencher: Bencher<'_, '_>, n: u64) {
    let (weights, mut model) = served();
    let (features, impression) = FEED.request(n);
    let (request, candidates) = read(&features, &impression);
    bencher.counter(ItemsCount::new(n)).bench_local(|| {
        let inputs = Inputs::of_request(&weights.config, &request, &candidates, &VectorMap::default());
        model.score(&inputs, &weights).expect("a world is scored")
    });
}

/// The same with the reading of the live features before it, which the peer does not have.
#[divan::bench(args = [100, 1000], min_time = 3)]
fn read_and_score(bencher: Bencher<'_, '_>, n: u64) {
    let (weights, mut model) = served();
    let (features, impression) = FEED.request(n);
    bencher.counter(ItemsCount::new(n)).bench_local(|| {
        let (request, candidates) = read(&features, &impression);
        let inputs = Inputs::of_request(&weights.config, &request, &candidates, &VectorMap::default());
        model.score(&inputs, &weights).expect("a world is scored")
    });
}

/// Reading the live features of a request of 100 candidates whose user has acted so often, with a search in the long past or,
/// at 0, without.
#[divan::bench(args = [0, 1_000, 10_000], min_time = 3)]
fn long_read(bencher: Bencher<'_, '_>, n_past: u64) {
    let (features, impression) = long_request(n_past);
    bencher.bench_local(|| read(&features, &impression));
}

/// Scoring what [`long_read`] has read by `sim`, or at 0 by the same model without a long past.
#[divan::bench(args = [0, 1_000, 10_000], min_time = 3)]
fn long_score(bencher: Bencher<'_, '_>, n_past: u64) {
    let (features, impression) = long_request(n_past);
    let (request, candidates) = read(&features, &impression);
    let config = ModelConfig {
        sequence: SequenceConfig {
            kind: SequenceKind::Din,
            ..SequenceConfig::default()
        },
        long_history: LongHistoryConfig {
            enabled: n_past > 0,
            len: LONG_LEN,
            ..LongHistoryConfig::default()
        },
        ..ModelConfig::default()
    };
    let mut trainer = Trainer::new(config, LearnerConfig::default()).expect("the configuration is valid");
    let weights = trainer.weights().expect("a new model has weights");
    let mut model =
        Model::for_inference(&weights, tch::Device::Cpu).expect("its weights have its own shapes");
    bencher.bench_local(|| {
        let inputs = Inputs::of_request(&weights.config, &request, &candidates, &VectorMap::default());
        model.score(&inputs, &weights).expect("a world is scored")
    });
}

fn long_request(n_past: u64) -> (FeatureState, Impression) {
    let len = if n_past == 0 { 0 } else { LONG_LEN };
    FEED.long_request(100, n_past.max(1_000), len)
}

fn trained(batches: &[Batch]) -> Trainer {
    let (model, learner) = (ModelConfig::default(), LearnerConfig::default());
    let mut trainer = Trainer::new(model, learner).expect("the default configuration is valid");
    for batch in batches {
        trainer.step(batch).expect("a world is learned from");
    }
    trainer
}

fn served() -> (Weights, Model) {
    let weights = trained(&FEED.batches())
        .weights()
        .expect("a trained model has weights");
    let model = Model::new(&weights, tch::Device::Cpu).expect("its weights have its own shapes");
    (weights, model)
}

fn dump(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    for world in WORLDS {
        let path = folder.join(format!("{}.batches.jsonl", world.name));
        let batches = world.batches();
        let lines = batches.iter().map(|batch| {
            let labels = batch
                .samples
                .iter()
                .map(|sample| sample.labels.get(0) == Some(true));
            let mut requests: Vec<&Request> = batch.samples.iter().map(|sample| &*sample.request).collect();
            requests.dedup_by_key(|request| request.id);
            let candidates = batch
                .samples
                .chunk_by(|a, b| a.request.id == b.request.id)
                .zip(0..)
                .flat_map(|(slate, index)| slate.iter().map(move |s| candidate(index, &s.candidate)));
            json!({
                "requests": requests.into_iter().map(user_side).collect::<Vec<_>>(),
                "candidates": candidates.collect::<Vec<_>>(),
                "labels": labels.map(u8::from).collect::<Vec<_>>(),
            })
        });
        write_lines(&path, lines)?;
    }
    let losses: Vec<Value> = WORLDS
        .iter()
        .map(|w| json!({ "world": w.name, "log_loss": log_loss(w) }))
        .collect();
    write_lines(&folder.join("losses.jsonl"), losses)?;
    let (features, impression) = FEED.request(MOST);
    let (request, candidates) = read(&features, &impression);
    let line = json!({
        "requests": [user_side(&request)],
        "candidates": candidates.iter().map(|c| candidate(0, c)).collect::<Vec<_>>(),
    });
    write_lines(&folder.join("request.json"), [line])
}

/// The mean log-loss of the batches, each predicted before it is learned from: shows that a peer learns the same.
fn log_loss(world: &World) -> f32 {
    let (model, learner) = (ModelConfig::default(), LearnerConfig::default());
    let mut trainer = Trainer::new(model, learner).expect("the default configuration is valid");
    let (mut n, mut total) = (0.0, 0.0);
    for batch in world.batches() {
        let report = trainer.step(&batch).expect("a world is learned from");
        for (logit, sample) in report.logits.iter().zip(&batch.samples) {
            let is_positive = sample.labels.get(0) == Some(true);
            total += (if is_positive { -logit } else { *logit }).exp().ln_1p();
            n += 1.0;
        }
    }
    total / n
}

fn user_side(request: &Request) -> Value {
    let history: Vec<u64> = request.history.iter().map(|entry| entry.item.0).collect();
    let context: Vec<u64> = request.context.iter().map(|value| value.0).collect();
    json!({ "user": request.user.0, "context": context, "history": history })
}

fn candidate(request: usize, candidate: &Candidate) -> Value {
    let attributes: Vec<Value> = candidate
        .attributes
        .iter()
        .map(|attribute| json!([attribute.field, attribute.value.0]))
        .collect();
    json!({
        "request": request, "item": candidate.item.0, "attributes": attributes,
        "dense": candidate.dense.as_slice(),
    })
}

fn write_lines(path: &Path, lines: impl IntoIterator<Item = Value>) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for line in lines {
        writeln!(file, "{line}")?;
    }
    file.into_inner()?.sync_all()
}
