//! A remote copy as it is read: its index, its snapshots, and how they come to this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::bucket::Remote;
use super::index::{RemoteIndex, RemoteSnapshot};
use super::pieces::{copy_file, read_file};
use super::state::first_of;
use crate::store::{AliasTarget, Lineage, MAX_ALIAS_BYTES, Rollback, raise_epoch};
use crate::{Alias, Error, MANIFEST_NAME, Manifest, RealFs, SnapshotEntry, SnapshotId, Store};

/// A remote copy, as it was when it was read.
#[derive(Clone, Debug)]
pub struct RemoteCopy {
    pub(super) remote: Remote,
    /// What it says of itself.
    pub index: RemoteIndex,
    /// Tag of the index.
    pub(super) tag: String,
    /// Every snapshot that can be read.
    pub snapshots: BTreeMap<SnapshotId, RemoteSnapshot>,
    /// The snapshots that cannot, with the reason.
    pub damaged: Vec<(SnapshotId, String)>,
    /// The rollbacks that happened, oldest first.
    pub(super) rollbacks: Vec<Rollback>,
}

impl RemoteCopy {
    /// Reads the index and the manifest of each snapshot; `None` if there is no copy yet.
    ///
    /// # Errors
    /// [`Error::Remote`] when it cannot be reached; [`Error::Damaged`] for the index, [`Error::Format`].
    pub fn read(remote: &Remote) -> Result<Option<Self>, Error> {
        let Some((index, tag)) = RemoteIndex::read(remote)? else {
            return Ok(None);
        };
        let (snapshots, damaged) = index.read_snapshots(remote)?;
        let rollbacks = read_rollbacks(remote, &index)?;
        Ok(Some(Self {
            remote: remote.clone(),
            index,
            tag,
            snapshots,
            damaged,
            rollbacks,
        }))
    }

    /// A copy that has nothing yet.
    pub(super) fn begun(remote: &Remote, index: RemoteIndex, tag: String) -> Self {
        Self {
            remote: remote.clone(),
            index,
            tag,
            snapshots: BTreeMap::new(),
            damaged: Vec::new(),
            rollbacks: Vec::new(),
        }
    }

    /// The snapshots that a rollback abandoned.
    fn abandoned(&self) -> BTreeSet<SnapshotId> {
        let parents = self
            .snapshots
            .iter()
            .map(|(id, found)| (*id, found.manifest.parent));
        let lineage = Lineage {
            parents: parents.collect(),
            rollbacks: self.rollbacks.clone(),
        };
        lineage.abandoned().into_keys().collect()
    }

