//! Tests of the encoders against public reference implementations; `fixtures.py` recorded the references' vectors.
//!
//! Every test runs on encoders with a few thousand random weights. Tests on the real weights also run when `make encoders`
//! has fetched them, as `make test` does, and print a loud skip otherwise.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed setup step fails the test; differences are printed"
)]

mod batch_independence;
mod broken_contents;
mod broken_folders;
mod parity;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use ouzel_encoders::{Encoded, Encoder, ImageEncoder, TextEncoder};
use ouzel_sample::Content;
use safetensors::SafeTensors;
use tch::Device;

const PICTURES: [&str; 5] = ["wide.png", "thin.png", "grey.png", "clear.png", "large.jpg"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// The folder of the real encoder `name`; prints a skip when it was not fetched.
fn real_encoder(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../.encoders")
        .join(name);
    if folder.join("model.safetensors").exists() {
        return Some(folder);
    }
    // Not `eprintln!`, which the test harness captures.
    writeln!(
        std::io::stderr(),
        "SKIPPED: there are no weights of {name}: `make encoders`"
    )
    .ok();
    None
}

/// Loads on one libtorch thread: tests run in parallel, and threads that wait for each other take many times as long.
fn text_encoder(folder: &Path) -> TextEncoder {
    tch::set_num_threads(1);
    TextEncoder::load(folder, Device::Cpu).unwrap()
}

fn image_encoder(folder: &Path) -> ImageEncoder {
    tch::set_num_threads(1);
    ImageEncoder::load(folder, Device::Cpu).unwrap()
}

/// The fixture texts for `real` or `tiny` encoders.
fn texts(set: &str) -> Vec<Content> {
    let file = fs::read(fixture("texts.json")).unwrap();
    let texts: BTreeMap<String, Vec<String>> = serde_json::from_slice(&file).unwrap();
    texts[set].iter().map(|text| Content::text(text)).collect()
}

fn picture(name: &str) -> Content {
    Content::Image(fs::read(fixture(name)).unwrap())
}

fn pictures() -> Vec<Content> {
    PICTURES.map(picture).to_vec()
}

/// The reference's vector of each content.
fn reference(file: &str) -> BTreeMap<String, Vec<f32>> {
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

/// The vectors of a batch without unusable contents.
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
