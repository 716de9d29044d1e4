//! How much the feature state holds, counted as it changes.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize};

use crate::EventTime;

/// Sizes of the feature state, and when it is next swept for expired entries.
#[derive(Debug)]
pub(crate) struct Usage {
    pub(crate) n_users: AtomicUsize,
    pub(crate) n_counters: AtomicUsize,
    /// Bytes of the item catalog, without content vectors.
    pub(crate) catalog_bytes: AtomicU64,
    /// Actions since the start that are in no list of a long past: their item has no attribute, or was unknown.
    pub(crate) n_unlisted: AtomicU64,
    /// Event time of the next expiry sweep, ms.
    pub(crate) next_sweep: AtomicI64,
}

impl Usage {
    pub(crate) fn new(n_users: usize, n_counters: usize, catalog_bytes: u64, next_sweep: EventTime) -> Self {
        Self {
            n_users: AtomicUsize::new(n_users),
            n_counters: AtomicUsize::new(n_counters),
            catalog_bytes: AtomicU64::new(catalog_bytes),
            n_unlisted: AtomicU64::new(0),
            next_sweep: AtomicI64::new(next_sweep.0),
        }
    }
}
