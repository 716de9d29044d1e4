//! The model's and the optimizer's sections, from text to what the rooms take.

use ouzel_learner::Trainer;

use super::*;

#[test]
fn the_defaults_here_are_those_of_the_rooms() {
    let config = Config {
        model: Model::plain(),
        ..Config::default()
    };
    // Which stream is joined and which loss undoes it are chosen together, here alone.
    let of_join = LearnerConfig {
        policy: LossPolicy::Fnw,
        ..LearnerConfig::default()
    };
    assert_eq!(config.learner_config(), of_join);
    assert_eq!(
        config.model_config(),
        ModelConfig {
            seed: 0,
            ..ModelConfig::default()
        }
    );
}

#[test]
fn each_policy_of_the_join_gets_a_model_and_a_learner_that_fit() {
    for (name, expected) in [
        ("eager", LossPolicy::Plain),
        ("wait", LossPolicy::Plain),
        ("fnw", LossPolicy::Fnw),
        ("fnc", LossPolicy::Fnc),
        ("es_dfm", LossPolicy::EsDfm),
        ("defer", LossPolicy::Defer),
    ] {
        let config = Config::parse(&format!("join.policy = \"{name}\""), "x").unwrap();
        let learner = config.learner_config();
        assert_eq!(learner.policy, expected, "{name}");
        learner.check(&config.model_config()).unwrap();
    }
}

#[test]
fn calibration_wants_labels_that_are_certain_in_the_end() {
    for (policy, is_fine) in [
        ("eager", true),
        ("wait", true),
        ("defer", true),
        ("fnw", false),
        ("fnc", false),
        ("es_dfm", false),
    ] {
        let text = format!("join.policy = \"{policy}\"\nlearner.calibrate = true");
        let parsed = Config::parse(&text, "x");
        assert_eq!(parsed.is_ok(), is_fine, "{policy}");
        if let Ok(config) = parsed {
            config.learner_config().check(&config.model_config()).unwrap();
        }
    }
}

#[test]
fn the_optimizer_of_dense_weights_is_chosen_by_name() {
    for (name, expected) in [
        ("adagrad", Some(DenseRule::Adagrad)),
        ("adam", Some(DenseRule::Adam)),
        ("sgd", None),
    ] {
        let parsed = Config::parse(&format!("optimizer.dense = \"{name}\""), "x");
        assert_eq!(
            parsed.ok().map(|config| config.learner_config().dense),
            expected,
            "{name}"
        );
    }
}

#[test]
fn tasks_in_weights_and_bounds_are_those_of_the_join() {
    const TASKS: &str = r#"
        join.tasks = [{ name = "click", window = "10m" }, { name = "buy", window = "1h" }, { name = "order", window = "1h" }]
    "#;
    let parse = |rest: &str| Config::parse(&format!("{TASKS}\n{rest}"), "x");
    let fine = r#"
        [optimizer.task_weights]
        order = 2.5
        [[learner.bounds]]
        first = "click"
        then = "buy"
        both = "order"
    "#;
    let config = parse(fine).unwrap();
    let learner = config.learner_config();
    learner.check(&config.model_config()).unwrap();
    assert_eq!(learner.task_weights.len(), 1);
    assert_eq!((learner.bounds.len(), learner.bounds[0].weight), (1, 0.05));
    assert_eq!(
        Config::parse(&config.show(), "shown").unwrap(),
        config,
        "{}",
        config.show()
    );
    for (wrong, at, why) in [
        (
            "optimizer.task_weights.like = 1.0",
            "optimizer.task_weights.like",
            "no task like",
        ),
        (
            "optimizer.task_weights.buy = -1.0",
            "optimizer.task_weights.buy",
            "0 or more",
        ),
        (
            &fine.replace("\"buy\"", "\"like\""),
            "learner.bounds[0].then",
            "no task like",
        ),
        (
            &fine.replace("\"buy\"", "\"order\""),
            "learner.bounds[0]",
            "each once",
        ),
        (
            &format!("{fine}\nweight = -0.1"),
            "learner.bounds[0].weight",
            "0 or more",
        ),
        (&format!("join.policy = \"fnc\"\n{fine}"), "learner.bounds", "fnc"),
    ] {
        let message = parse(wrong).unwrap_err().to_string();
        assert!(
            message.contains(at) && message.contains(why),
            "{wrong}: {message}"
        );
    }
}

