//! Frozen content vectors of items: written once, named by a small number ever after.
//!
//! An item's vectors may come long after the item, when an encoder is done with it, and change with its content.
//! A request that waits for its outcome must go on meaning the vectors it was shown with, so a [`VectorId`]
//! names vectors that never change, and an item's current one is looked up when its features are captured.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};

use crate::{ContentHash, Id, IdMap, Item};

/// The modalities of content, by the names that item events use for their vectors.
pub const MODALITIES: [&str; N_MODALITIES] = ["text", "image"];
/// How many there are.
pub const N_MODALITIES: usize = 2;

/// The place of vectors in [`VectorTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VectorId(u32);

impl VectorId {
    /// Of an item without content.
    pub const NONE: Self = Self(u32::MAX);

    /// Its place.
    #[must_use]
    pub fn index(self) -> Option<usize> {
        (self != Self::NONE).then(|| usize::try_from(self.0).unwrap_or(usize::MAX))
    }
}

/// Where a vector comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// The item's event carried it; a hash of its numbers. It is kept with the table.
    Given([u8; 16]),
    /// One of our encoders made it of this content, and can make it again.
    Encoded(ContentHash),
}

/// A vector of length 1 and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// Where from.
    pub origin: Origin,
    /// Its numbers.
    pub values: Arc<[f32]>,
}

impl Vector {
    /// A vector from an item's event, brought to length 1. One that is 0 or not finite says nothing.
    #[must_use]
    pub fn given(values: &[f32]) -> Option<Self> {
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
            origin: Origin::Given(hash),
            values: values.iter().map(|x| x / norm).collect(),
        })
    }

    /// A vector that an encoder made of the content with this hash.
    #[must_use]
    pub fn encoded(content: ContentHash, values: Vec<f32>) -> Self {
        Self {
            origin: Origin::Encoded(content),
            values: values.into(),
        }
    }
}

/// An item's vectors, by the index of their modality in [`MODALITIES`].
pub type ItemVectors = [Option<Vector>; N_MODALITIES];

/// The vectors that an item's event carries.
pub(crate) fn given(item: &Item) -> ItemVectors {
    MODALITIES.map(|name| {
        let (_, values) = item.vectors.iter().find(|(known, _)| known == name)?;
        Vector::given(values)
    })
}

type Key = [Option<Origin>; N_MODALITIES];

/// All vectors, and which are those of which item. Written by the join stage alone, in log order.
#[derive(Debug, Default)]
pub struct VectorTable {
    list: RwLock<Vec<ItemVectors>>,
    by_key: RwLock<HashMap<Key, VectorId>>,
    current: IdMap<Id, VectorId>,
    n_bytes: AtomicU64,
}

/// The table at one moment, for many reads.
#[derive(Debug)]
pub struct VectorList<'a>(RwLockReadGuard<'a, Vec<ItemVectors>>);

impl VectorList<'_> {
    /// An item's vectors by their name.
    #[must_use]
    pub fn get(&self, id: VectorId) -> Option<&ItemVectors> {
        self.0.get(id.index()?)
    }
}

impl VectorTable {
    /// Gives an item vectors in place of those it has in the same modalities. One that its event gave is only
    /// replaced by another such.
    pub fn put(&self, item: Id, vectors: ItemVectors) {
        let mut now = self.list().get(self.of(item)).cloned().unwrap_or_default();
        for (now, new) in now.iter_mut().zip(vectors) {
            let is_given = |vector: &Option<Vector>| {
                vector
                    .as_ref()
                    .is_some_and(|vector| matches!(vector.origin, Origin::Given(_)))
            };
            if new.is_some() && (is_given(&new) || !is_given(now)) {
                *now = new;
            }
        }
        if now.iter().all(Option::is_none) {
            return;
        }
        let mut by_key = self.by_key.write().unwrap_or_else(PoisonError::into_inner);
        let id = *by_key.entry(key(&now)).or_insert_with(|| {
            let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
            let id = VectorId(u32::try_from(list.len()).unwrap_or(u32::MAX));
            self.n_bytes.fetch_add(n_bytes(&now), Ordering::Relaxed);
            list.push(now);
            id
        });
        drop(by_key);
        self.current.insert(item, id);
    }

    /// The name of the item's current vectors.
    #[must_use]
    pub fn of(&self, item: Id) -> VectorId {
        self.current.get(&item).map_or(VectorId::NONE, |id| *id)
    }

