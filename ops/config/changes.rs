//! The settings in which two configurations differ, and a configuration with settings of another.

use std::collections::BTreeSet;

use ouzel_sample::settings::KeyError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::document::{Document, join};
use super::files::validated;
use super::root::Config;
use super::show::{as_table, keep_keys};
use super::{ConfigError, events, model};

/// A setting in which two configurations differ; `null` where one of them has no such key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingChange {
    /// Its path.
    pub(crate) key: String,
    /// Its value in the first configuration.
    pub(crate) former: Value,
    /// Its value in the second one.
    pub(crate) present: Value,
}

impl Config {
    /// The settings that `other` changes, in order of their keys. The name of what a model starts from is none of them: its
    /// keys are compared.
    pub(crate) fn changes_to(&self, other: &Self) -> Vec<SettingChange> {
        let mut changes = Vec::new();
        compare("", &self.to_json(), &other.to_json(), &mut changes);
        changes.retain(|change| change.key != "model.from");
        changes
    }

    /// This configuration with the changed values, each where this one has the former value. A key with any third value
    /// keeps it.
    pub(crate) fn with_changes(&self, changes: &[SettingChange]) -> Result<Self, ConfigError> {
        let mut values = self.to_json();
        for SettingChange { key, former, present } in changes {
            let pointer = format!("/{}", key.replace('.', "/"));
            if values.pointer(&pointer).unwrap_or(&Value::Null) == former {
                set(&mut values, key, present);
            }
        }
        let document = Document::empty("the configuration with the settings of a second learner");
        let config: Self = serde_json::from_value(values).map_err(|error| ConfigError::Invalid {
            problems: vec![document.refuse(KeyError::new("", error.to_string()))],
        })?;
        // Secrets among the properties of the Kafka client are not printed.
        let config = Self {
            kafka: self.kafka.clone(),
            ..config
        };
        validated(config.with_encoder_widths(), &document)
    }

    /// This configuration with the settings that `text` states; `file` is its name in messages. A stated `model.from`
    /// replaces the whole model.
    pub(crate) fn overlaid(&self, text: &str, file: &str) -> Result<Self, ConfigError> {
        let document = Document::read(text, file, "", &Self::schema())?;
        let mut stated = document.table.clone();
        let mut table = as_table(self);
        if let Some(toml::Value::Table(named)) = stated.get("model")
            && named.contains_key("from")
        {
            table.insert("model".to_owned(), model::merge(&document, named)?.into());
        }
        if let Some(toml::Value::Table(mappings)) = stated.get("events") {
            let merged = events::merge(&document, mappings)?;
            stated.insert("events".to_owned(), merged.into());
        }
        model::overlay(&mut table, &stated);
        // Derived values have no key.
        keep_keys(&mut table, &Self::schema());
        let has_kafka = stated.contains_key("kafka");
        let mut config = document.deserialize::<Self>(table)?;
        if !has_kafka {
            // Secrets among the properties of the Kafka client are not printed.
            config.kafka = self.kafka.clone();
        }
        validated(config.with_encoder_widths(), &document)
    }
}

fn compare(path: &str, former: &Value, present: &Value, changes: &mut Vec<SettingChange>) {
    if let (Value::Object(was), Value::Object(is)) = (former, present) {
        let keys: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        for key in keys {
            let none = Value::Null;
            let (was, is) = (was.get(key).unwrap_or(&none), is.get(key).unwrap_or(&none));
            compare(&join(path, key), was, is, changes);
        }
    } else if former != present {
        changes.push(SettingChange {
            key: path.to_owned(),
            former: former.clone(),
            present: present.clone(),
        });
    }
}

/// Sets the value at a path, or removes the key if the value is `null`.
fn set(values: &mut Value, path: &str, value: &Value) {
    let Value::Object(object) = values else { return };
    match path.split_once('.') {
        Some((first, rest)) => {
            let below = object
                .entry(first)
                .or_insert_with(|| Value::Object(serde_json::Map::new()));
            set(below, rest, value);
        }
        None if value.is_null() => {
            object.remove(path);
        }
        None => {
            object.insert(path.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse(text, "x.toml").unwrap()
    }

    #[test]
    fn the_changes_turn_one_configuration_into_the_other() {
        let former = parse("model.from = \"din\"\nmodel.dim = 8\noptimizer.row_rate = 0.05");
        let present = former
            .overlaid(
                "model.dim = 12\noptimizer.dense_rate = 0.003\nlearner.max_rows = 1000",
                "y.toml",
            )
            .unwrap();
        let changes = former.changes_to(&present);
        let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, ["learner.max_rows", "model.dim", "optimizer.dense_rate"]);
        let changed = former.with_changes(&changes).unwrap();
        assert_eq!(changed.hash(), present.hash());
        assert_eq!(changed.schema_fingerprint(), present.schema_fingerprint());
        assert_eq!(
            present.with_changes(&changes).unwrap().hash(),
            present.hash(),
            "nothing is left to change"
        );
        // A file that says a third thing keeps it.
        let edited = former.overlaid("optimizer.dense_rate = 0.5", "y.toml").unwrap();
        let both = edited.with_changes(&changes).unwrap();
        assert_eq!((both.model.dim, both.optimizer.dense_rate), (12, 0.5));
    }

    #[test]
    fn a_stated_model_replaces_all_of_it_and_an_error_has_its_position() {
        let former =
            parse("model.from = \"din\"\nmodel.dim = 12\nkafka.properties.sasl.password = \"${env:SECRET}\"");
        let other = former.overlaid("model.from = \"deepfm\"", "y.toml").unwrap();
        assert_eq!(other.model.dim, parse("model.from = \"deepfm\"").model.dim);
        assert_eq!(other.kafka, former.kafka);
        let changes = former.changes_to(&other);
        assert_eq!(former.with_changes(&changes).unwrap().kafka, former.kafka);
        assert_eq!(
            former.with_changes(&changes).unwrap().schema_fingerprint(),
            other.schema_fingerprint()
        );
        for (text, why) in [
            ("model.dimm = 3", "y.toml:1"),
            ("optimizer.row_rate = -1", "row_rate"),
        ] {
            let error = former.overlaid(text, "y.toml").unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
