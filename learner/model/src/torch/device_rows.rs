//! A cache of embedding rows in the memory of a device.
//!
//! Tables are in host memory, where versions share their pages. Without the cache, a learner on a GPU would copy every
//! batch's rows to the device and their gradients back. Here a row is copied when a batch first learns from it, with its
//! optimizer state; it is updated on the device, and written back when a version is made or when its slot is needed for a
//! row read more recently. Values are copied bit by bit, so the size of the cache changes no result.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use tch::{Device, Kind, TchError, Tensor};

use ouzel_sample::{Id, IdHasher};

use crate::fields::Key;
use crate::host_slice::to_vec;
use crate::net::to_i64;
use crate::rows::Rows;

/// Initial number of slots; it doubles up to the maximum.
const INITIAL_SLOTS: usize = 1 << 12;

/// Cached rows, written back least recently read first.
#[derive(Debug)]
pub struct DeviceRows {
    /// Maximum number of rows; a batch that reads more may exceed it.
    max: usize,
    dim: usize,
    /// Weights padded to `dim`, then optimizer state, `[n_slots, dim + n_state]`.
    values: Tensor,
    slots: Vec<Option<Slot>>,
    slot_of: HashMap<Id, u32, BuildHasherDefault<IdHasher>>,
    free: Vec<u32>,
    /// Number of calls of [`load`](Self::load): the time by which rows are evicted.
    now: u64,
    n_copied: u64,
}

/// A cached row.
#[derive(Clone, Copy, Debug)]
struct Slot {
    key: Key,
    /// Its row in the table of its feature.
    row: u32,
    read: u64,
    /// Whether it was updated since it was last written back.
    is_dirty: bool,
}

impl DeviceRows {
    /// An empty cache for up to `max` of these rows.
    pub fn new(rows: &Rows, max: usize, device: Device) -> Result<Self, TchError> {
        let width = rows.dim() + rows.n_state();
        Ok(Self {
            max,
            dim: rows.dim(),
            values: Tensor::f_zeros([0, to_i64(width)], (Kind::Float, device))?,
            slots: Vec::new(),
            slot_of: HashMap::default(),
            free: Vec::new(),
            now: 0,
            n_copied: 0,
        })
    }

