//! Hot rows: those that batches read, kept where the learner computes.
//!
//! Tables are in host memory, where versions share their pages and snapshots find them. To a learner on a GPU every
//! batch would carry its rows up and their gradients down again. Here a row is carried up when a batch first reads it,
//! with the optimizer's state behind it, moves on the device, and is carried down when a version is made or when others,
//! read since, need its place. Values are carried as they are: how many rows are kept changes no bit of any of them.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use tch::{Device, Kind, TchError, Tensor};

use ouzel_sample::{Id, IdHasher};

use crate::fields::Key;
use crate::host_slice::to_vec;
use crate::net::to_i64;
use crate::rows::Rows;

/// Places at first; there are twice as many whenever they are full, up to what is allowed.
const PLACES: usize = 1 << 12;

/// A cache of rows on a device.
#[derive(Debug)]
pub struct DeviceRows {
    /// Rows kept at most, count; as many as one batch reads, where that is more.
    max: usize,
    dim: usize,
    /// Weights, zeros behind a narrow row, then the optimizer's state, `[n_places, dim + n_state]`.
    values: Tensor,
    places: Vec<Option<Place>>,
    found: HashMap<Id, u32, BuildHasherDefault<IdHasher>>,
    free: Vec<u32>,
    /// Calls of [`take`](Self::take), by which the row that was read longest ago is known.
    now: u64,
    n_carried: u64,
}

/// A row on the device.
#[derive(Clone, Copy, Debug)]
struct Place {
    key: Key,
    /// Where it is in its table.
    row: u32,
    read: u64,
    /// Whether its table has other values.
    is_moved: bool,
}

impl DeviceRows {
    /// Room for up to `max` of these rows.
    pub fn new(rows: &Rows, max: usize, device: Device) -> Result<Self, TchError> {
        let width = rows.dim() + rows.n_state();
        Ok(Self {
            max,
            dim: rows.dim(),
            values: Tensor::f_zeros([0, to_i64(width)], (Kind::Float, device))?,
            places: Vec::new(),
            found: HashMap::default(),
            free: Vec::new(),
            now: 0,
            n_carried: 0,
        })
    }

    /// Rows on the device.
    #[must_use]
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Rows that were carried to the device since this was asked last.
    pub fn take_carried(&mut self) -> u64 {
        std::mem::take(&mut self.n_carried)
    }

