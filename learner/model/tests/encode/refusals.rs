//! Broken contents cost their own vector; a broken encoder is refused with the file and the tensor named.

use std::fs;
use std::path::Path;

use ouzel_model::encode::{EncodeError, Encoder, ImageEncoder, TextEncoder, Unusable};
use ouzel_sample::Content;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use tch::Device;

use super::{fixture, image_encoder, picture, text_encoder, vectors};

/// What a batch of broken contents between sound ones comes to.
fn check(encoder: &dyn Encoder, sound: &Content, broken: &[(Content, Unusable)]) {
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
fn a_text_without_tokens_costs_its_own_vector_alone() {
    let encoder = text_encoder(&fixture("tiny-bert"));
    let broken = [
        (Content::text(""), Unusable::Empty),
        (Content::text(" \n\t "), Unusable::Empty),
        (Content::text("\u{0}\u{7f}\u{200b}"), Unusable::Empty),
        (picture("grey.png"), Unusable::WrongKind),
    ];
    check(&encoder, &Content::text("a fish"), &broken);
    assert_eq!(encoder.encode(&[]).unwrap(), []);
}

#[test]
fn a_picture_that_is_none_costs_its_own_vector_alone() {
    let encoder = image_encoder(&fixture("tiny-efficientnet"));
    let Content::Image(png) = picture("wide.png") else {
        panic!()
    };
    let Content::Image(jpeg) = picture("large.jpg") else {
        panic!()
    };
    let image = |bytes: &[u8]| Content::Image(bytes.to_vec());
    // A PNG's width is 4 bytes from byte 16 on, under a checksum.
    let mut bomb = png.clone();
    bomb[16..24].copy_from_slice(&[0, 0, 0x7f, 0, 0, 0, 0x7f, 0]);
    let checksum = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    let broken = [
        (image(b""), Unusable::Undecodable),
        (image(b"GIF89a"), Unusable::Undecodable),
        (image(b"<svg></svg>"), Unusable::Undecodable),
        (image(&png[..png.len() / 2]), Unusable::Undecodable),
        (image(&jpeg[..20]), Unusable::Undecodable),
        (image(&bomb), Unusable::TooLarge),
        (image(&vec![0xff; 33 << 20]), Unusable::TooLarge),
        (Content::text("a fish"), Unusable::WrongKind),
    ];
    check(&encoder, &picture("wide.png"), &broken);
}

#[test]
fn no_flipped_byte_of_a_picture_ends_more_than_its_vector() {
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

/// The checksum of a PNG's chunk.
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

/// A copy of a fixture's folder, to be spoilt.
fn copy_of(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(fixture(name)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// What becomes of a tensor's shape and values; false drops it.
type Change<'a> = &'a dyn Fn(&mut Vec<usize>, &mut Vec<u8>) -> bool;

/// Writes the weights again without one tensor, or with its shape or values changed.
fn spoil(folder: &Path, name: &str, change: Change<'_>) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut kept: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec(), tensor.data().to_vec()))
        .collect();
    assert!(kept.iter().any(|(found, ..)| found == name));
    kept.retain_mut(|(found, shape, data)| found != name || change(shape, data));
    let views = kept
        .iter()
        .map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    fs::write(&path, serialize(views, None).unwrap()).unwrap();
}

fn text_fault(folder: &Path) -> EncodeError {
    TextEncoder::load(folder, Device::Cpu).unwrap_err()
}

#[test]
fn a_tensor_that_is_missing_misshapen_or_not_finite_is_named() {
    let cases: [(&str, Change<'_>); 3] = [
        ("has no tensor", &|_, _| false),
        (
            "has shape [24, 16], its config.json asks for [16, 24]",
            &|shape, _| {
                shape.reverse();
                true
            },
        ),
        ("not finite", &|_, data| {
            data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            true
        }),
    ];
    let name = "encoder.layer.1.output.dense.weight";
    for (expected, change) in cases {
        let folder = copy_of("tiny-bert");
        spoil(folder.path(), name, change);
        let message = text_fault(folder.path()).to_string();
        for part in [expected, name, "model.safetensors"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let folder = copy_of("tiny-efficientnet");
    spoil(folder.path(), "blocks.1.depthwise.weight", &|shape, _| {
        *shape = vec![shape[0] / 2, 2, shape[2], shape[3]];
        true
    });
    let error = ImageEncoder::load(folder.path(), Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("blocks.1.depthwise.weight"), "{error}");
}

#[test]
fn files_that_are_not_what_their_names_say_are_refused() {
    let edits = [
        ("config.json", "\"bert\"", "\"gpt2\"", "model_type \"gpt2\""),
        ("config.json", "\"gelu\"", "\"silu\"", "hidden_act \"silu\""),
        (
            "config.json",
            "\"num_attention_heads\": 2",
            "\"num_attention_heads\": 3",
            "3 heads",
        ),
        (
            "config.json",
            "\"vocab_size\": 14",
            "\"vocab_size\": 13",
            "the piece 13",
        ),
        (
            "config.json",
            "\"max_position_embeddings\": 24",
            "\"max_position_embeddings\": 2",
            "too few",
        ),
        ("config.json", "{", "", "config.json"),
        ("tokenizer.json", "WordPiece", "Nothing", "tokenizer.json"),
    ];
    for (file, from, to, expected) in edits {
        let folder = copy_of("tiny-bert");
        let path = folder.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let message = text_fault(folder.path()).to_string();
        assert!(message.contains(expected), "{message}");
    }
    let folder = copy_of("tiny-bert");
    let path = folder.path().join("model.safetensors");
    let sound = fs::read(&path).unwrap();
    for bytes in [
        &b"\x80\x02}q\x00."[..],
        &[],
        &sound[..sound.len() - 1],
        &[0xff; 64],
    ] {
        fs::write(&path, bytes).unwrap();
        assert!(matches!(text_fault(folder.path()), EncodeError::Malformed { .. }));
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(text_fault(folder.path()), EncodeError::Io { .. }));
}

#[test]
fn other_weights_tokens_or_settings_are_another_version() {
    let original = copy_of("tiny-bert");
    let version = |folder: &Path| TextEncoder::load(folder, Device::Cpu).unwrap().version().clone();
    let first = version(original.path());
    assert_eq!(first.dim, 16);
    assert_eq!(first.digest, version(&fixture("tiny-bert")).digest);
    for file in ["config.json", "tokenizer.json"] {
        let folder = copy_of("tiny-bert");
        let path = folder.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text} ")).unwrap();
        assert_ne!(first.digest, version(folder.path()).digest, "{file}");
    }
    let folder = copy_of("tiny-bert");
    spoil(folder.path(), "pooler.dense.bias", &|_, data| {
        data[0] ^= 1;
        true
    });
    assert_ne!(first.digest, version(folder.path()).digest);
}
