//! Copies what the writer of a state directory has made durable to its remote copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::bucket::Remote;
use super::claim::{claim, is_new};
use super::copy::RemoteCopy;
use super::index::{Recipe, RemoteIndex, RemoteSnapshot};
use super::pieces::{DATA_PREFIX, Pieces, StoredFile};
use super::retain;
use super::state;
use crate::{Error, MANIFEST_NAME, Retention, SnapshotEntry, SnapshotId, Store, metrics};

/// Shortest time from one write of the index to the next while only the plan log grows.
const PLAN_EVERY_MS: i64 = 5_000;

/// The writer's side of a remote copy.
pub struct Replica {
    pub(super) store: Arc<Store>,
    pub(super) remote: Remote,
    rules: Retention,
    /// The copy as of the last write of its index, and snapshots that the next one will name.
    pub(super) copy: RemoteCopy,
    pieces: Pieces,
    /// Snapshots that are sent and not published.
    unpublished: BTreeMap<SnapshotId, StoredFile>,
    /// Snapshots of the state directory that are to be sent.
    waiting: BTreeSet<SnapshotId>,
    /// Snapshots that are damaged on disk: they are not sent.
    refused: BTreeSet<SnapshotId>,
    /// The last write of the index whose answer is not known, and what it contains of the state directory.
    attempt: Option<(RemoteIndex, (String, String))>,
    /// Pieces that the published index no longer names.
    garbage: BTreeSet<String>,
    /// True once the pieces that former writers left were found.
    is_swept: bool,
    /// What the files of the state directory were when the index was last written, without and with the plan log.
    published: (String, String),
    /// True while the state directory has none of the snapshots of the copy.
    pub(super) is_to_restore: bool,
}

/// What one pass of a [`Replica`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// The snapshots that were sent.
    pub sent: Vec<SnapshotId>,
    /// Snapshots that were removed from the state directory before they could be sent.
    pub n_skipped: u64,
    /// Snapshots that are not sent because their files on disk are damaged, with what is wrong.
    pub damaged: Vec<(SnapshotId, String)>,
}

impl Replica {
    /// Claims the copy for this writer of a state directory. From then on no other one can change it.
    ///
    /// # Errors
    /// [`Error::RemoteTakenOver`] when another machine has gone on from the copy, [`Error::RemoteForeign`] when it is that of
    /// another state directory; [`Error::Remote`] when it cannot be reached; otherwise as for [`RemoteCopy::read`].
    pub fn claim(store: Arc<Store>, remote: &Remote, rules: Retention, now_ms: i64) -> Result<Self, Error> {
        let (copy, is_to_restore) = claim(&store, remote, now_ms)?;
        let mut pieces = Pieces::new(remote.clone(), copy.index.generation);
        pieces.know(&copy.index.keys(&copy.snapshots));
        Ok(Self {
            store,
            remote: remote.clone(),
            rules,
            copy,
            pieces,
            unpublished: BTreeMap::new(),
            waiting: BTreeSet::new(),
            refused: BTreeSet::new(),
            attempt: None,
            garbage: BTreeSet::new(),
            is_swept: false,
            published: Default::default(),
            is_to_restore,
        })
    }

    /// True for a state directory without snapshots, or in which a restore from a copy has not ended.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Damaged`].
    pub fn is_new(store: &Store) -> Result<bool, Error> {
        is_new(store)
    }

    /// The address of the copy.
    pub fn url(&self) -> &str {
        self.remote.url()
    }

    /// The newest snapshot of the copy, and when it was made, ms since the epoch.
    pub fn newest(&self) -> Option<(SnapshotId, i64)> {
        let id = self.copy.index.snapshots.keys().next_back()?;
        let snapshot = self.copy.snapshots.get(id)?;
        Some((*id, snapshot.manifest.created_ms))
    }

    /// Sends what is new: snapshots, the newest first, with what they need; then the other files; and removes what the rules
    /// of retention do not keep.
    ///
    /// After an error the copy is as it was after the last snapshot that was sent whole, and the next call goes on.
    ///
    /// # Errors
    /// [`Error::RemoteTakenOver`]: nothing can be sent any more. [`Error::Remote`] and [`Error::Io`] may pass.
    pub fn sync(&mut self, now_ms: i64) -> Result<SyncReport, Error> {
        self.sync_some(None, now_ms)
    }

    /// Sends one snapshot, as [`Replica::sync`] does.
    ///
    /// # Errors
    /// As for [`Replica::sync`].
    pub fn push(&mut self, id: SnapshotId, now_ms: i64) -> Result<SyncReport, Error> {
        self.store.read(id)?;
        self.sync_some(Some(id), now_ms)
    }