#[test]
fn a_rate_of_negatives_is_a_share_of_them() {
    for (rate, is_fine) in [
        ("1.0", true),
        ("0.01", true),
        ("0.0", false),
        ("1.5", false),
        ("-1.0", false),
    ] {
        let parsed = Config::parse(&format!("learner.negative_rate = {rate}"), "x");
        assert_eq!(parsed.is_ok(), is_fine, "{rate}");
    }
}

/// What is wrong with a file, a line each.
#[track_caller]
fn refused(text: &str) -> String {
    match Config::parse(text, "x.toml") {
        Ok(_) => panic!("accepted: {text}"),
        Err(ConfigError::Invalid { problems }) => {
            let lines = problems.iter().map(|problem| {
                let hint = problem.hint.as_deref().unwrap_or_default();
                format!("{problem} {hint}\n")
            });
            lines.collect()
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_ready_made_model_makes_a_network_and_is_shown_as_it_is_read() {
    for (name, _) in READY_MADE {
        for widths in ["", "content.widths = [12, 8]"] {
            let text = format!("[model]\nfrom = \"{name}\"\n{widths}");
            let config = Config::parse(&text, "x.toml").unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(config.model.from, name);
            assert_eq!(Config::parse(&config.show(), "shown").unwrap(), config, "{name}");
            let model = config.model_config();
            assert_eq!(model.faults(), [], "{name}");
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
    // Nothing but what it says: no block of the default model.
    assert_eq!(model.sequence, SequenceConfig::default());
    assert_eq!(Config::parse(&config.show(), "shown").unwrap(), config);
    let model = Config::parse(&format!("model.from = {wider:?}"), "x")
        .unwrap()
        .model;
    assert_eq!((model.head.experts, model.hidden.len()), (6, 2));
    assert_eq!(model.head.kind, ouzel_learner::model::HeadKind::Mmoe);

    let message = refused("[model]\nfrom = \"em4\"");
    assert!(message.starts_with("x.toml:2:1: model: no model is called \"em4\"; there are em3-hstu, "));
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
        message.contains("interest.wide: unknown field `wide`"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn what_makes_no_model_is_refused_where_it_is_written() {
    for (text, expected) in [
        (
            "[model]\ncontent.heads = 3",
            "x.toml:2:9: model.content.heads: must divide",
        ),
        ("model.head.experts = 0", "model.head.experts: must be at least 1"),
        ("model.hidden = []", "model.hidden: must list at least one layer"),
        (
            "model.content.enabled = false\nmodel.contrast = 0",
            "model.interest.enabled: needs content",
        ),
        (
            "model = { from = \"din\", contrast = 8 }",
            "model.contrast: needs content: set content.enabled = true",
        ),
        (
            "model.sequence.history_len = 101",
            "model.sequence.history_len: must be at most features.history_len, 100",
        ),
        (
            "model.interest.history_len = 101",
            "model.interest.history_len: must be at most features.history_len, 100",
        ),
        (
            "model.lora.on = [\"sequence.layer0.uvqk\", \"intrest.key\"]",
            "the nearest known name is `interest.key`",
        ),
    ] {
        let message = refused(text);
        assert!(message.contains(expected), "{text}: {message}");
        assert_eq!(message.lines().count(), 1, "{text}: {message}");
    }
    // Off without a word: no encoder is named, so there is nothing that content could be made of.
    let config = Config::parse("model.from = \"em3-din\"", "x").unwrap();
    assert!(!config.model_config().interest.enabled && config.stated_model().interest.enabled);
    // Blocks that are not there read no history.
    Config::parse("model = { from = \"deepfm\", sequence.history_len = 500 }", "x").unwrap();
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    fn walk(path: &str, table: &toml::Table, known: &mut BTreeMap<String, String>) {
        for (key, value) in table {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            match value.as_table() {
                Some(table) => walk(&path, table, known),
                None => {
                    known.insert(path, value.to_string());
                }
            }
        }
    }
    let mut known = BTreeMap::new();
    let plain = toml::to_string(&Model::plain()).unwrap();
    walk("", &plain.parse().unwrap(), &mut known);
    let reference = include_str!("../../../docs/models.md");
    let cells = reference.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, key, _, default, _, _, _] = cells.as_slice() else {
            return None;
        };
        // Tables of figures have keys, too, but no default in their third column.
        let is_code = key.starts_with('`') && default.starts_with('`');
        is_code.then(|| (key.replace('`', ""), default.replace('`', "")))
    });
    assert_eq!(cells.collect::<BTreeMap<_, _>>(), known);
    for (name, _) in READY_MADE {
        assert!(reference.contains(&format!("| `{name}` |")), "{name}");
    }
}
