//! Garbage collection of old snapshots.

use std::collections::BTreeSet;
use std::io;

use metrics::counter;

use super::{Alias, AuditVerb, Store};
use crate::error::IoResultExt;
use crate::metrics::REMOVED;
use crate::{Error, SnapshotId};

impl Store {
    /// Removes old snapshots and returns their ids.
    ///
    /// The newest `keep` snapshots (at least one) that look sound and were not rolled back stay, and so does everything
    /// above the oldest of them and every snapshot that an alias names.
    ///
    /// # Errors
    /// [`Error::Damaged`] when an alias cannot be read, because the snapshot it protects is not known; [`Error::Io`],
    /// [`Error::ReadOnly`].
    pub fn gc(&self, keep: usize, now_ms: i64) -> Result<Vec<SnapshotId>, Error> {
        let _admin = self.lock_admin()?;
        let mut protected = BTreeSet::new();
        for alias in Alias::ALL {
            protected.extend(self.alias(alias)?);
        }
        let listed = self.list()?;
        let mut sound = listed
            .iter()
            .rev()
            .filter(|entry| entry.fault.is_none() && !entry.is_rolled_back);
        let Some(oldest_kept) = sound.nth(keep.max(1) - 1).map(|entry| entry.id) else {
            return Ok(Vec::new());
        };
        let ids = listed.iter().map(|entry| entry.id);
        let removed: Vec<SnapshotId> = ids
            .filter(|id| *id < oldest_kept && !protected.contains(id))
            .collect();
        if removed.is_empty() {
            return Ok(removed);
        }
        // After a power loss an alias that was moved but is not durable would name a removed snapshot.
        self.sync_dir(&self.root)?;
        self.record(AuditVerb::Gc, None, &removed, &format!("keep {keep}"), now_ms)?;
        for id in &removed {
            self.remove_snapshot(*id)?;
        }
        counter!(REMOVED).increment(removed.len() as u64);
        Ok(removed)
    }

    /// Renames the directory first, so that a crash never leaves half a snapshot under an id.
    fn remove_snapshot(&self, id: SnapshotId) -> Result<(), Error> {
        let (dir, tmp) = (self.snapshot_dir(id), self.tmp_dir(id));
        self.fs.rename(&dir, &tmp).attempt("rename for removal", &dir)?;
        self.sync_dir(&self.snapshots_dir())?;
        match self.remove(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).attempt("remove", &tmp),
            _ => Ok(()),
        }
    }
}
