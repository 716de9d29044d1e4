//! The swap cell: the newest version for readers, and the older ones until nobody holds them.
//!
//! Readers never wait for a version to be freed and never free one. The cell keeps its own reference to every
//! version it has replaced and drops it in [`Published::publish`] or [`Published::sweep`], on the publisher's
//! thread, once that reference is the last. Knows nothing of what a version is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use metrics::{counter, gauge};

use crate::metrics::{LIVE_VERSIONS, SWAPS_TOTAL, VERSION};

/// A version as a reader took it.
#[derive(Debug)]
pub struct Loaded<V> {
    /// Its number: 1 for the first publication of this process, then one more each.
    pub version: u64,
    /// The version itself.
    pub value: Arc<V>,
}

impl<V> Clone for Loaded<V> {
    fn clone(&self) -> Self {
        Self {
            version: self.version,
            value: Arc::clone(&self.value),
        }
    }
}

/// The newest published version of `V`, and how many older ones are still held.
///
/// Publishing an older snapshot again (a rollback) is a publication like any other and gets a new number.
#[derive(Debug)]
pub struct Published<V> {
    newest: RwLock<Option<Loaded<V>>>,
    // Copy of the newest number, so that a worker can see that nothing changed without touching the lock.
    version: AtomicU64,
    retired: Mutex<Vec<Arc<V>>>,
}

impl<V> Default for Published<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> Published<V> {
    /// An empty cell: nothing published, version 0.
    #[must_use]
    pub fn new() -> Self {
        Self {
            newest: RwLock::new(None),
            version: AtomicU64::new(0),
            retired: Mutex::new(Vec::new()),
        }
    }

    /// Makes `value` what every later [`Published::load`] returns, frees what nobody holds any more, and returns
    /// the new number. Requests that hold an older version finish with it.
    pub fn publish(&self, value: Arc<V>) -> u64 {
        let old;
        let version;
        {
            let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
            version = newest.as_ref().map_or(0, |loaded| loaded.version) + 1;
            old = newest.replace(Loaded { version, value });
            self.version.store(version, Ordering::Release);
        }
        if let Some(old) = old {
            self.retired
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(old.value);
        }
        counter!(SWAPS_TOTAL).increment(1);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a gauge is an f64; exact to 2^53 publications"
        )]
        gauge!(VERSION).set(version as f64);
        self.sweep();
        version
    }

    /// The newest version; `None` before the first.
    #[must_use]
    pub fn load(&self) -> Option<Loaded<V>> {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest version, unless it is the one the caller already holds. Costs one atomic read when it is.
    #[must_use]
    pub fn load_if_newer(&self, held: u64) -> Option<Loaded<V>> {
        if self.version() == held { None } else { self.load() }
    }

    /// Number of the newest version; 0 before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Frees, on the calling thread, every replaced version that no reader holds, and returns how many versions
    /// are still in memory. The publisher calls it between publications, at least once a second.
    pub fn sweep(&self) -> usize {
        let (freed, n_live) = {
            let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
            // A count of one is final: the cell gives out no reference to a replaced version, so nobody can
            // raise it again.
            let (freed, held): (Vec<_>, Vec<_>) = retired
                .drain(..)
                .partition(|version| Arc::strong_count(version) == 1);
            *retired = held;
            (freed, retired.len() + usize::from(self.version() > 0))
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "a gauge is an f64; a handful of versions"
        )]
        gauge!(LIVE_VERSIONS).set(n_live as f64);
        drop(freed);
        n_live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_keeps_its_version_while_newer_ones_come() {
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
            "the cell still holds it after the last reader let go"
        );
        cell.sweep();
        assert!(watch.upgrade().is_none());
    }
}
