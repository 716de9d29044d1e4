//! The store of the join state: a map from request to [`RequestSlot`] with an index of due times.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::BuildHasherDefault;

use ouzel_sample::{EventTime, Id, IdHasher};

use crate::join::slot::{RequestSlot, SlotClass};

/// A store failed. Its content is undefined from here on; a checkpoint restores it.
#[derive(Debug, thiserror::Error)]
#[error("the join store cannot {attempted}: {detail}")]
pub struct StoreError {
    /// The operation.
    pub attempted: &'static str,
    /// The store's own message.
    pub detail: String,
}

impl StoreError {
    pub(crate) fn new(attempted: &'static str, error: &dyn fmt::Display) -> Self {
        Self {
            attempted,
            detail: error.to_string(),
        }
    }
}

/// Holds the join state.
///
/// A store is a cache of the newest snapshot and the log behind it: it need not be durable, and it may be wiped.
/// Iteration follows ids and due times, never the layout of a map.
pub trait JoinStore {
    /// Applies `change` to the slot of `id`, an empty one where there is none. A slot that it leaves empty is dropped.
    fn update<R>(&mut self, id: Id, change: impl FnOnce(&mut RequestSlot) -> R) -> Result<R, StoreError>;

    /// The slot whose `class` is due first, by (due time, id).
    fn first(&self, class: SlotClass) -> Result<Option<(EventTime, Id)>, StoreError>;

    /// The number of slots.
    fn len(&self) -> usize;

    /// True when there is no slot at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Visits every slot, in order of id.
    fn for_each(&self, visit: &mut dyn FnMut(Id, &RequestSlot)) -> Result<(), StoreError>;

    /// Drops every slot.
    fn clear(&mut self) -> Result<(), StoreError>;
}

/// The store in memory: about 100 bytes per open impression, 16 per item of it and 24 for its due time.
#[derive(Clone, Debug, Default)]
pub struct MemStore {
    slots: HashMap<Id, RequestSlot, BuildHasherDefault<IdHasher>>,
    due: [BTreeSet<(EventTime, Id)>; SlotClass::ALL.len()],
}

impl MemStore {
    /// The slot of `id`.
    pub fn get(&self, id: Id) -> Option<&RequestSlot> {
        self.slots.get(&id)
    }

    /// All ids, unordered.
    pub(crate) fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        self.slots.keys().copied()
    }

    fn index(&mut self, id: Id, before: DueTimes, after: DueTimes) {
        for (index, (before, after)) in self.due.iter_mut().zip(before.into_iter().zip(after)) {
            if before == after {
                continue;
            }
            if let Some(at) = before {
                index.remove(&(at, id));
            }
            if let Some(at) = after {
                index.insert((at, id));
            }
        }
    }
}

/// When each part of a slot is due.
type DueTimes = [Option<EventTime>; SlotClass::ALL.len()];

impl JoinStore for MemStore {
    fn update<R>(&mut self, id: Id, change: impl FnOnce(&mut RequestSlot) -> R) -> Result<R, StoreError> {
        let (result, before, after) = match self.slots.entry(id) {
            Entry::Occupied(mut entry) => {
                let before = entry.get().due();
                let result = change(entry.get_mut());
                let after = entry.get().due();
                if entry.get().is_empty() {
                    entry.remove();
                }
                (result, before, after)
            }
            Entry::Vacant(entry) => {
                let mut slot = RequestSlot::default();
                let result = change(&mut slot);
                let after = slot.due();
                if !slot.is_empty() {
                    entry.insert(slot);
                }
                (result, DueTimes::default(), after)
            }
        };
        self.index(id, before, after);
        Ok(result)
    }

    fn first(&self, class: SlotClass) -> Result<Option<(EventTime, Id)>, StoreError> {
        Ok(self.due[class as usize].first().copied())
    }

    fn len(&self) -> usize {
        self.slots.len()
    }

    fn for_each(&self, visit: &mut dyn FnMut(Id, &RequestSlot)) -> Result<(), StoreError> {
        let mut ids: Vec<Id> = self.slots.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if let Some(slot) = self.get(id) {
                visit(id, slot);
            }
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        *self = Self::default();
        Ok(())
    }
}
