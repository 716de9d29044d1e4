//! A broken encoder folder is refused with the file and the tensor named.

use std::fs;
use std::path::Path;

use ouzel_encoders::{EncodeError, Encoder, ImageEncoder, TextEncoder};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use tch::Device;

use super::fixture;

/// A copy of a fixture folder that a test can damage.
fn copy_of(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(fixture(name)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// Edits a tensor's shape and values; returns false to drop the tensor.
type Change<'a> = &'a dyn Fn(&mut Vec<usize>, &mut Vec<u8>) -> bool;

/// Rewrites the weights with the tensor `name` edited or dropped.
fn edit_tensor(folder: &Path, name: &str, change: Change<'_>) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec(), tensor.data().to_vec()))
        .collect();
    assert!(all.iter().any(|(found, ..)| found == name));
    all.retain_mut(|(found, shape, data)| found != name || change(shape, data));
    let views = all
        .iter()
        .map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    fs::write(&path, serialize(views, None).unwrap()).unwrap();
}

fn load_error(folder: &Path) -> EncodeError {
    TextEncoder::load(folder, Device::Cpu).unwrap_err()
}

#[test]
fn a_missing_misshapen_or_not_finite_tensor_is_named() {
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
        edit_tensor(folder.path(), name, change);
        let message = load_error(folder.path()).to_string();
        for part in [expected, name, "model.safetensors"] {
            assert!(message.contains(part), "{message}");
        }
    }
    let folder = copy_of("tiny-efficientnet");
    edit_tensor(folder.path(), "blocks.1.depthwise.weight", &|shape, _| {
        *shape = vec![shape[0] / 2, 2, shape[2], shape[3]];
        true
    });
    let error = ImageEncoder::load(folder.path(), Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("blocks.1.depthwise.weight"), "{error}");
}

#[test]
fn malformed_files_are_refused() {
    let edits = [
        ("config.json", "\"bert\"", "\"gpt2\"", "model_type \"gpt2\""),
        ("config.json", "\"gelu\"", "\"silu\"", "hidden_act \"silu\""),
        (
            "config.json",
            "\"num_attention_heads\": 2",
            "\"num_attention_heads\": 3",
            "3 attention heads",
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
            "too small",
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
        let message = load_error(folder.path()).to_string();
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
        assert!(matches!(load_error(folder.path()), EncodeError::Malformed { .. }));
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(load_error(folder.path()), EncodeError::Io { .. }));
}

#[test]
fn changed_weights_tokens_or_settings_change_the_version() {
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
    edit_tensor(folder.path(), "pooler.dense.bias", &|_, data| {
        data[0] ^= 1;
        true
    });
    assert_ne!(first.digest, version(folder.path()).digest);
}