    /// Number of cached rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slot_of.len()
    }

    /// Whether no row is cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slot_of.is_empty()
    }

    /// Number of rows copied to the device since the last call.
    pub fn take_n_copied(&mut self) -> u64 {
        std::mem::take(&mut self.n_copied)
    }

    /// Reads the weights of these keys, `[n_keys, dim]`; those that are not cached from the tables. Caches nothing.
    pub fn read(&self, keys: &[Key], rows: &Rows) -> Result<Tensor, TchError> {
        let (mut cached, mut slots, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for (at, key) in (0..).zip(keys) {
            match self.slot_of.get(&key.id) {
                Some(slot) => {
                    cached.push(at);
                    slots.push(i64::from(*slot));
                }
                None => missing.push((at, *key)),
            }
        }
        let _no_grad = tch::no_grad_guard();
        let weights_of = |slots: &[i64]| -> Result<Tensor, TchError> {
            let values = self.values.f_index_select(0, &self.upload(slots)?)?;
            values.f_narrow(1, 0, to_i64(self.dim))
        };
        if missing.is_empty() {
            return weights_of(&slots);
        }
        let (others, keys): (Vec<i64>, Vec<Key>) = missing.into_iter().unzip();
        let uploaded = self.upload_rows(&rows.read_all(&keys), self.dim)?;
        let mut out = Tensor::f_zeros(
            [to_i64(cached.len() + others.len()), to_i64(self.dim)],
            self.kind(),
        )?;
        let _out = out.f_index_copy_(0, &self.upload(&others)?, &uploaded)?;
        if !cached.is_empty() {
            let _out = out.f_index_copy_(0, &self.upload(&cached)?, &weights_of(&slots)?)?;
        }
        Ok(out)
    }

    /// Caches these distinct rows of the tables. Returns their slots.
    pub fn load(&mut self, wanted: &[(Key, u32)], rows: &mut Rows) -> Result<Vec<i64>, TchError> {
        self.now += 1;
        let mut missing = Vec::new();
        for (key, row) in wanted {
            match self
                .slot_of
                .get(&key.id)
                .and_then(|at| self.slots[usize_of(*at)].as_mut())
            {
                Some(slot) => slot.read = self.now,
                None => missing.push((*key, *row)),
            }
        }
        self.make_room(missing.len(), rows)?;
        let mut values = Vec::with_capacity(missing.len() * self.width(rows));
        let mut slots = Vec::with_capacity(missing.len());
        for (key, row) in missing {
            let table = rows.table(key.feature);
            let (weights, state) = table.row(row).split_at(table.dim());
            values.extend_from_slice(weights);
            values.resize(values.len() + self.dim - table.dim(), 0.0);
            values.extend_from_slice(state);
            let slot = self.free.pop().expect("a slot was freed for every row");
            slots.push(i64::from(slot));
            self.slot_of.insert(key.id, slot);
            self.slots[usize_of(slot)] = Some(Slot {
                key,
                row,
                read: self.now,
                is_dirty: false,
            });
        }
        if !slots.is_empty() {
            self.n_copied += slots.len() as u64;
            let uploaded = self.upload_rows(&values, self.width(rows))?;
            let _values = tch::no_grad(|| self.values.f_index_copy_(0, &self.upload(&slots)?, &uploaded))?;
        }
        Ok(wanted
            .iter()
            .map(|(key, _)| i64::from(self.slot_of[&key.id]))
            .collect())
    }

    /// Updates rows: `next` maps their values `[n_slots, dim + n_state]` to new ones.
    pub fn update(
        &mut self,
        slots: &[i64],
        next: impl FnOnce(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        let at = self.upload(slots)?;
        let dirty = next(&self.values.f_index_select(0, &at)?)?;
        let _values = self.values.f_index_copy_(0, &at, &dirty)?;
        for slot in slots.iter().filter_map(|at| usize::try_from(*at).ok()) {
            if let Some(slot) = &mut self.slots[slot] {
                slot.is_dirty = true;
            }
        }
        Ok(())
    }

    /// Writes updated rows back to the host tables.
    pub fn flush(&mut self, rows: &mut Rows) -> Result<(), TchError> {
        let all: Vec<u32> = (0..).take(self.slots.len()).collect();
        self.write_back(&all, rows)
    }

    /// Drops rows that the tables no longer have. Call it after the tables removed rows and before they reuse them, and
    /// [`flush`](Self::flush) before the removal: a removed row's values stay in its page.
    pub fn forget(&mut self, rows: &Rows) {
        for (at, slot) in (0..).zip(&mut self.slots) {
            if let Some(removed) = slot.take_if(|slot| rows.find(slot.key) != Some(slot.row)) {
                self.slot_of.remove(&removed.key.id);
                self.free.push(at);
            }
        }
    }

    /// Makes `n` free slots: by growing up to the maximum, then by eviction, and by growing beyond it for a batch that needs
    /// more.
    fn make_room(&mut self, n: usize, rows: &mut Rows) -> Result<(), TchError> {
        if n <= self.free.len() {
            return Ok(());
        }
        let wanted = self.slots.len() - self.free.len() + n;
        if self.slots.len() < self.max {
            self.grow(wanted.next_power_of_two().max(INITIAL_SLOTS).min(self.max))?;
        }
        if n > self.free.len() {
            self.evict(n - self.free.len(), rows)?;
        }
        self.grow(self.slots.len() + n.saturating_sub(self.free.len()))
    }

    /// Evicts `n` rows or more, least recently read first, but none that the current batch reads.
    fn evict(&mut self, n: usize, rows: &mut Rows) -> Result<(), TchError> {
        let mut others: Vec<(u64, u32)> = (0..)
            .zip(&self.slots)
            .filter_map(|(at, slot)| slot.map(|slot| (slot.read, at)))
            .filter(|(read, _)| *read < self.now)
            .collect();
        others.sort_unstable();
        // A tenth at once, so that the next batches evict nothing.
        others.truncate(n.max(self.slots.len() / 10));
        let evicted: Vec<u32> = others.into_iter().map(|(_, at)| at).collect();
        self.write_back(&evicted, rows)?;
        for at in evicted {
            if let Some(removed) = self.slots[usize_of(at)].take() {
                self.slot_of.remove(&removed.key.id);
                self.free.push(at);
            }
        }
        Ok(())
    }

    fn grow(&mut self, n: usize) -> Result<(), TchError> {
        let before = self.slots.len();
        if n <= before {
            return Ok(());
        }
        let (_, width) = self.values.size2()?;
        let more = Tensor::f_zeros([to_i64(n - before), width], self.kind())?;
        self.values = Tensor::f_cat(&[&self.values, &more], 0)?;
        self.slots.resize(n, None);
        let new = (before..n).rev().filter_map(|at| u32::try_from(at).ok());
        self.free.extend(new);
        Ok(())
    }

    /// Writes back those of these rows that were updated.
    fn write_back(&mut self, slots: &[u32], rows: &mut Rows) -> Result<(), TchError> {
        let dirty: Vec<(i64, Slot)> = slots
            .iter()
            .filter_map(|at| Some((i64::from(*at), self.slots[usize_of(*at)]?)))
            .filter(|(_, slot)| slot.is_dirty)
            .collect();
        if dirty.is_empty() {
            return Ok(());
        }
        let at: Vec<i64> = dirty.iter().map(|(at, _)| *at).collect();
        let values = to_vec(&self.values.f_index_select(0, &self.upload(&at)?)?)?;
        for ((at, slot), values) in dirty.iter().zip(values.chunks_exact(self.width(rows))) {
            let (weights, state) = values.split_at(self.dim);
            let table = rows.table_mut(slot.key.feature);
            let dim = table.dim();
            let row = table.row_mut(slot.row);
            row[..dim].copy_from_slice(&weights[..dim]);
            row[dim..].copy_from_slice(state);
            if let Some(slot) = usize::try_from(*at).ok().and_then(|at| self.slots[at].as_mut()) {
                slot.is_dirty = false;
            }
        }
        Ok(())
    }

    fn width(&self, rows: &Rows) -> usize {
        self.dim + rows.n_state()
    }

    fn kind(&self) -> (Kind, Device) {
        (Kind::Float, self.values.device())
    }

    fn upload(&self, at: &[i64]) -> Result<Tensor, TchError> {
        Tensor::f_from_slice(at)?.f_to_device(self.values.device())
    }

    fn upload_rows(&self, values: &[f32], width: usize) -> Result<Tensor, TchError> {
        let rows = Tensor::f_from_slice(values)?.f_view([-1, to_i64(width)])?;
        rows.f_to_device(self.values.device())
    }
}

fn usize_of(at: u32) -> usize {
    usize::try_from(at).expect("a slot in memory")
}

#[cfg(test)]
mod tests;
