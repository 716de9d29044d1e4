//! Content vectors that stand still: computed once an item, kept while the weights that make them do not move.
//!
//! Items are computed one by one. Beside others an item's last bits would depend on its place among them, and a
//! restart, which finds nothing kept and meets items in another order, would not come to the same weights.

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
pub(crate) struct Kept {
    items: HashMap<VectorId, Item>,
}

impl Kept {
    /// Computes what is not there yet. `compute` makes an item's content vector and key.
    pub(crate) fn complete(
        &mut self,
        inputs: &ContentInputs,
        compute: impl Fn(&[ItemVectors]) -> Result<(Vec<f32>, Vec<f32>), Error>,
    ) -> Result<(), Error> {
        if self.items.len() + inputs.ids.len() > MAX {
            self.items.clear();
        }
        for (id, vectors) in inputs.ids.iter().zip(&inputs.frozen) {
            if !self.items.contains_key(id) {
                let (vector, key) = compute(std::slice::from_ref(vectors))?;
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
