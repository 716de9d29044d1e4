//! The effective configuration as a TOML file that explains itself.
//!
//! Meanings and units come from the schema, which has them from the doc comments of the sections.

use std::fmt::Write as _;

use serde_json::Value as Schema;
use toml::{Table, Value};

use super::Config;

/// Widest comment line, in characters.
const WIDTH: usize = 100;

/// `config` as TOML: every key, its meaning, and its default where another value is in force.
pub(super) fn show(config: &Config) -> String {
    let schema = Config::schema();
    let mut out = String::new();
    table(
        &mut out,
        "",
        &as_table(config),
        &as_table(&Config::default()),
        &schema,
    );
    out.trim_start().to_owned()
}

/// Through text, because a `Value` would widen an `f32` and print its noise.
fn as_table(config: &Config) -> Table {
    let text = toml::to_string(config).expect("every section is TOML");
    text.parse().expect("toml reads what it wrote")
}

fn table(out: &mut String, path: &str, values: &Table, defaults: &Table, schema: &Schema) {
    for (key, value) in values.iter().filter(|(_, value)| !value.is_table()) {
        let property = &schema["properties"][key];
        comment(out, property);
        if let Some(default) = defaults.get(key).filter(|default| *default != value) {
            line(out, &format!("# Default: {default}"));
        } else if defaults.get(key).is_none() && !property.is_null() {
            line(out, "# Default: unset");
        }
        line(out, &format!("{} = {value}\n", toml_key(key)));
    }
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        if !values.contains_key(key) {
            comment(out, property);
            line(out, &format!("# {} = (unset)\n", toml_key(key)));
        }
    }
    for (key, value) in values {
        let Value::Table(values) = value else { continue };
        let key_text = toml_key(key);
        let path = if path.is_empty() {
            key_text
        } else {
            format!("{path}.{key_text}")
        };
        let property = &schema["properties"][key];
        comment(out, property);
        line(out, &format!("[{path}]"));
        let none = Table::new();
        let defaults = defaults.get(key).and_then(Value::as_table).unwrap_or(&none);
        table(out, &path, values, defaults, property);
        if values.is_empty() {
            out.push('\n');
        }
    }
}

/// The meaning of a key, and of the keys of each entry where it is a list of tables.
fn comment(out: &mut String, property: &Schema) {
    let mut paragraphs: Vec<String> = property["description"]
        .as_str()
        .map(str::to_owned)
        .into_iter()
        .collect();
    for (key, property) in property["items"]["properties"].as_object().into_iter().flatten() {
        paragraphs.push(format!(
            "`{key}`: {}",
            property["description"].as_str().unwrap_or_default()
        ));
    }
    for paragraph in paragraphs {
        let mut text = String::new();
        for word in paragraph.split_whitespace() {
            if !text.is_empty() && text.chars().count() + 1 + word.chars().count() > WIDTH - 2 {
                line(out, &format!("# {text}"));
                text.clear();
            }
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        line(out, &format!("# {text}"));
    }
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a string takes every line");
}

/// `key` as TOML writes it: bare where it may be, quoted otherwise.
fn toml_key(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare {
        key.to_owned()
    } else {
        Value::String(key.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        dedup = "3d"
        [features]
        fast_rate = 0.25
        [model]
        dim = 8
        hidden = [32, 16]
        [optimizer]
        wide_alpha = 0.05
        [serving]
        max_body = "1MiB"
        [admin]
        socket = "/run/ouzel/admin.sock"
        [log]
        format = "json"
    "#;

    #[test]
    fn what_is_shown_reads_back_to_the_same_configuration() {
        for text in ["", CHANGED] {
            let config = Config::parse(text, "x").unwrap();
            let shown = config.show();
            let again = Config::parse(&shown, "shown").unwrap_or_else(|error| panic!("{error}\n{shown}"));
            assert_eq!(again, config, "{shown}");
            assert_eq!(again.show(), shown);
        }
    }

    #[test]
    fn every_key_is_shown_with_its_meaning_and_its_default_when_changed() {
        let shown = Config::parse(CHANGED, "x").unwrap().show();
        for expected in [
            "# Default: \"127.0.0.1:9092\"\nbootstrap = \"localhost:9092\"\n",
            "# Scorer threads, count; each has its own copy of the dense weights.\nworkers = 1\n",
            "fast_rate = 0.25\n",
            "slow_rate = 0.01\n",
            "hold = \"50ms\"\n",
            "\"fetch.wait.max.ms\" = \"50\"\n",
            "# `window`: How long after its impression an action counts, event time.\n",
            "# Default: unset\nsocket = \"/run/ouzel/admin.sock\"\n",
            "wide_alpha = 0.05\n",
        ] {
            assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
        }
        assert!(Config::default().show().contains("# socket = (unset)\n"));
    }
}
