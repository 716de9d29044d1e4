//! The store: a directory of snapshots, the aliases that name some of them, and the lock of its one writer.

mod alias;
mod aliases;
mod audit;
mod chain;
mod collect;
mod diff;
mod lease;
mod lineage;
mod list;
mod place;
mod recover;
mod retention;
mod table_diff;
mod tags;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::error::IoResultExt;
use crate::fs::lock;
use crate::{Error, Fs, FsKind, Manifest, RealFs, Snapshot, SnapshotId};

pub(crate) use alias::TMP_PREFIX;
pub(crate) use alias::{AliasTarget, MAX_ALIAS_BYTES, Rollback};
use audit::AUDIT_NAME;
use chain::Chain;
use lease::Lease;
#[cfg(test)]
pub(crate) use lease::WORK_NAME;
pub(crate) use lease::{hostname, raise_epoch, unique};
pub(crate) use lineage::Lineage;
pub(crate) use retention::decide;
pub(crate) use tags::check_name as check_tag;

pub use alias::Alias;
pub use audit::{AuditLine, AuditLog, AuditVerb};
pub use diff::{ArrayDiff, Diff, FieldDiff, FileDiff};
pub use lease::{LeaseState, LeaseWatch};
pub use list::SnapshotEntry;
pub use recover::{Recovery, SkippedSnapshot};
pub use retention::{Retention, RetentionDecision};
pub use table_diff::{MovedRow, TableDiff};

const SNAPSHOTS_DIR: &str = "snapshots";
/// What older versions lock instead of the lease.
const OLD_LOCK_NAME: &str = ".lock";

/// A directory of snapshots. Threads share it by reference; one process at a time may change it.
pub struct Store {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    /// Unset while it is open for reading only.
    writer: OnceLock<Writer>,
}

struct Writer {
    lease: Lease,
    /// Number of the next snapshot. It grows with every attempt, so a failed id is never used again.
    next: Mutex<u64>,
    /// Held while a snapshot of a chain is written.
    chain: Mutex<Chain>,
    /// Held while an alias moves, old snapshots are collected, or the audit log grows.
    admin: Mutex<()>,
}

impl Store {
    /// Opens the store at `root` for writing, creates it if needed, and removes what a crash left unfinished.
    ///
    /// # Errors
    /// [`Error::Locked`] when it is already open for writing, here or in another process; [`Error::Io`] otherwise.
    pub fn open(root: &Path) -> Result<Self, Error> {
        Self::open_on(Arc::new(RealFs), root)
    }