    /// The weights of these keys, `[n_keys, dim]`: of those that are not here as [`Rows::read`] has them. Keeps none.
    pub fn read(&self, keys: &[Key], rows: &Rows) -> Result<Tensor, TchError> {
        let (mut here, mut places, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for (at, key) in (0..).zip(keys) {
            match self.found.get(&key.id) {
                Some(place) => {
                    here.push(at);
                    places.push(i64::from(*place));
                }
                None => missing.push((at, *key)),
            }
        }
        let _no_grad = tch::no_grad_guard();
        let of_places = |places: &[i64]| -> Result<Tensor, TchError> {
            let values = self.values.f_index_select(0, &self.put(places)?)?;
            values.f_narrow(1, 0, to_i64(self.dim))
        };
        if missing.is_empty() {
            return of_places(&places);
        }
        let (others, keys): (Vec<i64>, Vec<Key>) = missing.into_iter().unzip();
        let carried = self.put_rows(&rows.read_all(&keys), self.dim)?;
        let mut out = Tensor::f_zeros([to_i64(here.len() + others.len()), to_i64(self.dim)], self.kind())?;
        let _out = out.f_index_copy_(0, &self.put(&others)?, &carried)?;
        if !here.is_empty() {
            let _out = out.f_index_copy_(0, &self.put(&here)?, &of_places(&places)?)?;
        }
        Ok(out)
    }

    /// Has rows of the tables here, each once. Returns their places.
    pub fn take(&mut self, wanted: &[(Key, u32)], rows: &mut Rows) -> Result<Vec<i64>, TchError> {
        self.now += 1;
        let mut missing = Vec::new();
        for (key, row) in wanted {
            match self
                .found
                .get(&key.id)
                .and_then(|at| self.places[usize_of(*at)].as_mut())
            {
                Some(place) => place.read = self.now,
                None => missing.push((*key, *row)),
            }
        }
        self.make_room(missing.len(), rows)?;
        let mut values = Vec::with_capacity(missing.len() * self.width(rows));
        let mut places = Vec::with_capacity(missing.len());
        for (key, row) in missing {
            let table = rows.table(key.feature);
            let (weights, state) = table.row(row).split_at(table.dim());
            values.extend_from_slice(weights);
            values.resize(values.len() + self.dim - table.dim(), 0.0);
            values.extend_from_slice(state);
            let place = self.free.pop().expect("room was made for every row");
            places.push(i64::from(place));
            self.found.insert(key.id, place);
            self.places[usize_of(place)] = Some(Place {
                key,
                row,
                read: self.now,
                is_moved: false,
            });
        }
        if !places.is_empty() {
            self.n_carried += places.len() as u64;
            let carried = self.put_rows(&values, self.width(rows))?;
            let _values = tch::no_grad(|| self.values.f_index_copy_(0, &self.put(&places)?, &carried))?;
        }
        Ok(wanted
            .iter()
            .map(|(key, _)| i64::from(self.found[&key.id]))
            .collect())
    }

    /// Moves rows: `next` makes of what they are, `[n_places, dim + n_state]`, what they will be.
    pub fn update(
        &mut self,
        places: &[i64],
        next: impl FnOnce(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        let at = self.put(places)?;
        let moved = next(&self.values.f_index_select(0, &at)?)?;
        let _values = self.values.f_index_copy_(0, &at, &moved)?;
        for place in places.iter().filter_map(|at| usize::try_from(*at).ok()) {
            if let Some(place) = &mut self.places[place] {
                place.is_moved = true;
            }
        }
        Ok(())
    }

    /// Has the tables hold what the rows are.
    pub fn flush(&mut self, rows: &mut Rows) -> Result<(), TchError> {
        let all: Vec<u32> = (0..).take(self.places.len()).collect();
        self.carry_back(&all, rows)
    }

    /// Lets go of rows that the tables do not have any more: to be called when they have forgotten some, before others
    /// take their places. What a forgotten row was stays in its table's page, so [`flush`](Self::flush) comes before.
    pub fn forget(&mut self, rows: &Rows) {
        for (at, place) in (0..).zip(&mut self.places) {
            if let Some(gone) = place.take_if(|place| rows.find(place.key) != Some(place.row)) {
                self.found.remove(&gone.key.id);
                self.free.push(at);
            }
        }
    }

    /// Makes `n` free places: by more of them, then in place of the rows that were read longest ago, but for those read
    /// now.
    fn make_room(&mut self, n: usize, rows: &mut Rows) -> Result<(), TchError> {
        if n <= self.free.len() {
            return Ok(());
        }
        let wanted = self.places.len() - self.free.len() + n;
        if self.places.len() < self.max {
            self.grow(wanted.next_power_of_two().max(PLACES).min(self.max))?;
        }
        if n > self.free.len() {
            self.evict(n - self.free.len(), rows)?;
        }
        self.grow(self.places.len() + n.saturating_sub(self.free.len()))
    }

    /// Gives up `n` places or more, as far as there are rows that were not read now.
    fn evict(&mut self, n: usize, rows: &mut Rows) -> Result<(), TchError> {
        let mut others: Vec<(u64, u32)> = (0..)
            .zip(&self.places)
            .filter_map(|(at, place)| place.map(|place| (place.read, at)))
            .filter(|(read, _)| *read < self.now)
            .collect();
        others.sort_unstable();
        // A tenth at once: the next batches find room.
        others.truncate(n.max(self.places.len() / 10));
        let going: Vec<u32> = others.into_iter().map(|(_, at)| at).collect();
        self.carry_back(&going, rows)?;
        for at in going {
            if let Some(gone) = self.places[usize_of(at)].take() {
                self.found.remove(&gone.key.id);
                self.free.push(at);
            }
        }
        Ok(())
    }

    fn grow(&mut self, n: usize) -> Result<(), TchError> {
        let before = self.places.len();
        if n <= before {
            return Ok(());
        }
        let (_, width) = self.values.size2()?;
        let more = Tensor::f_zeros([to_i64(n - before), width], self.kind())?;
        self.values = Tensor::f_cat(&[&self.values, &more], 0)?;
        self.places.resize(n, None);
        let new = (before..n).rev().filter_map(|at| u32::try_from(at).ok());
        self.free.extend(new);
        Ok(())
    }

    /// Writes those of these rows that have moved into their tables.
    fn carry_back(&mut self, places: &[u32], rows: &mut Rows) -> Result<(), TchError> {
        let moved: Vec<(i64, Place)> = places
            .iter()
            .filter_map(|at| Some((i64::from(*at), self.places[usize_of(*at)]?)))
            .filter(|(_, place)| place.is_moved)
            .collect();
        if moved.is_empty() {
            return Ok(());
        }
        let at: Vec<i64> = moved.iter().map(|(at, _)| *at).collect();
        let values = to_vec(&self.values.f_index_select(0, &self.put(&at)?)?)?;
        for ((at, place), values) in moved.iter().zip(values.chunks_exact(self.width(rows))) {
            let (weights, state) = values.split_at(self.dim);
            let table = rows.table_mut(place.key.feature);
            let dim = table.dim();
            let row = table.row_mut(place.row);
            row[..dim].copy_from_slice(&weights[..dim]);
            row[dim..].copy_from_slice(state);
            if let Some(place) = usize::try_from(*at).ok().and_then(|at| self.places[at].as_mut()) {
                place.is_moved = false;
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

    fn put(&self, at: &[i64]) -> Result<Tensor, TchError> {
        Tensor::f_from_slice(at)?.f_to_device(self.values.device())
    }

    fn put_rows(&self, values: &[f32], width: usize) -> Result<Tensor, TchError> {
        let rows = Tensor::f_from_slice(values)?.f_view([-1, to_i64(width)])?;
        rows.f_to_device(self.values.device())
    }
}

fn usize_of(at: u32) -> usize {
    usize::try_from(at).expect("a place in memory")
}

#[cfg(test)]
mod tests;
