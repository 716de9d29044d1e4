//! Content vectors of items, each set stored once under an id that never changes meaning.
//!
//! An item's vectors may arrive long after the item and change with its content. A request that waits for its
//! outcome must keep the vectors it was shown with, so a [`VectorId`] always refers to the same vectors, and the
//! current id of an item is looked up when its features are captured.

mod means;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};

use crate::{ContentHash, Id, IdMap, Item};

pub(crate) use means::VectorMeans;

/// The modalities of content, by the names that item events use for their vectors.
pub const MODALITIES: [&str; N_MODALITIES] = ["text", "image"];
/// Number of modalities.
pub const N_MODALITIES: usize = 2;

/// Index of a set of vectors in the [`VectorTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VectorId(u32);

impl VectorId {
    /// The id of an item without content.
    pub const NONE: Self = Self(u32::MAX);

    /// The index; `None` for [`VectorId::NONE`].
    #[must_use]
    pub fn index(self) -> Option<usize> {
        (self != Self::NONE).then(|| usize::try_from(self.0).unwrap_or(usize::MAX))
    }
}

/// Where a vector comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum VectorOrigin {
    /// Provided by the item's event; holds a hash of the numbers. Dumps of the table contain the numbers.
    Provided([u8; 16]),
    /// Computed by an encoder from this content, and computable again.
    Encoded(ContentHash),
}

/// A content vector of length 1 with its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// Where it comes from.
    pub origin: VectorOrigin,
    /// The numbers; empty after a restart until an encoded vector is filled in.
    pub values: Arc<[f32]>,
}

impl Vector {
    /// A vector from an item's event, scaled to length 1; `None` when its length is 0 or not finite.
    #[must_use]
    pub fn provided(values: &[f32]) -> Option<Self> {
        let norm = values.iter().map(|x| x * x).sum::<f32>().sqrt();
        if !norm.is_finite() || norm <= f32::MIN_POSITIVE {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        for value in values {
            hasher.update(&value.to_le_bytes());
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Some(Self {
            origin: VectorOrigin::Provided(hash),
            values: values.iter().map(|x| x / norm).collect(),
        })
    }

    /// A vector that an encoder computed from the content with this hash.
    #[must_use]
    pub fn encoded(content: ContentHash, values: Vec<f32>) -> Self {
        Self {
            origin: VectorOrigin::Encoded(content),
            values: values.into(),
        }
    }

    fn is_provided(&self) -> bool {
        matches!(self.origin, VectorOrigin::Provided(_))
    }

    /// The content that this vector must be encoded from again, if its numbers are missing.
    fn missing_content(&self) -> Option<ContentHash> {
        match self.origin {
            VectorOrigin::Encoded(content) if self.values.is_empty() => Some(content),
            _ => None,
        }
    }
}

/// The vectors of one item, by the index of their modality in [`MODALITIES`].
pub type ItemVectors = [Option<Vector>; N_MODALITIES];

/// The vectors that an item's event provides.
pub(crate) fn provided_vectors(item: &Item) -> ItemVectors {
    MODALITIES.map(|name| {
        let (_, values) = item.vectors.iter().find(|(known, _)| known == name)?;
        Vector::provided(values)
    })
}

type Origins = [Option<VectorOrigin>; N_MODALITIES];

/// All content vectors, and the current ones of each item. The join stage writes it, in log order.
#[derive(Debug, Default)]
pub struct VectorTable {
    sets: RwLock<Vec<ItemVectors>>,
    by_origins: RwLock<HashMap<Origins, VectorId>>,
    current: IdMap<Id, VectorId>,
    means: RwLock<VectorMeans>,
    n_bytes: AtomicU64,
}

/// A read lock on the vectors, for many lookups. Hold it briefly: the writer waits for it.
#[derive(Debug)]
pub struct VectorReadGuard<'a>(RwLockReadGuard<'a, Vec<ItemVectors>>);

impl VectorReadGuard<'_> {
    /// The vectors of one id.
    #[must_use]
    pub fn get(&self, id: VectorId) -> Option<&ItemVectors> {
        self.0.get(id.index()?)
    }
}

