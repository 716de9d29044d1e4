//! Fingerprints of a configuration, which snapshots store.
//!
//! The schema fingerprint keeps the key names of the first format, so that renaming a key leaves snapshots usable.

use ouzel_sample::DENSE_NAMES;
use serde_json::{Value, json};

use ouzel_ingest::join::JoinSource;

use super::renamed::RENAMED;
use super::root::Config;

impl Config {
    /// Hash of all values, independent of comments and the order of keys in the file.
    pub fn hash(&self) -> String {
        hash(&self.to_json().to_string())
    }

    /// The values as JSON, for snapshots: without the salt of ids and the properties of the Kafka client, which may be
    /// secrets.
    pub fn recorded(&self) -> Vec<u8> {
        let mut values = self.to_json();
        for (section, key) in [("ids", "salt"), ("kafka", "properties")] {
            if let Some(section) = values.get_mut(section).and_then(Value::as_object_mut) {
                section.remove(key);
            }
        }
        serde_json::to_vec_pretty(&values).expect("JSON values have text keys")
    }

    /// Hash of the values that give features and weights their meaning. A snapshot fits a configuration of the same hash.
    pub fn schema_fingerprint(&self) -> String {
        hash(&self.meaning().to_string())
    }

    /// The values of the schema, by the key names of the first format.
    fn meaning(&self) -> Value {
        let features = self.feature_config().without_limits();
        let mut meaning = json!({
            "salt": self.ids.salt,
            "dense": DENSE_NAMES.as_slice(),
            "features": {
                "history_len": features.history_len,
                "history_contents": features.history_contents,
                "history_kept": features.history_capacity,
                "shown_kept": features.shown_capacity,
                "value_capacity": features.value_capacity,
                "word_capacity": features.word_capacity,
                "decay_ms": features.counter_decay.ms(),
                "fast_rate": features.fast_ema_rate,
                "slow_rate": features.slow_ema_rate,
                "prior_actions": features.prior_actions,
                "max_users": features.max_users,
                "max_counters": features.max_counters,
                "max_catalog_bytes": features.max_catalog.bytes(),
                "expire_ms": features.expire_after.ms(),
            },
            "texts": self.content.texts_per_item,
            "tasks": self.task_names(),
            "model": self.model_config(),
        });
        // Left out where there is none, so that a snapshot from before there was any still fits.
        if features.long_len > 0 {
            meaning["features"]["long_capacity"] = features.long_capacity.into();
            meaning["features"]["long_len"] = features.long_len.into();
        }
        for (old, new) in RENAMED {
            rename(&mut meaning, new, old);
        }
        // Behind a tier, the positions are of other topics and the join state is another.
        if self.join.source == JoinSource::Tier {
            meaning["source"] = "tier".into();
        }
        meaning
    }
}

/// Moves the value at one path of `root` to a sibling path, if there is one.
fn rename(root: &mut Value, from: &str, to: &str) {
    let (Some((path, from)), Some((_, to))) = (from.rsplit_once('.'), to.rsplit_once('.')) else {
        return;
    };
    let pointer = format!("/{}", path.replace('.', "/"));
    let Some(Value::Object(table)) = root.pointer_mut(&pointer) else {
        return;
    };
    if let Some(value) = table.remove(from) {
        table.insert(to.to_owned(), value);
    }
}

fn hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_key_leaves_the_schema_as_it_was() {
        let schema = Config::default().meaning();
        for (old, new) in RENAMED.iter().filter(|(old, _)| old.starts_with("model.")) {
            let [old, new] = [old, new].map(|path| format!("/{}", path.replace('.', "/")));
            assert!(schema.pointer(&new).is_none(), "{new}");
            // A precision that is the default is not part of the schema.
            assert!(
                schema.pointer(&old).is_some() || old == "/model/products",
                "{old}"
            );
        }
        let changed = Config::parse("model.sequence.attention_hidden = [8, 8]", "x").unwrap();
        assert_ne!(
            changed.schema_fingerprint(),
            Config::default().schema_fingerprint()
        );
    }

    #[test]
    fn limits_change_the_hash_and_not_the_schema_fingerprint() {
        let default = Config::default();
        let bounded = Config::parse("features.max_users = 7", "x").unwrap();
        assert_eq!(bounded.schema_fingerprint(), default.schema_fingerprint());
        assert_ne!(bounded.hash(), default.hash());
        assert_eq!(Config::parse("", "x").unwrap().hash(), default.hash());
    }
}
