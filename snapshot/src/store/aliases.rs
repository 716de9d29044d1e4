//! Moves aliases: publishing, rollback, pin and unpin, the candidate. Each operator action is recorded in the audit log first.

use std::path::Path;

use super::alias::{AliasTarget, Rollback};
use super::{Alias, AuditLine, AuditVerb, Store};
use crate::error::IoResultExt;
use crate::{Error, Snapshot, SnapshotId};

impl Store {
    /// Moves an alias, in one step, to a snapshot whose manifest, names and sizes are sound.
    ///
    /// After an error the alias names the old or the new snapshot, never anything else.
    ///
    /// # Errors
    /// [`Error::RolledBack`] when `latest` would move to an abandoned snapshot: a process that does not know of a
    /// rollback would undo it. [`Error::FailedGate`] when `latest` would move to a snapshot that failed a check. Otherwise as for [`Store::read`], and [`Error::ReadOnly`].
    pub fn set_alias(&self, alias: Alias, id: SnapshotId) -> Result<(), Error> {
        let _admin = self.lock_admin()?;
        let snapshot = self.peek(id)?;
        if alias != Alias::Latest {
            return self.point(alias, &snapshot, Vec::new());
        }
        if let Some(gate) = snapshot.manifest().failed_gate() {
            let gate = gate.to_owned();
            return Err(Error::FailedGate { id, gate });
        }
        let lineage = self.lineage()?;
        if let Some(&ancestor) = lineage.abandoned().get(&id) {
            return Err(Error::RolledBack { id, ancestor });
        }
        self.point(alias, &snapshot, lineage.relevant_rollbacks())
    }

    /// Moves `latest` to `id`, back or forward, so that the next start resumes there.
    ///
    /// The snapshots between stay on disk but are never resumed from. Ids keep growing; the next snapshot's parent is the
    /// one that training continued from. `now_ms` is the caller's clock; `note` is the reason.
    ///
    /// # Errors
    /// As for [`Store::read`], all checked before any change, and [`Error::ReadOnly`].
    pub fn rollback(&self, id: SnapshotId, note: &str, now_ms: i64) -> Result<(), Error> {
        let _admin = self.lock_admin()?;
        let snapshot = self.read(id)?;
        let mut rollbacks = self.lineage()?.relevant_rollbacks();
        rollbacks.extend(self.newest_given()?.map(|newest| Rollback { to: id, newest }));
        self.record(AuditVerb::Rollback, Some(id), &[], note, now_ms)?;
        self.point(Alias::Latest, &snapshot, rollbacks)
    }

    /// Moves `latest` to `id`, the newest snapshot, which continues its parent: a rollback to the parent that keeps the
    /// position of the log.
    ///
    /// The snapshots between are abandoned, in the same step. `note` is the reason.
    ///
    /// # Errors
    /// As for [`Store::rollback`].
    pub fn adopt(&self, id: SnapshotId, note: &str, now_ms: i64) -> Result<(), Error> {
        let _admin = self.lock_admin()?;
        let snapshot = self.read(id)?;
        let before = SnapshotId::new(id.number().saturating_sub(1));
        let parent = snapshot.manifest().parent.unwrap_or(before);
        let mut rollbacks = self.lineage()?.relevant_rollbacks();
        rollbacks.push(Rollback {
            to: parent,
            newest: before,
        });
        let line = AuditLine {
            newest: Some(before),
            ..self.line(AuditVerb::Rollback, Some(parent), note, now_ms)?
        };
        self.audit()?.append(&*self.fs, &self.root, line)?;
        self.point(Alias::Latest, &snapshot, rollbacks)
    }

    /// Moves `pinned` to `id`.
    ///
    /// # Errors
    /// As for [`Store::rollback`].
    pub fn pin(&self, id: SnapshotId, note: &str, now_ms: i64) -> Result<(), Error> {
        let _admin = self.lock_admin()?;
        let snapshot = self.read(id)?;
        self.record(AuditVerb::Pin, Some(id), &[], note, now_ms)?;
        self.point(Alias::Pinned, &snapshot, Vec::new())
    }

