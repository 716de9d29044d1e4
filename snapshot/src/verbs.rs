//! What changes a store besides writing: moving aliases, rolling back, pinning, collecting.

use std::collections::BTreeSet;
use std::io;

use crate::alias::Pointer;
use crate::error::Attempt;
use crate::lineage::{Rollback, left_behind, still_relevant};
use crate::{Alias, AuditLine, Error, Snapshot, SnapshotId, Store, Verb, metrics};

impl Store {
    /// Moves an alias to a snapshot whose manifest, names and sizes are sound, in one step. After an error the
    /// alias names the old or the new snapshot, never anything else.
    ///
    /// # Errors
    /// [`Error::RolledBack`] when `latest` would move to what a rollback left behind: a process that had not
    /// heard of the rollback would undo it. Otherwise as for [`Store::read`], and [`Error::ReadOnly`].
    pub fn set_alias(&self, alias: Alias, id: SnapshotId) -> Result<(), Error> {
        let _verbs = self.verbs()?;
        let snapshot = self.peek(id)?;
        if alias != Alias::Latest {
            return self.point(alias, &snapshot, Vec::new());
        }
        let parents = self.parents(&self.ids()?);
        let rollbacks = self.rollbacks()?;
        if let Some(ancestor) = left_behind(&rollbacks, &parents).get(&id) {
            return Err(Error::RolledBack {
                id,
                ancestor: *ancestor,
            });
        }
        self.point(alias, &snapshot, still_relevant(rollbacks, &parents))
    }

    /// Moves `latest` to `id`, back or forward, so that the next start resumes there. The snapshots in between
    /// stay on disk but are not resumed from. Ids go on growing; the next snapshot's parent is the one its
    /// state was read from.
    ///
    /// `now_ms` is the caller's clock; `note` says why.
    ///
    /// # Errors
    /// As for [`Store::read`], all of which is checked before anything is changed, and [`Error::ReadOnly`].
    pub fn rollback(&self, id: SnapshotId, note: &str, now_ms: i64) -> Result<(), Error> {
        let _verbs = self.verbs()?;
        let snapshot = self.read(id)?;
        let mut rollbacks = still_relevant(self.rollbacks()?, &self.parents(&self.ids()?));
        rollbacks.extend(self.newest_given()?.map(|newest| Rollback { to: id, newest }));
        self.record(Verb::Rollback, Some(id), &[], note, now_ms)?;
        self.point(Alias::Latest, &snapshot, rollbacks)
    }

    /// Makes `pinned` name `id`.
    ///
    /// # Errors
    /// As for [`Store::rollback`].
    pub fn pin(&self, id: SnapshotId, note: &str, now_ms: i64) -> Result<(), Error> {
        let _verbs = self.verbs()?;
        let snapshot = self.read(id)?;
        self.record(Verb::Pin, Some(id), &[], note, now_ms)?;
        self.point(Alias::Pinned, &snapshot, Vec::new())
    }

    /// Removes `pinned`; without one it does nothing.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::ReadOnly`].
    pub fn unpin(&self, note: &str, now_ms: i64) -> Result<(), Error> {
        let _verbs = self.verbs()?;
        let id = match self.pointer(Alias::Pinned) {
            Ok(None) => return Ok(()),
            Ok(Some(pointer)) => Some(pointer.id),
            // Removing a damaged pin is the way out of it.
            Err(Error::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        self.record(Verb::Unpin, id, &[], note, now_ms)?;
        let path = self.root.join(Alias::Pinned.name());
        self.fs.remove_file(&path).attempt("remove", &path)?;
        self.sync_dir(&self.root)
    }

    /// Notes what is about to be done to the state that `id` is the newest snapshot of; the snapshot that comes of it is
    /// written like any other.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::ReadOnly`].
    pub fn announce(&self, verb: Verb, id: SnapshotId, note: &str, now_ms: i64) -> Result<(), Error> {
        let _verbs = self.verbs()?;
        self.record(verb, Some(id), &[], note, now_ms)
    }

    /// Removes old snapshots and returns their ids. The newest `keep` (at least one) that look sound and were
    /// not rolled back stay, and everything above the oldest of them, and whatever an alias names.
    ///
    /// # Errors
    /// [`Error::Damaged`] when an alias cannot be read, as what it protects is not known; [`Error::Io`],
    /// [`Error::ReadOnly`].
    pub fn gc(&self, keep: usize, now_ms: i64) -> Result<Vec<SnapshotId>, Error> {
        let _verbs = self.verbs()?;
        let mut protected = BTreeSet::new();
        for alias in Alias::ALL {
            protected.extend(self.alias(alias)?);
        }
        let listed = self.list()?;
        let mut kept = listed
            .iter()
            .rev()
            .filter(|entry| entry.fault.is_none() && !entry.is_rolled_back);
        let Some(floor) = kept.nth(keep.max(1) - 1).map(|entry| entry.id) else {
            return Ok(Vec::new());
        };
        let ids = listed.iter().map(|entry| entry.id);
        let doomed: Vec<SnapshotId> = ids.filter(|id| *id < floor && !protected.contains(id)).collect();
        if doomed.is_empty() {
            return Ok(doomed);
        }
        // An alias that was moved but not yet durable would name a removed snapshot after a power loss.
        self.sync_dir(&self.root)?;
        self.record(Verb::Gc, None, &doomed, &format!("keep {keep}"), now_ms)?;
        for id in &doomed {
            self.remove_snapshot(*id)?;
        }
        metrics::removed(doomed.len());
        Ok(doomed)
    }

    /// Takes the name away first, so that a crash never leaves half a snapshot under a plain id.
    fn remove_snapshot(&self, id: SnapshotId) -> Result<(), Error> {
        let (dir, tmp) = (self.snapshot_dir(id), self.tmp_dir(id));
        self.fs.rename(&dir, &tmp).attempt("rename for removal", &dir)?;
        self.sync_dir(&self.snapshots_dir())?;
        match self.remove(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).attempt("remove", &tmp),
            _ => Ok(()),
        }
    }

    fn point(&self, alias: Alias, snapshot: &Snapshot, rollbacks: Vec<Rollback>) -> Result<(), Error> {
        let pointer = Pointer {
            id: snapshot.id(),
            manifest: snapshot.manifest_hash().to_owned(),
            rollbacks,
        };
        pointer.write(&*self.fs, &self.root, alias.name())
    }

    /// The highest id given out so far.
    fn newest_given(&self) -> Result<Option<SnapshotId>, Error> {
        Ok(self.next_number()?.checked_sub(1).map(SnapshotId::new))
    }

    fn record(
        &self,
        verb: Verb,
        id: Option<SnapshotId>,
        removed: &[SnapshotId],
        note: &str,
        now_ms: i64,
    ) -> Result<(), Error> {
        let newest = self.newest_given()?;
        let line = AuditLine {
            n: 0,
            at_ms: now_ms,
            verb,
            id,
            newest,
            removed: removed.to_vec(),
            note: note.to_owned(),
            prev: String::new(),
        };
        self.audit()?.append(&*self.fs, &self.root, line)
    }
}
