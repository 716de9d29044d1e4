//! Vectors equal those of `transformers` and `efficientnet_lite_pytorch`.

use super::{
    PICTURES, dot, expected, fixture, image_encoder, largest_difference, pictures, real, text_encoder, texts,
    vectors,
};

/// Of one number in a vector of length 1. Six layers in single precision leave about a tenth of it.
const TOLERANCE: f32 = 2e-6;
/// JPEG leaves the decoder some freedom, so another one sees colours that are off by a step or two.
const JPEG_COSINE: f64 = 0.999;

fn check_texts(which: &str, ours: &[Vec<f32>], theirs: &str) {
    let theirs = expected(theirs);
    assert_eq!(ours.len(), theirs.len());
    for (number, ours) in ours.iter().enumerate() {
        let off = largest_difference(ours, &theirs[&number.to_string()]);
        println!("{which} text {number}: off by {off:.1e}");
        assert!(off <= TOLERANCE, "{which} text {number} is off by {off:e}");
    }
}

fn check_pictures(which: &str, ours: &[Vec<f32>], theirs: &str) {
    let theirs = expected(theirs);
    for (name, ours) in PICTURES.iter().zip(ours) {
        let (off, cosine) = (
            largest_difference(ours, &theirs[*name]),
            dot(ours, &theirs[*name]),
        );
        println!("{which} {name}: off by {off:.1e}, cosine {cosine:.6}");
        let is_near = if name.ends_with("jpg") {
            cosine >= JPEG_COSINE
        } else {
            off <= TOLERANCE
        };
        assert!(is_near, "{which} {name} is off by {off:e}, cosine {cosine}");
    }
}

#[test]
fn a_bert_of_any_size_makes_the_vectors_that_transformers_makes() {
    let encoder = text_encoder(&fixture("tiny-bert"));
    check_texts(
        "tiny-bert",
        &vectors(&encoder, &texts("tiny")),
        "tiny-bert/vectors.safetensors",
    );
}

#[test]
fn a_roberta_under_a_language_head_makes_the_vectors_that_transformers_makes() {
    let encoder = text_encoder(&fixture("tiny-roberta"));
    let ours = vectors(&encoder, &texts("tiny"));
    check_texts("tiny-roberta", &ours, "tiny-roberta/vectors.safetensors");
}

#[test]
fn an_efficientnet_lite_makes_the_vectors_that_the_reference_makes() {
    let encoder = image_encoder(&fixture("tiny-efficientnet"));
    let ours = vectors(&encoder, &pictures());
    check_pictures(
        "tiny-efficientnet",
        &ours,
        "tiny-efficientnet/vectors.safetensors",
    );
}

#[test]
fn the_real_text_weights_make_the_vectors_and_cosines_of_the_model_card() {
    let Some(folder) = real("all-minilm-l6-v2") else {
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
fn the_real_image_weights_make_the_vectors_that_the_reference_makes() {
    let Some(folder) = real("efficientnet-lite0") else {
        return;
    };
    let ours = vectors(&image_encoder(&folder), &pictures());
    check_pictures("efficientnet-lite0", &ours, "efficientnet-lite0.safetensors");
}
