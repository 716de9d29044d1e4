//! A join store larger than memory: open impressions spill to sled, everything small stays in memory.
//!
//! In memory: the ids and due times of all requests (about 60 bytes each), closed and early slots, and the
//! open impressions touched last. On disk: all other open impressions with their features, keyed by
//! (due time, id), so that writes are appended in the order in which they will be read.
//!
//! sled is expendable here, in the strictest reading: the directory is emptied whenever it is opened, and the
//! state comes from the snapshot and the log. So nothing that a crash, a bad disk or another process left there
//! is ever read, and no marker has to say what it belongs to. sled's own durability is never used: no flush, no
//! fsync.
//!
//! What is damaged while it runs is noticed: the check of every value written stays in memory, so neither a
//! flipped bit nor an older version of a value nor that of another request can pass for it. That, an error of
//! sled and a panic of sled are all the same, an error of the store; whoever holds it starts anew from a cut.
//!
//! The prediction a candidate carries for validation is not part of the state and does not survive the disk.

mod files;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, TryLockError};
use std::hash::BuildHasherDefault;
use std::path::{Path, PathBuf};

use metrics::{counter, gauge};
use ouzel_sample::{EventTime, Id, IdHasher};

use crate::join::slot::{Class, Open, Slot};
use crate::join::store::{JoinStore, MemStore, StoreError};
use crate::metrics::{STORE_BYTES, STORE_COLD, STORE_REWRITES};
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
    files: Files,
    generation: u64,
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
            files: Files::create(&generation(dir, 0), limits)?,
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
        self.files.ask("measure its files", sled::Db::size_on_disk)
    }

    fn load(&self, id: Id, place: Place) -> Result<Option<Box<Open>>, StoreError> {
        if let Some(open) = self.hot.get(&id) {
            return Ok(Some(open.clone()));
        }
        let attempted = "read an impression";
        let key = key(place.on_disk, id);
        let bytes = self
            .files
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
        if self.hot.len() > self.limits.hot_requests {
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

    /// Writes out everything hot that is not too large, in order of due time, and deletes what is dead.
    fn spill(&mut self) -> Result<(), StoreError> {
        let mut order: Vec<(EventTime, Id)> = self.hot.iter().map(|(id, open)| (open.next, *id)).collect();
        order.sort_unstable();
        let mut batch = sled::Batch::default();
        // Deaths first: an impression may come back under the key it had.
        for key in self.dead.drain(..) {
            batch.remove(&key);
        }
        for (due, id) in order {
            let bytes = postcard::to_stdvec(&*self.hot[&id]).map_err(|error| failed("encode", &error))?;
            if bytes.len() > MOST_VALUE_BYTES {
                continue;
            }
            self.spilled = (self.spilled.0 + 1, self.spilled.1 + bytes.len() as u64);
            let key = key(due, id);
            if let Some(place) = self.open.get_mut(&id) {
                place.on_disk = due;
                place.check = check(&key, &bytes);
            }
            batch.insert(&key, bytes);
            self.hot.remove(&id);
        }
        self.files.ask("write impressions", |db| db.apply_batch(batch))?;
        let (n_spilled, bytes) = self.spilled;
        let live = self.n_cold() as u64 * (bytes / n_spilled.max(1));
        let on_disk = self.disk_bytes()?;
        #[expect(clippy::cast_precision_loss, reason = "a gauge is an f64")]
        let (cold, bytes) = (self.n_cold() as f64, on_disk as f64);
        gauge!(STORE_COLD).set(cold);
        gauge!(STORE_BYTES).set(bytes);
        if on_disk > MOST_AMPLIFICATION * live + self.limits.slack_bytes {
            counter!(STORE_REWRITES).increment(1);
            self.rewrite()?;
        }
        Ok(())
    }

    /// Copies what is live into new files and deletes the old ones.
    fn rewrite(&mut self) -> Result<(), StoreError> {
        let files = Files::create(&generation(&self.dir, self.generation + 1), self.limits)?;
        self.files.ask("copy impressions", |from| {
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
            files.db().apply_batch(batch)
        })?;
        self.replace(files)
    }

    fn replace(&mut self, files: Files) -> Result<(), StoreError> {
        drop(std::mem::replace(&mut self.files, files));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_due_time_then_id() {
        let order = [
            (i64::MIN, 9),
            (-5, 1),
            (-1, 0),
            (0, 0),
            (0, 7),
            (1, u64::MAX),
            (i64::MAX, 0),
        ];
        let keys: Vec<_> = order
            .iter()
            .map(|(due, id)| key(EventTime(*due), Id(*id)))
            .collect();
        assert!(keys.is_sorted());
    }

    #[test]
    fn a_directory_is_emptied_when_opened_whatever_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let inside = generation(dir.path(), 0);
        fs::create_dir_all(&inside).unwrap();
        for (name, content) in [
            ("conf", "not sled's"),
            ("db", "x"),
            ("snap.0000.generating", "half"),
        ] {
            fs::write(inside.join(name), content).unwrap();
        }
        fs::create_dir_all(generation(dir.path(), 7)).unwrap();
        let store = SledStore::open(dir.path(), SledLimits::default()).unwrap();
        assert!(store.is_empty());
        assert!(!generation(dir.path(), 7).exists());
    }

    #[test]
    fn what_is_not_what_was_written_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let limits = SledLimits {
            hot_requests: 0,
            ..SledLimits::default()
        };
        let mut store = SledStore::open(dir.path(), limits).unwrap();
        let open = |n: u64, closed: u8| Open {
            request: std::sync::Arc::new(ouzel_sample::Request {
                id: Id(n),
                user: Id(1),
                ts: EventTime(0),
                context: Vec::new(),
                history: Vec::new(),
                contents: Vec::new(),
                n_items: 0,
            }),
            shown_at: ouzel_sample::Position {
                partition: ouzel_sample::PartitionId {
                    stream: ouzel_sample::Stream::Impressions,
                    partition: 0,
                },
                offset: 0,
            },
            items: Box::new([]),
            next: EventTime(9),
            closed,
            sampled: 0,
            held: 0,
        };
        let look = |store: &mut SledStore| store.update(Id(1), |slot| slot.clone());
        for closed in [0, 1] {
            store.keep(Id(1), Box::new(open(1, closed))).unwrap();
        }
        assert_eq!(store.n_cold(), 1);
        let sound = store.files.db().get(key(EventTime(9), Id(1))).unwrap().unwrap();
        let older = postcard::to_stdvec(&open(1, 0)).unwrap();
        let another = postcard::to_stdvec(&open(2, 1)).unwrap();
        for wrong in [older, another, vec![0; sound.len()], Vec::new()] {
            store.files.db().insert(key(EventTime(9), Id(1)), wrong).unwrap();
            let error = look(&mut store).unwrap_err().to_string();
            assert!(error.contains("is not what was written"), "{error}");
        }
        store.files.db().insert(key(EventTime(9), Id(1)), sound).unwrap();
        assert_eq!(look(&mut store).unwrap(), Some(Slot::Open(Box::new(open(1, 1)))));
        store.files.db().clear().unwrap();
        let error = look(&mut store).unwrap_err().to_string();
        assert!(error.contains("is not on disk"), "{error}");
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _store = SledStore::open(dir.path(), SledLimits::default()).unwrap();
        let error = SledStore::open(dir.path(), SledLimits::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the join store cannot lock its directory: another process has it"
        );
    }
}
