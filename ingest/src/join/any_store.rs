//! The store that the configuration selects, as one type.

use std::path::PathBuf;

use metrics::counter;
use ouzel_sample::{EventTime, Id};

use crate::join::sled_store::{SledLimits, SledStore};
use crate::join::slot::{RequestSlot, SlotClass};
use crate::join::store::{JoinStore, MemStore, StoreError};
use crate::metrics::STORE_FAILURES;

/// Where the join state is kept. The samples are the same either way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreConfig {
    /// In memory.
    #[default]
    Memory,
    /// Open impressions beyond a limit on disk.
    Sled {
        /// A directory that may be emptied.
        dir: PathBuf,
        /// Bounds of its memory and its files.
        limits: SledLimits,
    },
}

/// One of the stores.
#[derive(Debug)]
pub enum AnyStore {
    /// All of it in memory.
    Memory(MemStore),
    /// Partly on disk.
    Sled(Box<SledStore>),
}

impl StoreConfig {
    /// Calls `start` with an empty store. Where the store fails, as on a full disk, calls it again with a store in
    /// memory: the disk only makes room.
    pub fn start<T, E>(
        &self,
        start: impl Fn(AnyStore) -> Result<T, E>,
        is_store_failure: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let in_memory = || start(AnyStore::Memory(MemStore::default()));
        let Self::Sled { dir, limits } = self else {
            return in_memory();
        };
        let reason = match SledStore::open(dir, *limits) {
            Ok(store) => match start(AnyStore::Sled(Box::new(store))) {
                Err(error) if is_store_failure(&error) => {
                    "it failed while the state was restored into it".to_owned()
                }
                done => return done,
            },
            Err(error) => error.to_string(),
        };
        counter!(STORE_FAILURES).increment(1);
        tracing::error!(
            dir = %dir.display(),
            reason,
            "the join store on disk cannot be used: joining in memory until the next start"
        );
        in_memory()
    }
}

/// Calls the store that it is.
macro_rules! either {
    ($any:expr, $store:ident => $call:expr) => {
        match $any {
            AnyStore::Memory($store) => $call,
            AnyStore::Sled($store) => $call,
        }
    };
}

impl JoinStore for AnyStore {
    fn update<R>(&mut self, id: Id, change: impl FnOnce(&mut RequestSlot) -> R) -> Result<R, StoreError> {
        either!(self, store => store.update(id, change))
    }

    fn first(&self, class: SlotClass) -> Result<Option<(EventTime, Id)>, StoreError> {
        either!(self, store => store.first(class))
    }

    fn len(&self) -> usize {
        either!(self, store => store.len())
    }

    fn for_each(&self, visit: &mut dyn FnMut(Id, &RequestSlot)) -> Result<(), StoreError> {
        either!(self, store => store.for_each(visit))
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        either!(self, store => store.clear())
    }
}
