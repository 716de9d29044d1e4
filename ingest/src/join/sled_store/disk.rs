//! The disk side of the store: one sled database at a time, of which every value is checked when it is read.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use metrics::counter;
use ouzel_sample::{EventTime, Id};
use tracing::warn;

use super::files::{Files, remove};
use crate::join::slot::OpenImpression;
use crate::join::store::StoreError;
use crate::metrics::STORE_REWRITES;
use crate::plan::checksum;

/// Values beyond this stay in memory: sled keeps them in blob files, which it never syncs or compacts well.
const MOST_VALUE_BYTES: usize = 64 << 10;
/// The files may grow to this many times their live bytes before they are rewritten (sled frees space late).
const MOST_AMPLIFICATION: u64 = 6;
const GENERATION_PREFIX: &str = "join-";

/// The database, and the state of its files.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    cache_bytes: u64,
    slack_bytes: u64,
    /// Held as long as the store lives: two processes never share a directory.
    _lock: File,
    /// `None` after the disk refused a write, until the next write.
    files: Option<Files>,
    generation: u64,
    /// Size of the files at which they are rewritten.
    rewrite_at: u64,
    /// Keys of values that are not needed any more.
    dead: Vec<[u8; 16]>,
    /// Number and bytes of the values written so far: their mean is the estimated size of a live value.
    written: (u64, u64),
}

