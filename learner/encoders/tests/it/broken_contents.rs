//! A broken content loses its own vector and no other.

use ouzel_encoders::{Encoder, UnusableContent};
use ouzel_sample::Content;

use super::{fixture, image_encoder, picture, text_encoder, vectors};

/// Encodes the broken contents, each between two sound ones.
fn check(encoder: &dyn Encoder, sound: &Content, broken: &[(Content, UnusableContent)]) {
    let alone = vectors(encoder, std::slice::from_ref(sound));
    let mut batch = vec![sound.clone()];
    for (content, _) in broken {
        batch.push(content.clone());
        batch.push(sound.clone());
    }
    let encoded = encoder.encode(&batch).unwrap();
    assert_eq!(encoded.len(), batch.len());
    for (number, vector) in encoded.iter().enumerate() {
        match number % 2 {
            0 => assert_eq!(vector.as_ref(), Ok(&alone[0]), "number {number}"),
            _ => assert_eq!(*vector, Err(broken[number / 2].1), "number {number}"),
        }
    }
}

#[test]
fn a_text_without_tokens_loses_only_its_own_vector() {
    let encoder = text_encoder(&fixture("tiny-bert"));
    let broken = [
        (Content::text(""), UnusableContent::Empty),
        (Content::text(" \n\t "), UnusableContent::Empty),
        (Content::text("\u{0}\u{7f}\u{200b}"), UnusableContent::Empty),
        (picture("grey.png"), UnusableContent::WrongKind),
    ];
    check(&encoder, &Content::text("a fish"), &broken);
    assert_eq!(encoder.encode(&[]).unwrap(), []);
}

#[test]
fn an_undecodable_picture_loses_only_its_own_vector() {
    let encoder = image_encoder(&fixture("tiny-efficientnet"));
    let Content::Image(png) = picture("wide.png") else {
        panic!()
    };
    let Content::Image(jpeg) = picture("large.jpg") else {
        panic!()
    };
    let image = |bytes: &[u8]| Content::Image(bytes.to_vec());
    // A PNG stores its width in 4 bytes from byte 16, covered by a checksum.
    let mut bomb = png.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 0x7f, 0, 0, 0, 0x7f, 0]);
    let checksum = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    let broken = [
        (image(b""), UnusableContent::Undecodable),
        (image(b"GIF89a"), UnusableContent::Undecodable),
        (image(b"<svg></svg>"), UnusableContent::Undecodable),
        (image(&png[..png.len() / 2]), UnusableContent::Undecodable),
        (image(&jpeg[..20]), UnusableContent::Undecodable),
        (image(&bomb), UnusableContent::TooLarge),
        (image(&vec![0xff; 33 << 20]), UnusableContent::TooLarge),
        (Content::text("a fish"), UnusableContent::WrongKind),
    ];
    check(&encoder, &picture("wide.png"), &broken);
}

#[test]
fn no_flipped_byte_of_a_picture_fails_the_batch() {
    let encoder = image_encoder(&fixture("tiny-efficientnet"));
    for name in ["grey.png", "large.jpg"] {
        let Content::Image(sound) = picture(name) else {
            panic!()
        };
        let batch: Vec<Content> = (0..64)
            .map(|n| {
                let mut bytes = sound.clone();
                let at = n * bytes.len() / 64;
                bytes[at] ^= 0x55;
                Content::Image(bytes)
            })
            .collect();
        assert_eq!(encoder.encode(&batch).unwrap().len(), batch.len());
    }
}

/// The checksum of a PNG chunk.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            }
        })
    })
}