    /// Makes the numbers of the writers of an empty state directory follow those of the copy, so that the plan log and the
    /// audit log go on. Call it before the directory is opened for writing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn prepare(&self, root: &Path) -> Result<(), Error> {
        raise_epoch(&RealFs, root, self.index.epoch)
    }

    /// Its snapshots, oldest first.
    pub fn list(&self) -> Vec<SnapshotEntry> {
        let abandoned = self.abandoned();
        let sound = self.snapshots.iter().map(|(id, snapshot)| SnapshotEntry {
            id: *id,
            bytes: snapshot.n_bytes(),
            aliases: self.aliases(*id),
            tags: self.tags(*id),
            is_rolled_back: abandoned.contains(id),
            manifest: Some(snapshot.manifest.clone()),
            fault: None,
        });
        let damaged = self.damaged.iter().map(|(id, why)| SnapshotEntry {
            id: *id,
            bytes: 0,
            aliases: self.aliases(*id),
            tags: self.tags(*id),
            is_rolled_back: false,
            manifest: None,
            fault: Some(why.clone()),
        });
        let mut listed: Vec<SnapshotEntry> = sound.chain(damaged).collect();
        listed.sort_by_key(|entry| entry.id);
        listed
    }

    fn aliases(&self, id: SnapshotId) -> Vec<Alias> {
        let names_it = |alias: &Alias| self.target(alias.name()) == Some(id);
        Alias::ALL.into_iter().filter(names_it).collect()
    }

    fn tags(&self, id: SnapshotId) -> Vec<String> {
        let named = self
            .index
            .files
            .iter()
            .filter(|(_, file)| file.target == Some(id));
        named
            .filter_map(|(name, _)| name.strip_prefix(TAGS).map(str::to_owned))
            .collect()
    }

    /// The snapshot that an alias (`latest`) or a tag (`tags/good`) of the copy names.
    pub fn target(&self, name: &str) -> Option<SnapshotId> {
        self.index.files.get(name).and_then(|file| file.target)
    }

    /// The last segment of the plan log that the copy has, and its size.
    pub fn plan_end(&self) -> Option<(&str, u64)> {
        let mut files = self.index.files.iter().rev();
        let (name, file) = files.find(|(name, _)| first_of(name).is_some())?;
        Some((name.as_str(), file.stored.bytes))
    }

    /// Copies a snapshot, and those that it needs, to a state directory which this process writes. Returns those that were
    /// not there.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], [`Error::Damaged`] when its bytes are not those that were sent, [`Error::Remote`],
    /// [`Error::Io`].
    pub fn fetch(&self, store: &Store, id: SnapshotId) -> Result<Vec<SnapshotId>, Error> {
        let mut fetched = Vec::new();
        for id in self.with_bases(id)? {
            let snapshot = &self.snapshots[&id];
            if !self.is_there(store, snapshot)? {
                self.fetch_one(store, id, snapshot)?;
                fetched.push(id);
            }
        }
        store.read(id)?;
        Ok(fetched)
    }

    /// A snapshot and all that it needs, oldest first.
    fn with_bases(&self, id: SnapshotId) -> Result<BTreeSet<SnapshotId>, Error> {
        let (mut found, mut next) = (BTreeSet::new(), vec![id]);
        while let Some(id) = next.pop() {
            let snapshot = self.snapshots.get(&id).ok_or_else(|| {
                let damaged = self.damaged.iter().find(|(damaged, _)| *damaged == id);
                match damaged {
                    Some((_, why)) => Error::damaged(Path::new(self.remote.url()), why),
                    None => Error::NoSnapshot {
                        id,
                        root: self.remote.url().into(),
                    },
                }
            })?;
            if found.insert(id) {
                next.extend(snapshot.manifest.bases());
            }
        }
        Ok(found)
    }

    fn is_there(&self, store: &Store, snapshot: &RemoteSnapshot) -> Result<bool, Error> {
        match store.read(snapshot.manifest.id) {
            Ok(found) => Ok(*found.manifest() == snapshot.manifest),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fetch_one(&self, store: &Store, id: SnapshotId, snapshot: &RemoteSnapshot) -> Result<(), Error> {
        store.place_snapshot(id, |dir| {
            for (name, stored) in &snapshot.recipe.files {
                let path = dir.join(name);
                let (_, hash) = store.create_at(&path, |output| copy_file(&self.remote, stored, output))?;
                let expected = snapshot.manifest.file(name).map(|file| &file.blake3);
                if name != MANIFEST_NAME && expected != Some(&hash) {
                    return Err(Error::damaged(
                        &path,
                        "its content in the remote copy differs from the manifest",
                    ));
                }
            }
            Ok(())
        })
    }

    /// The snapshots from which a start may go on, the best first.
    pub(super) fn candidates(&self) -> Vec<SnapshotId> {
        let is_good = |manifest: &Manifest| manifest.failed_gate().is_none();
        let latest = self.target(Alias::Latest.name());
        let abandoned = self.abandoned();
        let good = self.snapshots.iter().rev();
        let good = good.filter(|(id, found)| is_good(&found.manifest) && !abandoned.contains(id));
        let older = good
            .map(|(id, _)| *id)
            .filter(|id| latest.is_none_or(|latest| *id < latest));
        latest.into_iter().chain(older).collect()
    }
}

/// The rollbacks that the alias `latest` of a copy records; none if it cannot be trusted.
fn read_rollbacks(remote: &Remote, index: &RemoteIndex) -> Result<Vec<Rollback>, Error> {
    let Some(latest) = index.files.get(Alias::Latest.name()) else {
        return Ok(Vec::new());
    };
    let read = read_file(remote, &latest.stored, MAX_ALIAS_BYTES);
    let parsed = read.and_then(|bytes| AliasTarget::parse(&bytes, Path::new(remote.url())));
    match parsed {
        Ok(target) => Ok(target.rollbacks),
        Err(error) if error.is_damage() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Begins the names of tags.
pub(super) const TAGS: &str = "tags/";
