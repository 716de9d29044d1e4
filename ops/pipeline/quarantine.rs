//! The quarantine of a state directory: `quarantine.json`, which every start applies to the records it reads.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use serde::{Deserialize, Serialize};

use ouzel_ingest::{Quarantine, QuarantineRule};
use ouzel_sample::IdSpace;
use ouzel_snapshot::Store;

use super::state_file;
use crate::error::ErrorExt;

/// One entry of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuarantineEntry {
    /// What is excluded.
    pub(crate) rule: QuarantineRule,
    /// Why, as the operator said.
    pub(crate) note: String,
    /// When it was added, ms since the epoch.
    pub(crate) at_ms: i64,
}

/// The entries of a state directory, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuarantineFile {
    path: PathBuf,
    pub(crate) entries: Vec<QuarantineEntry>,
}

impl QuarantineFile {
    /// Reads the file of a state directory; without one, nothing is excluded.
    pub(crate) fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("quarantine.json");
        let entries = state_file::read(&path)?.unwrap_or_default();
        Ok(Self { path, entries })
    }

    /// Adds an entry and makes it durable; one with the same rule changes nothing. Returns whether it was added.
    pub(crate) fn add(&mut self, store: &Store, entry: QuarantineEntry) -> anyhow::Result<bool> {
        entry.rule.check().map_err(|why| anyhow!(why))?;
        if self.entries.iter().any(|known| known.rule == entry.rule) {
            return Ok(false);
        }
        let mut entries = self.entries.clone();
        entries.push(entry);
        state_file::replace(store, &self.path, &entries)?;
        self.entries = entries;
        Ok(true)
    }

    /// The rules, compiled for a decoder.
    pub(crate) fn compile(&self, ids: IdSpace) -> anyhow::Result<Quarantine> {
        let rules: Vec<QuarantineRule> = self.entries.iter().map(|entry| entry.rule.clone()).collect();
        Quarantine::new(&rules, ids).map_err(|why| anyhow!("{}: {why}", self.path.display()))
    }

    /// Checks that every rule can be applied to the results of a join tier.
    pub(crate) fn check_behind_tier(&self) -> anyhow::Result<()> {
        for entry in &self.entries {
            entry
                .rule
                .check_behind_tier()
                .map_err(|why| anyhow!("{}: {why}", self.path.display()))
                .hint("remove the rule from the file, or read the events without a tier")?;
        }
        Ok(())
    }

    /// The rules as text, for manifests.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.rule.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_added_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut file = QuarantineFile::read(dir.path()).unwrap();
        assert!(file.entries.is_empty());
        let entry = |user: &str| QuarantineEntry {
            rule: QuarantineRule {
                user: Some(user.to_owned()),
                ..QuarantineRule::default()
            },
            note: "bot".to_owned(),
            at_ms: 7,
        };
        assert!(file.add(&store, entry("u")).unwrap());
        assert!(!file.add(&store, entry("u")).unwrap());
        assert!(file.add(&store, entry("v")).unwrap());
        let read = QuarantineFile::read(dir.path()).unwrap();
        assert_eq!(read, file);
        assert_eq!(read.texts(), ["user u", "user v"]);
        let empty = QuarantineEntry {
            rule: QuarantineRule::default(),
            ..entry("")
        };
        assert!(file.add(&store, empty).is_err());
        std::fs::write(dir.path().join("quarantine.json"), "{}").unwrap();
        let error = QuarantineFile::read(dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains("quarantine.json"), "{error:#}");
    }
}