    fn sync_some(&mut self, only: Option<SnapshotId>, now_ms: i64) -> Result<SyncReport, Error> {
        let mut report = SyncReport::default();
        self.resolve()?;
        if only.is_none() && !self.is_behind(now_ms)? {
            return Ok(report);
        }
        loop {
            let local = self.local()?;
            report.n_skipped += self.count_skipped(&local);
            let next = self.waiting.iter().rev();
            let Some(id) = next.copied().find(|id| only.is_none_or(|only| only == *id)) else {
                break;
            };
            match self.send(id, &local) {
                Ok(()) => {
                    self.publish(&local, now_ms)?;
                    report.sent.push(id);
                }
                // Removed meanwhile: the next look does not find it.
                Err(error) if error.is_not_found() && self.store.manifest(id).is_err() => {}
                Err(error @ Error::Damaged { .. }) => {
                    self.refused.insert(id);
                    report.damaged.push((id, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        if self.has_changed(now_ms)? {
            let local = self.local()?;
            self.publish(&local, now_ms)?;
        }
        self.collect()?;
        Ok(report)
    }

    /// True if something is to be sent or removed. Cheap, since it is asked every second.
    fn is_behind(&self, now_ms: i64) -> Result<bool, Error> {
        let is_unfinished = !self.waiting.is_empty() || !self.garbage.is_empty() || !self.is_swept;
        Ok(is_unfinished || self.has_changed(now_ms)?)
    }

    /// True if the state directory is not as when the index was last written.
    fn has_changed(&self, now_ms: i64) -> Result<bool, Error> {
        let (files, plan) = state::stamp(&self.store)?;
        let is_due = now_ms - self.copy.index.written_ms >= PLAN_EVERY_MS;
        Ok(files != self.published.0 || (plan != self.published.1 && is_due))
    }

    /// The snapshots on disk that are whole, and takes note of those to send.
    fn local(&mut self) -> Result<BTreeMap<SnapshotId, SnapshotEntry>, Error> {
        let listed = self.store.list()?.into_iter();
        let local: BTreeMap<_, _> = listed
            .filter(|entry| entry.manifest.is_some())
            .map(|entry| (entry.id, entry))
            .collect();
        self.refused.retain(|id| local.contains_key(id));
        for (id, entry) in &local {
            if !self.is_sent(entry) && !self.refused.contains(id) {
                self.waiting.insert(*id);
            }
        }
        Ok(local)
    }

    /// True if the index names this very snapshot.
    fn is_sent(&self, entry: &SnapshotEntry) -> bool {
        let is_named = self.copy.index.snapshots.contains_key(&entry.id);
        let sent = self.copy.snapshots.get(&entry.id).filter(|_| is_named);
        sent.is_some_and(|sent| Some(&sent.manifest) == entry.manifest.as_ref())
    }

    /// Forgets the snapshots that were sent, are refused or are gone; returns the number of the last.
    fn count_skipped(&mut self, local: &BTreeMap<SnapshotId, SnapshotEntry>) -> u64 {
        let n_before = self.waiting.len();
        self.waiting.retain(|id| local.contains_key(id));
        let n_skipped = (n_before - self.waiting.len()) as u64;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|id| {
            !self.refused.contains(id) && !local.get(id).is_some_and(|entry| self.is_sent(entry))
        });
        self.waiting = waiting;
        metrics::remote_skipped(n_skipped);
        n_skipped
    }

    /// Sends the files of a snapshot and of those that it needs. Nothing shows them yet.
    fn send(&mut self, id: SnapshotId, local: &BTreeMap<SnapshotId, SnapshotEntry>) -> Result<(), Error> {
        let (mut chain, mut next) = (BTreeSet::new(), vec![id]);
        while let Some(id) = next.pop() {
            let is_sent = self.copy.index.snapshots.contains_key(&id) || self.unpublished.contains_key(&id);
            if (is_sent && !self.waiting.contains(&id)) || !chain.insert(id) {
                continue;
            }
            let manifest = local.get(&id).and_then(|entry| entry.manifest.as_ref());
            let manifest = manifest.ok_or_else(|| {
                let path = self.store.snapshot_path(id);
                Error::damaged(&path, "another snapshot needs it, and it is missing")
            })?;
            next.extend(manifest.bases());
        }
        // Bases first: they are older.
        for id in chain {
            let snapshot = self.send_one(id)?;
            self.unpublished.insert(id, snapshot.stored.clone());
            self.copy.snapshots.insert(id, snapshot);
        }
        Ok(())
    }

    fn send_one(&mut self, id: SnapshotId) -> Result<RemoteSnapshot, Error> {
        let manifest = self.store.manifest(id)?;
        let dir = self.store.snapshot_path(id);
        let known = self.copy.snapshots.values().flat_map(|snapshot| {
            let files = snapshot.manifest.files.iter();
            files.filter_map(|file| {
                Some((
                    file.blake3.clone(),
                    snapshot.recipe.files.get(&file.name)?.clone(),
                ))
            })
        });
        let known: BTreeMap<String, StoredFile> = known.collect();
        let mut files = BTreeMap::new();
        for file in &manifest.files {
            let stored = match known.get(&file.blake3) {
                Some(stored) => stored.clone(),
                None => {
                    let path = dir.join(&file.name);
                    let (stored, hash) = self.pieces.put_file(&**self.store.fs(), &path, file.bytes)?;
                    if hash != file.blake3 {
                        return Err(Error::damaged(&path, "its content differs from its hash"));
                    }
                    stored
                }
            };
            files.insert(file.name.clone(), stored);
        }
        let path = dir.join(MANIFEST_NAME);
        let (stored, _) = self.pieces.put_file(&**self.store.fs(), &path, u64::MAX)?;
        files.insert(MANIFEST_NAME.to_owned(), stored);
        let recipe = Recipe { files };
        let json =
            serde_json::to_vec(&recipe).map_err(|error| Error::invalid("a recipe", error.to_string()))?;
        let stored = self.pieces.put(&json)?;
        metrics::remote_snapshot();
        Ok(RemoteSnapshot {
            manifest,
            recipe,
            stored,
        })
    }

    /// Writes the index: what was sent becomes visible, and what no rule keeps goes.
    fn publish(&mut self, local: &BTreeMap<SnapshotId, SnapshotEntry>, now_ms: i64) -> Result<(), Error> {
        let stamp = state::stamp(&self.store)?;
        let mut index = self.next_index(local)?;
        index.written_ms = now_ms;
        // A writer that has lost its state directory publishes nothing more.
        self.store.check_writer()?;
        self.attempt = Some((index.clone(), stamp));
        if let Some(tag) = index.write(&self.remote, Some(&self.copy.tag))? {
            self.complete(tag);
            return Ok(());
        }
        self.resolve()?;
        match self.copy.index == index {
            true => Ok(()),
            false => Err(self.remote.interrupted()),
        }
    }

    /// Finds out what became of a write whose answer was lost.
    fn resolve(&mut self) -> Result<(), Error> {
        let Some((attempt, _)) = &self.attempt else {
            return Ok(());
        };
        let Some((found, tag)) = RemoteIndex::read(&self.remote)? else {
            return Err(self
                .remote
                .damaged("index.json", "it was removed; restart to begin a new copy"));
        };
        if found == *attempt {
            self.complete(tag);
        } else if found.writer == attempt.writer {
            self.attempt = None;
            self.copy.index = found;
            self.copy.tag = tag;
        } else {
            return Err(Error::RemoteTakenOver {
                url: self.remote.url().to_owned(),
                host: found.host,
            });
        }
        Ok(())
    }

    /// Takes note that the index was written.
    fn complete(&mut self, tag: String) {
        let Some((index, stamp)) = self.attempt.take() else {
            return;
        };
        self.published = stamp;
        self.unpublished.clear();
        let before = self.copy.index.keys(&self.copy.snapshots);
        let now = index.keys(&self.copy.snapshots);
        self.garbage.extend(before.difference(&now).cloned());
        self.copy
            .snapshots
            .retain(|id, _| index.snapshots.contains_key(id));
        self.copy.index = index;
        self.copy.tag = tag;
        if let Some((id, _)) = self.newest() {
            metrics::remote_newest(id);
        }
    }

    /// The index that names what the copy has, what was sent since, and the other files as they are now.
    fn next_index(&mut self, local: &BTreeMap<SnapshotId, SnapshotEntry>) -> Result<RemoteIndex, Error> {
        let mut index = self.copy.index.clone();
        index.sequence += 1;
        index.next_id = index.next_id.max(self.store.next_id()?);
        index.epoch = self.store.epoch().unwrap_or(index.epoch);
        index
            .snapshots
            .retain(|id, _| self.copy.snapshots.contains_key(id));
        index.snapshots.extend(self.unpublished.clone());
        let named: BTreeMap<SnapshotId, RemoteSnapshot> = index
            .snapshots
            .keys()
            .filter_map(|id| Some((*id, self.copy.snapshots.get(id)?.clone())))
            .collect();
        let plan_from = retain::plan_from(named.values());
        index.files = state::collect(&self.store, &mut self.pieces, &index, plan_from)?;
        let here = local.keys().copied().collect();
        let rollbacks = self.store.known_rollbacks()?;
        let kept = retain::kept(&named, &index.files, &here, rollbacks, self.rules);
        index.snapshots.retain(|id, _| kept.contains(id));
        Ok(index)
    }

    /// Removes the pieces that nothing names, those of former writers too.
    fn collect(&mut self) -> Result<(), Error> {
        if !self.is_swept {
            let live = self.copy.index.keys(&self.copy.snapshots);
            let found = self.remote.list(DATA_PREFIX)?.into_iter();
            let dead = found.filter(|key| self.pieces.is_of_another(key) && !live.contains(key));
            self.garbage.extend(dead);
            self.is_swept = true;
        }
        while let Some(key) = self.garbage.first().cloned() {
            self.pieces.forget(&key);
            self.remote.delete(&key)?;
            self.garbage.remove(&key);
        }
        Ok(())
    }
}
