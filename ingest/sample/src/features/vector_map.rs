//! The content vectors that a batch or a request names, resolved when it was formed.
//!
//! The table goes on changing, and forgets what no item has any more; what was formed from it must not. So names are
//! looked up in log order, and whoever computes with them later needs no table.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::features::vectors::{ItemVectors, VectorId, VectorList};

/// Content vectors by their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VectorMap(HashMap<VectorId, ItemVectors>);

impl VectorMap {
    /// The vectors of these names; one that the table does not know is left out.
    #[must_use]
    pub fn new(list: &VectorList<'_>, ids: impl Iterator<Item = VectorId>) -> Self {
        let mut map = HashMap::new();
        for id in ids.filter(|id| *id != VectorId::NONE) {
            if let (Entry::Vacant(free), Some(vectors)) = (map.entry(id), list.get(id)) {
                free.insert(vectors.clone());
            }
        }
        Self(map)
    }

    /// The vectors of a name.
    #[must_use]
    pub fn get(&self, id: VectorId) -> Option<&ItemVectors> {
        self.0.get(&id)
    }

    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
