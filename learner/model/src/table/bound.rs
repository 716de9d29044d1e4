//! Eviction: removes ids by name and, beyond a bound, the rows that have learned least.
//!
//! How much a row has learned is the last float of its state, the sum of its squared gradients; so which rows are evicted
//! is a function of the table alone. A tenth of the bound is evicted at once, because it takes a pass over all rows. Free
//! rows are reused in order.
//!
//! A published version does not change: it knows its rows by the ids in its own pages, index slots are never cleared, and
//! it skips rows that were free when it was made.

use std::sync::Arc;

use ouzel_sample::Id;

use super::{PAGE_ROWS, Table, usize_of};

/// Rows without an id, ascending; the first `n_taken` are reused already.
#[derive(Clone, Debug, Default)]
pub(super) struct Free {
    rows: Arc<Vec<u32>>,
    n_taken: usize,
}

impl Free {
    pub(super) fn new(mut rows: Vec<u32>) -> Self {
        rows.sort_unstable();
        Self {
            rows: Arc::new(rows),
            n_taken: 0,
        }
    }

    pub(super) fn rows(&self) -> &[u32] {
        &self.rows[self.n_taken..]
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        let row = self.rows().first().copied()?;
        self.n_taken += 1;
        Some(row)
    }

    pub(super) fn has(&self, row: u32) -> bool {
        self.rows().binary_search(&row).is_ok()
    }
}

impl Table {
    /// If there are more than `max` rows, evicts those that have learned least until a tenth of `max` is free. Returns the
    /// number evicted.
    pub fn bound(&mut self, max: usize) -> usize {
        let n_live = self.n_live();
        if n_live <= max {
            return 0;
        }
        let n_forgotten = n_live - (max - max / 10);
        // The sums are not negative, so their bits sort like their values.
        let mut order: Vec<(u32, Id, u32)> = self
            .live()
            .map(|(row, id)| (self.row(row)[self.stride - 1].to_bits(), id, row))
            .collect();
        order.select_nth_unstable(n_forgotten - 1);
        self.release(order[..n_forgotten].iter().map(|(_, _, row)| *row));
        n_forgotten
    }

    /// Removes the rows of these ids. Returns the number of ids that had one.
    pub fn forget(&mut self, ids: &[Id]) -> usize {
        let mut rows: Vec<u32> = ids.iter().filter_map(|id| self.find(*id)).collect();
        rows.sort_unstable();
        rows.dedup();
        let n_forgotten = rows.len();
        self.release(rows);
        n_forgotten
    }

    /// Frees these rows, each of which has an id.
    pub(super) fn release(&mut self, rows: impl IntoIterator<Item = u32>) {
        let mut free = self.free.rows().to_vec();
        let n_free = free.len();
        free.extend(rows);
        if free.len() > n_free {
            self.free = Free::new(free);
        }
    }

    /// Number of rows with an id.
    #[must_use]
    pub fn n_live(&self) -> usize {
        self.n_rows - self.free.rows().len()
    }