    /// All vectors. Hold it briefly: the writer waits.
    #[must_use]
    pub fn list(&self) -> VectorList<'_> {
        VectorList(self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets of vectors held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list().0.len()
    }

    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the vectors take in memory.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes.load(Ordering::Relaxed)
    }

    /// What an item's vectors take.
    pub(crate) fn n_bytes_of(&self, item: Id) -> u64 {
        self.list().get(self.of(item)).map_or(0, n_bytes)
    }

    /// Forgets the vectors of items that are gone, and those that no item has any more. A request that was captured
    /// with them goes on without.
    pub(crate) fn retain(&self, is_known: impl Fn(Id) -> bool) {
        self.current.retain(|item, _| is_known(*item));
        let used: HashSet<VectorId> = self.current.iter().map(|entry| *entry.value()).collect();
        let mut by_key = self.by_key.write().unwrap_or_else(PoisonError::into_inner);
        by_key.retain(|_, id| used.contains(id));
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        for (vectors, id) in list.iter_mut().zip((0..).map(VectorId)) {
            if !used.contains(&id) {
                *vectors = ItemVectors::default();
            }
        }
        self.n_bytes
            .store(list.iter().map(n_bytes).sum(), Ordering::Relaxed);
    }

    /// Forgets which vectors an item has. The numbers go with the next [`retain`](Self::retain).
    pub(crate) fn forget(&self, item: Id) {
        self.current.remove(&item);
    }

    /// The contents whose vectors a loaded table still lacks, each once.
    #[must_use]
    pub fn missing(&self) -> BTreeSet<(usize, ContentHash)> {
        let list = self.list();
        let all = list.0.iter().flat_map(|vectors| vectors.iter().enumerate());
        all.filter_map(|(modality, vector)| match vector {
            Some(Vector {
                origin: Origin::Encoded(content),
                values,
            }) if values.is_empty() => Some((modality, *content)),
            _ => None,
        })
        .collect()
    }

    /// Fills in what [`missing`](Self::missing) named.
    pub fn fill(&self, find: impl Fn(usize, ContentHash) -> Option<Arc<[f32]>>) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        for (modality, vector) in list.iter_mut().flat_map(|vectors| vectors.iter_mut().enumerate()) {
            let Some(vector) = vector else { continue };
            if let (Origin::Encoded(content), true) = (vector.origin, vector.values.is_empty()) {
                vector.values = find(modality, content).unwrap_or_default();
            }
        }
        self.n_bytes
            .store(list.iter().map(n_bytes).sum(), Ordering::Relaxed);
    }

    /// The table without the numbers that can be had again.
    pub(crate) fn dump(&self) -> VectorDump {
        let mut current: Vec<_> = self.current.iter().map(|e| (*e.key(), *e.value())).collect();
        current.sort_unstable_by_key(|(item, _)| *item);
        let kept = |vector: &Vector| match vector.origin {
            Origin::Given(_) => vector.values.to_vec(),
            Origin::Encoded(_) => Vec::new(),
        };
        let part = |vector: &Option<Vector>| vector.as_ref().map(|vector| (vector.origin, kept(vector)));
        let list = self.list();
        let list = list
            .0
            .iter()
            .map(|vectors| [0, 1].map(|m: usize| part(&vectors[m])));
        VectorDump {
            list: list.collect(),
            current,
        }
    }

    pub(crate) fn load(dump: VectorDump) -> Self {
        let part = |part: Option<Stored>| {
            part.map(|(origin, values)| Vector {
                origin,
                values: values.into(),
            })
        };
        let list: Vec<ItemVectors> = dump.list.into_iter().map(|parts| parts.map(part)).collect();
        let current = IdMap::default();
        for (item, id) in dump.current {
            current.insert(item, id);
        }
        Self {
            n_bytes: AtomicU64::new(list.iter().map(n_bytes).sum()),
            by_key: RwLock::new(
                list.iter()
                    .map(key)
                    .zip((0..).map(VectorId))
                    .filter(|(key, _)| key.iter().any(Option::is_some))
                    .collect(),
            ),
            list: RwLock::new(list),
            current,
        }
    }
}

fn n_bytes(vectors: &ItemVectors) -> u64 {
    let numbers = vectors.iter().flatten().map(|vector| vector.values.len());
    (size_of::<ItemVectors>() + 4 * numbers.sum::<usize>()) as u64
}

fn key(vectors: &ItemVectors) -> Key {
    [0, 1].map(|modality: usize| vectors[modality].as_ref().map(|vector| vector.origin))
}

/// A vector as it is written, without numbers that can be had again.
type Stored = (Origin, Vec<f32>);

/// [`VectorTable`] as it is written.
#[derive(Serialize, Deserialize)]
pub(crate) struct VectorDump {
    list: Vec<[Option<Stored>; N_MODALITIES]>,
    current: Vec<(Id, VectorId)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EventTime;

    fn item(id: u64, vectors: &[(&str, &[f32])]) -> Item {
        Item {
            id: Id(id),
            name: String::new(),
            ts: EventTime(0),
            attributes: vec![],
            texts: vec![],
            image: None,
            vectors: vectors
                .iter()
                .map(|(name, v)| ((*name).to_owned(), v.to_vec()))
                .collect(),
        }
    }

