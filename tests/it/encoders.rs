//! Encoders are changed by a command only.

use std::fs;
use std::path::{Path, PathBuf};

use ouzel_serving::RankRequest;

use super::broker::Broker;
use super::daemon::Home;
use super::world::World;
use super::{run, wait_until};

/// The folder of an encoder with vectors of 16 floats.
fn tiny_bert() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("learner/encoders/tests/fixtures/tiny-bert")
}

/// Writes the same encoder with other weights: the sign of the last number is flipped.
fn another_bert(folder: &Path) {
    fs::create_dir(folder).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(tiny_bert().join(name), folder.join(name)).unwrap();
    }
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 0x80;
    fs::write(&path, bytes).unwrap();
}

/// Replaces the encoder in the configuration.
fn replace_encoder(home: &Home, from: &Path, to: &Path) {
    let text = fs::read_to_string(home.config()).unwrap();
    let replaced = text.replace(from.to_str().unwrap(), to.to_str().unwrap());
    assert_ne!(replaced, text);
    fs::write(home.config(), replaced).unwrap();
}

#[test]
fn encoders_are_changed_by_a_command_and_never_by_a_configuration_alone() {
    let broker = Broker::embedded(1);
    let dir = tempfile::tempdir().unwrap();
    let world = World::generate(60, dir.path());
    let settings = format!(
        "learner.batch_min_samples = 32\ncontent.text_encoder = {:?}",
        tiny_bert()
    );
    let mut home = Home::new(&broker, &settings);
    broker.feed(&world.events);
    let daemon = home.start();
    daemon.wait_joined(broker.n_records());
    wait_until("every item is encoded", || {
        let left = daemon.metric("ouzel_ops_items_to_encode", "");
        (left < 1.0).then_some(())
    });
    daemon.stop();
    let before = home.manifest();
    let old = before.checkpoint.encoders["text"].clone();
    assert!(old.starts_with("tiny-bert-"), "{old}");

    let err = home.snapshot(&["re-encode"]).err;
    assert!(err.contains("there is nothing to encode again"), "{err}");

    let other = home.path().join("other-bert");
    another_bert(&other);
    replace_encoder(&home, &tiny_bert(), &other);
    let config = home.config();
    let refused = run(["daemon", "--config", config.to_str().unwrap()]);
    assert_eq!(refused.code, Some(1));
    for text in [old.as_str(), "text other-bert-", "ouzel snapshot re-encode"] {
        assert!(refused.err.contains(text), "{text}: {}", refused.err);
    }

    let done = home
        .snapshot(&["re-encode", "--note", "a better one", "--json"])
        .json();
    assert_eq!(done["done_by"], "this command");
    let after = home.manifest();
    assert_eq!(after.parent, Some(before.id));
    let new = after.checkpoint.encoders["text"].clone();
    assert!(new.starts_with("other-bert-"), "{new}");
    let note = format!("encoded again by text {new} in place of text {old}: a better one");
    assert_eq!(after.note, Some(note));
    assert_eq!(after.checkpoint.weights_hash, before.checkpoint.weights_hash);
    assert_eq!(after.checkpoint.positions, before.checkpoint.positions);

    let daemon = home.start();
    daemon.wait_ready();
    let n_lost = daemon.metric("ouzel_ops_vectors_lost_total", "");
    assert!(n_lost < 1.0, "{n_lost} vectors are lost");
    let answer = daemon.rank(&RankRequest {
        user_id: "user-1".to_owned(),
        items: vec!["item-3".to_owned().into()],
        ..RankRequest::default()
    });
    assert!(answer.items[0].score.is_finite());
    daemon.stop();
}
