//! Ready-made models, model files, and unusable models.

use std::collections::BTreeMap;

use ouzel_learner::Trainer;
use ouzel_learner::model::{Dims, HeadKind, LongHistoryConfig, ModelConfig, SequenceConfig};

use super::super::document::join;
use super::super::{Config, READY_MADE};
use super::refused;

#[test]
fn every_ready_made_model_is_built_and_shown_as_it_is_read() {
    for (name, _) in READY_MADE {
        for widths in ["", "content.vector_widths = [12, 8]"] {
            let text = format!("[model]\nfrom = \"{name}\"\n{widths}");
            let config = Config::parse(&text, "x.toml").unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(config.model.from, name);
            assert_eq!(Config::parse(&config.show(), "shown").unwrap(), config, "{name}");
            let model = config.model_config();
            assert_eq!(model.validate(), [], "{name}");
            assert_eq!(
                model.content.enabled,
                name.starts_with("em3") && !widths.is_empty(),
                "{name}"
            );
            Trainer::new(model, config.learner_config()).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let named = Config::default().with_model(name).unwrap();
        let parsed = Config::parse(&format!("model.from = \"{name}\""), "x").unwrap();
        assert_eq!(named, parsed);
    }
    assert_eq!(
        Config::default().with_model("em3-hstu").unwrap(),
        Config::default()
    );
}

#[test]
fn a_model_may_be_a_file_that_changes_another() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let plain = write("plain.toml", "dim = 4\nhidden = [7]");
    let wider = write(
        "wider.toml",
        "from = \"mmoe\"\nhidden = [64, 32]\n[head]\nexperts = 6",
    );
    let config = Config::parse(&format!("[model]\nfrom = {plain:?}\nfm = false"), "x").unwrap();
    let model = &config.model;
    assert_eq!(
        (model.dim, model.hidden.as_slice(), model.fm),
        (4, [7].as_slice(), false)
    );
    // No block of the default model.
    assert_eq!(model.sequence, SequenceConfig::default());
    assert_eq!(Config::parse(&config.show(), "shown").unwrap(), config);
    assert_eq!(Config::parse(&config.show_all(), "shown").unwrap(), config);
    let model = Config::parse(&format!("model.from = {wider:?}"), "x")
        .unwrap()
        .model;
    assert_eq!((model.head.experts, model.hidden.len()), (6, 2));
    assert_eq!(model.head.kind, HeadKind::Mmoe);

    let message = refused("[model]\nfrom = \"em4\"");
    assert!(message.starts_with("x.toml:2:1: model.from: no model is called \"em4\"; there are em3-hstu, "));
    assert!(
        READY_MADE.iter().all(|(name, _)| message.contains(name)),
        "{message}"
    );
    let message = refused("model.from = \"/nowhere/m.toml\"");
    assert!(
        message.contains("cannot read the model file /nowhere/m.toml"),
        "{message}"
    );
    let misspelt = write("misspelt.toml", "[interest]\nwide = 3");
    let message = refused(&format!("model.from = {misspelt:?}"));
    assert!(
        message.contains("misspelt.toml:2:1: interest.wide: unknown key"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn an_unusable_value_is_refused_with_its_position() {
    for (text, expected) in [
        (
            "[model]\ncontent.heads = 3",
            "x.toml:2:9: model.content.heads: must divide",
        ),
        ("model.head.experts = 0", "model.head.experts: must be at least 1"),
        ("model.hidden = []", "model.hidden: must list at least one layer"),
        (
            "model.content.enabled = false\nmodel.contrast_width = 0",
            "model.interest.enabled: needs content",
        ),
        (
            "model = { from = \"din\", contrast_width = 8 }",
            "model.contrast_width: needs content: set content.enabled = true",
        ),
        (
            "model.sequence.history_len = 101",
            "model.sequence.history_len: must be at most features.history_len, 100, not 101",
        ),
        (
            "model.interest.history_len = 101",
            "model.interest.history_len: must be at most features.history_len, 100",
        ),
        (
            "model.long_history = { enabled = true, len = 7 }\nfeatures.long_capacity = 6",
            "model.long_history.len: must be at most features.long_capacity, 6, not 7",
        ),
        (
            "model.lora.layers = [\"sequence.layer0.uvqk\", \"intrest.key\"]",
            "the nearest known name is `interest.key`",
        ),
    ] {
        let message = refused(text);
        assert!(message.contains(expected), "{text}: {message}");
        assert_eq!(message.lines().count(), 1, "{text}: {message}");
    }
    // Content is off, because no encoder is named.
    let config = Config::parse("model.from = \"em3-din\"", "x").unwrap();
    assert!(!config.model_config().interest.enabled && config.stated_model().interest.enabled);
    // Blocks that are off read no history.
    Config::parse("model = { from = \"deepfm\", sequence.history_len = 500 }", "x").unwrap();
}

#[test]
fn an_old_key_in_a_model_file_is_refused_with_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("old.toml");
    std::fs::write(&path, "[sequence]\nunit = [8, 8]").unwrap();
    let message = refused(&format!("model.from = {path:?}"));
    let expected = "old.toml:2:1: sequence.unit: this key is now sequence.attention_hidden";
    assert!(message.contains(expected), "{message}");
}

/// Every key of a table with its value, by path.
fn leaves(path: &str, table: &toml::Table, known: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let path = join(path, key);
        match value.as_table() {
            Some(table) => leaves(&path, table, known),
            None => {
                known.insert(path, value.to_string());
            }
        }
    }
}

#[test]
fn the_page_on_models_has_every_key_with_its_default_and_every_ready_made_model() {
    let plain = ModelConfig {
        from: "em3-hstu".to_owned(),
        dims: Dims {
            user: 1,
            ..Dims::default()
        },
        long_history: LongHistoryConfig {
            enabled: true,
            ..LongHistoryConfig::default()
        },
        tasks: Vec::new(),
        ..ModelConfig::default()
    };
    let mut known = BTreeMap::new();
    leaves("", &toml::to_string(&plain).unwrap().parse().unwrap(), &mut known);
    // Keys that are not printed at their default, and values without a key.
    known.insert("dims.user".to_owned(), "0".to_owned());
    known.insert("position".to_owned(), "\"none\"".to_owned());
    known.insert("matmul_precision".to_owned(), "\"f32\"".to_owned());
    for (key, default) in [
        ("ppnet", "false"),
        ("senet", "false"),
        ("sequence.attention_heads", "1"),
        ("sequence.time_buckets", "false"),
        ("long_history.enabled", "false"),
    ] {
        known.insert(key.to_owned(), default.to_owned());
    }
    known.remove("seed");
    let reference = include_str!("../../../docs/models.md");
    let cells = reference.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, key, _, default, _, _, _] = cells.as_slice() else {
            return None;
        };
        // Tables of figures have keys, too, without a default in the third column.
        let is_code = key.starts_with('`') && default.starts_with('`');
        is_code.then(|| (key.replace('`', ""), default.replace('`', "")))
    });
    assert_eq!(cells.collect::<BTreeMap<_, _>>(), known);
    for (name, _) in READY_MADE {
        assert!(reference.contains(&format!("| `{name}` |")), "{name}");
    }
}
