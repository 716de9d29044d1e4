//! The lease: which process may change a store, and how a former writer is shut out for good.
//!
//! ```text
//! <root>/lease/<20-digit epoch>/          the claim of one writer; the highest epoch is the present one
//!     owner.json                          host, process and the time after which it may be taken for dead
//!     lock                                locked while the writer lives, for processes of its machine
//!     work/                               its working directory, until it releases the lease or loses it
//!         heartbeat                       a number that grows while the writer lives
//! ```
//!
//! Each writer has an epoch of its own: a claim is made by renaming a prepared directory to the next number, which succeeds
//! for one process. Whatever a writer makes visible (a snapshot, an alias, a segment of the plan log, the removal of one of
//! them) is renamed out of or into its working directory. The next writer removes that directory before it reads anything.
//! From then on those renames fail, however long the former writer was suspended between a check and its next system call:
//! the clock decides when a standby takes over, never whether two processes write.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::IoResultExt;
use crate::fs::{lock, read_small};
use crate::{Error, FileLock, Fs, FsKind, OutputFile};

const LEASE_DIR: &str = "lease";
/// Name of the working directory in a claim.
pub(crate) const WORK_NAME: &str = "work";
/// Its name once a later writer has begun to remove it.
const REMOVED_NAME: &str = "removed";
const OWNER_NAME: &str = "owner.json";
const LOCK_NAME: &str = "lock";
const HEARTBEAT_NAME: &str = "heartbeat";
/// Prefix of a claim that has no number yet.
const NEW_PREFIX: &str = ".new-";
/// Claims below the present one that keep their numbers from being claimed again.
const N_OLD_CLAIMS: u64 = 16;
/// Longest small file that is read.
const MAX_BYTES: u64 = 4096;
/// Attempts to remove a directory into which a former writer still writes.
const MAX_REMOVALS: usize = 1000;
/// Time after which a writer on another machine may be taken for dead, where it does not say.
pub(crate) const DEFAULT_LEASE: Duration = Duration::from_secs(3);
/// Time between two looks at the heartbeat of a writer on another machine.
const WATCH_EVERY: Duration = Duration::from_millis(50);

/// Who made a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    /// Name of the machine, for people.
    host: String,
    /// The running system, so that a lock says something about the process.
    boot: String,
    pid: u32,
    lease_ms: u64,
}

/// The right to change a store, held until another process takes it.
pub(crate) struct Lease {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    epoch: u64,
    n_beats: AtomicU64,
    _lock: FileLock,
}

/// What another process knows of the writer of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// There is no writer: none yet, or the last one has released the lease.
    Free,
    /// A writer lives, as far as its heartbeat says.
    Held {
        /// Its epoch.
        epoch: u64,
    },
    /// The heartbeat of the writer has stood still for longer than its lease.
    Expired {
        /// Its epoch.
        epoch: u64,
    },
}

/// Watches the heartbeat of the writer of a store by the watcher's own clock.
#[derive(Debug)]
pub struct LeaseWatch {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    /// Epoch and heartbeat last seen, and since when.
    seen: Option<(u64, Vec<u8>, Instant)>,
}

impl LeaseWatch {
    pub(super) fn new(fs: Arc<dyn Fs>, root: PathBuf) -> Self {
        Self { fs, root, seen: None }
    }

    /// Looks at the heartbeat once, at `now`.
    ///
    /// # Errors
    /// [`Error::Io`] when the lease cannot be read, which says nothing of the writer.
    pub fn look(&mut self, now: Instant) -> Result<LeaseState, Error> {
        let Some(epoch) = highest(&*self.fs, &self.root)? else {
            return Ok(LeaseState::Free);
        };
        let claim = claim_dir(&self.root, epoch);
        let heartbeat = match read_small(&*self.fs, &claim.join(WORK_NAME).join(HEARTBEAT_NAME), MAX_BYTES) {
            Err(error) if error.is_not_found() => return Ok(LeaseState::Free),
            heartbeat => heartbeat?,
        };
        match &self.seen {
            Some((seen, beat, since)) if *seen == epoch && *beat == heartbeat => {
                let lease = Duration::from_millis(owner(&*self.fs, &claim)?.lease_ms);
                let is_expired = now.saturating_duration_since(*since) >= lease;
                Ok(match is_expired {
                    true => LeaseState::Expired { epoch },
                    false => LeaseState::Held { epoch },
                })
            }
            _ => {
                self.seen = Some((epoch, heartbeat, now));
                Ok(LeaseState::Held { epoch })
            }
        }
    }
}