impl Disk {
    /// An empty database in `dir`. What was there is deleted.
    pub(super) fn open(dir: &Path, cache_bytes: u64, slack_bytes: u64) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|error| StoreError::new("create its directory", &error))?;
        let lock =
            File::create(dir.join("lock")).map_err(|error| StoreError::new("create its lock", &error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::new("lock its directory", &"another process has it"),
            TryLockError::Error(error) => StoreError::new("lock its directory", &error),
        })?;
        let first = remove_generations(dir)?;
        Ok(Self {
            files: Some(Files::create(&generation(dir, first), cache_bytes)?),
            dir: dir.to_owned(),
            cache_bytes,
            slack_bytes,
            _lock: lock,
            generation: first,
            rewrite_at: 0,
            dead: Vec::new(),
            written: (0, 0),
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    #[cfg(test)]
    pub(super) fn db(&self) -> Option<&sled::Db> {
        self.files.as_ref().map(Files::db)
    }

    pub(super) fn n_bytes(&self) -> Result<u64, StoreError> {
        let Some(files) = &self.files else { return Ok(0) };
        files.run("measure its files", sled::Db::size_on_disk)
    }

    /// Reads the impressions of a request that were written under `due`. Bytes whose hash is not `expected` are an error.
    pub(super) fn read(
        &self,
        id: Id,
        due: EventTime,
        expected: u64,
    ) -> Result<Box<[OpenImpression]>, StoreError> {
        let attempted = "read an impression";
        let key = key(due, id);
        let files = self
            .files
            .as_ref()
            .expect("without files everything is in memory");
        let bytes = files.run(attempted, |db| db.get(key))?;
        let bytes =
            bytes.ok_or_else(|| StoreError::new(attempted, &format!("request {id} is not on disk")))?;
        if checksum(&key, &bytes) != expected {
            let detail = format!("the bytes of request {id} are not those that were written");
            return Err(StoreError::new(attempted, &detail));
        }
        postcard::from_bytes(&bytes).map_err(|error| StoreError::new(attempted, &error))
    }

    /// Deletes a value with the next write.
    pub(super) fn delete(&mut self, due: EventTime, id: Id) {
        self.dead.push(key(due, id));
    }

    /// Writes the open impressions of these requests, each with its due time, but for those that are too large, and
    /// deletes dead values. Returns the ids written, each with the hash of its value.
    pub(super) fn write(
        &mut self,
        impressions: &[(EventTime, Id, &[OpenImpression])],
    ) -> Result<Vec<(Id, u64)>, StoreError> {
        if self.files.is_none() {
            self.replace(self.next_files()?)?;
        }
        let mut batch = sled::Batch::default();
        // Deletions first: an impression may be written again under its old key.
        for key in self.dead.drain(..) {
            batch.remove(&key);
        }
        let mut written = Vec::with_capacity(impressions.len());
        let mut n_bytes = 0;
        for (due, id, open) in impressions {
            let bytes = postcard::to_stdvec(*open).map_err(|error| StoreError::new("encode", &error))?;
            if bytes.len() > MOST_VALUE_BYTES {
                continue;
            }
            let key = key(*due, *id);
            n_bytes += bytes.len() as u64;
            written.push((*id, checksum(&key, &bytes)));
            batch.insert(&key, bytes);
        }
        if let Some(files) = &self.files {
            files.run("write impressions", |db| {
                db.apply_batch(batch)?;
                db.flush()
            })?;
        }
        self.written.0 += written.len() as u64;
        self.written.1 += n_bytes;
        Ok(written)
    }

    /// Rewrites the files where most of their bytes are dead. `n_live` values are not.
    pub(super) fn rewrite_if_amplified(&mut self, n_live: usize) -> Result<(), StoreError> {
        let (n_written, bytes) = self.written;
        let n_live_bytes = n_live as u64 * (bytes / n_written.max(1));
        let on_disk = self.n_bytes()?;
        let most = MOST_AMPLIFICATION * n_live_bytes + self.slack_bytes;
        if on_disk <= self.rewrite_at.max(most) {
            return Ok(());
        }
        counter!(STORE_REWRITES).increment(1);
        match self.rewrite() {
            Ok(()) => self.rewrite_at = 0,
            Err(error) => {
                // The old files still hold everything; there may be room for both another time.
                self.rewrite_at = on_disk + self.slack_bytes;
                warn!(
                    dir = %self.dir.display(),
                    %error,
                    "cannot rewrite the files of the join store: they stay as large as they are"
                );
            }
        }
        Ok(())
    }

    /// Abandons the files. The next write creates new ones.
    pub(super) fn abandon(&mut self) {
        self.dead.clear();
        self.files = None;
        self.written = (0, 0);
        // A file that cannot be removed now is removed when the directory is opened next.
        if let Err(error) = remove(&generation(&self.dir, self.generation)) {
            warn!(%error, "abandoned files of the join store remain");
        }
    }

    pub(super) fn clear(&mut self) -> Result<(), StoreError> {
        if self.written != (0, 0) {
            self.replace(self.next_files()?)?;
            self.written = (0, 0);
        }
        self.dead.clear();
        Ok(())
    }

    /// Copies every value into new files and deletes the old ones.
    fn rewrite(&mut self) -> Result<(), StoreError> {
        let Some(old) = &self.files else { return Ok(()) };
        let files = self.next_files()?;
        old.run("copy impressions", |from| {
            let mut batch = sled::Batch::default();
            let mut n_batched = 0;
            for entry in from.iter() {
                let (key, value) = entry?;
                batch.insert(key, value);
                n_batched += 1;
                if n_batched == 10_000 {
                    files.db().apply_batch(std::mem::take(&mut batch))?;
                    n_batched = 0;
                }
            }
            files.db().apply_batch(batch)?;
            files.db().flush()
        })?;
        self.replace(files)
    }

    fn next_files(&self) -> Result<Files, StoreError> {
        Files::create(&generation(&self.dir, self.generation + 1), self.cache_bytes)
    }

    fn replace(&mut self, files: Files) -> Result<(), StoreError> {
        drop(self.files.replace(files));
        let old = generation(&self.dir, self.generation);
        self.generation += 1;
        remove(&old)
    }
}

/// Removes the files of earlier stores. Returns the first generation without files: threads of a database that was just
/// closed may still write into its own, which then cannot be removed.
fn remove_generations(dir: &Path) -> Result<u64, StoreError> {
    let unlisted = |error| StoreError::new("list its directory", &error);
    let mut first = 0;
    for entry in fs::read_dir(dir).map_err(unlisted)? {
        let entry = entry.map_err(unlisted)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Some(number) = name.strip_prefix(GENERATION_PREFIX) else {
            continue;
        };
        if let Err(error) = remove(&entry.path()) {
            warn!(%error, "files of an earlier join store remain");
            first = number.parse().map_or(first, |number: u64| first.max(number + 1));
        }
    }
    Ok(first)
}

pub(super) fn generation(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{GENERATION_PREFIX}{number}"))
}

/// Due time and id, so that keys sort as numbers do.
pub(super) fn key(due: EventTime, id: Id) -> [u8; 16] {
    let mut key = [0; 16];
    // The sign bit flipped: negative times sort before positive ones.
    key[..8].copy_from_slice(&(due.0 ^ i64::MIN).to_be_bytes());
    key[8..].copy_from_slice(&id.0.to_be_bytes());
    key
}
