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
    /// Open batch, positions, ledger, counts of events and deleted items.
    pub batcher: Vec<u8>,
}

/// Events of items, or of users' profiles, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogCounts {
    /// Versions that were stored, or merged into the known one.
    pub stored: u64,
    /// Versions older than the known one, or than its deletion.
    pub outdated: u64,
    /// Deletions that were carried out.
    pub deleted: u64,
    /// Deletions older than the known version.
    pub unknown_deletions: u64,
}

/// The state of a stage besides the join and the features.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StageState {
    pub(super) batcher: Batcher,
    pub(super) positions: Positions,
    pub(super) event_time: EventTime,
    pub(super) rejected: BTreeMap<String, u64>,
    pub(super) items: CatalogCounts,
    /// Stored behind the deleted items: see [`StageState::encode`].
    #[serde(skip)]
    pub(super) users: CatalogCounts,
}

impl StageState {
    /// The state as bytes, followed by the deleted items if there ever was one, and by the counts of profiles likewise.
    pub(super) fn encode(&self, deleted: &DeletedItems) -> Vec<u8> {
        let invariant = "the batcher has no type that postcard refuses";
        let mut bytes = postcard::to_stdvec(self).expect(invariant);
        let has_users = self.users != CatalogCounts::default();
        if has_users || !deleted.is_untouched() {
            bytes.extend(postcard::to_stdvec(deleted).expect(invariant));
        }
        if has_users {
            bytes.extend(postcard::to_stdvec(&self.users).expect(invariant));
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, DeletedItems), StageError> {
        let (mut state, rest): (Self, _) = postcard::take_from_bytes(bytes)?;
        let (deleted, rest) = match rest {
            [] => (DeletedItems::default(), rest),
            rest => postcard::take_from_bytes(rest)?,
        };
        if !rest.is_empty() {
            state.users = postcard::from_bytes(rest)?;
        }
        Ok((state, deleted))
    }
}
