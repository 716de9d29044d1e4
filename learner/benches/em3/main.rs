//! Samples trained and candidates scored a second by the models with content and sequence blocks, by the shape of a
//! batch. One JSON object a line.
//!
//! Beside each rate stand the microseconds a sample takes of one processor, and the share that a step's arithmetic, as `ouzel model describe`
//! counts it, has of the rate of matrix products in libtorch: of 1024 x 1024 x 1024, and of the largest that the model
//! makes, both measured between the models.
//!
//! `em3 [--threads N] [--seconds S] [--model NAME] [--shape RxCxN]`, all with defaults. With `--dump FILE`, the batches of
//! the first model and shape are written there with its weights and scores instead, for `tests/peers/em3_torch.py`.

#![expect(clippy::print_stdout, reason = "figures go to stdout")]

mod arithmetic;
mod dump;
mod world;

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use ouzel_learner::model::{
    ContentConfig, Inputs, InterestConfig, MatmulPrecision, Model, ModelConfig, SequenceConfig, SequenceKind,
};
use ouzel_learner::{DenseRule, LearnerConfig, OptimizerConfig, Trainer};
use ouzel_sample::Batch;

use world::{IMAGE, Shape, TEXT, World};

/// Batches of a world, gone through again and again.
const BATCHES: u64 = 20;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let of = |name: &str| {
        let at = asked.iter().position(|arg| arg == name)?;
        asked.get(at + 1).cloned()
    };
    let threads = of("--threads").and_then(|n| n.parse().ok()).unwrap_or(1);
    let seconds = of("--seconds").and_then(|n| n.parse().ok()).unwrap_or(2.0);
    let world = World::new();
    let shapes: Vec<Shape> = match of("--shape") {
        Some(text) => vec![shape(&text)],
        None => ["64x8x50", "64x8x200", "16x8x1000", "512x1x50", "8x64x50"]
            .map(shape)
            .to_vec(),
    };
    let models = match of("--model") {
        Some(name) => vec![name],
        None => [
            "em3-din",
            "em3-hstu",
            "din",
            "hstu",
            "mean",
            "default-deepfm",
            "default-din",
            "default-hstu",
        ]
        .map(str::to_owned)
        .to_vec(),
    };
    if let Some(path) = of("--dump") {
        let batches: Vec<Batch> = (0..BATCHES).map(|seq| world.batch(shapes[0], seq)).collect();
        let mut trainer = trained(&models[0], shapes[0], &batches, 0, threads);
        dump::dump(Path::new(&path), &world, &batches, &mut trainer);
        return;
    }
    tch::set_num_threads(threads);
    for name in &models {
        for shape in &shapes {
            let gemm = [[1024; 3], arithmetic::LARGEST].map(|size| arithmetic::gemm(size, seconds / 4.0));
            let batches: Vec<Batch> = (0..BATCHES).map(|seq| world.batch(*shape, seq)).collect();
            for (state, freeze) in [("warm-up", 0), ("frozen", 1)] {
                if freeze > 0 && !name.starts_with("em3") {
                    continue;
                }
                let [train, score] = measure(name, *shape, &batches, freeze, threads, seconds);
                let flops = arithmetic::of_sample(&config(name, shape.history()), &batches[0], freeze > 0);
                println!(
                    "{}",
                    json!({
                        "model": name, "state": state, "threads": threads,
                        "requests": shape.requests, "candidates": shape.candidates, "history": shape.history,
                        "train": train.by_clock.round(), "score": score.by_clock.round(),
                        "train_us": rounded(1e6 / train.by_processor),
                        "score_us": rounded(1e6 / score.by_processor),
                        "train_share": gemm.map(|gemm| rounded(train.by_processor * flops.train / gemm)),
                        "score_share": gemm.map(|gemm| rounded(score.by_processor * flops.score / gemm)),
                        "gemm_gflops": gemm.map(|gemm| rounded(gemm / 1e9)),
                    })
                );
            }
        }
    }
}

fn rounded(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}

fn shape(text: &str) -> Shape {
    let mut parts = text
        .split('x')
        .map(|part| part.parse().expect("a shape is RxCxN"));
    let mut next = || parts.next().expect("a shape has three numbers");
    Shape {
        requests: next(),
        candidates: next(),
        history: next(),
    }
}

