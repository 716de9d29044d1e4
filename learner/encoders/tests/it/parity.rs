//! Vectors equal those of `transformers` and `efficientnet_lite_pytorch`, within a stated tolerance.

use super::{
    PICTURES, dot, fixture, image_encoder, largest_difference, pictures, real_encoder, reference,
    text_encoder, texts, vectors,
};

/// Absolute, per number of a vector of length 1. Six layers in single precision differ by about a tenth of it.
const TOLERANCE: f32 = 2e-6;
/// JPEG decoders may differ in a colour by a step or two.
const JPEG_COSINE: f64 = 0.999;

fn check_texts(name: &str, ours: &[Vec<f32>], theirs: &str) {
    let theirs = reference(theirs);
    assert_eq!(ours.len(), theirs.len());
    for (number, ours) in ours.iter().enumerate() {
        let off = largest_difference(ours, &theirs[&number.to_string()]);
        println!("{name} text {number}: off by {off:.1e}");
        assert!(off <= TOLERANCE, "{name} text {number} is off by {off:e}");
    }
}

fn check_pictures(name: &str, ours: &[Vec<f32>], theirs: &str) {
    let theirs = reference(theirs);
    for (picture, ours) in PICTURES.iter().zip(ours) {
        let (off, cosine) = (
            largest_difference(ours, &theirs[*picture]),
            dot(ours, &theirs[*picture]),
        );
        println!("{name} {picture}: off by {off:.1e}, cosine {cosine:.6}");
        let is_near = if picture.ends_with("jpg") {
            cosine >= JPEG_COSINE
        } else {
            off <= TOLERANCE
        };
        assert!(is_near, "{name} {picture} is off by {off:e}, cosine {cosine}");
    }
}

#[test]
fn a_bert_of_any_size_matches_transformers() {
    let encoder = text_encoder(&fixture("tiny-bert"));
    check_texts(
        "tiny-bert",
        &vectors(&encoder, &texts("tiny")),
        "tiny-bert/vectors.safetensors",
    );
}

#[test]
fn a_roberta_with_a_language_head_matches_transformers() {
    let encoder = text_encoder(&fixture("tiny-roberta"));
    let ours = vectors(&encoder, &texts("tiny"));
    check_texts("tiny-roberta", &ours, "tiny-roberta/vectors.safetensors");
}

#[test]
fn an_efficientnet_lite_matches_the_reference() {
    let encoder = image_encoder(&fixture("tiny-efficientnet"));
    let ours = vectors(&encoder, &pictures());
    check_pictures(
        "tiny-efficientnet",
        &ours,
        "tiny-efficientnet/vectors.safetensors",
    );
}

#[test]
fn the_real_text_weights_match_transformers_and_the_model_card() {
    let Some(folder) = real_encoder("all-minilm-l6-v2") else {
        return;
    };
    let ours = vectors(&text_encoder(&folder), &texts("real"));
    check_texts("all-minilm-l6-v2", &ours, "all-minilm-l6-v2.safetensors");
    for (a, b, cosine) in [(0, 1, 0.6660), (0, 2, 0.1046), (1, 2, 0.1411)] {
        let found = dot(&ours[a], &ours[b]);
        assert!((found - cosine).abs() < 5e-5, "sentences {a} and {b}: {found}");
    }
}

#[test]
fn the_real_image_weights_match_the_reference() {
    let Some(folder) = real_encoder("efficientnet-lite0") else {
        return;
    };
    let ours = vectors(&image_encoder(&folder), &pictures());
    check_pictures("efficientnet-lite0", &ours, "efficientnet-lite0.safetensors");
}
