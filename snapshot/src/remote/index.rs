//! The index of a remote copy, and what it says about each snapshot.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::bucket::Remote;
use super::pieces::{StoredFile, read_file};
use crate::format::seal::PRETTY;
use crate::{Error, MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, SnapshotId};

const INDEX_KEY: &str = "index.json";
const INDEX_FORMAT: u32 = 1;
/// Longest description of one snapshot: a piece for each 8 MiB of its files.
const MAX_RECIPE_BYTES: u64 = 64 << 20;

/// The index: everything that a reader of the copy sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteIndex {
    format: u32,
    /// The claim that wrote it, a text that no other claim has.
    pub(super) writer: String,
    /// The machine of the writer.
    pub host: String,
    /// Number of the claim, higher than that of every claim before.
    pub generation: u64,
    /// Number of writes of the index.
    pub(super) sequence: u64,
    /// Lease of the writer in its state directory.
    pub(super) epoch: u64,
    /// Number that no snapshot had when the index was written.
    pub(super) next_id: u64,
    /// When it was written, ms since the epoch.
    pub written_ms: i64,
    /// The files of each snapshot: a [`Recipe`], stored.
    pub(super) snapshots: BTreeMap<SnapshotId, StoredFile>,
    /// The other files of the state directory, by path.
    pub(super) files: BTreeMap<String, StateFile>,
}

/// A file of the state directory that is no part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StateFile {
    /// The snapshot that it names, for an alias or a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<SnapshotId>,
    pub(super) stored: StoredFile,
}

/// Where the files of a snapshot are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// By name, the manifest too.
    pub(crate) files: BTreeMap<String, StoredFile>,
}

/// The snapshots of a copy that can be read.
type Found = BTreeMap<SnapshotId, RemoteSnapshot>;

/// A snapshot of the copy.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteSnapshot {
    /// Its manifest.
    pub manifest: Manifest,
    pub(crate) recipe: Recipe,
    pub(super) stored: StoredFile,
}

impl RemoteIndex {
    /// The first index of a copy.
    pub(super) fn new() -> Self {
        Self {
            format: INDEX_FORMAT,
            writer: String::new(),
            host: String::new(),
            generation: 0,
            sequence: 0,
            epoch: 0,
            next_id: 0,
            written_ms: 0,
            snapshots: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    /// Reads the index with its tag; `None` if there is no copy yet.
    ///
    /// # Errors
    /// [`Error::Remote`], [`Error::Damaged`], or [`Error::Format`] for a copy of a newer version.
    pub(super) fn read(remote: &Remote) -> Result<Option<(Self, String)>, Error> {
        let Some(object) = remote.get(INDEX_KEY)? else {
            return Ok(None);
        };
        let damaged = |why: String| remote.damaged(INDEX_KEY, why);
        let (json, _) = PRETTY
            .open(&object.bytes)
            .map_err(|why| damaged(why.to_owned()))?;
        let value: serde_json::Value =
            serde_json::from_str(&json).map_err(|error| damaged(error.to_string()))?;
        match value["format"].as_u64() {
            Some(found) if found != u64::from(INDEX_FORMAT) => {
                return Err(Error::Format {
                    path: remote.object(INDEX_KEY).into(),
                    found,
                    oldest: INDEX_FORMAT,
                    newest: INDEX_FORMAT,
                });
            }
            _ => {}
        }
        let index = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        Ok(Some((index, object.tag)))
    }

    /// Writes the index in place of the one with the tag `expected`; `None` when there is another one by now.
    pub(super) fn write(&self, remote: &Remote, expected: Option<&str>) -> Result<Option<String>, Error> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| Error::invalid(INDEX_KEY, error.to_string()))?;
        remote.put_if(INDEX_KEY, PRETTY.close(&json).as_bytes(), expected)
    }

    /// The snapshots of the copy. What is damaged is left out, with its reason.
    ///
    /// # Errors
    /// [`Error::Remote`] when the copy cannot be read.
    pub(super) fn read_snapshots(
        &self,
        remote: &Remote,
    ) -> Result<(Found, Vec<(SnapshotId, String)>), Error> {
        let (mut sound, mut damaged) = (BTreeMap::new(), Vec::new());
        for (id, stored) in &self.snapshots {
            match RemoteSnapshot::read(remote, *id, stored) {
                Ok(snapshot) => drop(sound.insert(*id, snapshot)),
                Err(error) if error.is_damage() => damaged.push((*id, error.to_string())),
                Err(error) => return Err(error),
            }
        }
        Ok((sound, damaged))
    }

    /// The keys of its pieces, where `snapshots` are those that it names.
    pub(crate) fn keys(&self, snapshots: &BTreeMap<SnapshotId, RemoteSnapshot>) -> BTreeSet<String> {
        let named = self.snapshots.keys().filter_map(|id| snapshots.get(id));
        let parts = named.flat_map(|snapshot| snapshot.recipe.files.values());
        let stored = self.snapshots.values().chain(parts);
        let files = self.files.values().map(|file| &file.stored);
        stored
            .chain(files)
            .flat_map(|file| file.pieces.iter().cloned())
            .collect()
    }
}

impl RemoteSnapshot {
    /// Reads where its files are, and its manifest.
    fn read(remote: &Remote, id: SnapshotId, stored: &StoredFile) -> Result<Self, Error> {
        let place = stored.pieces.first().cloned().unwrap_or_default();
        let damaged = |why: String| remote.damaged(&place, why);
        let recipe = read_file(remote, stored, MAX_RECIPE_BYTES)?;
        let recipe: Recipe = serde_json::from_slice(&recipe).map_err(|error| damaged(error.to_string()))?;
        let manifest = recipe.files.get(MANIFEST_NAME);
        let manifest = manifest.ok_or_else(|| damaged("it names no manifest".to_owned()))?;
        let bytes = read_file(remote, manifest, MAX_MANIFEST_BYTES)?;
        let manifest = Manifest::decode(&bytes, remote.object(&place).as_ref())?;
        let is_complete = manifest.files.iter().all(|file| {
            let stored = recipe.files.get(&file.name);
            stored.is_some_and(|stored| stored.bytes == file.bytes)
        });
        match manifest.id == id && is_complete && recipe.files.len() == manifest.files.len() + 1 {
            true => Ok(Self {
                manifest,
                recipe,
                stored: stored.clone(),
            }),
            false => Err(damaged(format!("its files are not those of snapshot {id}"))),
        }
    }

    /// Size of its files in the copy, bytes; pieces that other snapshots have too are counted again.
    pub fn n_bytes(&self) -> u64 {
        self.recipe.files.values().map(|file| file.bytes).sum()
    }
}
