//! The frozen encoders against what public reference implementations make of the same weights; `fixtures.py` asked them.
//!
//! Every test runs on encoders of a few thousand random weights. Those of the real weights run when `make encoders` has
//! fetched them, as `make test` does, and say so loudly when not.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a step that fails while setting a test up fails the test; what differs is printed by how much"
)]

mod batching;
mod parity;
mod refusals;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ouzel_model::encode::{Encoded, Encoder, ImageEncoder, TextEncoder};
use ouzel_sample::Content;
use safetensors::SafeTensors;
use tch::Device;

const PICTURES: [&str; 5] = ["wide.png", "thin.png", "grey.png", "clear.png", "large.jpg"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/encode/fixtures")
        .join(name)
}

/// The folder of real weights with this name, if it was fetched.
fn real(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../.encoders")
        .join(name);
    if folder.join("model.safetensors").exists() {
        return Some(folder);
    }
    // Past the capture of the test harness.
    writeln!(
        std::io::stderr(),
        "SKIPPED: there are no weights of {name}: `make encoders`"
    )
    .ok();
    None
}

/// On one thread: the tests run side by side, and threads that wait for each other take many times as long.
fn text_encoder(folder: &Path) -> TextEncoder {
    tch::set_num_threads(1);
    TextEncoder::load(folder, Device::Cpu).unwrap()
}

fn image_encoder(folder: &Path) -> ImageEncoder {
    tch::set_num_threads(1);
    ImageEncoder::load(folder, Device::Cpu).unwrap()
}

/// The texts of the fixtures, `real` or `tiny`.
fn texts(which: &str) -> Vec<Content> {
    let file = fs::read(fixture("texts.json")).unwrap();
    let texts: BTreeMap<String, Vec<String>> = serde_json::from_slice(&file).unwrap();
    texts[which].iter().map(|text| Content::text(text)).collect()
}

fn picture(name: &str) -> Content {
    Content::Image(fs::read(fixture(name)).unwrap())
}

fn pictures() -> Vec<Content> {
    PICTURES.map(picture).to_vec()
}

/// What the reference made of each content.
fn expected(file: &str) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(fixture(file)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .iter()
        .map(|(name, tensor)| {
            let values = tensor.data().chunks_exact(4);
            let values = values.map(|value| f32::from_le_bytes(value.try_into().unwrap()));
            (name.to_owned(), values.collect())
        })
        .collect()
}

/// The vectors of a batch in which every content has one.
fn vectors(encoder: &dyn Encoder, batch: &[Content]) -> Vec<Vec<f32>> {
    let encoded = encoder.encode(batch).unwrap();
    encoded.into_iter().map(Encoded::unwrap).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
