//! Content vectors that stand still: computed once an item, kept while the weights that make them do not move.

use std::collections::HashMap;

use ouzel_sample::{ItemVectors, VectorId};

use crate::error::Error;
use crate::inputs::ContentInputs;

/// Items computed at once. Always this many, the last ones empty if need be: a product of one shape gives an item
/// the same bits whatever stands beside it, so a restart that finds nothing kept makes the same again.
const TILE: usize = 16;
/// Items kept; beyond it all are let go and made again as they come.
const MAX: usize = 1 << 20;

/// What was computed, by content.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    items: HashMap<VectorId, (Box<[f32]>, Box<[f32]>)>,
}

impl Kept {
    /// Computes what is not there yet. `compute` makes content vectors and keys, row by row, of [`TILE`] items.
    pub(crate) fn complete(
        &mut self,
        inputs: &ContentInputs,
        compute: impl Fn(&[ItemVectors]) -> Result<(Vec<f32>, Vec<f32>), Error>,
    ) -> Result<(), Error> {
        if self.items.len() + inputs.ids.len() > MAX {
            self.items.clear();
        }
        let missing: Vec<(VectorId, &ItemVectors)> = inputs
            .ids
            .iter()
            .copied()
            .zip(&inputs.frozen)
            .filter(|(id, _)| !self.items.contains_key(id))
            .collect();
        for tile in missing.chunks(TILE) {
            let mut items: Vec<ItemVectors> = tile.iter().map(|(_, vectors)| (*vectors).clone()).collect();
            items.resize(TILE, ItemVectors::default());
            let (vectors, keys) = compute(&items)?;
            let rows = vectors.chunks_exact(vectors.len() / TILE);
            let mut keys = keys.chunks_exact((keys.len() / TILE).max(1));
            for ((id, _), vector) in tile.iter().zip(rows) {
                let key = keys.next().unwrap_or_default();
                self.items.insert(*id, (vector.into(), key.into()));
            }
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
