//! A join store larger than memory: open impressions spill to sled, everything small stays in memory.
//!
//! In memory: the ids and due times of all requests (about 60 bytes each), closed and early slots, and the
//! open impressions touched last. On disk: all other open impressions with their features, keyed by
//! (due time, id), so that writes are appended in the order in which they will be read.
//!
//! sled is expendable here, in the strictest reading: the directory is emptied whenever it is opened, and the
//! state comes from the snapshot and the log. So nothing that a crash, a bad disk or another process left there
//! is ever read, and no marker has to say what it belongs to.
//!
//! A disk that takes no more makes no difference to the join: what it has is read back and everything stays in memory,
//! which the cap on pending items bounds, until there is twice as much to write; then new files are tried. For that
//! a spill counts only when sled has written it out (its flush; an fsync would serve nothing), since after a failed
//! write sled gives back what was written before and nothing else.
//!
//! What is damaged while it runs is noticed: the check of every value written stays in memory, so neither a
//! flipped bit nor an older version of a value nor that of another request can pass for it. That, an error or a panic
//! of sled where it should give something back, are all the same, an error of the store; whoever holds it starts anew
//! from a cut.
//!
//! The prediction a candidate carries for validation is not part of the state and does not survive the disk.

mod files;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, TryLockError};
use std::hash::BuildHasherDefault;
use std::path::{Path, PathBuf};

use metrics::{counter, gauge};
use ouzel_sample::{EventTime, Id, IdHasher};
use tracing::{error, warn};

use crate::join::slot::{Class, Open, Slot};
use crate::join::store::{JoinStore, MemStore, StoreError};
use crate::metrics::{STORE_BYTES, STORE_COLD, STORE_FAILURES, STORE_REWRITES};
use files::{Files, remove};

/// Values beyond this stay in memory: sled keeps them in blob files, which it never syncs or compacts well.
const MOST_VALUE_BYTES: usize = 64 << 10;
/// The files may grow to this many times their live bytes before they are written anew (sled frees space late).
const MOST_AMPLIFICATION: u64 = 6;

/// Bounds of a [`SledStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SledLimits {
    /// Open impressions kept in memory before all of them are written out, count.
    pub hot_requests: usize,
    /// sled's page cache, bytes; expect three times as much to be resident.
    pub cache_bytes: u64,
    /// Size of the files that is never worth writing anew, bytes.
    pub slack_bytes: u64,
}

impl Default for SledLimits {
    fn default() -> Self {
        Self {
            hot_requests: 50_000,
            cache_bytes: 64 << 20,
            slack_bytes: 256 << 20,
        }
    }
}

/// Where an open impression is.
#[derive(Clone, Copy, Debug)]
struct Place {
    due: EventTime,
    /// The due time under which the disk has it; [`EventTime::MIN`] where only memory does.
    on_disk: EventTime,
    /// The [`check`] of what the disk has.
    check: u64,
}

type IdTable<V> = HashMap<Id, V, BuildHasherDefault<IdHasher>>;

/// The store on disk.
#[derive(Debug)]
pub struct SledStore {
    dir: PathBuf,
    limits: SledLimits,
    /// Held as long as the store lives: two processes never share a directory.
    _lock: File,
    /// `None` while the disk takes nothing.
    files: Option<Files>,
    generation: u64,
    /// Open impressions in memory at which they are written out: the limit's, or more after the disk refused.
    spill_at: usize,
    /// Size of the files at which they are written anew.
    rewrite_at: u64,
    /// Closed and early slots.
    small: MemStore,
    open: IdTable<Place>,
    due: BTreeSet<(EventTime, Id)>,
    hot: IdTable<Box<Open>>,
    /// Keys on disk that nothing refers to any more.
    dead: Vec<[u8; 16]>,
    /// Records and bytes spilled so far: their mean size is what a live record is taken to have.
    spilled: (u64, u64),
}

