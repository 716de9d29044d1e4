//! Frozen content vectors of items: written once, named by a small number ever after.
//!
//! An item's vectors may come long after the item, when an encoder is done with it, and change with its content.
//! A request that waits for its outcome must go on meaning the vectors it was shown with, so a [`ContentId`]
//! names vectors that never change, and an item's current one is looked up when its features are captured.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde::{Deserialize, Serialize};

use crate::{Id, IdMap, Item};

/// The modalities of content, by the names that item events use for their vectors.
pub const MODALITIES: [&str; N_MODALITIES] = ["text", "image"];
/// How many there are.
pub const N_MODALITIES: usize = 2;

/// The place of vectors in [`Contents`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentId(u32);

impl ContentId {
    /// Of an item without content.
    pub const NONE: Self = Self(u32::MAX);

    /// Its place.
    #[must_use]
    pub fn index(self) -> Option<usize> {
        (self != Self::NONE).then(|| usize::try_from(self.0).unwrap_or(usize::MAX))
    }
}

/// A hash of what vectors were made of: of the vectors themselves when a producer gave them, of the content and
/// the encoder's version when one of ours made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentKey(pub [u8; 16]);

/// An item's vectors by modality, each of length 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Content {
    vectors: [Option<Box<[f32]>>; N_MODALITIES],
}

impl Content {
    /// Vectors by modality, brought to length 1. One that is 0 or not finite says nothing and is left out.
    #[must_use]
    pub fn new(vectors: [Option<Vec<f32>>; N_MODALITIES]) -> Self {
        Self {
            vectors: vectors.map(|vector| vector.and_then(|vector| normalised(&vector))),
        }
    }

    /// The vectors that the item's event carried, if it did.
    #[must_use]
    pub fn given(item: &Item) -> Option<(ContentKey, Self)> {
        let named = |name: &str| item.vectors.iter().find(|(known, _)| known == name);
        let vectors = MODALITIES.map(|name| named(name).map(|(_, vector)| vector.clone()));
        let mut hasher = blake3::Hasher::new();
        for (name, vector) in MODALITIES.iter().zip(&vectors) {
            let Some(vector) = vector else { continue };
            hasher.update(name.as_bytes());
            for value in vector {
                hasher.update(&value.to_le_bytes());
            }
        }
        let content = Self::new(vectors);
        let is_any = content.vectors.iter().any(Option::is_some);
        is_any.then(|| (key(&hasher.finalize()), content))
    }

    /// The vector of a modality, by its index in [`MODALITIES`].
    #[must_use]
    pub fn vector(&self, modality: usize) -> Option<&[f32]> {
        self.vectors.get(modality)?.as_deref()
    }
}

fn key(hash: &blake3::Hash) -> ContentKey {
    let mut key = ContentKey([0; 16]);
    key.0.copy_from_slice(&hash.as_bytes()[..16]);
    key
}

fn normalised(vector: &[f32]) -> Option<Box<[f32]>> {
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    let is_fine = norm.is_finite() && norm > f32::MIN_POSITIVE;
    is_fine.then(|| vector.iter().map(|x| x / norm).collect())
}

/// All vectors, and which are those of which item. Written by the join stage alone, in log order.
#[derive(Debug, Default)]
pub struct Contents {
    list: RwLock<Vec<(ContentKey, Arc<Content>)>>,
    by_key: RwLock<HashMap<ContentKey, ContentId>>,
    current: IdMap<Id, ContentId>,
}

/// The contents at one moment, for many reads.
#[derive(Debug)]
pub struct ContentList<'a>(RwLockReadGuard<'a, Vec<(ContentKey, Arc<Content>)>>);

impl ContentList<'_> {
    /// The vectors of this name.
    #[must_use]
    pub fn get(&self, id: ContentId) -> Option<&Content> {
        Some(&self.0.get(id.index()?)?.1)
    }
}

impl Contents {
    /// Makes these the vectors of an item.
    pub fn put(&self, item: Id, key: ContentKey, content: impl FnOnce() -> Content) {
        let mut by_key = self.by_key.write().unwrap_or_else(PoisonError::into_inner);
        let id = *by_key.entry(key).or_insert_with(|| {
            let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
            let id = ContentId(u32::try_from(list.len()).unwrap_or(u32::MAX));
            list.push((key, Arc::new(content())));
            id
        });
        drop(by_key);
        self.current.insert(item, id);
    }

    /// The item's current vectors.
    #[must_use]
    pub fn of(&self, item: Id) -> ContentId {
        self.current.get(&item).map_or(ContentId::NONE, |id| *id)
    }

    /// All vectors. Hold it briefly: the writer waits.
    #[must_use]
    pub fn list(&self) -> ContentList<'_> {
        ContentList(self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Distinct vectors held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list().0.len()
    }

    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn dump(&self) -> ContentDump {
        let mut current: Vec<_> = self.current.iter().map(|e| (*e.key(), *e.value())).collect();
        current.sort_unstable_by_key(|(item, _)| *item);
        ContentDump {
            list: self.list().0.clone(),
            current,
        }
    }

    pub(crate) fn load(dump: ContentDump) -> Self {
        let ids = (0u32..).map(ContentId);
        let keys = dump.list.iter().map(|(key, _)| *key);
        let current = IdMap::default();
        for (item, id) in dump.current {
            current.insert(item, id);
        }
        Self {
            by_key: RwLock::new(keys.zip(ids).collect()),
            list: RwLock::new(dump.list),
            current,
        }
    }
}

/// [`Contents`] as they are written.
#[derive(Serialize, Deserialize)]
pub(crate) struct ContentDump {
    list: Vec<(ContentKey, Arc<Content>)>,
    current: Vec<(Id, ContentId)>,
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

    fn put(contents: &Contents, item: &Item) {
        if let Some((key, content)) = Content::given(item) {
            contents.put(item.id, key, || content);
        }
    }

    #[test]
    fn vectors_are_of_length_one_and_those_that_say_nothing_are_left_out() {
        let (_, content) =
            Content::given(&item(1, &[("text", &[3.0, 4.0]), ("image", &[0.0, 0.0])])).unwrap();
        assert_eq!(content.vector(0), Some([0.6, 0.8].as_slice()));
        assert_eq!(content.vector(1), None);
        for nothing in [
            &[("text", [f32::MAX, f32::MAX].as_slice())],
            &[("sound", [1.0].as_slice())],
        ] {
            assert_eq!(Content::given(&item(1, nothing)), None);
        }
    }

    #[test]
    fn a_name_keeps_its_vectors_when_the_item_gets_others() {
        let contents = Contents::default();
        put(&contents, &item(1, &[("text", &[1.0, 0.0])]));
        let old = contents.of(Id(1));
        put(&contents, &item(1, &[("text", &[0.0, 1.0])]));
        put(&contents, &item(2, &[("text", &[1.0, 0.0])]));
        let list = contents.list();
        assert_eq!(list.get(old).unwrap().vector(0), Some([1.0, 0.0].as_slice()));
        assert_eq!(
            list.get(contents.of(Id(1))).unwrap().vector(0),
            Some([0.0, 1.0].as_slice())
        );
        assert_eq!(contents.of(Id(2)), old, "equal content is held once");
        assert_eq!(contents.of(Id(3)), ContentId::NONE);
        assert!(list.get(ContentId::NONE).is_none());
    }
}