impl Lease {
    /// Takes the lease if no writer lives.
    ///
    /// A writer on this machine is alive while it holds its lock; one on another machine, while its heartbeat grows, which
    /// takes as long as its lease to find out.
    pub(super) fn acquire(fs: &Arc<dyn Fs>, root: &Path, lease: Duration) -> Result<Self, Error> {
        let dir = root.join(LEASE_DIR);
        fs.create_dir_all(&dir).attempt("create", &dir)?;
        if let Some(epoch) = highest(&**fs, root)? {
            let claim = claim_dir(root, epoch);
            let work = claim.join(WORK_NAME);
            if exists(&**fs, &work)? {
                drop(lock(&**fs, &claim.join(LOCK_NAME))?);
                let owner = owner(&**fs, &claim)?;
                if owner.boot != boot() {
                    wait_for_silence(fs, root, &owner)?;
                }
            }
        }
        Self::claim(fs, root, lease)
    }

    /// Takes the lease from whoever has it.
    pub(super) fn claim(fs: &Arc<dyn Fs>, root: &Path, lease: Duration) -> Result<Self, Error> {
        let dir = root.join(LEASE_DIR);
        fs.create_dir_all(&dir).attempt("create", &dir)?;
        let epoch = highest(&**fs, root)?.map_or(1, |highest| highest.saturating_add(1));
        let new = dir.join(format!("{NEW_PREFIX}{}", unique()));
        if let Err(error) = prepare(&**fs, &new, lease) {
            // On a full disk it is tried again and again.
            fs.remove_dir_all(&new).ok();
            return Err(error);
        }
        let claim = claim_dir(root, epoch);
        if let Err(error) = fs.rename(&new, &claim) {
            fs.remove_dir_all(&new).ok();
            return Err(match exists(&**fs, &claim) {
                Ok(true) => Error::Locked { path: claim },
                _ => Error::Io {
                    action: "rename to its number",
                    path: new,
                    error,
                },
            });
        }
        let lock = lock(&**fs, &claim.join(LOCK_NAME))?;
        fs.sync_dir(&dir).attempt("sync", &dir)?;
        let lease = Self {
            fs: Arc::clone(fs),
            root: root.to_owned(),
            epoch,
            n_beats: AtomicU64::new(0),
            _lock: lock,
        };
        lease.shut_out_former()?;
        // Another process may have claimed a later number meanwhile.
        lease.check()?;
        Ok(lease)
    }

