//! The store: one directory of snapshots, the aliases on them, and who may change it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::alias::{Pointer, TMP_PREFIX};
use crate::audit::AUDIT_NAME;
use crate::error::Attempt;
use crate::lineage::left_behind;
use crate::{Alias, Audit, Error, Fs, FsKind, Lock, Manifest, RealFs, Report, Snapshot, SnapshotId};

const SNAPSHOTS_DIR: &str = "snapshots";
const LOCK_NAME: &str = ".lock";

/// A directory of snapshots. Shared between threads by reference; one process at a time may change it.
pub struct Store {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) root: PathBuf,
    /// `None` when opened for reading only.
    writer: Option<Writer>,
}

struct Writer {
    /// Held while the store is open.
    _lock: Lock,
    /// The number the next snapshot gets; grows with every attempt, so a failed one is never tried again.
    next: Mutex<u64>,
    /// Held by whoever moves an alias, collects, or adds to the audit log.
    verbs: Mutex<()>,
}

/// One snapshot as [`Store::list`] shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// Its id.
    pub id: SnapshotId,
    /// Size on disk, bytes.
    pub bytes: u64,
    /// What it is called.
    pub aliases: Vec<Alias>,
    /// True when a rollback left it, or its ancestor, behind.
    pub is_rolled_back: bool,
    /// What it says of itself, if that can be believed.
    pub manifest: Option<Manifest>,
    /// What a look at names, kinds and sizes found wrong. Content is not read: see [`Store::verify`].
    pub fault: Option<String>,
}

impl Store {
    /// Opens the store at `root` for writing, creating it if need be, and removes what a crash left unfinished.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process, or another value of this one, has it open for writing;
    /// [`Error::Io`] otherwise.
    pub fn open(root: &Path) -> Result<Self, Error> {
        Self::open_on(Arc::new(RealFs), root)
    }

