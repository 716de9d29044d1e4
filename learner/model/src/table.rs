//! Growing embedding tables without collisions: 64-bit id to row.
//!
//! Rows are stored in copy-on-write pages. Publishing a version clones the page pointers; the learner's next write to a
//! shared page copies that page alone. A row holds its weights and then the optimizer's state, so both are written,
//! snapshotted and rolled back together. At a million rows of 32 floats a row takes `4 * dim + 28` bytes, including
//! optimizer state, id, last-seen time and index entry (`tests/bytes.rs` measures it).

mod bound;
mod changed;
mod copy;
mod index;
mod seen;

use std::sync::Arc;

use ouzel_sample::Id;

use crate::error::Error;
use crate::random::normal;
use bound::Free;
use index::Index;

/// Rows of a page: few enough that writing one row copies little, enough that a version of a million rows clones some
/// thousand pointers.
pub const PAGE_ROWS: usize = 128;

/// The pages of a table, in row order.
#[derive(Clone, Debug, PartialEq)]
pub struct Pages {
    /// Ids, `[n_rows]` in all.
    pub ids: Vec<Arc<Vec<Id>>>,
    /// Weights and state, `[n_rows, stride]` in all.
    pub values: Vec<Arc<Vec<f32>>>,
    /// Last-seen times, `[n_rows]` in all; empty where they are not recorded.
    pub seen: Vec<Arc<Vec<u32>>>,
    /// Rows without an id, which are reused next, ascending.
    pub free: Vec<u32>,
}

/// An embedding table.
///
/// Cloning makes a published version. Pages are shared until written. The index is shared too: the one owner that inserts
/// only adds to it, and replaces it when it is full. A version does not see rows inserted after it was made.
#[derive(Clone, Debug)]
pub struct Table {
    name: &'static str,
    dim: usize,
    stride: usize,
    init_std: f32,
    init_state: f32,
    seed: u64,
    index: Index,
    ids: Vec<Arc<Vec<Id>>>,
    pages: Vec<Arc<Vec<f32>>>,
    /// Last-seen times, paged like the rows, where they are recorded.
    seen: Option<Vec<Arc<Vec<u32>>>>,
    n_rows: usize,
    free: Free,
}

impl Table {
    /// An empty table. A new row is drawn from `N(0, init_std^2)` as a pure function of `(seed, id)`, followed by `n_state`
    /// values of `init_state`.
    #[must_use]
    pub fn new(
        name: &'static str,
        dim: usize,
        n_state: usize,
        init_std: f32,
        init_state: f32,
        seed: u64,
    ) -> Self {
        Self {
            name,
            dim,
            stride: dim + n_state,
            init_std,
            init_state,
            seed,
            index: Index::for_rows(0),
            ids: Vec::new(),
            pages: Vec::new(),
            seen: None,
            n_rows: 0,
            free: Free::default(),
        }
    }

    /// Name in messages and snapshots.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Weights of a row, floats.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Floats of a row, optimizer state included.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Number of rows, those without an id included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.n_rows
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n_rows == 0
    }

    /// The row of `id`, if this version has it.
    #[must_use]
    pub fn find(&self, id: Id) -> Option<u32> {
        self.index.find(id, |row| {
            let (page, place) = Self::id_place(row);
            usize_of(row) < self.n_rows && self.ids[page][place] == id && !self.free.has(row)
        })
    }

    /// The row of `id`, created if it is missing.
    pub fn insert(&mut self, id: Id) -> u32 {
        if let Some(row) = self.find(id) {
            return row;
        }
        let row = match self.free.take() {
            Some(row) => {
                let (page, place) = Self::id_place(row);
                own(&mut self.ids[page], PAGE_ROWS)[place] = id;
                row
            }
            None => self.push(id),
        };
        let (dim, seed, std, state) = (self.dim, self.seed, self.init_std, self.init_state);
        let values = self.row_mut(row);
        fill_new(&mut values[..dim], seed, id, std);
        values[dim..].fill(state);
        self.add_to_index(id, row);
        row
    }

    /// Adds a row to the index; its page already has the id.
    fn add_to_index(&mut self, id: Id, row: u32) {
        if !self.index.is_full() {
            self.index.put(id, row);
            return;
        }
        // Entries of rows that were reused for other ids are left out.
        let index = Index::for_rows(self.live().count());
        for (row, id) in self.live() {
            index.put(id, row);
        }
        self.index = index;
    }

    /// Appends a row with this id and values of 0.
    fn push(&mut self, id: Id) -> u32 {
        let row = u32::try_from(self.n_rows).expect("a table has fewer than 2^32 rows");
        if self.n_rows.is_multiple_of(PAGE_ROWS) {
            self.pages
                .push(Arc::new(Vec::with_capacity(PAGE_ROWS * self.stride)));
            self.ids.push(Arc::new(Vec::with_capacity(PAGE_ROWS)));
            if let Some(seen) = &mut self.seen {
                seen.push(Arc::new(Vec::with_capacity(PAGE_ROWS)));
            }
        }
        let page = self
            .pages
            .last_mut()
            .expect("a page was pushed when the last one was full");
        let page = own(page, PAGE_ROWS * self.stride);
        page.resize(page.len() + self.stride, 0.0);
        let ids = self.ids.last_mut().expect("ids are paged like rows");
        own(ids, PAGE_ROWS).push(id);
        if let Some(seen) = self.seen.as_mut().and_then(|seen| seen.last_mut()) {
            own(seen, PAGE_ROWS).push(0);
        }
        self.n_rows += 1;
        row
    }

    /// Weights and state of a row, `[stride]`.
    #[must_use]
    pub fn row(&self, row: u32) -> &[f32] {
        let (page, start) = self.place(row);
        &self.pages[page][start..start + self.stride]
    }

    /// The same for writing. Copies the page if a published version shares it.
    pub fn row_mut(&mut self, row: u32) -> &mut [f32] {
        let (page, start) = self.place(row);
        let page = own(&mut self.pages[page], PAGE_ROWS * self.stride);
        &mut page[start..start + self.stride]
    }

    /// Copies the weights of `id` into `out [dim]`; without a row, those that a new row would have.
    ///
    /// So a scorer, which never inserts, scores an unseen id like the learner.
    pub fn read(&self, id: Id, out: &mut [f32]) {
        match self.find(id) {
            Some(row) => out.copy_from_slice(&self.row(row)[..self.dim]),
            None => fill_new(out, self.seed, id, self.init_std),
        }
    }

    /// All pages, shared without a copy.
    #[must_use]
    pub fn pages(&self) -> Pages {
        Pages {
            ids: self.ids.clone(),
            values: self.pages.clone(),
            seen: self.seen.clone().unwrap_or_default(),
            free: self.free.rows().to_vec(),
        }
    }

    /// Fills an empty table with `ids [n_rows]` and `values [n_rows, stride]`; the rows `free` have no id.
    pub fn import(&mut self, ids: &[u64], values: &[f32], free: &[u32]) -> Result<(), Error> {
        let wrong = Error::WrongRows {
            table: self.name,
            n_ids: ids.len(),
            n_values: values.len(),
            stride: self.stride,
        };
        let is_free_sound =
            free.is_sorted_by(|a, b| a < b) && free.last().is_none_or(|row| usize_of(*row) < ids.len());
        if values.len() != ids.len() * self.stride || !self.is_empty() || !is_free_sound {
            return Err(wrong);
        }
        self.free = Free::new(free.to_vec());
        for (id, values) in ids.iter().zip(values.chunks_exact(self.stride)) {
            let row = self.push(Id(*id));
            self.row_mut(row).copy_from_slice(values);
            if self.free.has(row) {
                continue;
            }
            // Found before it is added: an earlier row has the same id.
            if self.find(Id(*id)).is_some() {
                return Err(wrong);
            }
            self.add_to_index(Id(*id), row);
        }
        Ok(())
    }

    fn place(&self, row: u32) -> (usize, usize) {
        let row = usize_of(row);
        assert!(
            row < self.n_rows,
            "row {row} of {} in table {:?}",
            self.n_rows,
            self.name
        );
        (row / PAGE_ROWS, (row % PAGE_ROWS) * self.stride)
    }
}

