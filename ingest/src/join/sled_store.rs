//! A join store larger than memory: open impressions spill to sled, everything small stays in memory.
//!
//! In memory: the ids and due times of all requests (about 60 bytes each), closed impressions and early actions, and the
//! open impressions of the requests touched last. On disk: all other open impressions with their features, keyed by (due time, id), so
//! that writes are appended in the order in which they will be read.
//!
//! sled is only a cache: its directory is emptied when it is opened, and the state comes from the snapshot and the
//! log. So nothing that a crash, a bad disk or another process left there is ever read.
//!
//! A disk that takes no more changes no sample: what it holds is read back and everything stays in memory, which the
//! cap on pending items bounds, until there is twice as much to write; then new files are tried. A spill counts only
//! after sled's flush, since after a failed write sled returns the values written before it and no others. (An fsync
//! would serve nothing.)
//!
//! Damage is noticed while the store runs: the hash of every value written stays in memory, so neither a flipped bit
//! nor an older version of a value nor that of another request passes. That, an error and a panic of sled are all an
//! error of the store, and the caller restores the join from a checkpoint.
//!
//! The prediction that a candidate carries for validation is not part of the state and does not survive the disk.

mod disk;
mod files;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::path::Path;

use metrics::{counter, gauge};
use ouzel_sample::settings::ByteSize;
use ouzel_sample::{EventTime, Id, IdHasher};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::error;

use crate::join::slot::{OpenImpression, RequestSlot, SlotClass, first_due};
use crate::join::store::{JoinStore, MemStore, StoreError};
use crate::metrics::{STORE_BYTES, STORE_COLD, STORE_FAILURES};
use disk::Disk;

/// Limits of the join store on disk. Each impression on disk takes about 100 bytes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SledLimits {
    /// Impressions in memory, those touched last, before all of them are written to disk.
    ///
    /// Unit: impressions. Raise it to write less, at the cost of memory.
    pub requests_in_memory: usize,
    /// Size of sled's page cache; three times as much may be resident.
    ///
    /// Raise it when reads from disk are slow.
    #[schemars(extend("x-minimum" = "256B"))]
    pub page_cache: ByteSize,
    /// Size below which the files are never compacted; above it they are once they exceed six times the live bytes.
    ///
    /// Lower it to save disk space.
    pub compaction_threshold: ByteSize,
}

impl Default for SledLimits {
    fn default() -> Self {
        Self {
            requests_in_memory: 50_000,
            page_cache: ByteSize::from_bytes(64 << 20),
            compaction_threshold: ByteSize::from_bytes(256 << 20),
        }
    }
}

/// The index entry of the open impressions of a request.
#[derive(Clone, Copy, Debug)]
struct IndexEntry {
    due: EventTime,
    /// The due time in their key on disk; [`EventTime::MIN`] where only memory has them.
    on_disk: EventTime,
    /// The hash of their value on disk.
    check: u64,
}

type IdTable<V> = HashMap<Id, V, BuildHasherDefault<IdHasher>>;

/// The store on disk.
#[derive(Debug)]
pub struct SledStore {
    disk: Disk,
    max_in_memory: usize,
    /// Number of impressions in memory at which all are written out: the limit, or more after a failed write.
    spill_at: usize,
    /// The slots without their open impressions.
    small: MemStore,
    /// Every request with open impressions.
    open: IdTable<IndexEntry>,
    due: BTreeSet<(EventTime, Id)>,
    /// The open impressions in memory.
    in_memory: IdTable<Box<[OpenImpression]>>,
}

impl SledStore {
    /// An empty store in `dir`. Whatever was there is deleted: it is a cache.
    pub fn open(dir: &Path, limits: SledLimits) -> Result<Self, StoreError> {
        Ok(Self {
            disk: Disk::open(
                dir,
                limits.page_cache.bytes(),
                limits.compaction_threshold.bytes(),
            )?,
            max_in_memory: limits.requests_in_memory,
            spill_at: limits.requests_in_memory,
            small: MemStore::default(),
            open: IdTable::default(),
            due: BTreeSet::new(),
            in_memory: IdTable::default(),
        })
    }

    /// Requests whose open impressions only the disk has.
    pub fn n_cold(&self) -> usize {
        self.open.len() - self.in_memory.len()
    }

    fn load(&self, id: Id, entry: IndexEntry) -> Result<Box<[OpenImpression]>, StoreError> {
        match self.in_memory.get(&id) {
            Some(open) => Ok(open.clone()),
            None => self.disk.read(id, entry.on_disk, entry.check),
        }
    }

