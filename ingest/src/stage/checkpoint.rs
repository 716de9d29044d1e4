//! The stage's whole state as bytes, and what a manifest says of it.

use std::collections::BTreeMap;

use ouzel_sample::{Batcher, EventTime, Ledger, Positions};
use serde::{Deserialize, Serialize};

use crate::deleted::DeletedItems;
use crate::join::Counters;
use crate::stage::error::StageError;

/// The state of a stage between two records.
#[derive(Clone, Debug)]
pub struct StageCheckpoint {
    /// Next offset to read of each partition.
    pub positions: Positions,
    /// Newest event time seen.
    pub event_time: EventTime,
    /// The hash of every sample so far.
    pub ledger: Ledger,
    /// The number of the next batch.
    pub next_batch: u64,
    /// Outcome counters.
    pub counters: Counters,
    /// The state that [`Stage::restore`](crate::Stage::restore) reads.
    pub bytes: StageBytes,
}

/// The state of a stage in bytes, one part for each file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageBytes {
    /// The join, or what the tier has reported.
    pub join: Vec<u8>,
    /// Histories, counters and items.
    pub features: Vec<u8>,
    /// Open batch, positions, ledger, rejection counts and deleted items.
    pub batcher: Vec<u8>,
}

/// Item events by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemCounts {
    /// Versions of items that entered the catalogue.
    pub stored: u64,
    /// Versions older than the known one, or than the item's deletion.
    pub outdated: u64,
    /// Deletions of a known item.
    pub deleted: u64,
    /// Deletions of an item that is not known, or has a newer version.
    pub unknown_deletions: u64,
}

/// The state of a stage besides the join and the features.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StageState {
    pub(super) batcher: Batcher,
    pub(super) positions: Positions,
    pub(super) event_time: EventTime,
    pub(super) rejected: BTreeMap<String, u64>,
    pub(super) items: ItemCounts,
}

impl StageState {
    /// The state as bytes, followed by the deleted items if there ever was one.
    pub(super) fn encode(&self, deleted: &DeletedItems) -> Vec<u8> {
        let invariant = "the batcher has no type that postcard refuses";
        let mut bytes = postcard::to_stdvec(self).expect(invariant);
        if !deleted.is_untouched() {
            bytes.extend(postcard::to_stdvec(deleted).expect(invariant));
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, DeletedItems), StageError> {
        let (state, deleted) = postcard::take_from_bytes(bytes)?;
        let deleted = match deleted {
            [] => DeletedItems::default(),
            deleted => postcard::from_bytes(deleted)?,
        };
        Ok((state, deleted))
    }
}