impl SledStore {
    /// An empty store in `dir`. Whatever was there is deleted: it is a cache.
    pub fn open(dir: &Path, limits: SledLimits) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|error| failed("create its directory", &error))?;
        let lock = File::create(dir.join("lock")).map_err(|error| failed("create its lock", &error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => failed("lock its directory", &"another process has it"),
            TryLockError::Error(error) => failed("lock its directory", &error),
        })?;
        for entry in fs::read_dir(dir).map_err(|error| failed("list its directory", &error))? {
            let entry = entry.map_err(|error| failed("list its directory", &error))?;
            if entry.file_name().to_string_lossy().starts_with(GENERATION_PREFIX) {
                remove(&entry.path())?;
            }
        }
        Ok(Self {
            files: Some(Files::create(&generation(dir, 0), limits)?),
            spill_at: limits.hot_requests,
            rewrite_at: 0,
            dir: dir.to_owned(),
            limits,
            _lock: lock,
            generation: 0,
            small: MemStore::default(),
            open: IdTable::default(),
            due: BTreeSet::new(),
            hot: IdTable::default(),
            dead: Vec::new(),
            spilled: (0, 0),
        })
    }

    /// Open impressions that only the disk has.
    #[must_use]
    pub fn n_cold(&self) -> usize {
        self.open.len() - self.hot.len()
    }

    /// Bytes of its files.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        let Some(files) = &self.files else { return Ok(0) };
        files.ask("measure its files", sled::Db::size_on_disk)
    }

    fn load(&self, id: Id, place: Place) -> Result<Option<Box<Open>>, StoreError> {
        if let Some(open) = self.hot.get(&id) {
            return Ok(Some(open.clone()));
        }
        let attempted = "read an impression";
        let key = key(place.on_disk, id);
        let files = self.files.as_ref();
        let files = files.expect("without files everything is in memory");
        let bytes = files
            .ask(attempted, |db| db.get(key))?
            .ok_or_else(|| failed(attempted, &format!("request {id} is not on disk")))?;
        if check(&key, &bytes) != place.check {
            return Err(failed(
                attempted,
                &format!("what is on disk of request {id} is not what was written"),
            ));
        }
        postcard::from_bytes(&bytes)
            .map(|open| Some(Box::new(open)))
            .map_err(|error| failed(attempted, &error))
    }

    fn keep(&mut self, id: Id, open: Box<Open>) -> Result<(), StoreError> {
        let due = open.next;
        let place = self.open.entry(id).or_insert(Place {
            due,
            on_disk: EventTime::MIN,
            check: 0,
        });
        if place.due != due {
            self.due.remove(&(place.due, id));
            place.due = due;
        }
        self.due.insert((due, id));
        if place.on_disk != EventTime::MIN {
            self.dead.push(key(place.on_disk, id));
            place.on_disk = EventTime::MIN;
        }
        self.hot.insert(id, open);
        if self.hot.len() > self.spill_at {
            self.spill()
        } else {
            Ok(())
        }
    }

    fn forget(&mut self, id: Id) {
        if let Some(place) = self.open.remove(&id) {
            self.due.remove(&(place.due, id));
            if place.on_disk != EventTime::MIN {
                self.dead.push(key(place.on_disk, id));
            }
        }
        self.hot.remove(&id);
    }

    /// Writes out everything hot that is not too large. Where the disk refuses, everything stays in memory.
    fn spill(&mut self) -> Result<(), StoreError> {
        match self.write_out() {
            Ok(()) => self.spill_at = self.limits.hot_requests,
            Err(error) => {
                self.evacuate()?;
                self.spill_at = self.limits.hot_requests.max(2 * self.hot.len());
                counter!(STORE_FAILURES).increment(1);
                error!(
                    dir = %self.dir.display(),
                    %error,
                    n_open = self.hot.len(),
                    next_try = self.spill_at,
                    "the join store on disk takes no more: joining in memory"
                );
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge is an f64")]
        let (cold, bytes) = (self.n_cold() as f64, self.disk_bytes()? as f64);
        gauge!(STORE_COLD).set(cold);
        gauge!(STORE_BYTES).set(bytes);
        Ok(())
    }

    /// Writes out, in order of due time, and deletes what is dead. After an error memory holds all that it held.
    fn write_out(&mut self) -> Result<(), StoreError> {
        if self.files.is_none() {
            let files = Files::create(&generation(&self.dir, self.generation + 1), self.limits)?;
            self.replace(files)?;
        }
        let mut order: Vec<(EventTime, Id)> = self.hot.iter().map(|(id, open)| (open.next, *id)).collect();
        order.sort_unstable();
        let mut batch = sled::Batch::default();
        // Deaths first: an impression may come back under the key it had.
        for key in self.dead.drain(..) {
            batch.remove(&key);
        }
        let mut written = Vec::with_capacity(order.len());
        for (due, id) in order {
            let bytes = postcard::to_stdvec(&*self.hot[&id]).map_err(|error| failed("encode", &error))?;
            if bytes.len() > MOST_VALUE_BYTES {
                continue;
            }
            let key = key(due, id);
            written.push((due, id, check(&key, &bytes), bytes.len() as u64));
            batch.insert(&key, bytes);
        }
        if let Some(files) = &self.files {
            files.ask("write impressions", |db| {
                db.apply_batch(batch)?;
                db.flush()
            })?;
        }
        for (due, id, check, bytes) in written {
            self.spilled = (self.spilled.0 + 1, self.spilled.1 + bytes);
            if let Some(place) = self.open.get_mut(&id) {
                place.on_disk = due;
                place.check = check;
            }
            self.hot.remove(&id);
        }
        self.tidy()
    }

    /// Writes the files anew where most of them is dead.
    fn tidy(&mut self) -> Result<(), StoreError> {
        let (n_spilled, bytes) = self.spilled;
        let live = self.n_cold() as u64 * (bytes / n_spilled.max(1));
        let on_disk = self.disk_bytes()?;
        if on_disk
            <= self
                .rewrite_at
                .max(MOST_AMPLIFICATION * live + self.limits.slack_bytes)
        {
            return Ok(());
        }
        counter!(STORE_REWRITES).increment(1);
        match self.rewrite() {
            Ok(()) => self.rewrite_at = 0,
            Err(error) => {
                // They are as good as before; perhaps there is room for both another time.
                self.rewrite_at = on_disk + self.limits.slack_bytes;
                warn!(dir = %self.dir.display(), %error, "the files of the join store stay as large as they are");
            }
        }
        Ok(())
    }

    /// Reads everything back into memory and gives the files up.
    fn evacuate(&mut self) -> Result<(), StoreError> {
        let mut cold: Vec<(Id, Place)> = self.open.iter().map(|(id, place)| (*id, *place)).collect();
        cold.retain(|(id, _)| !self.hot.contains_key(id));
        for (id, place) in cold {
            if let Some(open) = self.load(id, place)? {
                self.hot.insert(id, open);
            }
        }
        for place in self.open.values_mut() {
            place.on_disk = EventTime::MIN;
        }
        self.dead.clear();
        self.files = None;
        self.spilled = (0, 0);
        // What cannot be removed now is when the directory is opened next.
        if let Err(error) = remove(&generation(&self.dir, self.generation)) {
            warn!(%error, "what is left of the join store's files stays");
        }
        Ok(())
    }

    /// Copies what is live into new files and deletes the old ones.
    fn rewrite(&mut self) -> Result<(), StoreError> {
        let Some(old) = &self.files else { return Ok(()) };
        let files = Files::create(&generation(&self.dir, self.generation + 1), self.limits)?;
        old.ask("copy impressions", |from| {
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

    fn replace(&mut self, files: Files) -> Result<(), StoreError> {
        drop(self.files.replace(files));
        let old = generation(&self.dir, self.generation);
        self.generation += 1;
        remove(&old)
    }
}

impl JoinStore for SledStore {
    fn update<R>(&mut self, id: Id, change: impl FnOnce(&mut Option<Slot>) -> R) -> Result<R, StoreError> {
        if let Some(place) = self.open.get(&id).copied() {
            let mut slot = match self.hot.remove(&id) {
                Some(open) => Some(Slot::Open(open)),
                None => self.load(id, place)?.map(Slot::Open),
            };
            let result = change(&mut slot);
            match slot {
                Some(Slot::Open(open)) => self.keep(id, open)?,
                other => {
                    self.forget(id);
                    self.small.update(id, |slot| *slot = other)?;
                }
            }
            return Ok(result);
        }
        let mut opened = None;
        let result = self.small.update(id, |slot| {
            let result = change(slot);
            *slot = match slot.take() {
                Some(Slot::Open(open)) => {
                    opened = Some(open);
                    None
                }
                other => other,
            };
            result
        })?;
        if let Some(open) = opened {
            self.keep(id, open)?;
        }
        Ok(result)
    }

    fn first(&self, class: Class) -> Result<Option<(EventTime, Id)>, StoreError> {
        match class {
            Class::Open => Ok(self.due.first().copied()),
            Class::Early | Class::Closed => self.small.first(class),
        }
    }

    fn len(&self, class: Class) -> usize {
        match class {
            Class::Open => self.open.len(),
            Class::Early | Class::Closed => self.small.len(class),
        }
    }

    fn for_each(&self, visit: &mut dyn FnMut(Id, &Slot)) -> Result<(), StoreError> {
        let mut ids: Vec<Id> = self.open.keys().copied().chain(self.small.ids()).collect();
        ids.sort_unstable();
        for id in ids {
            match self.open.get(&id) {
                Some(place) => {
                    if let Some(open) = self.load(id, *place)? {
                        visit(id, &Slot::Open(open));
                    }
                }
                None => {
                    if let Some(slot) = self.small.get(id) {
                        visit(id, slot);
                    }
                }
            }
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        if self.spilled != (0, 0) {
            let files = Files::create(&generation(&self.dir, self.generation + 1), self.limits)?;
            self.replace(files)?;
            self.spilled = (0, 0);
        }
        self.small.clear()?;
        self.open.clear();
        self.due.clear();
        self.hot.clear();
        self.dead.clear();
        Ok(())
    }
}

const GENERATION_PREFIX: &str = "join-";

fn generation(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{GENERATION_PREFIX}{number}"))
}

/// What is remembered of a value on disk.
fn check(key: &[u8; 16], value: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    let mut check = [0; 8];
    hasher.finalize_xof().fill(&mut check);
    u64::from_le_bytes(check)
}

/// Due time and id, so that keys sort as numbers do.
fn key(due: EventTime, id: Id) -> [u8; 16] {
    let mut key = [0; 16];
    // The sign bit flipped: negative times sort before positive ones.
    key[..8].copy_from_slice(&(due.0 ^ i64::MIN).to_be_bytes());
    key[8..].copy_from_slice(&id.0.to_be_bytes());
    key
}

fn failed(attempted: &'static str, error: &dyn std::fmt::Display) -> StoreError {
    StoreError {
        attempted,
        detail: error.to_string(),
    }
}