impl VectorTable {
    /// Replaces an item's vectors in the modalities of `vectors`. An encoded vector never replaces a provided one.
    pub fn put(&self, item: Id, vectors: ItemVectors) {
        let mut merged = self.read().get(self.current(item)).cloned().unwrap_or_default();
        for (old, new) in merged.iter_mut().zip(vectors) {
            let keeps_old = old.as_ref().is_some_and(Vector::is_provided);
            if new.as_ref().is_some_and(|new| new.is_provided() || !keeps_old) {
                *old = new;
            }
        }
        if merged.iter().all(Option::is_none) {
            return;
        }
        let mut by_origins = self.by_origins.write().unwrap_or_else(PoisonError::into_inner);
        let id = *by_origins.entry(origins(&merged)).or_insert_with(|| {
            let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
            let id = VectorId(u32::try_from(sets.len()).unwrap_or(u32::MAX));
            self.n_bytes.fetch_add(n_bytes(&merged), Ordering::Relaxed);
            sets.push(merged);
            id
        });
        drop(by_origins);
        let before = self.current.insert(item, id);
        if before == Some(id) {
            return;
        }
        self.update_means(before, VectorMeans::remove);
        self.update_means(Some(id), VectorMeans::add);
    }

    /// Adds the vectors of an id to the means, or removes them.
    fn update_means(&self, id: Option<VectorId>, update: fn(&mut VectorMeans, &ItemVectors)) {
        let vectors = id.and_then(|id| self.read().get(id).cloned());
        if let Some(vectors) = vectors {
            let mut means = self.means.write().unwrap_or_else(PoisonError::into_inner);
            update(&mut means, &vectors);
        }
    }

    /// Locks the means of the items' current vectors for reading.
    pub(crate) fn means(&self) -> RwLockReadGuard<'_, VectorMeans> {
        self.means.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of the item's current vectors.
    #[must_use]
    pub fn current(&self, item: Id) -> VectorId {
        self.current.get(&item).map_or(VectorId::NONE, |id| *id)
    }

    /// Locks the vectors for reading.
    #[must_use]
    pub fn read(&self) -> VectorReadGuard<'_> {
        VectorReadGuard(self.sets.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Number of sets of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().0.len()
    }

    /// True without any vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all vectors in memory.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of an item's current vectors.
    pub(crate) fn n_bytes_of(&self, item: Id) -> u64 {
        self.read().get(self.current(item)).map_or(0, n_bytes)
    }

    /// Forgets the items for which `is_known` is false, then the vectors that no item has. A request captured with
    /// forgotten vectors continues without them.
    pub(crate) fn retain(&self, is_known: impl Fn(Id) -> bool) {
        let mut forgotten = Vec::new();
        self.current.retain(|item, id| {
            let is_known = is_known(*item);
            if !is_known {
                forgotten.push(*id);
            }
            is_known
        });
        for id in forgotten {
            self.update_means(Some(id), VectorMeans::remove);
        }
        let used: HashSet<VectorId> = self.current.iter().map(|entry| *entry.value()).collect();
        let mut by_origins = self.by_origins.write().unwrap_or_else(PoisonError::into_inner);
        by_origins.retain(|_, id| used.contains(id));
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        for (vectors, id) in sets.iter_mut().zip((0..).map(VectorId)) {
            if !used.contains(&id) {
                *vectors = ItemVectors::default();
            }
        }
        self.n_bytes.store(total_bytes(&sets), Ordering::Relaxed);
    }

    /// Forgets which vectors an item has. The next [`retain`](Self::retain) frees their memory.
    pub(crate) fn forget(&self, item: Id) {
        let before = self.current.remove(&item);
        self.update_means(before.map(|(_, id)| id), VectorMeans::remove);
    }

