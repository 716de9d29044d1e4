//! Chains: a whole snapshot followed by some that have the changed rows of its tables only.
//!
//! What has changed is found by the writer, from keys of the rows of the snapshot written last; a learner is not stalled
//! for it. A chain ends, with another whole snapshot, when it is long, when its deltas are half as large as its base, when
//! training continues from another snapshot, and with the process.

use std::collections::BTreeMap;

use super::Store;
use crate::draft::FileContent;
use crate::format::delta::{self, FileKeys};
use crate::snapshot::{MAX_LINKS, hash_arrays};
use crate::{Arrays, Draft, Error, SnapshotId};

/// The chain that the next snapshot may continue.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// The snapshot written last.
    last: Option<SnapshotId>,
    /// Snapshots since the whole one.
    n_links: usize,
    /// Bytes of arrays in the whole snapshot, and in all deltas since.
    whole_bytes: usize,
    delta_bytes: usize,
    /// Keys of the rows of the last snapshot, by file.
    keys: BTreeMap<String, FileKeys>,
}

/// The changed rows of a file.
#[derive(Debug)]
pub(super) struct FileDelta {
    /// The snapshot that has the other rows.
    pub(super) base: SnapshotId,
    /// The changed rows, and the arrays that are stored whole.
    pub(super) changed: Arrays,
    /// Hash of the whole file.
    pub(super) whole: String,
}

impl Store {
    /// Writes a snapshot as [`Store::write`] does, as changed rows of the one before if there are at most `max_deltas` such
    /// snapshots in a row.
    ///
    /// A snapshot that is stored as changed rows reads like any other. It keeps those that it needs from being removed.
    ///
    /// # Errors
    /// As for [`Store::write`].
    pub fn write_chained(&self, draft: &Draft, max_deltas: usize) -> Result<SnapshotId, Error> {
        let mut chain = self.chain()?;
        if max_deltas == 0 {
            *chain = Chain::default();
            return self.write(draft);
        }
        let arrays = || {
            draft.files().filter_map(|(name, content)| match content {
                FileContent::Arrays(arrays) => Some((name, arrays)),
                FileContent::Blob(_) => None,
            })
        };
        let keys: BTreeMap<String, FileKeys> = arrays()
            .map(|(name, arrays)| (name.to_owned(), FileKeys::of(arrays)))
            .collect();
        let n_bytes = |arrays: &Arrays| arrays.iter().map(|(_, array)| array.n_bytes()).sum::<usize>();
        let may_continue = chain.last.is_some()
            && chain.last == draft.parent
            && chain.n_links < max_deltas.min(MAX_LINKS)
            // An operator may have removed it by hand.
            && chain.last.is_some_and(|last| self.peek(last).is_ok());
        let mut deltas = BTreeMap::new();
        if let Some(base) = chain.last.filter(|_| may_continue) {
            for (name, arrays) in arrays() {
                let (Some(before), Some(after)) = (chain.keys.get(name), keys.get(name)) else {
                    continue;
                };
                if let Some(changed) = delta::encode(arrays, before, after)? {
                    let whole = hash_arrays(arrays);
                    deltas.insert(name.to_owned(), FileDelta { base, changed, whole });
                }
            }
        }
        let delta_bytes = chain.delta_bytes
            + deltas
                .values()
                .map(|delta| n_bytes(&delta.changed))
                .sum::<usize>();
        if delta_bytes > chain.whole_bytes / 2 {
            deltas.clear();
        }
        let id = self.write_counted(draft, &deltas)?;
        *chain = match deltas.is_empty() {
            true => Chain {
                last: Some(id),
                n_links: 0,
                whole_bytes: arrays().map(|(_, arrays)| n_bytes(arrays)).sum(),
                delta_bytes: 0,
                keys,
            },
            false => Chain {
                last: Some(id),
                n_links: chain.n_links + 1,
                delta_bytes,
                keys,
                ..*chain
            },
        };
        Ok(id)
    }
}