    /// Opens the store for writing on another file system.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open_on(fs: Arc<dyn Fs>, root: &Path) -> Result<Self, Error> {
        Self::open_leased(fs, root, lease::DEFAULT_LEASE)
    }

    /// Opens the store for writing, for a process that shows its life by [`Store::beat`] well within `lease`.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open_leased(fs: Arc<dyn Fs>, root: &Path, lease: Duration) -> Result<Self, Error> {
        fs.create_dir_all(root).attempt("create", root)?;
        drop(lock(&*fs, &root.join(OLD_LOCK_NAME))?);
        let lease = Lease::acquire(&fs, root, lease)?;
        let store = Self::inspect_on(fs, root);
        store.begin_writing(lease)?;
        Ok(store)
    }

    /// Becomes the writer in place of whoever is: the former writer can change nothing from then on.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has just done the same; [`Error::Io`].
    pub fn take_over(&self, lease: Duration) -> Result<u64, Error> {
        let lease = Lease::claim(&self.fs, &self.root, lease)?;
        let epoch = lease.epoch();
        self.begin_writing(lease)?;
        Ok(epoch)
    }

    fn begin_writing(&self, lease: Lease) -> Result<(), Error> {
        let dir = self.snapshots_dir();
        self.fs.create_dir_all(&dir).attempt("create", &dir)?;
        self.remove_unfinished()?;
        // The directories' names must be durable before anything in them is reported durable.
        self.sync_dir(&self.root)?;
        if let Some(parent) = self.root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.sync_dir(parent)?;
        }
        let next = self
            .highest_known()?
            .map_or(0, |id| id.number().saturating_add(1));
        let writer = Writer {
            lease,
            next: Mutex::new(next),
            chain: Mutex::default(),
            admin: Mutex::new(()),
        };
        self.writer.set(writer).map_err(|_| Error::Locked {
            path: self.root.clone(),
        })
    }

    /// Watches the writer of this store, for a process that may take over.
    pub fn watch(&self) -> LeaseWatch {
        LeaseWatch::new(Arc::clone(&self.fs), self.root.clone())
    }

    /// The number of this writer, which is higher than that of every writer before; `None` while open for reading only.
    pub fn epoch(&self) -> Option<u64> {
        self.writer.get().map(|writer| writer.lease.epoch())
    }

    /// Shows other machines that this writer lives.
    ///
    /// # Errors
    /// [`Error::TakenOver`] when another process is the writer now; [`Error::Io`], [`Error::ReadOnly`].
    pub fn beat(&self) -> Result<(), Error> {
        self.writer()?.lease.beat()
    }

    /// Fails if this process is not the writer, or no longer.
    ///
    /// # Errors
    /// As for [`Store::beat`].
    pub fn check_writer(&self) -> Result<(), Error> {
        self.writer()?.lease.check()
    }

    /// Gives the right to write back, so that another process need not wait for its lease to expire. Nothing can be
    /// written from then on.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::ReadOnly`].
    pub fn release(&self) -> Result<(), Error> {
        self.writer()?.lease.release()
    }

    /// The working directory of this writer. A file that is renamed out of it appears in the state directory only if no
    /// other process has taken over.
    ///
    /// # Errors
    /// [`Error::ReadOnly`].
    pub fn work_dir(&self) -> Result<PathBuf, Error> {
        Ok(self.writer()?.lease.work())
    }

    /// Opens the store at `root` for reading, beside a process that may be writing to it.
    pub fn inspect(root: &Path) -> Self {
        Self::inspect_on(Arc::new(RealFs), root)
    }

    /// Opens the store for reading on another file system.
    pub fn inspect_on(fs: Arc<dyn Fs>, root: &Path) -> Self {
        Self {
            fs,
            root: root.to_owned(),
            writer: OnceLock::new(),
        }
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens a snapshot after checking the hash of every file; reading a file checks its hash again.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], [`Error::Damaged`], [`Error::Format`] or [`Error::Io`].
    pub fn read(&self, id: SnapshotId) -> Result<Snapshot, Error> {
        let snapshot = self.peek(id)?;
        snapshot.check_hashes()?;
        Ok(snapshot)
    }

    /// The manifest of a snapshot, whose other files are not checked.
    ///
    /// # Errors
    /// As for [`Store::read`].
    pub fn manifest(&self, id: SnapshotId) -> Result<Manifest, Error> {
        Ok(self.peek(id)?.manifest().clone())
    }

    /// The last rollback whose snapshots are still there: where to, and the newest snapshot then.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn last_rollback(&self) -> Result<Option<(SnapshotId, SnapshotId)>, Error> {
        let last = self.rollbacks()?.pop();
        Ok(last.map(|rollback| (rollback.to, rollback.newest)))
    }

    /// The snapshot that an alias names, if the alias is set.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the alias file is not as written, [`Error::Io`].
    pub fn alias(&self, alias: Alias) -> Result<Option<SnapshotId>, Error> {
        Ok(self.alias_target(alias)?.map(|target| target.id))
    }

    /// Opens the snapshot that an alias names, if the alias is set, and checks the hash of every file.
    ///
    /// # Errors
    /// As for [`Store::alias`] and [`Store::read`]; [`Error::Damaged`] also when the manifest is not the one that the
    /// alias was moved to.
    pub fn read_alias(&self, alias: Alias) -> Result<Option<Snapshot>, Error> {
        self.alias_target(alias)?
            .map(|target| self.follow(&target))
            .transpose()
    }

    /// Reads and checks the audit log.
    ///
    /// # Errors
    /// [`Error::Io`]; a broken chain is part of the result.
    pub fn audit(&self) -> Result<AuditLog, Error> {
        AuditLog::read(&*self.fs, &self.root.join(AUDIT_NAME))
    }

    fn follow(&self, target: &AliasTarget) -> Result<Snapshot, Error> {
        let snapshot = self.read(target.id)?;
        if snapshot.manifest_hash() != target.manifest {
            let why = "its manifest is not the one the alias was moved to";
            return Err(Error::damaged(snapshot.dir(), why));
        }
        Ok(snapshot)
    }

    fn alias_target(&self, alias: Alias) -> Result<Option<AliasTarget>, Error> {
        AliasTarget::read(&*self.fs, &self.root.join(alias.name()))
    }

    /// The snapshot that an alias names; `None` also when the alias file is damaged.
    fn undamaged_alias(&self, alias: Alias) -> Result<Option<SnapshotId>, Error> {
        match self.alias(alias) {
            Err(Error::Damaged { .. }) => Ok(None),
            id => id,
        }
    }

    /// Opens a snapshot without checking the hashes of its files.
    fn peek(&self, id: SnapshotId) -> Result<Snapshot, Error> {
        match Snapshot::peek(&self.fs, self.snapshot_dir(id), id) {
            Err(ref error @ Error::Io { ref path, .. })
                if error.is_not_found() && *path == self.snapshot_dir(id) =>
            {
                Err(Error::NoSnapshot {
                    id,
                    root: self.root.clone(),
                })
            }
            result => result,
        }
    }

    /// The ids of all snapshot directories, ascending. Entries with other names are ignored.
    pub(crate) fn ids(&self) -> Result<Vec<SnapshotId>, Error> {
        let dir = self.snapshots_dir();
        let entries = match self.fs.list(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            entries => entries.attempt("list", &dir)?,
        };
        let mut ids: Vec<SnapshotId> = entries
            .iter()
            .filter_map(|entry| entry.name.parse().ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    fn snapshots_dir(&self) -> PathBuf {
        self.root.join(SNAPSHOTS_DIR)
    }

    fn snapshot_dir(&self, id: SnapshotId) -> PathBuf {
        self.snapshots_dir().join(id.to_string())
    }

    /// Where a snapshot is before it gets its name, and after it has lost it.
    fn tmp_dir(&self, id: SnapshotId) -> Result<PathBuf, Error> {
        Ok(self.work_dir()?.join(id.to_string()))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), Error> {
        self.fs.sync_dir(dir).attempt("sync", dir)
    }

    /// Removes a directory, or a link or file of that name.
    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.fs.stat(path)?.kind {
            FsKind::Dir => self.fs.remove_dir_all(path),
            FsKind::File | FsKind::Other => self.fs.remove_file(path),
        }
    }

    /// Locks the number of the next snapshot.
    fn next_number(&self) -> Result<MutexGuard<'_, u64>, Error> {
        // The number is never half changed, so a poisoned lock is usable.
        Ok(self.writer()?.next.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Locks the chain that the next snapshot may continue.
    fn chain(&self) -> Result<MutexGuard<'_, Chain>, Error> {
        // It is replaced as a whole, after a snapshot was written.
        Ok(self
            .writer()?
            .chain
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// The highest id given out so far.
    fn newest_given(&self) -> Result<Option<SnapshotId>, Error> {
        Ok(self.next_number()?.checked_sub(1).map(SnapshotId::new))
    }

    /// Locks aliases, audit log and old snapshots against other changes.
    fn lock_admin(&self) -> Result<MutexGuard<'_, ()>, Error> {
        let writer = self.writer()?;
        writer.lease.check()?;
        Ok(writer.admin.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn writer(&self) -> Result<&Writer, Error> {
        self.writer.get().ok_or_else(|| Error::ReadOnly {
            root: self.root.clone(),
        })
    }

    fn remove_unfinished(&self) -> Result<(), Error> {
        for dir in [self.root.clone(), self.snapshots_dir(), self.tags_dir()] {
            let entries = match self.fs.list(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                entries => entries.attempt("list", &dir)?,
            };
            for entry in entries {
                if entry.name.starts_with(TMP_PREFIX) {
                    let path = dir.join(&entry.name);
                    self.remove(&path).attempt("remove", &path)?;
                }
            }
        }
        Ok(())
    }

    /// The highest id that a directory, an alias or the audit log contains.
    fn highest_known(&self) -> Result<Option<SnapshotId>, Error> {
        let mut highest = self.ids()?.last().copied().max(self.audit()?.newest());
        for alias in Alias::ALL {
            highest = highest.max(self.undamaged_alias(alias)?);
        }
        highest = highest.max(self.undamaged_tags()?.into_values().max());
        Ok(highest)
    }
}
