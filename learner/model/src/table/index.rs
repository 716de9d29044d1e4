//! The index of a table: id to row in five bytes per slot, shared by the writer and all versions.
//!
//! A slot holds a row and seven bits of its id's hash; a reader compares the ids in its own pages. So slots are never
//! cleared: a reader skips a slot whose row was reused for another id or is newer than its version, and finds its own rows
//! whatever the writer evicts. At a load of three quarters the writer builds a new index of the rows that have an id, and
//! leaves the old one to the versions that share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use ouzel_sample::Id;

/// Smallest number of slots.
const SMALLEST: usize = 16;

/// Open addressing with linear probing; a tag of 0 marks an empty slot.
#[derive(Debug)]
struct Places {
    tags: Box<[AtomicU8]>,
    rows: Box<[AtomicU32]>,
    n_taken: AtomicUsize,
}

/// The index of a table and of the versions made of it.
#[derive(Clone, Debug)]
pub(super) struct Index {
    places: Arc<Places>,
}

impl Index {
    /// An empty index for `n_rows` rows and as many new ones.
    pub(super) fn for_rows(n_rows: usize) -> Self {
        let n_places = (2 * n_rows).next_power_of_two().max(SMALLEST);
        Self {
            places: Arc::new(Places {
                tags: (0..n_places).map(|_| AtomicU8::new(0)).collect(),
                rows: (0..n_places).map(|_| AtomicU32::new(0)).collect(),
                n_taken: AtomicUsize::new(0),
            }),
        }
    }

    /// The first row under the hash of `id` that `is_its_row` accepts.
    pub(super) fn find(&self, id: Id, is_its_row: impl Fn(u32) -> bool) -> Option<u32> {
        let Places { tags, rows, .. } = &*self.places;
        let (start, tag) = hash(id);
        // An index is never full, so an empty slot ends the search.
        for at in places(start, tags.len()) {
            // Pairs with the release in `put`: a reader that sees the tag sees the row.
            match tags[at].load(Ordering::Acquire) {
                0 => return None,
                found if found == tag => {
                    let row = rows[at].load(Ordering::Relaxed);
                    if is_its_row(row) {
                        return Some(row);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// Whether the load is three quarters, so that the next row needs a new index.
    pub(super) fn is_full(&self) -> bool {
        let n_places = self.places.tags.len();
        self.places.n_taken.load(Ordering::Relaxed) >= n_places / 4 * 3
    }

    /// Adds a row under `id`. Only the one owner that inserts rows may call it, and not on a full index.
    pub(super) fn put(&self, id: Id, row: u32) {
        let Places { tags, rows, n_taken } = &*self.places;
        let (start, tag) = hash(id);
        let free = places(start, tags.len()).find(|at| tags[*at].load(Ordering::Relaxed) == 0);
        let at = free.expect("a quarter of the slots is always empty");
        rows[at].store(row, Ordering::Relaxed);
        tags[at].store(tag, Ordering::Release);
        n_taken.fetch_add(1, Ordering::Relaxed);
    }
}

/// First slot of the search for an id, and its tag. Ids are hashes already, except in tests.
fn hash(id: Id) -> (u64, u8) {
    let hash = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [tag, ..] = hash.to_be_bytes();
    (hash ^ (hash >> 32), tag | 0x80)
}

/// All slots once, from the one that the hash names.
fn places(start: u64, n_places: usize) -> impl Iterator<Item = usize> {
    let mask = n_places - 1;
    let start = usize::try_from(start & mask as u64).expect("a place below the number of places");
    (0..n_places).map(move |step| (start + step) & mask)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Rows are reused for other ids, as after an eviction; only the newest owner is found.
        #[test]
        fn an_id_is_found_where_it_was_put_last_and_nowhere_else(
            moves in prop::collection::vec((0u64..40, 0u32..20), 0..200),
        ) {
            let mut index = Index::for_rows(4);
            let mut owner: HashMap<u32, Id> = HashMap::new();
            for (id, row) in moves {
                owner.retain(|_, owned| *owned != Id(id));
                owner.insert(row, Id(id));
                if index.is_full() {
                    index = Index::for_rows(owner.len());
                    for (row, id) in &owner {
                        index.put(*id, *row);
                    }
                } else {
                    index.put(Id(id), row);
                }
                for id in (0..40).map(Id) {
                    let expected = owner.iter().find(|(_, owned)| **owned == id).map(|(row, _)| *row);
                    prop_assert_eq!(index.find(id, |row| owner.get(&row) == Some(&id)), expected);
                }
            }
        }
    }
}
