//! Garbage collection of old snapshots.

use std::io;

use metrics::counter;

use super::retention::Retention;
use super::{AuditVerb, Store};
use crate::error::IoResultExt;
use crate::metrics::REMOVED;
use crate::{Error, SnapshotId};

impl Store {
    /// Removes the snapshots that [`Store::retention`] does not keep, and returns their ids.
    ///
    /// # Errors
    /// As for [`Store::retention`], and [`Error::ReadOnly`].
    pub fn gc(&self, rules: Retention, now_ms: i64) -> Result<Vec<SnapshotId>, Error> {
        let _admin = self.lock_admin()?;
        let decisions = self.retention(rules)?;
        let removed = decisions.iter().filter(|decision| !decision.is_kept);
        let removed: Vec<SnapshotId> = removed.map(|decision| decision.id).collect();
        if removed.is_empty() {
            return Ok(removed);
        }
        // After a power loss an alias that was moved but is not durable would name a removed snapshot.
        self.sync_dir(&self.root)?;
        let Retention { last, hourly, daily } = rules;
        let note = format!("keep {last}, {hourly} hourly, {daily} daily");
        self.record(AuditVerb::Gc, None, &removed, &note, now_ms)?;
        for id in &removed {
            self.remove_snapshot(*id)?;
        }
        counter!(REMOVED).increment(removed.len() as u64);
        Ok(removed)
    }

    /// Renames the directory first, so that a crash never leaves half a snapshot under an id.
    fn remove_snapshot(&self, id: SnapshotId) -> Result<(), Error> {
        let (dir, tmp) = (self.snapshot_dir(id), self.tmp_dir(id)?);
        self.fs.rename(&dir, &tmp).attempt("rename for removal", &dir)?;
        self.sync_dir(&self.snapshots_dir())?;
        match self.remove(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).attempt("remove", &tmp),
            _ => Ok(()),
        }
    }
}