    /// Stores the open impressions of a request, of which there is at least one.
    fn insert(&mut self, id: Id, open: Box<[OpenImpression]>) -> Result<(), StoreError> {
        let due = first_due(&open).unwrap_or(EventTime::MAX);
        let entry = self.open.entry(id).or_insert(IndexEntry {
            due,
            on_disk: EventTime::MIN,
            check: 0,
        });
        if entry.due != due {
            self.due.remove(&(entry.due, id));
            entry.due = due;
        }
        self.due.insert((due, id));
        if entry.on_disk != EventTime::MIN {
            self.disk.delete(entry.on_disk, id);
            entry.on_disk = EventTime::MIN;
        }
        self.in_memory.insert(id, open);
        if self.in_memory.len() > self.spill_at {
            self.spill()
        } else {
            Ok(())
        }
    }

    fn remove(&mut self, id: Id) {
        if let Some(entry) = self.open.remove(&id) {
            self.due.remove(&(entry.due, id));
            if entry.on_disk != EventTime::MIN {
                self.disk.delete(entry.on_disk, id);
            }
        }
        self.in_memory.remove(&id);
    }

    /// Writes out all impressions in memory that are not too large. After a failed write everything stays in memory.
    fn spill(&mut self) -> Result<(), StoreError> {
        match self.write_out() {
            Ok(()) => self.spill_at = self.max_in_memory,
            Err(error) => {
                self.load_all()?;
                self.spill_at = self.max_in_memory.max(2 * self.in_memory.len());
                counter!(STORE_FAILURES).increment(1);
                error!(
                    dir = %self.disk.dir().display(),
                    %error,
                    n_open = self.in_memory.len(),
                    next_try = self.spill_at,
                    "the join store on disk takes no more: joining in memory"
                );
            }
        }
        let (cold, bytes) = (self.n_cold() as f64, self.disk.n_bytes()? as f64);
        gauge!(STORE_COLD).set(cold);
        gauge!(STORE_BYTES).set(bytes);
        Ok(())
    }

    /// Writes out in order of due time. After an error memory holds all that it held.
    fn write_out(&mut self) -> Result<(), StoreError> {
        let due = |id: &Id| self.open.get(id).map_or(EventTime::MAX, |entry| entry.due);
        let mut impressions: Vec<(EventTime, Id, &[OpenImpression])> = self
            .in_memory
            .iter()
            .map(|(id, open)| (due(id), *id, &**open))
            .collect();
        impressions.sort_unstable_by_key(|(due, id, _)| (*due, *id));
        for (id, check) in self.disk.write(&impressions)? {
            if let Some(entry) = self.open.get_mut(&id) {
                entry.on_disk = entry.due;
                entry.check = check;
            }
            self.in_memory.remove(&id);
        }
        self.disk.rewrite_if_amplified(self.n_cold())
    }

    /// Reads everything back into memory and abandons the files.
    fn load_all(&mut self) -> Result<(), StoreError> {
        for (id, entry) in &self.open {
            if !self.in_memory.contains_key(id) {
                self.in_memory
                    .insert(*id, self.disk.read(*id, entry.on_disk, entry.check)?);
            }
        }
        for entry in self.open.values_mut() {
            entry.on_disk = EventTime::MIN;
        }
        self.disk.abandon();
        Ok(())
    }
}

impl JoinStore for SledStore {
    fn update<R>(&mut self, id: Id, change: impl FnOnce(&mut RequestSlot) -> R) -> Result<R, StoreError> {
        let entry = self.open.get(&id).copied();
        let mut open = match entry {
            None => Box::default(),
            Some(entry) => match self.in_memory.remove(&id) {
                Some(open) => open,
                None => self.disk.read(id, entry.on_disk, entry.check)?,
            },
        };
        let result = self.small.update(id, |slot| {
            slot.open = std::mem::take(&mut open);
            let result = change(slot);
            open = std::mem::take(&mut slot.open);
            result
        })?;
        if !open.is_empty() {
            self.insert(id, open)?;
        } else if entry.is_some() {
            self.remove(id);
        }
        Ok(result)
    }

    fn first(&self, class: SlotClass) -> Result<Option<(EventTime, Id)>, StoreError> {
        match class {
            SlotClass::Open => Ok(self.due.first().copied()),
            SlotClass::Early | SlotClass::Closed => self.small.first(class),
        }
    }

    fn len(&self) -> usize {
        let without_small = self.open.keys().filter(|id| self.small.get(**id).is_none());
        self.small.len() + without_small.count()
    }

    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.small.is_empty()
    }

    fn for_each(&self, visit: &mut dyn FnMut(Id, &RequestSlot)) -> Result<(), StoreError> {
        let mut ids: Vec<Id> = self.open.keys().copied().chain(self.small.ids()).collect();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            match (self.open.get(&id), self.small.get(id)) {
                (Some(entry), small) => {
                    let mut slot = small.cloned().unwrap_or_default();
                    slot.open = self.load(id, *entry)?;
                    visit(id, &slot);
                }
                (None, Some(slot)) => visit(id, slot),
                (None, None) => {}
            }
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        self.disk.clear()?;
        self.small.clear()?;
        self.open.clear();
        self.due.clear();
        self.in_memory.clear();
        Ok(())
    }
}