    /// Removes `pinned`, if it is set.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::ReadOnly`].
    pub fn unpin(&self, note: &str, now_ms: i64) -> Result<(), Error> {
        self.remove_alias(Alias::Pinned, AuditVerb::Unpin, note, now_ms)
    }

    /// Moves `candidate` to `id`, so that no garbage collection removes the snapshot.
    ///
    /// # Errors
    /// As for [`Store::rollback`].
    pub fn set_candidate(&self, id: SnapshotId, note: &str, now_ms: i64) -> Result<(), Error> {
        let _admin = self.lock_admin()?;
        let snapshot = self.read(id)?;
        self.record(AuditVerb::CandidateStart, Some(id), &[], note, now_ms)?;
        self.point(Alias::Candidate, &snapshot, Vec::new())
    }

    /// Removes `candidate`, if it is set.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::ReadOnly`].
    pub fn remove_candidate(&self, note: &str, now_ms: i64) -> Result<(), Error> {
        self.remove_alias(Alias::Candidate, AuditVerb::CandidateStop, note, now_ms)
    }

    fn remove_alias(&self, alias: Alias, verb: AuditVerb, note: &str, now_ms: i64) -> Result<(), Error> {
        let _admin = self.lock_admin()?;
        let id = match self.alias(alias) {
            Ok(None) => return Ok(()),
            Ok(id) => id,
            // Removing a damaged alias is the way out of it.
            Err(Error::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        self.record(verb, id, &[], note, now_ms)?;
        self.remove_name(&self.root.join(alias.name()))?;
        self.sync_dir(&self.root)
    }

    /// Records that this process has become the writer by [`Store::take_over`].
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::ReadOnly`], [`Error::TakenOver`].
    pub fn record_take_over(&self, note: &str, now_ms: i64) -> Result<(), Error> {
        let _admin = self.lock_admin()?;
        self.record(AuditVerb::TakeOver, None, &[], note, now_ms)
    }

    /// Records an operator action that is about to change the model state of snapshot `id`.
    ///
    /// The resulting snapshot is written like any other.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::ReadOnly`].
    pub fn record_action(
        &self,
        verb: AuditVerb,
        id: SnapshotId,
        note: &str,
        now_ms: i64,
    ) -> Result<(), Error> {
        let _admin = self.lock_admin()?;
        self.record(verb, Some(id), &[], note, now_ms)
    }

    /// Removes a file through the writer's directory, so that a former writer cannot.
    pub(super) fn remove_name(&self, path: &Path) -> Result<(), Error> {
        let aside = self.work_dir()?.join("removed");
        self.fs.rename(path, &aside).attempt("remove", path)?;
        // It has lost its name; what is left of it is replaced by the next one, or removed with the directory.
        self.fs.remove_file(&aside).ok();
        Ok(())
    }

    fn point(&self, alias: Alias, snapshot: &Snapshot, rollbacks: Vec<Rollback>) -> Result<(), Error> {
        let target = AliasTarget {
            id: snapshot.id(),
            manifest: snapshot.manifest_hash().to_owned(),
            rollbacks,
        };
        let written = target.write(&*self.fs, &self.work_dir()?, &self.root, alias.name());
        written.map_err(|error| self.unless_taken_over(error))
    }

    /// Appends a line to the audit log. The caller holds the admin lock.
    pub(super) fn record(
        &self,
        verb: AuditVerb,
        id: Option<SnapshotId>,
        removed: &[SnapshotId],
        note: &str,
        now_ms: i64,
    ) -> Result<(), Error> {
        let line = AuditLine {
            removed: removed.to_vec(),
            ..self.line(verb, id, note, now_ms)?
        };
        self.audit()?.append(&*self.fs, &self.root, line)
    }

    /// A line of the audit log whose number and chain the log fills in.
    fn line(
        &self,
        verb: AuditVerb,
        id: Option<SnapshotId>,
        note: &str,
        now_ms: i64,
    ) -> Result<AuditLine, Error> {
        Ok(AuditLine {
            n: 0,
            at_ms: now_ms,
            verb,
            id,
            newest: self.newest_given()?,
            removed: Vec::new(),
            note: note.to_owned(),
            epoch: self.epoch().unwrap_or_default(),
            prev: String::new(),
        })
    }
}
