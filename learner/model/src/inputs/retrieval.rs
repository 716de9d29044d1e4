//! What the towers of retrieval read: users and items as fields of embedding rows, and the items' frozen vectors.

use std::sync::Arc;

use ouzel_sample::{FeatureState, Id, Item, ItemVectors, N_MODALITIES, Request, VectorId};

use super::{Pool, Unique};
use crate::config::{ModelConfig, RECENT, RETRIEVAL_USER_FIELDS};
use crate::fields::{CANDIDATE_FIELDS, Fields, Key, inverse_root};

/// The frozen vectors of an item by modality, each shared.
pub type ContentVectors = [Option<Arc<[f32]>>; N_MODALITIES];

/// An item as its tower reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TowerItem {
    /// The item.
    pub item: Id,
    /// Its categorical values.
    pub attributes: Vec<Id>,
    /// Its frozen vectors.
    pub contents: ContentVectors,
}

impl TowerItem {
    /// An item with its categorical values and, if it has any, its frozen vectors. Vectors that a restart has not filled in
    /// yet count as missing.
    #[must_use]
    pub fn new(item: Id, attributes: impl Iterator<Item = Id>, vectors: Option<&ItemVectors>) -> Self {
        let shared = |modality: usize| -> Option<Arc<[f32]>> {
            let vector = vectors?[modality].as_ref()?;
            (!vector.values.is_empty()).then(|| Arc::clone(&vector.values))
        };
        Self {
            item,
            attributes: attributes.collect(),
            contents: std::array::from_fn(shared),
        }
    }
}

/// Users and items of one call, as fields over unique rows.
#[derive(Debug, Default)]
pub struct TowerInputs {
    keys: Unique<Key>,
    /// Segments `[n_users * RETRIEVAL_USER_FIELDS]`.
    pub(crate) users: Pool,
    /// Segments `[n_items * CANDIDATE_FIELDS]`.
    pub(crate) items: Pool,
    /// By item.
    pub(crate) contents: Vec<ContentVectors>,
}

impl TowerInputs {
    /// The keys of the rows that are read, in order of first use.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys.keys
    }

    /// Number of users.
    #[must_use]
    pub fn n_users(&self) -> usize {
        self.users.len() / RETRIEVAL_USER_FIELDS
    }

    /// Number of items.
    #[must_use]
    pub fn n_items(&self) -> usize {
        self.contents.len()
    }

    /// Adds the user of a request.
    pub fn add_user(&mut self, config: &ModelConfig, request: &Request) {
        let keys = &mut self.keys;
        let mut fields: [Vec<(usize, f32)>; RETRIEVAL_USER_FIELDS] = Default::default();
        Fields::new(request, config.history_len)
            .user(|field, key, coefficient| fields[field].push((keys.place(key.id, key), coefficient)));
        let recent = &request.history[request.history.len().saturating_sub(RECENT)..];
        let scale = inverse_root(recent.len());
        let recent = recent.iter().map(|entry| Key::item(entry.item));
        fields[RETRIEVAL_USER_FIELDS - 1].extend(recent.map(|key| (keys.place(key.id, key), scale)));
        for field in fields {
            self.users.segment(field);
        }
    }

    /// Adds an item.
    pub fn add_item(&mut self, item: &TowerItem) {
        let keys = &mut self.keys;
        let mut place = |key: Key| keys.place(key.id, key);
        self.items.segment([(place(Key::item(item.item)), 1.0)]);
        let scale = inverse_root(item.attributes.len());
        let attributes = item.attributes.iter();
        let attributes: Vec<(usize, f32)> = attributes
            .map(|value| (place(Key::attribute(*value)), scale))
            .collect();
        self.items.segment(attributes);
        debug_assert_eq!(self.items.len() % CANDIDATE_FIELDS, 0);
        self.contents.push(item.contents.clone());
    }
}

/// The items of the catalog with what their tower reads, sorted by id: at most `max`, those with the newest events.
#[must_use]
pub fn catalog(features: &FeatureState, max: usize) -> Vec<(Arc<Item>, TowerItem)> {
    let mut items = features.items();
    if items.len() > max {
        items.sort_unstable_by_key(|item| (std::cmp::Reverse(item.ts), item.id));
        items.truncate(max);
        items.sort_unstable_by_key(|item| item.id);
    }
    let vectors = features.vectors();
    let ids: Vec<VectorId> = items.iter().map(|item| vectors.current(item.id)).collect();
    let table = vectors.read();
    let read = items.into_iter().zip(ids).map(|(item, id)| {
        let values = item.attributes.iter().map(|attribute| attribute.value);
        let tower = TowerItem::new(item.id, values, table.get(id));
        (item, tower)
    });
    read.collect()
}
