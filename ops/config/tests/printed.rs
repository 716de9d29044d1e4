//! The output of `config show`, `config schema` and the reference.

use serde_json::Value as Schema;

use super::super::Config;
use super::super::text::KeyText;

const CHANGED: &str = r#"
    [kafka]
    bootstrap = "localhost:9092"
    [kafka.properties]
    "fetch.wait.max.ms" = 50
    sasl.password = "${env:SECRET}"
    [ids]
    salt = 12345
    [join]
    tasks = [{ name = "click", window = "30m" }, { name = "order", window = "2d" }]
    dedup_window = "3d"
    [features]
    fast_ema_rate = 0.25
    [model]
    from = "em3-din"
    dim = 8
    hidden = [32, 16]
    sequence.kind = "hstu"
    [optimizer]
    wide_alpha = 0.05
    [serving]
    max_body = "2MiB"
    [admin]
    socket = "/run/ouzel/admin.sock"
    [log]
    format = "json"
"#;

#[test]
fn both_forms_load_to_the_same_configuration() {
    for text in ["", CHANGED] {
        let config = Config::parse(text, "x").unwrap();
        for shown in [config.show(), config.show_all()] {
            let again = Config::parse(&shown, "shown").unwrap_or_else(|error| panic!("{error}\n{shown}"));
            assert_eq!(again, config, "{shown}");
        }
    }
}

/// Lines that state a value.
fn keys(shown: &str) -> usize {
    shown
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains(" = "))
        .count()
}

#[test]
fn the_short_form_has_the_common_keys_and_those_changed() {
    let default = Config::default();
    assert_eq!(keys(&default.show()), 40);
    assert!(keys(&default.show_all()) > 100);
    let shown = Config::parse(CHANGED, "x").unwrap().show();
    for expected in [
        "bootstrap = \"localhost:9092\"\n",
        "fast_ema_rate = 0.25\n",
        "wide_alpha = 0.05\n",
        "kind = \"hstu\"\n",
        "\"fetch.wait.max.ms\" = \"50\"\n",
    ] {
        assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
    }
    assert!(!shown.contains("slow_ema_rate"), "{shown}");
}

#[test]
fn each_key_is_shown_with_its_meaning_default_unit_range_and_advice() {
    let shown = Config::parse(CHANGED, "x").unwrap().show_all();
    for expected in [
        "# Default: \"127.0.0.1:9092\". Set it to your cluster.\nbootstrap = \"localhost:9092\"\n",
        "# Scorer threads, each with its own copy of the dense weights.\n\
         # Default: 1. Unit: threads. Allowed: from 1 to 65535. Raise it when requests queue while cores are\n\
         # idle.\nworkers = 1\n",
        "# `window`: How long after its impression an action counts, in event time.\n",
        "# Default: unset. Set it when the path of the state directory is longer.\nsocket = \"/run/ouzel/admin.sock\"\n",
        "# `json`: One JSON object a line.\n",
        "wide_alpha = 0.05\n",
    ] {
        assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
    }
    assert!(Config::default().show_all().contains("# socket = (unset)\n"));
    let json = Config::default().to_json();
    assert_eq!(json["serving"]["workers"], 1);
    assert!(json["model"]["tasks"].is_null() && json["features"]["history_contents"].is_null());
}

#[test]
fn every_key_has_a_meaning_and_advice() {
    fn walk(path: &str, schema: &Schema, silent: &mut Vec<String>) {
        for nested in [schema, &schema["items"]] {
            for (key, property) in nested["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{key}");
                let text = KeyText::of(property);
                let is_section = property["properties"].is_object();
                if text.meaning.is_empty() || text.advice.is_empty() != is_section {
                    silent.push(path.clone());
                }
                walk(&path, property, silent);
            }
        }
    }
    let mut silent = Vec::new();
    walk("", &Config::schema(), &mut silent);
    assert!(silent.is_empty(), "without a meaning or advice: {silent:?}");
}

#[test]
fn the_reference_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        stored == Config::reference(),
        "docs/configuration.md is out of date: run `ouzel config docs > docs/configuration.md`"
    );
}
