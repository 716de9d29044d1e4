//! The settings that each crate gets from its section and from others.

use ouzel_ingest::join::{SledLimits, StoreConfig};
use ouzel_learner::loss::Policy;
use ouzel_learner::{DenseRule, FeatureRules, UserRules};

use std::path::Path;

use super::super::Config;
use super::check;

#[test]
fn an_empty_file_is_the_default_configuration() {
    assert_eq!(Config::parse("", "x.toml").unwrap(), Config::default());
}

#[test]
fn the_join_store_is_in_memory_unless_the_disk_is_chosen() {
    let store = |text: &str| Config::parse(text, "x").unwrap().join_store(Path::new("dir"));
    assert_eq!(store(""), StoreConfig::Memory);
    let on_disk = StoreConfig::Sled {
        dir: "dir".into(),
        limits: SledLimits::default(),
    };
    assert_eq!(store("join.store = \"sled\""), on_disk);
}

#[test]
fn each_label_policy_gets_a_model_and_a_learner_that_fit() {
    for (name, expected, is_certain) in [
        ("eager", Policy::Plain, true),
        ("wait", Policy::Plain, true),
        ("fnw", Policy::Fnw, false),
        ("fnc", Policy::Fnc, false),
        ("es_dfm", Policy::EsDfm, false),
        ("defer", Policy::Defer, true),
    ] {
        let text = format!("join.label_policy = \"{name}\"");
        let config = Config::parse(&text, "x").unwrap();
        let learner = config.learner_config();
        assert_eq!(learner.policy, expected, "{name}");
        learner.check(&config.model_config()).unwrap();
        let calibrated = Config::parse(&format!("{text}\nlearner.calibrate = true"), "x");
        assert_eq!(calibrated.is_ok(), is_certain, "{name}");
    }
    check(
        "learner.calibrate = true",
        "learner.calibrate: needs certain labels",
    );
}

#[test]
fn the_optimizer_of_dense_weights_is_chosen_by_name() {
    for (name, expected) in [
        ("adagrad", Some(DenseRule::Adagrad)),
        ("adam", Some(DenseRule::Adam)),
        ("shampoo", Some(DenseRule::Shampoo)),
        ("sgd", None),
    ] {
        let parsed = Config::parse(&format!("optimizer.dense = \"{name}\""), "x");
        let found = parsed.ok().map(|config| config.learner_config().optimizer.dense);
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn rules_of_rows_reach_the_learner() {
    let text = "rows.item = { min_samples = 3, min_users = 2, rate = 0.1 }";
    let rules = Config::parse(text, "x").unwrap().learner_config().rows;
    let item = FeatureRules {
        min_samples: 3,
        min_users: 2,
        rate: 0.1,
    };
    assert_eq!((rules.item, rules.user), (item, UserRules::default()));
    check("rows.user.min_users = 2", "rows.user.min_users: unknown key");
}

#[test]
fn tasks_in_weights_and_chains_are_those_of_the_join() {
    const TASKS: &str = r#"
        join.tasks = [{ name = "click", window = "10m" }, { name = "buy", window = "1h" }, { name = "order", window = "1h" }]
    "#;
    let fine = r#"
        [optimizer.task_weights]
        order = 2.5
        [[learner.task_chains]]
        first = "click"
        then = "buy"
        both = "order"
    "#;
    let config = Config::parse(&format!("{TASKS}{fine}"), "x").unwrap();
    let learner = config.learner_config();
    learner.check(&config.model_config()).unwrap();
    assert_eq!(learner.optimizer.task_weights.len(), 1);
    assert_eq!(
        (learner.task_chains.len(), learner.task_chains[0].weight),
        (1, 0.05)
    );
    for shown in [config.show(), config.show_all()] {
        assert_eq!(Config::parse(&shown, "shown").unwrap(), config, "{shown}");
    }
    for (wrong, expected) in [
        (
            "optimizer.task_weights.like = 1.0",
            "optimizer.task_weights.like: must name a task of join.tasks",
        ),
        (
            "optimizer.task_weights.buy = -1.0",
            "optimizer.task_weights.buy: must be at least 0, not -1",
        ),
        (
            &fine.replace("\"buy\"", "\"like\""),
            "learner.task_chains[0].then: must name a task of join.tasks, not \"like\"",
        ),
        (
            &fine.replace("\"buy\"", "\"order\""),
            "learner.task_chains[0]: must name three tasks, each once",
        ),
        (
            &format!("{fine}\nweight = -0.1"),
            "learner.task_chains[0].weight: must be at least 0",
        ),
        (
            &format!("join.label_policy = \"fnc\"\n{fine}"),
            "learner.task_chains: needs probabilities",
        ),
    ] {
        check(&format!("{TASKS}\n{wrong}"), expected);
    }
}