    /// The contents whose encoded vectors a restored table lacks, by modality, each once.
    #[must_use]
    pub fn missing(&self) -> BTreeSet<(usize, ContentHash)> {
        let sets = self.read();
        let vectors = sets.0.iter().flat_map(|vectors| vectors.iter().enumerate());
        vectors
            .filter_map(|(modality, vector)| Some((modality, vector.as_ref()?.missing_content()?)))
            .collect()
    }

    /// Fills in the vectors that [`missing`](Self::missing) listed, as far as `find` returns them.
    pub fn fill(&self, find: impl Fn(usize, ContentHash) -> Option<Arc<[f32]>>) {
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        for (modality, vector) in sets.iter_mut().flat_map(|vectors| vectors.iter_mut().enumerate()) {
            let Some(vector) = vector else { continue };
            if let Some(content) = vector.missing_content() {
                vector.values = find(modality, content).unwrap_or_default();
            }
        }
        self.n_bytes.store(total_bytes(&sets), Ordering::Relaxed);
        let means = means_of(&sets, &self.current);
        *self.means.write().unwrap_or_else(PoisonError::into_inner) = means;
    }

    /// The table without the numbers of encoded vectors.
    pub(crate) fn dump(&self) -> VectorDump {
        let mut current: Vec<_> = self.current.iter().map(|e| (*e.key(), *e.value())).collect();
        current.sort_unstable_by_key(|(item, _)| *item);
        let stored = |vector: &Vector| match vector.is_provided() {
            true => (vector.origin, vector.values.to_vec()),
            false => (vector.origin, Vec::new()),
        };
        let sets = self.read();
        let sets = sets
            .0
            .iter()
            .map(|set| set.each_ref().map(|v| v.as_ref().map(stored)));
        VectorDump {
            list: sets.collect(),
            current,
        }
    }

    pub(crate) fn load(dump: VectorDump) -> Self {
        let vector = |(origin, values): StoredVector| Vector {
            origin,
            values: values.into(),
        };
        let sets = dump
            .list
            .into_iter()
            .map(|set| set.map(|stored| stored.map(vector)));
        let sets: Vec<ItemVectors> = sets.collect();
        let by_origins = sets.iter().map(origins).zip((0..).map(VectorId));
        let by_origins = by_origins.filter(|(origins, _)| origins.iter().any(Option::is_some));
        let current = dump.current.into_iter().collect();
        Self {
            n_bytes: AtomicU64::new(total_bytes(&sets)),
            by_origins: RwLock::new(by_origins.collect()),
            means: RwLock::new(means_of(&sets, &current)),
            sets: RwLock::new(sets),
            current,
        }
    }
}

/// The means of the items' vectors. They do not depend on the order of the items.
fn means_of(sets: &[ItemVectors], current: &IdMap<Id, VectorId>) -> VectorMeans {
    let mut means = VectorMeans::default();
    for entry in current {
        if let Some(vectors) = entry.value().index().and_then(|at| sets.get(at)) {
            means.add(vectors);
        }
    }
    means
}

fn n_bytes(vectors: &ItemVectors) -> u64 {
    let numbers = vectors.iter().flatten().map(|vector| vector.values.len());
    (size_of::<ItemVectors>() + 4 * numbers.sum::<usize>()) as u64
}

fn total_bytes(sets: &[ItemVectors]) -> u64 {
    sets.iter().map(n_bytes).sum()
}

fn origins(vectors: &ItemVectors) -> Origins {
    vectors
        .each_ref()
        .map(|vector| vector.as_ref().map(|vector| vector.origin))
}

/// A vector in a dump; the numbers of an encoded vector are left out.
type StoredVector = (VectorOrigin, Vec<f32>);

/// A dump of [`VectorTable`].
#[derive(Serialize, Deserialize)]
pub(crate) struct VectorDump {
    list: Vec<[Option<StoredVector>; N_MODALITIES]>,
    current: Vec<(Id, VectorId)>,
}
