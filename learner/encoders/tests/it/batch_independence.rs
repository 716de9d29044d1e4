//! A content's vector has the same bits whatever else is in its batch.

use ouzel_encoders::Encoder;
use ouzel_sample::Content;

use super::{fixture, image_encoder, pictures, real_encoder, text_encoder, texts, vectors};

/// Compares the vectors of contents alone, all together, reversed, at every row of a tile, and over several passes.
fn check_batch_independence(encoder: &dyn Encoder, contents: &[Content], n_many: usize) {
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
    let many: Vec<Content> = contents.iter().cycle().take(n_many).cloned().collect();
    for (number, vector) in vectors(encoder, &many).iter().enumerate() {
        assert_eq!(
            *vector,
            alone[number % alone.len()],
            "number {number} of {n_many}"
        );
    }
    for content in contents {
        let copies = vectors(encoder, &vec![content.clone(); 40]);
        assert!(copies.iter().all(|copy| *copy == copies[0]), "copies differ");
    }
}

#[test]
fn the_vector_of_a_text_does_not_depend_on_its_batch() {
    check_batch_independence(&text_encoder(&fixture("tiny-bert")), &texts("tiny"), 1_000);
}

#[test]
fn the_vector_of_a_picture_does_not_depend_on_its_batch() {
    check_batch_independence(&image_encoder(&fixture("tiny-efficientnet")), &pictures(), 12);
}

#[test]
fn no_vector_of_the_real_encoders_depends_on_its_batch() {
    if let Some(folder) = real_encoder("all-minilm-l6-v2") {
        check_batch_independence(&text_encoder(&folder), &texts("real")[..5], 64);
    }
    if let Some(folder) = real_encoder("efficientnet-lite0") {
        check_batch_independence(&image_encoder(&folder), &pictures()[..2], 3);
    }
}
