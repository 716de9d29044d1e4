//! Prints a configuration as a TOML file with comments, which loads again.
//!
//! The text of each key comes from the doc comments of the sections, through the schema.

use std::fmt::Write as _;

use serde_json::Value as Schema;
use toml::{Table, Value};

use super::document::join;
use super::model;
use super::root::Config;
use super::text::KeyText;

/// Widest comment line, in characters.
const WIDTH: usize = 100;

/// The keys that most users set. `config show` prints these and the keys that differ from their defaults.
const COMMON_KEYS: &str = "kafka.bootstrap kafka.dlq kafka.topics.impressions kafka.topics.actions kafka.topics.items \
    ids.salt events.max_items join.tasks join.label_policy join.label_wait join.allowed_lateness \
    join.max_clock_skew join.max_pending_items order.max_reorder_delay features.history_len \
    features.history_capacity features.max_users features.expire_after content.text_encoder \
    content.image_encoder content.image_root learner.batch_min_samples learner.max_rows learner.seed \
    learner.device model.from model.dim model.hidden optimizer.row_rate optimizer.dense_rate \
    optimizer.block_rate rows.expire_after snapshot.dir snapshot.every snapshot.keep \
    serving.listen serving.workers serving.deadline serving.max_candidates log.level";

impl Config {
    /// The keys that most users set and those that differ from their defaults, as TOML with comments.
    pub fn show(&self) -> String {
        let head = "# The keys that most users set, and those that differ from their defaults. `ouzel config show --all` prints\n\
                    # every key, docs/configuration.md explains them.\n\n";
        format!("{head}{}", self.print(false))
    }

    /// Every key as TOML with comments.
    pub fn show_all(&self) -> String {
        self.print(true)
    }

    /// Every key as JSON, without comments.
    pub fn to_json(&self) -> serde_json::Value {
        let mut table = as_table(self);
        keep_keys(&mut table, &Self::schema());
        serde_json::to_value(table).expect("every section is JSON")
    }

    fn print(&self, all: bool) -> String {
        let default = Self::default();
        // The keys of a model have the defaults of the model they start from.
        let model = model::preset(&self.model.from).unwrap_or_else(|_| default.model.clone());
        let mut printer = Printer {
            all,
            out: String::new(),
        };
        let defaults = as_table(&Self { model, ..default });
        printer.table("", &as_table(self), &defaults, &Self::schema());
        printer.out.trim_start().to_owned()
    }
}

/// Converts through text, because a `Value` would widen an `f32` and print rounding errors.
pub(super) fn as_table(config: &Config) -> Table {
    let text = toml::to_string(config).expect("every section is TOML");
    let mut table: Table = text.parse().expect("toml reads what it wrote");
    fill_sections(&mut table, &Config::schema());
    table
}

/// Adds the sections that are not written at their defaults, with the defaults of their keys.
fn fill_sections(table: &mut Table, schema: &Schema) {
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let Some(properties) = property["properties"].as_object() else {
            continue;
        };
        if !table.contains_key(key) {
            let defaults = properties.iter().map(|(key, property)| {
                let default = &property["default"];
                Some((key.clone(), default_value(default)?))
            });
            // A section without a default for each key is one that a user states whole.
            let Some(defaults) = defaults.collect::<Option<Table>>() else {
                continue;
            };
            table.insert(key.clone(), Value::Table(defaults));
        }
        if let Some(Value::Table(section)) = table.get_mut(key) {
            fill_sections(section, property);
        }
    }
}

/// The default of a key as TOML; none where the schema has none.
fn default_value(default: &Schema) -> Option<Value> {
    match default {
        // The schema widens an `f32`, whose own text is the shortest.
        Schema::Number(number) if number.is_f64() => {
            let narrow: f32 = number.to_string().parse().ok()?;
            Some(Value::Float(narrow.to_string().parse().ok()?))
        }
        default => Value::try_from(default).ok(),
    }
}

/// Removes derived values, which have no key.
pub(super) fn keep_keys(table: &mut Table, schema: &Schema) {
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    table.retain(|key, _| properties.contains_key(key));
    for (key, value) in table.iter_mut() {
        if let Value::Table(table) = value {
            keep_keys(table, &properties[key.as_str()]);
        }
    }
}

struct Printer {
    all: bool,
    out: String,
}

impl Printer {
    fn table(&mut self, path: &str, values: &Table, defaults: &Table, schema: &Schema) {
        let is_open = !schema["properties"].is_object();
        let is_known = |key: &str| is_open || !schema["properties"][key].is_null();
        for (key, value) in values {
            let is_leaf = !value.is_table() && is_known(key);
            let is_default = defaults.get(key) == Some(value);
            if is_leaf && (self.all || is_open || !is_default || is_common(&join(path, key))) {
                self.comment(&schema["properties"][key], defaults.get(key));
                self.line(&format!("{} = {value}\n", toml_key(key)));
            }
        }
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            if self.all && !values.contains_key(key) {
                self.comment(property, None);
                self.line(&format!("# {} = (unset)\n", toml_key(key)));
            }
        }
        for (key, value) in values {
            let Value::Table(values) = value else { continue };
            if !is_known(key) {
                continue;
            }
            let none = Table::new();
            let defaults = defaults.get(key).and_then(Value::as_table).unwrap_or(&none);
            let before = self.out.len();
            let path = join(path, &toml_key(key));
            self.table(&path, values, defaults, &schema["properties"][key]);
            let body = self.out.split_off(before);
            if body.is_empty() && !self.all {
                continue;
            }
            self.section(&schema["properties"][key]);
            self.line(&format!("[{path}]"));
            self.out.push_str(if body.is_empty() { "\n" } else { &body });
        }
    }

    fn section(&mut self, property: &Schema) {
        let text = KeyText::of(property);
        self.wrap(&text.meaning);
    }

    /// The text of a key, and of the keys of each entry where it is a list of tables.
    fn comment(&mut self, property: &Schema, default: Option<&Value>) {
        if property.is_null() {
            return;
        }
        let text = KeyText::of(property);
        self.wrap(&text.meaning);
        for (value, meaning) in &text.values {
            self.wrap(&format!("`{value}`: {meaning}"));
        }
        let default = default.map_or_else(|| "unset".to_owned(), Value::to_string);
        let mut facts = vec![format!("Default: {default}.")];
        facts.extend(text.unit.map(|unit| format!("Unit: {unit}.")));
        facts.extend(text.range.map(|range| format!("Allowed: {range}.")));
        facts.push(text.advice);
        self.wrap(&facts.join(" "));
        for (key, property) in property["items"]["properties"].as_object().into_iter().flatten() {
            let text = KeyText::of(property);
            self.wrap(&format!("`{key}`: {}", text.meaning));
        }
    }

    fn wrap(&mut self, paragraph: &str) {
        let mut text = String::new();
        for word in paragraph.split_whitespace() {
            if !text.is_empty() && text.chars().count() + 1 + word.chars().count() > WIDTH - 2 {
                self.line(&format!("# {text}"));
                text.clear();
            }
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        if !text.is_empty() {
            self.line(&format!("# {text}"));
        }
    }

    fn line(&mut self, text: &str) {
        writeln!(self.out, "{text}").expect("a string takes every line");
    }
}

fn is_common(path: &str) -> bool {
    COMMON_KEYS.split(' ').any(|key| key == path)
}

/// `key` as TOML: bare if possible, quoted otherwise.
fn toml_key(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(is_bare) {
        key.to_owned()
    } else {
        Value::String(key.to_owned()).to_string()
    }
}