/// The model of a name; one that ends in `-bf16` with products of rounded factors.
fn config(name: &str, history: usize) -> ModelConfig {
    if let Some(name) = name.strip_suffix("-bf16") {
        return ModelConfig {
            matmul_precision: MatmulPrecision::Bf16,
            ..config(name, history)
        };
    }
    // As the ready-made files of these names have them.
    if let Some(kind) = match name {
        "default-deepfm" => Some(SequenceKind::Mean),
        "default-din" => Some(SequenceKind::Din),
        "default-hstu" => Some(SequenceKind::Hstu),
        _ => None,
    } {
        let sequence = SequenceConfig {
            kind,
            ..SequenceConfig::default()
        };
        return ModelConfig {
            sequence,
            ..ModelConfig::default()
        };
    }
    let has_content = name.starts_with("em3");
    ModelConfig {
        dim: 32,
        history_len: history,
        hidden: vec![256, 128, 64],
        wide: false,
        fm: false,
        content: ContentConfig {
            enabled: has_content,
            vector_widths: [TEXT, IMAGE],
            ..ContentConfig::default()
        },
        interest: InterestConfig {
            enabled: has_content,
            history_len: history,
            ..InterestConfig::default()
        },
        contrast_width: if has_content { 64 } else { 0 },
        sequence: SequenceConfig {
            kind: match name {
                "em3-din" | "din" => SequenceKind::Din,
                "em3-hstu" | "hstu" => SequenceKind::Hstu,
                _ => SequenceKind::Mean,
            },
            history_len: history,
            width: 64,
            heads: 2,
            key_width: 32,
            value_width: 32,
            ..SequenceConfig::default()
        },
        ..ModelConfig::default()
    }
}

/// A trainer that has gone through the batches once.
fn trained(name: &str, shape: Shape, batches: &[Batch], freeze: u64, threads: i32) -> Trainer {
    let learner = LearnerConfig {
        optimizer: OptimizerConfig {
            dense: DenseRule::Adam,
            dense_rate: 1e-3,
            block_rate: 1e-3,
            contrast_weight: 0.05,
            freeze_after_samples: freeze,
            ..OptimizerConfig::default()
        },
        threads,
        ..LearnerConfig::default()
    };
    let model = config(name, shape.history());
    let mut trainer = Trainer::new(model, learner).expect("the configuration is valid");
    for batch in batches {
        trainer.step(batch).expect("a made-up batch is learned from");
    }
    trainer
}

/// Samples trained a second, each batch predicted and learned from, and candidates scored a second.
fn measure(
    name: &str,
    shape: Shape,
    batches: &[Batch],
    freeze: u64,
    threads: i32,
    seconds: f64,
) -> [Rate; 2] {
    let mut trainer = trained(name, shape, batches, freeze, threads);
    let mut next = batches.iter().cycle();
    let train = rate(seconds, || {
        let batch = next.next().expect("a cycle has no end");
        trainer.step(batch).expect("a made-up batch is learned from");
        shape.samples()
    });
    let weights = trainer.weights().expect("a trained model has weights");
    let model = Model::for_inference(&weights, tch::Device::Cpu);
    let mut model = model.expect("its weights have its own shapes");
    let mut score_one = |batch: &Batch| {
        let inputs = Inputs::of_samples(&weights.config, &batch.samples, &batch.vectors);
        let scores = model.score(&inputs, &weights).expect("a made-up batch is scored");
        scores.len() as u64
    };
    // What is kept of items is there before the clock runs.
    for batch in batches {
        score_one(batch);
    }
    let score = rate(seconds, || score_one(next.next().expect("a cycle has no end")));
    [train, score]
}

/// What is done a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) by_clock: f64,
    /// Of the calling thread's time on a processor, which others on the machine take less from.
    pub(crate) by_processor: f64,
}

/// What `work` says it did, a second.
pub(crate) fn rate(seconds: f64, mut work: impl FnMut() -> u64) -> Rate {
    work();
    let (start, start_on, mut done) = (Instant::now(), on_processor(), 0);
    while start.elapsed().as_secs_f64() < seconds {
        done += work();
    }
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let done = done as f64;
    let by_clock = done / start.elapsed().as_secs_f64();
    let by_processor = match (start_on, on_processor()) {
        (Some(start), Some(end)) if end > start => done / (end - start),
        _ => by_clock,
    };
    Rate {
        by_clock,
        by_processor,
    }
}

/// Seconds that the calling thread has been on a processor, where the system tells.
fn on_processor() -> Option<f64> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = told.split(' ').next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}
