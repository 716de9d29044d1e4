//! The reference of all keys in Markdown, generated from the schema.

use std::fmt::Write as _;

use serde_json::Value as Schema;
use toml::{Table, Value};

use super::document::join;
use super::root::Config;
use super::show::as_table;
use super::text::{KeyText, type_name};

const HEAD: &str = "# Configuration

*For everyone who sets up ouzel.* Generated from the schema by `ouzel config docs`; do not edit.

One TOML file states what differs from the defaults; [Operations](operations.md#configuration-file) shows one. An unknown key
is refused with the nearest known name, a wrong value with its line and column.

```sh
ouzel config show              # the keys that most users set and those that were changed, as TOML that loads again
ouzel config show --all        # every key
ouzel config check FILE        # validates a file
ouzel config schema            # the JSON Schema, for an editor
```

Durations and sizes have a unit: `200ms`, `10m`, `1h30m`, `30d`; `512B`, `64KiB`, `2GiB`. The defaults of `[model]` are those
of the default model, `em3-hstu`.
";

impl Config {
    /// The reference of all keys in Markdown: `docs/configuration.md`.
    pub fn reference() -> String {
        let values = as_table(&Self::default());
        let schema = Self::schema();
        let mut out = HEAD.to_owned();
        for (key, value) in &values {
            if let Value::Table(table) = value {
                section(&mut out, key, table, &schema["properties"][key]);
            }
        }
        out
    }
}

fn section(out: &mut String, path: &str, values: &Table, schema: &Schema) {
    let level = "#".repeat(2 + path.matches('.').count());
    let text = KeyText::of(schema);
    let mut line = |text: &str| writeln!(out, "{text}").expect("a string takes every line");
    line(&format!("\n{level} `[{path}]`\n\n{}", text.meaning));
    let Some(properties) = schema["properties"].as_object() else {
        line(&text.advice);
        return;
    };
    let unset = properties.keys().filter(|key| !values.contains_key(*key));
    let stated = values.keys().filter(|key| properties.contains_key(*key));
    let (tables, keys): (Vec<_>, Vec<_>) = stated
        .chain(unset)
        .partition(|key| values.get(*key).is_some_and(Value::is_table));
    if !keys.is_empty() {
        line("\n| key | type | default | meaning | when to change it |\n|---|---|---|---|---|");
    }
    for key in keys {
        let property = &properties[key];
        let default = values
            .get(key)
            .map_or_else(|| "unset".to_owned(), |value| format!("`{value}`"));
        line(&row(key, property, &default));
        for (entry, property) in property["items"]["properties"].as_object().into_iter().flatten() {
            let default = &property["default"];
            let required = properties[key]["items"]["required"].as_array();
            let is_required = required.into_iter().flatten().any(|name| name == entry.as_str());
            let default = match default {
                Schema::Null if is_required => "required".to_owned(),
                Schema::Null => "unset".to_owned(),
                default => format!("`{default}`"),
            };
            line(&row(&format!("{key}[].{entry}"), property, &default));
        }
    }
    for key in tables {
        if let Some(Value::Table(table)) = values.get(key) {
            section(out, &join(path, key), table, &properties[key]);
        }
    }
}

fn row(key: &str, property: &Schema, default: &str) -> String {
    let text = KeyText::of(property);
    let mut kind = type_name(property);
    for part in [text.unit, text.range].into_iter().flatten() {
        kind = format!("{kind}; {part}");
    }
    let mut meaning = text.meaning;
    for (value, explained) in text.values {
        meaning = format!("{meaning}<br>`{value}`: {explained}");
    }
    let cells = [format!("`{key}`"), kind, default.to_owned(), meaning, text.advice];
    format!("| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}
