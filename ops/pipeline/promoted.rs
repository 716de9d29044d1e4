//! Settings that a promotion has changed and that the configuration file does not state yet.
//!
//! A promoted second learner has settings of its own. They travel in the snapshots, from that of the promotion on, so that a
//! start needs no edited file: where the file still has the former value of a setting, the promoted one holds. Once the file
//! states all of them, it alone counts, and later snapshots carry none.

use anyhow::Context;

use ouzel_snapshot::{Draft, Snapshot};

use crate::config::{Config, SettingChange};

/// File of the settings in a snapshot.
const FILE: &str = "promoted.json";

/// A configuration in use, and the promoted settings that the file does not state.
#[derive(Clone, Debug)]
pub(crate) struct UsedConfig {
    pub(crate) config: Config,
    pub(crate) promoted: Vec<SettingChange>,
}

impl UsedConfig {
    /// The configuration of the file, without promoted settings.
    pub(crate) fn of_file(config: &Config) -> Self {
        Self {
            config: config.clone(),
            promoted: Vec::new(),
        }
    }

    /// The configuration that `snapshot` is used under: `config` with the promoted settings of the snapshot.
    pub(crate) fn of(config: &Config, snapshot: &Snapshot) -> anyhow::Result<Self> {
        if snapshot.manifest().file(FILE).is_none() {
            return Ok(Self::of_file(config));
        }
        let failed = || format!("cannot use {FILE} of snapshot {}", snapshot.id());
        let changes: Vec<SettingChange> =
            serde_json::from_slice(&snapshot.blob(FILE)?).with_context(failed)?;
        Self::promoted_over(config, &changes).with_context(failed)
    }

    /// `config` with promoted settings.
    pub(crate) fn promoted_over(config: &Config, changes: &[SettingChange]) -> anyhow::Result<Self> {
        let used = config.with_changes(changes)?;
        Ok(Self {
            promoted: config.changes_to(&used),
            config: used,
        })
    }

    /// Adds the promoted settings to a draft, if the file does not state them all.
    pub(crate) fn save(&self, draft: &mut Draft) -> anyhow::Result<()> {
        if self.promoted.is_empty() {
            return Ok(());
        }
        Ok(draft.add_blob(FILE, serde_json::to_vec(&self.promoted)?)?)
    }

    /// A sentence that names the settings that the file does not state; `None` if it states them all.
    pub(crate) fn notice(&self) -> Option<String> {
        (!self.promoted.is_empty()).then(|| {
            format!(
                "a promotion set {}: put this into the configuration file; until then each start takes it from the \
                 snapshot",
                list(&self.promoted)
            )
        })
    }
}

/// Settings as text: `model.dim = 12` (in place of 8).
pub(crate) fn list(changes: &[SettingChange]) -> String {
    let named = changes.iter().map(|SettingChange { key, former, present }| {
        let text = |value: &serde_json::Value| match value.is_null() {
            true => "nothing".to_owned(),
            false => value.to_string(),
        };
        format!("`{key} = {}` (in place of {})", text(present), text(former))
    });
    named.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use ouzel_snapshot::{CheckpointMeta, Fingerprint, Store};

    use super::*;

    #[test]
    fn promoted_settings_hold_until_the_file_states_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let parse = |text: &str| Config::parse(text, "x.toml").unwrap();
        let write = |used: &UsedConfig| {
            let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
            used.save(&mut draft).unwrap();
            store.read(store.write(&draft).unwrap()).unwrap()
        };
        let file = parse("model.dim = 8");
        let other = parse("model.dim = 12\noptimizer.row_rate = 0.01");
        let promoted = UsedConfig::promoted_over(&file, &file.changes_to(&other)).unwrap();
        assert_eq!(promoted.config.hash(), other.hash());
        let snapshot = write(&promoted);
        let used = UsedConfig::of(&file, &snapshot).unwrap();
        assert_eq!(used.config.hash(), other.hash());
        let notice = used.notice().unwrap();
        assert!(notice.contains("`model.dim = 12` (in place of 8)"), "{notice}");
        // The next snapshot carries them on.
        let next = UsedConfig::of(&file, &write(&used)).unwrap();
        assert_eq!(next.config.hash(), other.hash());
        // One of them is in the file, the other one not yet.
        let half = UsedConfig::of(&parse("model.dim = 12"), &snapshot).unwrap();
        assert_eq!((half.config.hash(), half.promoted.len()), (other.hash(), 1));
        let stated = UsedConfig::of(&other, &snapshot).unwrap();
        assert_eq!((stated.config.hash(), stated.notice()), (other.hash(), None));
        assert!(
            !write(&stated)
                .manifest()
                .files
                .iter()
                .any(|file| file.name == FILE)
        );
        // What the operator has set since holds.
        let edited = UsedConfig::of(&parse("model.dim = 12\noptimizer.row_rate = 0.3"), &snapshot).unwrap();
        assert!((edited.config.optimizer.row_rate - 0.3).abs() < 1e-6);
    }
}
