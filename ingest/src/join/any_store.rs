//! The store that the configuration asks for: one type for the program, whichever it is.

use std::path::PathBuf;

use metrics::counter;
use ouzel_sample::{EventTime, Id};

use crate::join::sled_store::{SledLimits, SledStore};
use crate::join::slot::{Class, Slot};
use crate::join::store::{JoinStore, MemStore, StoreError};
use crate::metrics::STORE_FAILURES;

/// Where the join state is to be kept. The samples are the same either way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreConfig {
    /// In memory.
    #[default]
    Memory,
    /// What memory should not hold, on disk.
    Sled {
        /// A directory that may be emptied.
        dir: PathBuf,
        /// How much of it stays in memory, and how large the files may get.
        limits: SledLimits,
    },
}

/// Either store.
#[derive(Debug)]
pub enum AnyStore {
    /// In memory.
    Memory(MemStore),
    /// On disk.
    Sled(Box<SledStore>),
}

impl StoreConfig {
    /// Calls `start` with an empty store. Where that one fails, for a disk that is full or does not work, it is
    /// called again with one in memory: the disk only makes room.
    pub fn start<T, E>(
        &self,
        start: impl Fn(AnyStore) -> Result<T, E>,
        is_of_the_store: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let in_memory = || start(AnyStore::Memory(MemStore::default()));
        let Self::Sled { dir, limits } = self else {
            return in_memory();
        };
        let why = match SledStore::open(dir, *limits) {
            Ok(store) => match start(AnyStore::Sled(Box::new(store))) {
                Err(error) if is_of_the_store(&error) => "it failed while it was filled".to_owned(),
                done => return done,
            },
            Err(error) => error.to_string(),
        };
        counter!(STORE_FAILURES).increment(1);
        tracing::error!(
            dir = %dir.display(),
            why,
            "the join store on disk cannot be used: joining in memory until the next start"
        );
        in_memory()
    }
}

impl JoinStore for AnyStore {
    fn update<R>(&mut self, id: Id, change: impl FnOnce(&mut Option<Slot>) -> R) -> Result<R, StoreError> {
        match self {
            Self::Memory(store) => store.update(id, change),
            Self::Sled(store) => store.update(id, change),
        }
    }

    fn first(&self, class: Class) -> Result<Option<(EventTime, Id)>, StoreError> {
        match self {
            Self::Memory(store) => store.first(class),
            Self::Sled(store) => store.first(class),
        }
    }

    fn len(&self, class: Class) -> usize {
        match self {
            Self::Memory(store) => store.len(class),
            Self::Sled(store) => store.len(class),
        }
    }

    fn for_each(&self, visit: &mut dyn FnMut(Id, &Slot)) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => store.for_each(visit),
            Self::Sled(store) => store.for_each(visit),
        }
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => store.clear(),
            Self::Sled(store) => store.clear(),
        }
    }
}