    /// All rows with an id, in row order.
    pub(super) fn live(&self) -> impl Iterator<Item = (u32, Id)> + '_ {
        let rows = self.ids.iter().flat_map(|page| page.iter().copied());
        let mut free = self.free.rows().iter().copied().peekable();
        (0..)
            .zip(rows)
            .filter(move |(row, _)| free.next_if_eq(row).is_none())
    }

    /// Page of a row's id, and position in it.
    pub(super) fn id_place(row: u32) -> (usize, usize) {
        let row = usize_of(row);
        (row / PAGE_ROWS, row % PAGE_ROWS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table whose row of id `n` has learned `n`.
    fn table(ids: std::ops::Range<u64>) -> Table {
        let mut table = Table::new("rows", 2, 1, 0.02, 0.0, 7);
        for id in ids {
            learn(&mut table, id);
        }
        table
    }

    fn learn(table: &mut Table, id: u64) {
        let row = table.insert(Id(id));
        #[allow(clippy::cast_precision_loss, reason = "small")]
        table.row_mut(row).copy_from_slice(&[id as f32, 1.0, id as f32]);
    }

    fn read(table: &Table, id: u64) -> [u32; 2] {
        let mut out = [0.0; 2];
        table.read(Id(id), &mut out);
        out.map(f32::to_bits)
    }

    #[test]
    fn what_has_learned_least_goes_and_reads_as_new() {
        let mut table = table(1..1001);
        assert_eq!(table.bound(1000), 0);
        learn(&mut table, 1001);
        assert_eq!(table.bound(1000), 101);
        assert_eq!(table.n_live(), 900);
        for id in 1..=1001 {
            assert_eq!(table.find(Id(id)).is_some(), id > 101, "{id}");
        }
        assert_eq!(read(&table, 5), read(&Table::new("rows", 2, 1, 0.02, 0.0, 7), 5));
        assert_eq!(read(&table, 500)[0], 500f32.to_bits());
        for id in 2000..2101 {
            let row = table.insert(Id(id));
            assert!(usize_of(row) < 1001, "free rows are taken first");
            assert_eq!(table.row(row)[2].to_bits(), 0, "with new state");
        }
        assert_eq!((table.n_live(), table.len()), (1001, 1001));
        table.insert(Id(9999));
        assert_eq!(table.len(), 1002);
    }

    #[test]
    fn a_version_made_before_or_between_stays_as_it_was() {
        let mut table = table(1..301);
        let before = table.clone();
        assert_eq!(table.bound(200), 120);
        let between = table.clone();
        for id in 1000..1120 {
            learn(&mut table, id);
        }
        // Forgotten once, it comes back.
        learn(&mut table, 7);
        for id in 1..301u64 {
            #[allow(clippy::cast_precision_loss, reason = "small")]
            let bits = (id as f32).to_bits();
            assert_eq!(read(&before, id)[0], bits, "{id}");
            assert_eq!(between.find(Id(id)).is_some(), id > 120, "{id}");
        }
        for id in 1000..1120 {
            assert_eq!((before.find(Id(id)), between.find(Id(id))), (None, None));
            assert!(table.find(Id(id)).is_some());
        }
        assert_eq!(read(&table, 7)[0], 7f32.to_bits());
    }

    #[test]
    fn an_id_forgotten_by_name_is_new_again_and_only_in_versions_made_later() {
        let mut table = table(1..300);
        let before = table.clone();
        assert_eq!(table.forget(&[Id(7), Id(7), Id(250), Id(9999)]), 2);
        assert_eq!((table.find(Id(7)), table.find(Id(250))), (None, None));
        assert_eq!(table.n_live(), 297);
        assert_eq!(read(&before, 7)[0], 7f32.to_bits());
        let between = table.clone();
        // The places of forgotten rows are taken by others, and the ids come back elsewhere: many times over.
        for round in 0..2000u64 {
            learn(&mut table, 10_000 + round);
            learn(&mut table, 7);
            assert_eq!(table.forget(&[Id(10_000 + round), Id(7)]), 2);
        }
        learn(&mut table, 250);
        assert_eq!((table.len(), table.n_live()), (299, 298));
        assert_eq!(read(&before, 250)[0], 250f32.to_bits());
        assert_eq!((between.find(Id(7)), between.find(Id(250))), (None, None));
        assert_eq!(read(&table, 250)[0], 250f32.to_bits());
        assert_eq!(table.forget(&[]), 0);
    }

    #[test]
    fn two_runs_evict_alike() {
        let run = || {
            let mut table = table(0..0);
            for step in 0..3000u64 {
                learn(&mut table, step * 7919 % 1013);
                table.bound(500);
            }
            table
        };
        let (one, other) = (run(), run());
        assert_eq!(one.pages(), other.pages());
        assert!(one.n_live() <= 500 && one.len() == 501, "{}", one.len());
    }

    #[test]
    fn a_restored_table_goes_on_as_the_one_it_was() {
        let mut straight = table(1..500);
        straight.bound(400);
        for id in 600..620 {
            learn(&mut straight, id);
        }
        learn(&mut straight, 3);
        let pages = straight.pages();
        let ids: Vec<u64> = pages
            .ids
            .iter()
            .flat_map(|page| page.iter().map(|id| id.0))
            .collect();
        let values: Vec<f32> = pages.values.iter().flat_map(|page| page.to_vec()).collect();
        let mut restored = Table::new("rows", 2, 1, 0.02, 0.0, 7);
        restored.import(&ids, &values, &pages.free).unwrap();
        for table in [&mut straight, &mut restored] {
            for id in 700..900 {
                learn(table, id);
                table.bound(400);
            }
        }
        assert_eq!(straight.pages(), restored.pages());
        let mut wrong = Table::new("rows", 2, 1, 0.02, 0.0, 7);
        assert!(wrong.import(&ids, &values, &[1, 1]).is_err());
    }
}
