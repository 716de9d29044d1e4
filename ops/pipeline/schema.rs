//! What a snapshot was made under, and what of it the configuration has changed.

use anyhow::anyhow;
use serde_json::Value;

use ouzel_snapshot::Snapshot;

use super::checkpoint::CONFIG_FILE;
use crate::config::Config;
use crate::error::ErrorExt;

/// Values longer than this are not printed.
const LONGEST: usize = 80;

/// The sections that give the stored state its meaning, with the keys of each that count; all keys where none is named.
const SECTIONS: [(&str, &[&str]); 5] = [
    ("features", &[]),
    ("model", &[]),
    ("content", &["texts_per_item", "text_encoder", "image_encoder"]),
    ("join", &["source", "by", "tasks", "label_policy", "label_wait"]),
    ("learner", &["seed"]),
];

/// A setting that differs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct ChangedSetting {
    /// Its path.
    pub(crate) key: String,
    /// What the snapshot was made with.
    pub(crate) former: String,
    /// What the configuration says.
    pub(crate) present: String,
}

/// The configuration that a snapshot was made under, without its secrets; `None` where it cannot be read.
pub(crate) fn former_config(snapshot: &Snapshot) -> Option<Config> {
    let bytes = recorded(snapshot)?;
    serde_json::from_value(bytes).ok()
}

fn recorded(snapshot: &Snapshot) -> Option<Value> {
    serde_json::from_slice(&snapshot.blob(CONFIG_FILE).ok()?).ok()
}

/// The settings of the stored state that differ, sorted by key. Empty where the snapshot has no recorded configuration.
pub(crate) fn changed_settings(snapshot: &Snapshot, config: &Config) -> Vec<ChangedSetting> {
    let mut changed = Vec::new();
    let Some(former) = recorded(snapshot) else {
        return changed;
    };
    let present: Value = serde_json::from_slice(&config.recorded()).unwrap_or_default();
    for (section, keys) in SECTIONS {
        let empty = Value::Null;
        let [former, present] = [&former, &present].map(|values| values.get(section).unwrap_or(&empty));
        compare(section, former, present, keys, &mut changed);
    }
    // A model is compared by its keys, not by the name of what they start from.
    changed.retain(|setting| setting.key != "model.from");
    changed.sort_by(|a, b| a.key.cmp(&b.key));
    changed
}

fn compare(path: &str, former: &Value, present: &Value, keys: &[&str], changed: &mut Vec<ChangedSetting>) {
    if let (Value::Object(was), Value::Object(is)) = (former, present) {
        let both: std::collections::BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        for key in both
            .into_iter()
            .filter(|key| keys.is_empty() || keys.contains(&key.as_str()))
        {
            let none = Value::Null;
            let (was, is) = (was.get(key).unwrap_or(&none), is.get(key).unwrap_or(&none));
            compare(&format!("{path}.{key}"), was, is, &[], changed);
        }
    } else if former != present {
        let text = |value: &Value| {
            let text = value.to_string();
            match text.chars().count() > LONGEST {
                true => "another value".to_owned(),
                false => text,
            }
        };
        changed.push(ChangedSetting {
            key: path.to_owned(),
            former: text(former),
            present: text(present),
        });
    }
}

/// True when the configuration has the salt of ids that the snapshot was made with. `None` where that is not known.
pub(crate) fn has_same_salt(snapshot: &Snapshot, config: &Config) -> Option<bool> {
    let mut former = former_config(snapshot)?;
    former.ids.salt = config.ids.salt;
    Some(former.schema_fingerprint() == snapshot.manifest().checkpoint.schema_fingerprint)
}

/// Refuses a snapshot whose features or weights have another meaning under this configuration.
pub(crate) fn check_schema(snapshot: &Snapshot, config: &Config) -> anyhow::Result<()> {
    if snapshot.manifest().checkpoint.schema_fingerprint == config.schema_fingerprint() {
        return Ok(());
    }
    let id = snapshot.id();
    let named: Vec<String> = changed_settings(snapshot, config)
        .into_iter()
        .map(|ChangedSetting { key, former, present }| {
            format!("`{key} = {former}`, where the configuration says {present}")
        })
        .collect();
    let error = match named.is_empty() {
        true => anyhow!(
            "snapshot {id} was made under another schema: ids.salt differs, or another version of ouzel wrote it"
        ),
        false => anyhow!("snapshot {id} was made with {}", named.join("; ")),
    };
    Err(error).hint(
        "`ouzel snapshot migrate --config FILE --dry-run` says what the change keeps, and without --dry-run makes it; or \
         restore the former values",
    )
}