/// The page for writing, copied with its full capacity if a version shares it.
fn own<T: Clone>(page: &mut Arc<Vec<T>>, capacity: usize) -> &mut Vec<T> {
    if Arc::get_mut(page).is_none() {
        let mut copy = Vec::with_capacity(capacity);
        copy.extend_from_slice(page);
        *page = Arc::new(copy);
    }
    Arc::get_mut(page).expect("a page just copied has one owner")
}

fn fill_new(out: &mut [f32], seed: u64, id: Id, std: f32) {
    for (lane, value) in (0u64..).zip(out.iter_mut()) {
        *value = if std > 0.0 {
            std * normal(seed, id.0, lane)
        } else {
            0.0
        };
    }
}

fn usize_of(row: u32) -> usize {
    usize::try_from(row).expect("a usize holds 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new("rows", 4, 1, 0.02, 0.1, 7)
    }

    fn export(table: &Table) -> (Vec<u64>, Vec<f32>) {
        let Pages {
            ids, values: pages, ..
        } = table.pages();
        (
            ids.iter().flat_map(|page| page.iter().map(|id| id.0)).collect(),
            pages.iter().flat_map(|page| page.to_vec()).collect(),
        )
    }

    #[test]
    fn an_unseen_id_reads_as_its_new_row() {
        let mut table = table();
        let (mut before, mut after) = ([0.0; 4], [0.0; 4]);
        table.read(Id(42), &mut before);
        let row = table.insert(Id(42));
        table.read(Id(42), &mut after);
        assert_eq!(before.map(f32::to_bits), after.map(f32::to_bits));
        assert_eq!(table.row(row)[4].to_bits(), 0.1f32.to_bits());
        assert!(before.iter().any(|x| *x != 0.0));
    }

    #[test]
    fn a_published_version_never_changes() {
        let mut table = table();
        for id in 0..300 {
            table.insert(Id(id));
        }
        let version = table.clone();
        let before = export(&version);
        table.row_mut(5)[0] = 9.0;
        table.insert(Id(1000));
        assert_eq!(export(&version), before);
        assert_eq!(version.find(Id(1000)), None);
        assert_eq!(version.len(), 300);
        assert_eq!(table.row(5)[0].to_bits(), 9.0f32.to_bits());
        assert!(
            Arc::ptr_eq(&version.pages[1], &table.pages[1]),
            "an unwritten page is shared"
        );
        assert!(!Arc::ptr_eq(&version.pages[0], &table.pages[0]));
    }

    #[test]
    fn import_restores_an_export_and_refuses_inconsistent_parts() {
        let mut source = table();
        for id in [5, 3, 900, 7] {
            let row = source.insert(Id(id));
            source.row_mut(row)[1] = 0.5;
        }
        let (ids, values) = export(&source);
        let mut copy = table();
        copy.import(&ids, &values, &[]).unwrap();
        assert_eq!(export(&copy), (ids.clone(), values.clone()));
        assert!(table().import(&ids[1..], &values, &[]).is_err());
        assert!(
            table().import(&[1, 1], &values[..10], &[]).is_err(),
            "an id twice"
        );
        assert!(
            copy.import(&ids, &values, &[]).is_err(),
            "a table that is not empty"
        );
    }
}
