//! Content vectors of items, computed once while the weights that make them are fixed.
//!
//! The bits of an item must not depend on the items it is computed beside: after a restart the cache is empty and items
//! arrive in another order, yet the same weights must follow.

use std::collections::HashMap;

use ouzel_sample::{ItemVectors, VectorId};

use crate::config::ModelConfig;
use crate::error::Error;
use crate::inputs::ContentInputs;

/// Items kept at most; when there are more, the cache is emptied and fills again.
const MAX: usize = 1 << 20;

/// An item's content vector and its key of content interest without an adapter.
type Entry = (Box<[f32]>, Box<[f32]>);

/// Content vectors and keys by content.
#[derive(Debug, Default)]
pub(crate) struct ContentCache {
    items: HashMap<VectorId, Entry>,
}

impl ContentCache {
    /// Adds the contents of a batch that are missing. `compute` returns vectors `[n, out]` and keys `[n, key_width]`.
    pub(crate) fn complete(
        &mut self,
        inputs: &ContentInputs,
        compute: impl FnOnce(&[&ItemVectors]) -> Result<(Vec<f32>, Vec<f32>), Error>,
    ) -> Result<(), Error> {
        if self.items.len() + inputs.ids.len() > MAX {
            self.items.clear();
        }
        let (ids, items): (Vec<VectorId>, Vec<&ItemVectors>) = inputs
            .ids
            .iter()
            .zip(&inputs.frozen)
            .filter(|(id, _)| !self.items.contains_key(id))
            .unzip();
        if ids.is_empty() {
            return Ok(());
        }
        let (vectors, keys) = compute(&items)?;
        let (out, width) = (vectors.len() / ids.len(), keys.len() / ids.len());
        for (at, id) in ids.into_iter().enumerate() {
            let row = |values: &[f32], width: usize| values[at * width..(at + 1) * width].into();
            self.items.insert(id, (row(&vectors, out), row(&keys, width)));
        }
        Ok(())
    }

    /// Vectors `[n, out]` and keys `[n, key_width]` of these contents, all of which must be present.
    pub(crate) fn read(&self, ids: &[VectorId], config: &ModelConfig) -> (Vec<f32>, Vec<f32>) {
        let mut vectors = Vec::with_capacity(ids.len() * config.content.out());
        let mut keys = Vec::with_capacity(ids.len() * key_width(config));
        for (vector, key) in ids.iter().filter_map(|id| self.items.get(id)) {
            vectors.extend_from_slice(vector);
            keys.extend_from_slice(key);
        }
        (vectors, keys)
    }
}

/// Floats of a key of content interest; 0 without that block.
pub(crate) fn key_width(config: &ModelConfig) -> usize {
    match config.interest.enabled {
        true => config.interest.width,
        false => 0,
    }
}