    /// As [`Store::open`], on another file system.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open_on(fs: Arc<dyn Fs>, root: &Path) -> Result<Self, Error> {
        let dir = root.join(SNAPSHOTS_DIR);
        fs.create_dir_all(&dir).attempt("create", &dir)?;
        let lock_path = root.join(LOCK_NAME);
        let lock = match fs.lock(&lock_path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Locked { path: lock_path });
            }
            Err(error) => return Err(error).attempt("lock", &lock_path),
        };
        let writer = Writer {
            _lock: lock,
            next: Mutex::new(0),
            verbs: Mutex::new(()),
        };
        let store = Self {
            fs,
            root: root.to_owned(),
            writer: Some(writer),
        };
        store.remove_unfinished()?;
        // The names of the directories have to last before anything is said to be in them.
        store.sync_dir(root)?;
        if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            store.sync_dir(parent)?;
        }
        let next = store
            .highest_known()?
            .map_or(0, |id| id.number().saturating_add(1));
        *store.next_number()? = next;
        Ok(store)
    }

    /// Opens the store at `root` for reading, beside a process that may be writing to it.
    #[must_use]
    pub fn inspect(root: &Path) -> Self {
        Self::inspect_on(Arc::new(RealFs), root)
    }

    /// As [`Store::inspect`], on another file system.
    #[must_use]
    pub fn inspect_on(fs: Arc<dyn Fs>, root: &Path) -> Self {
        Self {
            fs,
            root: root.to_owned(),
            writer: None,
        }
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every snapshot, oldest first. Reads manifests and directory entries only.
    ///
    /// # Errors
    /// [`Error::Io`] when the store itself cannot be read; a bad snapshot is an entry with a fault.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let mut aliases = Vec::new();
        for alias in Alias::ALL {
            // A damaged alias is `alias`'s to report; the list is for finding the way out.
            match self.alias(alias) {
                Ok(Some(id)) => aliases.push((alias, id)),
                Ok(None) | Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut listed = Vec::new();
        for id in self.ids()? {
            let peeked = self.peek(id);
            let dir = self.snapshot_dir(id);
            let entries = self.fs.list(&dir).unwrap_or_default();
            let (manifest, fault) = match peeked {
                Ok(snapshot) => (Some(snapshot.manifest().clone()), None),
                Err(error) => (None, Some(error.to_string())),
            };
            listed.push(Listed {
                id,
                bytes: entries.iter().map(|entry| entry.n_bytes).sum(),
                aliases: aliases
                    .iter()
                    .filter(|(_, target)| *target == id)
                    .map(|(alias, _)| *alias)
                    .collect(),
                is_rolled_back: false,
                manifest,
                fault,
            });
        }
        let parents = listed
            .iter()
            .map(|entry| (entry.id, entry.manifest.as_ref().and_then(|m| m.parent)));
        let left_behind = left_behind(&self.rollbacks()?, &parents.collect());
        for entry in &mut listed {
            entry.is_rolled_back = left_behind.contains_key(&entry.id);
        }
        Ok(listed)
    }

    /// Opens a snapshot and hashes all of it. Its files are read when asked for, and hashed again then.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`], [`Error::Damaged`], [`Error::Format`] or [`Error::Io`].
    pub fn read(&self, id: SnapshotId) -> Result<Snapshot, Error> {
        let snapshot = self.peek(id)?;
        snapshot.check_hashes()?;
        Ok(snapshot)
    }

    /// Hashes all of a snapshot and says what is wrong with each file.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`] when there is none; whatever is wrong with it is in the report.
    pub fn verify(&self, id: SnapshotId) -> Result<Report, Error> {
        match self.peek(id) {
            Ok(snapshot) => Ok(snapshot.report()),
            Err(error @ Error::NoSnapshot { .. }) => Err(error),
            Err(error) => Ok(Report {
                id,
                files: Vec::new(),
                fault: Some(error.to_string()),
            }),
        }
    }

    /// The snapshot an alias names, if it is set.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the file is not what was written there, [`Error::Io`].
    pub fn alias(&self, alias: Alias) -> Result<Option<SnapshotId>, Error> {
        Ok(self.pointer(alias)?.map(|pointer| pointer.id))
    }

    /// Opens the snapshot an alias names and hashes all of it, if the alias is set.
    ///
    /// # Errors
    /// As for [`Store::alias`] and [`Store::read`]; [`Error::Damaged`] also when the manifest is another one
    /// than the alias was moved to.
    pub fn read_alias(&self, alias: Alias) -> Result<Option<Snapshot>, Error> {
        self.pointer(alias)?
            .map(|pointer| self.follow(&pointer))
            .transpose()
    }

    /// The audit log, read and checked.
    ///
    /// # Errors
    /// [`Error::Io`]; a broken chain is in the result.
    pub fn audit(&self) -> Result<Audit, Error> {
        Audit::read(&*self.fs, &self.root.join(AUDIT_NAME))
    }

    pub(crate) fn follow(&self, pointer: &Pointer) -> Result<Snapshot, Error> {
        let snapshot = self.read(pointer.id)?;
        if snapshot.manifest_hash() != pointer.manifest {
            return Err(Error::damaged(
                snapshot.dir(),
                "its manifest is not the one the alias was moved to",
            ));
        }
        Ok(snapshot)
    }

    pub(crate) fn pointer(&self, alias: Alias) -> Result<Option<Pointer>, Error> {
        Pointer::read(&*self.fs, &self.root.join(alias.name()))
    }

    /// Opens a snapshot without reading its files.
    pub(crate) fn peek(&self, id: SnapshotId) -> Result<Snapshot, Error> {
        match Snapshot::peek(&self.fs, self.snapshot_dir(id), id) {
            Err(Error::Io { path, error, .. })
                if error.kind() == io::ErrorKind::NotFound && path == self.snapshot_dir(id) =>
            {
                Err(Error::NoSnapshot {
                    id,
                    root: self.root.clone(),
                })
            }
            result => result,
        }
    }

    /// The ids of all directories, ascending. What has no id for a name is not ours to judge.
    pub(crate) fn ids(&self) -> Result<Vec<SnapshotId>, Error> {
        let dir = self.snapshots_dir();
        let entries = match self.fs.list(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).attempt("list", &dir),
        };
        let mut ids: Vec<SnapshotId> = entries
            .iter()
            .filter_map(|entry| entry.name.parse().ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    pub(crate) fn snapshots_dir(&self) -> PathBuf {
        self.root.join(SNAPSHOTS_DIR)
    }

    pub(crate) fn snapshot_dir(&self, id: SnapshotId) -> PathBuf {
        self.snapshots_dir().join(id.to_string())
    }

    pub(crate) fn tmp_dir(&self, id: SnapshotId) -> PathBuf {
        self.snapshots_dir().join(format!("{TMP_PREFIX}{id}"))
    }

    pub(crate) fn sync_dir(&self, dir: &Path) -> Result<(), Error> {
        self.fs.sync_dir(dir).attempt("sync", dir)
    }

    /// Removes a directory, or the link or file that has its name.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        match self.fs.stat(path)?.kind {
            FsKind::Dir => self.fs.remove_dir_all(path),
            FsKind::File | FsKind::Other => self.fs.remove_file(path),
        }
    }

    /// The number the next snapshot gets.
    pub(crate) fn next_number(&self) -> Result<MutexGuard<'_, u64>, Error> {
        // A number is never half changed, so a poisoned lock is as good as another.
        Ok(self.writer()?.next.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Held while aliases, the audit log or old snapshots change.
    pub(crate) fn verbs(&self) -> Result<MutexGuard<'_, ()>, Error> {
        Ok(self
            .writer()?
            .verbs
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }

    fn writer(&self) -> Result<&Writer, Error> {
        self.writer.as_ref().ok_or_else(|| Error::ReadOnly {
            root: self.root.clone(),
        })
    }

    fn remove_unfinished(&self) -> Result<(), Error> {
        for dir in [self.root.clone(), self.snapshots_dir()] {
            for entry in self.fs.list(&dir).attempt("list", &dir)? {
                if entry.name.starts_with(TMP_PREFIX) {
                    let path = dir.join(&entry.name);
                    self.remove(&path).attempt("remove", &path)?;
                }
            }
        }
        Ok(())
    }

    /// The highest id a directory, an alias or the audit log knows of.
    fn highest_known(&self) -> Result<Option<SnapshotId>, Error> {
        let mut highest = self.ids()?.last().copied().max(self.audit()?.newest());
        for alias in Alias::ALL {
            match self.alias(alias) {
                Ok(id) => highest = highest.max(id),
                Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(highest)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}
