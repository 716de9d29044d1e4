//! The swap cell: holds the newest version, and each replaced one until no reader holds it.
//!
//! Readers never free a version and never wait for that. The cell keeps a reference to every replaced version and drops it
//! on the publisher's thread, in [`Published::publish`] or [`Published::sweep`], once it is the last. The content of a
//! version is unknown here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use metrics::{counter, gauge};

use crate::metrics::{LIVE_VERSIONS, SWAPS_TOTAL, VERSION};

/// A version taken from the cell.
#[derive(Debug)]
pub struct LoadedVersion<V> {
    /// Its number: 1 for the first publication of this process, then counting up.
    pub version: u64,
    /// The version.
    pub value: Arc<V>,
}

impl<V> Clone for LoadedVersion<V> {
    fn clone(&self) -> Self {
        Self {
            version: self.version,
            value: Arc::clone(&self.value),
        }
    }
}

/// The newest published version, and the older ones that readers still hold.
///
/// Publishing an older snapshot again, as a rollback does, gets a new number like any other publication.
#[derive(Debug)]
pub struct Published<V> {
    newest: RwLock<Option<LoadedVersion<V>>>,
    /// Copy of the newest number, so that a worker sees without the lock that nothing changed.
    version: AtomicU64,
    retired: Mutex<Vec<Arc<V>>>,
    /// Only where it holds the served version, which the metrics are about.
    has_metrics: bool,
}

impl<V> Default for Published<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> Published<V> {
    /// Makes an empty cell with version 0.
    pub fn new() -> Self {
        Self {
            newest: RwLock::new(None),
            version: AtomicU64::new(0),
            retired: Mutex::new(Vec::new()),
            has_metrics: true,
        }
    }

    /// Makes an empty cell that sets no metrics: of a candidate, or of an index.
    pub fn without_metrics() -> Self {
        Self {
            has_metrics: false,
            ..Self::new()
        }
    }

    /// Publishes `value`, frees older versions that nobody holds, and returns the new number.
    ///
    /// Every later [`Published::load`] returns it. Requests that hold an older version finish with that.
    pub fn publish(&self, value: Arc<V>) -> u64 {
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        let version = self.version() + 1;
        let old = newest.replace(LoadedVersion { version, value });
        self.version.store(version, Ordering::Release);
        drop(newest);
        if let Some(old) = old {
            self.retired().push(old.value);
        }
        if self.has_metrics {
            counter!(SWAPS_TOTAL).increment(1);
            gauge!(VERSION).set(version as f64);
        }
        self.sweep();
        version
    }

    /// Takes the newest version out of the cell and frees it once nobody holds it. Numbers go on from it.
    pub fn clear(&self) {
        let old = self.newest.write().unwrap_or_else(PoisonError::into_inner).take();
        self.retired().extend(old.map(|old| old.value));
        self.sweep();
    }

    /// True before the first version, and after [`Published::clear`].
    pub fn is_empty(&self) -> bool {
        self.newest
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    /// The newest version; `None` before the first.
    pub fn load(&self) -> Option<LoadedVersion<V>> {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest version, or `None` when the caller already holds it, at the cost of one atomic read.
    pub fn load_if_newer(&self, held: u64) -> Option<LoadedVersion<V>> {
        if self.version() == held { None } else { self.load() }
    }

    /// Number of the newest version; 0 before the first.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Frees, on this thread, every replaced version without readers; returns the number of versions in memory.
    ///
    /// The publisher calls it between publications, at least once a second.
    pub fn sweep(&self) -> usize {
        let (freed, n_live) = {
            let mut retired = self.retired();
            // A count of one is final: the cell hands out no reference to a replaced version.
            let (freed, held): (Vec<_>, Vec<_>) = retired
                .drain(..)
                .partition(|version| Arc::strong_count(version) == 1);
            *retired = held;
            (freed, retired.len() + usize::from(!self.is_empty()))
        };
        if self.has_metrics {
            gauge!(LIVE_VERSIONS).set(n_live as f64);
        }
        drop(freed);
        n_live
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Arc<V>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_keeps_its_version_while_newer_ones_are_published() {
        let cell = Published::new();
        assert!(cell.load().is_none());
        assert_eq!((cell.version(), cell.sweep()), (0, 0));

        assert_eq!(cell.publish(Arc::new("a")), 1);
        let held = cell.load().unwrap();
        assert_eq!(cell.publish(Arc::new("b")), 2);
        assert_eq!((held.version, *held.value), (1, "a"));
        assert_eq!(*cell.load().unwrap().value, "b");
        assert!(cell.load_if_newer(2).is_none());
        assert_eq!(cell.load_if_newer(1).unwrap().version, 2);

        assert_eq!(cell.sweep(), 2, "the reader still holds the first");
        drop(held);
        assert_eq!(cell.sweep(), 1);
    }

    #[test]
    fn the_publisher_and_not_the_reader_frees_a_replaced_version() {
        let cell = Published::new();
        let first = Arc::new(1);
        let watch = Arc::downgrade(&first);
        cell.publish(first);
        let held = cell.load().unwrap();
        cell.publish(Arc::new(2));
        drop(held);
        assert!(
            watch.upgrade().is_some(),
            "the cell still holds it after the last reader dropped it"
        );
        cell.sweep();
        assert!(watch.upgrade().is_none());
    }
}
