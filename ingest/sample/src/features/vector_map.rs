//! The content vectors of one batch or request, looked up when it was formed.
//!
//! The table changes and forgets vectors later; a batch must not. Ids are therefore resolved in log order, and
//! the learner and the scorer need no table.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::vectors::{ItemVectors, VectorId, VectorReadGuard};

/// Content vectors by id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VectorMap(HashMap<VectorId, ItemVectors>);

impl VectorMap {
    /// Copies the vectors of `ids` from the table; ids that it does not contain are left out.
    #[must_use]
    pub fn new(table: &VectorReadGuard<'_>, ids: impl Iterator<Item = VectorId>) -> Self {
        let mut map = HashMap::new();
        for id in ids.filter(|id| *id != VectorId::NONE) {
            if let (Entry::Vacant(entry), Some(vectors)) = (map.entry(id), table.get(id)) {
                entry.insert(vectors.clone());
            }
        }
        Self(map)
    }

    /// A map with the vectors of `ids` alone.
    #[must_use]
    pub fn subset(&self, ids: impl Iterator<Item = VectorId>) -> Self {
        Self(
            ids.filter_map(|id| Some((id, self.0.get(&id)?.clone())))
                .collect(),
        )
    }

    /// The vectors of one id.
    #[must_use]
    pub fn get(&self, id: VectorId) -> Option<&ItemVectors> {
        self.0.get(&id)
    }

    /// True without any vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
