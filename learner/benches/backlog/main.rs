//! What the frozen encoders do a second, and what a long backlog of theirs does to the learner's steps.
//!
//! `backlog [--encoders FOLDER] [--items N] [--model NAME]`. The encoding thread is as the daemon's: one thread of
//! libtorch, chunks of 64 contents, at the lowest priority. Steps are measured in turns, with and without it, so that a
//! noisy machine is noisy for both. One JSON object a line.

#![expect(clippy::print_stdout, reason = "figures go to stdout")]

#[path = "../em3/world.rs"]
#[expect(dead_code, reason = "the other bench needs more of it")]
mod world;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tch::Device;

use ouzel_encoders::{Encoder, ImageEncoder, TextEncoder};
use ouzel_learner::model::{ContentConfig, InterestConfig, ModelConfig, SequenceConfig, SequenceKind};
use ouzel_learner::{LearnerConfig, Trainer, set_intra_op_threads};
use ouzel_sample::{Batch, Content};

use world::{IMAGE, Shape, TEXT, World};

const CHUNK: usize = 64;
/// Length of one turn.
const TURN: Duration = Duration::from_millis(1500);
const SHAPE: Shape = Shape {
    requests: 64,
    candidates: 8,
    history: 50,
};

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let of = |name: &str| {
        let at = asked.iter().position(|arg| arg == name)?;
        asked.get(at + 1).cloned()
    };
    set_intra_op_threads(1);
    let folder =
        of("--encoders").unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../.encoders").to_owned());
    let folder = Path::new(&folder);
    let text = TextEncoder::load(&folder.join("all-minilm-l6-v2"), Device::Cpu)
        .expect("make encoders has fetched it");
    let image = ImageEncoder::load(&folder.join("efficientnet-lite0"), Device::Cpu)
        .expect("make encoders has fetched it");
    throughput(&text, &image);
    let n_items = of("--items").and_then(|n| n.parse().ok()).unwrap_or(10_000);
    backlog(text, n_items);
}

/// A text of so many words that no other number has.
fn words(number: usize, n: usize) -> Content {
    let words: Vec<String> = (0..n)
        .map(|at| format!("word{}", (number * 31 + at * 7) % 5000))
        .collect();
    Content::text(&words.join(" "))
}

fn throughput(text: &TextEncoder, image: &ImageEncoder) {
    for (what, n_words, n) in [
        ("texts of 10 words, about 30 tokens", 10, 512),
        ("texts of 100 words, cut at 256 tokens", 100, 128),
    ] {
        let contents: Vec<Content> = (0..n).map(|number| words(number, n_words)).collect();
        tell(what, text, &contents);
    }
    let bytes = include_bytes!("../../encoders/tests/fixtures/large.jpg");
    let pictures = vec![Content::Image(bytes.to_vec()); CHUNK];
    tell("pictures", image, &pictures);
}

fn tell(what: &str, encoder: &dyn Encoder, contents: &[Content]) {
    let encode = || {
        for chunk in contents.chunks(CHUNK) {
            let made = encoder.encode(chunk).expect("the processor does not fail");
            assert!(made.iter().all(Result::is_ok), "a made-up content is whole");
        }
    };
    encode();
    let started = Instant::now();
    encode();
    let rate = contents.len() as f64 / started.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({ "encoder": encoder.version().name, "contents": what, "a_second": rate.round() })
    );
}

/// Steps with and without a backlog that another thread works off.
fn backlog(encoder: TextEncoder, n_items: usize) {
    let world = World::new();
    let batches: Vec<Batch> = (0..20).map(|seq| world.batch(SHAPE, seq)).collect();
    let mut trainer = Trainer::new(model(), LearnerConfig::default()).expect("the configuration is valid");
    for batch in &batches {
        trainer.step(batch).expect("a made-up batch is learned from");
    }
    let (is_on, n_done, n_turns) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut steps = [Vec::new(), Vec::new()];
    let (on, done) = (&is_on, &n_done);
    thread::scope(|scope| {
        scope.spawn(move || {
            set_intra_op_threads(1);
            rustix::process::nice(19).expect("a thread may be made less urgent");
            while done.load(Ordering::Acquire) < n_items {
                if !on.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                }
                let first = done.load(Ordering::Acquire);
                let chunk: Vec<Content> = (first..first + CHUNK).map(|number| words(number, 12)).collect();
                encoder.encode(&chunk).expect("the processor does not fail");
                done.fetch_add(CHUNK, Ordering::AcqRel);
            }
        });
        let mut next = batches.iter().cycle();
        while n_done.load(Ordering::Acquire) < n_items {
            for with in [false, true] {
                is_on.store(with, Ordering::Release);
                // The chunk that was begun is ended.
                thread::sleep(Duration::from_millis(400));
                n_turns.fetch_add(1, Ordering::Relaxed);
                let turn = Instant::now();
                while turn.elapsed() < TURN && (!with || n_done.load(Ordering::Acquire) < n_items) {
                    let started = Instant::now();
                    trainer
                        .step(next.next().expect("a cycle has no end"))
                        .expect("a made-up batch is learned from");
                    steps[usize::from(with)].push(started.elapsed().as_secs_f64() * 1000.0);
                }
            }
        }
    });
    let [without, with] = steps.map(|mut steps| {
        steps.sort_by(f64::total_cmp);
        let at = |share: usize| steps[(steps.len() - 1) * share / 100];
        (
            at(50),
            at(95),
            steps.iter().sum::<f64>() / steps.len() as f64,
            steps.len(),
        )
    });
    println!(
        "{}",
        json!({
            "backlog": n_items, "turns": n_turns.into_inner(),
            "step_ms_without": { "median": without.0, "p95": without.1, "mean": without.2, "steps": without.3 },
            "step_ms_with": { "median": with.0, "p95": with.1, "mean": with.2, "steps": with.3 },
            "ratio": { "median": with.0 / without.0, "p95": with.1 / without.1, "mean": with.2 / without.2 },
        })
    );
}

/// em3-hstu, as the daemon has it by default.
fn model() -> ModelConfig {
    ModelConfig {
        content: ContentConfig {
            enabled: true,
            vector_widths: [TEXT, IMAGE],
            ..ContentConfig::default()
        },
        interest: InterestConfig {
            enabled: true,
            ..InterestConfig::default()
        },
        sequence: SequenceConfig {
            kind: SequenceKind::Hstu,
            ..SequenceConfig::default()
        },
        ..ModelConfig::default()
    }
}
