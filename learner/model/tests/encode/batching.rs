//! A content's vector is the same bits whatever is encoded beside it.

use ouzel_model::encode::Encoder;
use ouzel_sample::Content;

use super::{fixture, image_encoder, pictures, real, text_encoder, texts, vectors};

/// Alone, among all, among all reversed, twice, at every place of a tile, and in a batch of several passes.
fn check_any_batch(encoder: &dyn Encoder, contents: &[Content], most: usize) {
    let alone: Vec<Vec<f32>> = contents
        .iter()
        .flat_map(|content| vectors(encoder, std::slice::from_ref(content)))
        .collect();
    assert_eq!(vectors(encoder, contents), alone, "all at once");
    let reversed: Vec<Content> = contents.iter().rev().cloned().collect();
    assert!(
        vectors(encoder, &reversed).iter().eq(alone.iter().rev()),
        "reversed"
    );
    let many: Vec<Content> = contents.iter().cycle().take(most).cloned().collect();
    for (number, vector) in vectors(encoder, &many).iter().enumerate() {
        assert_eq!(*vector, alone[number % alone.len()], "number {number} of {most}");
    }
    for content in contents {
        let twins = vectors(encoder, &vec![content.clone(); 40]);
        assert!(twins.iter().all(|twin| *twin == twins[0]), "twins differ");
    }
}

#[test]
fn a_texts_vector_does_not_depend_on_its_batch() {
    check_any_batch(&text_encoder(&fixture("tiny-bert")), &texts("tiny"), 1_000);
}

#[test]
fn a_pictures_vector_does_not_depend_on_its_batch() {
    check_any_batch(&image_encoder(&fixture("tiny-efficientnet")), &pictures(), 12);
}

#[test]
fn with_real_weights_no_vector_depends_on_its_batch() {
    if let Some(folder) = real("all-minilm-l6-v2") {
        check_any_batch(&text_encoder(&folder), &texts("real")[..5], 64);
    }
    if let Some(folder) = real("efficientnet-lite0") {
        check_any_batch(&image_encoder(&folder), &pictures()[..2], 3);
    }
}