    /// Removes the working directory of every former writer, and what dead processes left.
    fn shut_out_former(&self) -> Result<(), Error> {
        let dir = self.root.join(LEASE_DIR);
        for entry in self.fs.list(&dir).attempt("list", &dir)? {
            let path = dir.join(&entry.name);
            match epoch_of(&entry.name) {
                Some(epoch) if epoch < self.epoch => {
                    remove_work(&*self.fs, &path)?;
                    if epoch + N_OLD_CLAIMS < self.epoch {
                        self.fs.remove_dir_all(&path).attempt("remove", &path)?;
                    }
                }
                None if entry.name.starts_with(NEW_PREFIX) => {
                    self.fs.remove_dir_all(&path).attempt("remove", &path)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The number of this writer.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The working directory.
    pub(super) fn work(&self) -> PathBuf {
        claim_dir(&self.root, self.epoch).join(WORK_NAME)
    }

    /// Fails if another process has taken the lease.
    pub(super) fn check(&self) -> Result<(), Error> {
        match exists(&*self.fs, &self.work())? {
            true => Ok(()),
            false => Err(self.lost()),
        }
    }

    /// Shows other machines that this process lives, and fails if another process has taken the lease.
    pub(super) fn beat(&self) -> Result<(), Error> {
        let path = self.work().join(HEARTBEAT_NAME);
        let beat = self.n_beats.fetch_add(1, Ordering::Relaxed) + 1;
        // Not synced: a machine that loses power beats no more, and a file server has the bytes when the file is closed.
        let write = || {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            file.write_all(format!("{beat:020}").as_bytes())
        };
        match write() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.lost()),
            written => written.attempt("write", &path),
        }
    }

    /// Gives the lease back: a standby need not wait for it to expire.
    pub(super) fn release(&self) -> Result<(), Error> {
        remove_work(&*self.fs, &claim_dir(&self.root, self.epoch))
    }

    fn lost(&self) -> Error {
        Error::TakenOver {
            root: self.root.clone(),
            epoch: self.epoch,
        }
    }
}

/// Fills a claim that has no number yet.
fn prepare(fs: &dyn Fs, new: &Path, lease: Duration) -> Result<(), Error> {
    let work = new.join(WORK_NAME);
    fs.create_dir_all(&work).attempt("create", &work)?;
    let owner = Owner {
        host: hostname(),
        boot: boot(),
        pid: std::process::id(),
        lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
    };
    let owner = serde_json::to_vec(&owner).map_err(|error| Error::invalid(OWNER_NAME, error.to_string()))?;
    let files = [
        (new.join(OWNER_NAME), owner.as_slice()),
        (work.join(HEARTBEAT_NAME), b"00000000000000000000"),
    ];
    for (path, bytes) in files {
        let write = || {
            let mut file: Box<dyn OutputFile> = fs.create_file(&path)?;
            file.write_all(bytes)?;
            file.sync()
        };
        write().attempt("write", &path)?;
    }
    for dir in [&work, new] {
        fs.sync_dir(dir).attempt("sync", dir)?;
    }
    Ok(())
}

/// Removes the working directory of a claim.
///
/// It gets another name first, which alone ends all renames by path. Then it is removed, since a client of a file server may
/// go on using a directory that it has open under any name.
fn remove_work(fs: &dyn Fs, claim: &Path) -> Result<(), Error> {
    let (work, removed) = (claim.join(WORK_NAME), claim.join(REMOVED_NAME));
    remove_dir(fs, &removed)?;
    match fs.rename(&work, &removed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed.attempt("rename for removal", &work)?,
    }
    fs.sync_dir(claim).attempt("sync", claim)?;
    remove_dir(fs, &removed)
}

/// Removes a directory in which another process may still create files.
fn remove_dir(fs: &dyn Fs, dir: &Path) -> Result<(), Error> {
    for _ in 0..MAX_REMOVALS {
        match fs.remove_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !exists(fs, dir)? {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) => return Err(error).attempt("remove", dir),
        }
    }
    Err(Error::Io {
        action: "remove",
        path: dir.to_owned(),
        error: io::ErrorKind::DirectoryNotEmpty.into(),
    })
}

/// Waits until the heartbeat of a writer on another machine has stood still for its lease; fails if it grows.
fn wait_for_silence(fs: &Arc<dyn Fs>, root: &Path, owner: &Owner) -> Result<(), Error> {
    let mut watch = LeaseWatch::new(Arc::clone(fs), root.to_owned());
    watch.look(Instant::now())?;
    let first = watch.seen.clone();
    loop {
        match watch.look(Instant::now())? {
            LeaseState::Held { .. } if watch.seen == first => thread::sleep(WATCH_EVERY),
            LeaseState::Held { .. } => {
                return Err(Error::HeldElsewhere {
                    root: root.to_owned(),
                    host: owner.host.clone(),
                });
            }
            LeaseState::Free | LeaseState::Expired { .. } => return Ok(()),
        }
    }
}

/// Makes the next claim have a higher number than `epoch`, by a claim of that number that was given back.
pub(crate) fn raise_epoch(fs: &dyn Fs, root: &Path, epoch: u64) -> Result<(), Error> {
    if highest(fs, root)?.is_some_and(|highest| highest >= epoch) {
        return Ok(());
    }
    let claim = claim_dir(root, epoch);
    fs.create_dir_all(&claim).attempt("create", &claim)
}

/// The highest epoch that was claimed.
fn highest(fs: &dyn Fs, root: &Path) -> Result<Option<u64>, Error> {
    let dir = root.join(LEASE_DIR);
    let entries = match fs.list(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.attempt("list", &dir)?,
    };
    let claims = entries.iter().filter(|entry| entry.kind == FsKind::Dir);
    Ok(claims.filter_map(|entry| epoch_of(&entry.name)).max())
}

fn owner(fs: &dyn Fs, claim: &Path) -> Result<Owner, Error> {
    let path = claim.join(OWNER_NAME);
    let bytes = read_small(fs, &path, MAX_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|error| Error::damaged(&path, error.to_string()))
}

fn exists(fs: &dyn Fs, path: &Path) -> Result<bool, Error> {
    match fs.stat(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).attempt("look at", path),
    }
}

fn claim_dir(root: &Path, epoch: u64) -> PathBuf {
    root.join(LEASE_DIR).join(format!("{epoch:020}"))
}

fn epoch_of(name: &str) -> Option<u64> {
    let is_number = name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| name.parse().ok()).flatten()
}

/// Reads a short file of the system; empty without it.
fn system(path: &str) -> String {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) => text.trim().to_owned(),
        Err(_) => String::new(),
    }
}

/// The running system: two processes with the same one see each other's locks.
fn boot() -> String {
    system("/proc/sys/kernel/random/boot_id")
}

pub(crate) fn hostname() -> String {
    system("/proc/sys/kernel/hostname")
}

/// A name that no other process uses.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}-{}", std::process::id(), boot())
}