    fn text(vectors: Option<&ItemVectors>) -> Option<Vec<f32>> {
        Some(vectors?[0].as_ref()?.values.to_vec())
    }

    #[test]
    fn vectors_are_of_length_one_and_those_that_say_nothing_are_left_out() {
        let vectors = given(&item(1, &[("text", &[3.0, 4.0]), ("image", &[0.0, 0.0])]));
        assert_eq!(text(Some(&vectors)), Some(vec![0.6, 0.8]));
        assert_eq!(vectors[1], None);
        for nothing in [
            ("text", [f32::MAX, f32::MAX].as_slice()),
            ("sound", [1.0].as_slice()),
        ] {
            assert_eq!(given(&item(1, &[nothing])), [None, None]);
        }
    }

    #[test]
    fn a_name_keeps_its_vectors_when_the_item_gets_others() {
        let table = VectorTable::default();
        table.put(Id(1), given(&item(1, &[("text", &[1.0, 0.0])])));
        let old = table.of(Id(1));
        table.put(Id(1), given(&item(1, &[("text", &[0.0, 1.0])])));
        table.put(Id(2), given(&item(2, &[("text", &[1.0, 0.0])])));
        table.put(Id(3), given(&item(3, &[])));
        let list = table.list();
        assert_eq!(text(list.get(old)), Some(vec![1.0, 0.0]));
        assert_eq!(text(list.get(table.of(Id(1)))), Some(vec![0.0, 1.0]));
        assert_eq!(table.of(Id(2)), old, "equal content is held once");
        assert_eq!(table.of(Id(3)), VectorId::NONE);
        assert!(list.get(VectorId::NONE).is_none());
    }

    #[test]
    fn an_encoder_adds_what_the_event_did_not_give() {
        let table = VectorTable::default();
        let hash = |n: u8| ContentHash([n; 32]);
        let encoded = |n: u8| Some(Vector::encoded(hash(n), vec![f32::from(n)]));
        table.put(Id(1), given(&item(1, &[("text", &[1.0])])));
        table.put(Id(1), [encoded(2), encoded(3)]);
        table.put(Id(1), [None, encoded(4)]);
        let list = table.list();
        let vectors = list.get(table.of(Id(1))).unwrap();
        assert_eq!(text(Some(vectors)), Some(vec![1.0]));
        assert_eq!(vectors[1], encoded(4));
    }

    #[test]
    fn vectors_that_no_item_has_any_more_are_forgotten_alike_after_a_restart() {
        let table = VectorTable::default();
        for item in 0..4u8 {
            table.put(Id(item.into()), [Vector::given(&[f32::from(item), 1.0]), None]);
        }
        table.put(Id(1), [Vector::given(&[9.0, 1.0]), None]);
        let before = table.n_bytes();
        table.retain(|item| item != Id(2));
        assert!(table.n_bytes() < before);
        assert_eq!(table.of(Id(2)), VectorId::NONE);
        let loaded = VectorTable::load(table.dump());
        assert_eq!(loaded.n_bytes(), table.n_bytes());
        for table in [&table, &loaded] {
            table.put(Id(5), [Vector::given(&[2.0, 1.0]), None]);
            assert_eq!(text(table.list().get(table.of(Id(5)))).unwrap().len(), 2);
        }
        assert_eq!(loaded.of(Id(5)), table.of(Id(5)));
    }

    #[test]
    fn a_loaded_table_lacks_what_encoders_made_until_it_is_filled_in() {
        let table = VectorTable::default();
        let hash = ContentHash([7; 32]);
        table.put(
            Id(1),
            [Vector::given(&[2.0]), Some(Vector::encoded(hash, vec![0.5]))],
        );
        table.put(Id(2), [None, Some(Vector::encoded(hash, vec![0.5]))]);
        let bytes = postcard::to_stdvec(&table.dump()).unwrap();
        let loaded = VectorTable::load(postcard::from_bytes(&bytes).unwrap());
        assert_eq!(loaded.missing(), [(1, hash)].into());
        loaded.fill(|_, found| (found == hash).then(|| vec![0.5].into()));
        assert!(loaded.missing().is_empty());
        for item in [Id(1), Id(2)] {
            let same = table.of(item);
            assert_eq!(loaded.of(item), same);
            assert_eq!(loaded.list().get(same), table.list().get(same));
        }
        table.put(Id(3), [None, Some(Vector::encoded(hash, vec![0.5]))]);
        loaded.put(Id(3), [None, Some(Vector::encoded(hash, vec![0.5]))]);
        assert_eq!(loaded.of(Id(3)), table.of(Id(3)), "names go on alike");
    }
}
