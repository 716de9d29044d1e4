//! Content vectors that stand still: computed once an item, kept while the weights that make them do not move.
//!
//! An item's bits must not depend on the items it is computed beside: a restart, which finds nothing kept and meets
//! items in another order, would not come to the same weights.

use std::collections::HashMap;

use ouzel_sample::{ItemVectors, VectorId};

use crate::error::Error;
use crate::inputs::ContentInputs;

/// Items kept; beyond it all are let go and made again as they come.
const MAX: usize = 1 << 20;

/// An item's content vector, and its key.
type Item = (Box<[f32]>, Box<[f32]>);

/// What was computed, by content.
#[derive(Debug, Default)]
pub(crate) struct ContentCache {
    items: HashMap<VectorId, Item>,
}

impl ContentCache {
    /// Computes what is not there yet. `compute` makes the content vectors and keys of items, row by row.
    pub(crate) fn complete(
        &mut self,
        inputs: &ContentInputs,
        compute: impl FnOnce(&[&ItemVectors]) -> Result<(Vec<f32>, Vec<f32>), Error>,
    ) -> Result<(), Error> {
        if self.items.len() + inputs.ids.len() > MAX {
            self.items.clear();
        }
        let known = |id: &VectorId| self.items.contains_key(id);
        let (ids, items): (Vec<VectorId>, Vec<&ItemVectors>) = inputs
            .ids
            .iter()
            .zip(&inputs.frozen)
            .filter(|(id, _)| !known(id))
            .unzip();
        if ids.is_empty() {
            return Ok(());
        }
        let (vectors, keys) = compute(&items)?;
        let (vector, key) = (vectors.len() / ids.len(), keys.len() / ids.len());
        for (at, id) in ids.into_iter().enumerate() {
            let part = |of: &[f32], width: usize| of[at * width..(at + 1) * width].into();
            self.items.insert(id, (part(&vectors, vector), part(&keys, key)));
        }
        Ok(())
    }

    /// Content vectors and keys of these items, row by row.
    pub(crate) fn read(&self, ids: &[VectorId], width: usize, key: usize) -> (Vec<f32>, Vec<f32>) {
        let (mut vectors, mut keys) = (
            Vec::with_capacity(ids.len() * width),
            Vec::with_capacity(ids.len() * key),
        );
        for (vector, key) in ids.iter().filter_map(|id| self.items.get(id)) {
            vectors.extend_from_slice(vector);
            keys.extend_from_slice(key);
        }
        (vectors, keys)
    }
}
