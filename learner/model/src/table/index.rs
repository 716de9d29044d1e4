//! From ids to rows in five bytes a place, shared by the writer and by every version.
//!
//! A place holds a row and seven bits of its id's hash; the ids themselves are in the table's pages, where a reader
//! compares them. So a place is never taken back: one whose row has gone to another id, or is newer than a reader's
//! version, is passed over, and a version goes on finding its own rows whatever the writer forgets. When three
//! quarters are taken the writer makes a new index of the rows that have an id, and leaves the old one to the versions
//! that share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use ouzel_sample::Id;

/// Fewest places.
const SMALLEST: usize = 16;

/// Open addressing with linear probing: `tags` says what is taken, 0 being nothing.
#[derive(Debug)]
struct Places {
    tags: Box<[AtomicU8]>,
    rows: Box<[AtomicU32]>,
    n_taken: AtomicUsize,
}

/// The index of one table, and of the versions made of it.
#[derive(Clone, Debug)]
pub(super) struct Index {
    places: Arc<Places>,
}

impl Index {
    /// An empty index with room for `n_rows` rows and as many more.
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

    /// The row of `id`: the first that was put under its hash and that `is_its_row` says to be it.
    pub(super) fn find(&self, id: Id, is_its_row: impl Fn(u32) -> bool) -> Option<u32> {
        let Places { tags, rows, .. } = &*self.places;
        let (start, tag) = hash(id);
        // An index is never full, so there is an end.
        for at in places(start, tags.len()) {
            // Pairs with the release in `put`: who sees the tag sees the row.
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

    /// Whether another row needs a new index first.
    pub(super) fn is_full(&self) -> bool {
        let n_places = self.places.tags.len();
        self.places.n_taken.load(Ordering::Relaxed) >= n_places / 4 * 3
    }

    /// Puts a row under `id`. Only the one owner that inserts rows may call it, and not when it is full.
    pub(super) fn put(&self, id: Id, row: u32) {
        let Places { tags, rows, n_taken } = &*self.places;
        let (start, tag) = hash(id);
        let free = places(start, tags.len()).find(|at| tags[*at].load(Ordering::Relaxed) == 0);
        let at = free.expect("a quarter of the places is always free");
        rows[at].store(row, Ordering::Relaxed);
        tags[at].store(tag, Ordering::Release);
        n_taken.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where the search for an id starts, and its tag. Ids are hashes already, those of tests are not.
fn hash(id: Id) -> (u64, u8) {
    let hash = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [tag, ..] = hash.to_be_bytes();
    (hash ^ (hash >> 32), tag | 0x80)
}

/// Every place once, from the one that a hash names.
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
        /// Rows move from id to id, as they do when a table forgets; the newest owner is found, no other.
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
