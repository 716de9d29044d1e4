//! The rows that two versions of a table do not share.

use std::sync::Arc;

use super::{PAGE_ROWS, Table};

impl Table {
    /// Calls `visit` with the weights and state `[stride]` of each live row that `before` lacks or has other values for,
    /// and with the values before if the row belonged to the same id.
    ///
    /// Pages that both versions share are skipped unread, so the cost is that of the pages written since `before`. A row
    /// with NaN always counts as changed. Without `before`, every live row does.
    pub fn for_each_changed(&self, before: Option<&Self>, mut visit: impl FnMut(&[f32], Option<&[f32]>)) {
        let old = before.map_or(&[][..], |before| &before.pages);
        let old_ids = before.map_or(&[][..], |before| &before.ids);
        let mut free = self.free.rows().iter().copied().peekable();
        for (at, page) in self.pages.iter().enumerate() {
            let old = old.get(at);
            let start = at * PAGE_ROWS;
            if old.is_some_and(|old| Arc::ptr_eq(old, page)) {
                continue;
            }
            let old_rows = old.map_or(&[][..], |old| old);
            for (n, row) in page.chunks_exact(self.stride).enumerate() {
                let number = start + n;
                while free.next_if(|free| super::usize_of(*free) < number).is_some() {}
                let is_free = free.peek().is_some_and(|free| super::usize_of(*free) == number);
                let before = old_rows.get(n * self.stride..(n + 1) * self.stride);
                if !is_free && before.is_none_or(|before| before != row) {
                    let old_id = old_ids.get(at).and_then(|ids| ids.get(n));
                    visit(row, before.filter(|_| old_id == Some(&self.ids[at][n])));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ouzel_sample::Id;

    use super::*;

    #[test]
    fn exactly_the_rows_written_since_a_version_are_visited() {
        let mut table = Table::new("rows", 2, 1, 0.02, 0.0, 7);
        for id in 0..400 {
            table.insert(Id(id));
        }
        let before = table.clone();
        let changed = |table: &Table, before: Option<&Table>| {
            let mut rows = Vec::new();
            table.for_each_changed(before, |row, _| rows.push(row.to_vec()));
            rows
        };
        assert_eq!(changed(&table, Some(&before)).len(), 0);
        assert_eq!(changed(&table, None).len(), 400);
        for id in [3, 300] {
            let row = table.insert(Id(id));
            table.row_mut(row).fill(9.0);
        }
        table.insert(Id(1000));
        let rows = changed(&table, Some(&before));
        assert_eq!((rows.len(), &rows[0]), (3, &vec![9.0; 3]));
        // A row that is free is nobody's.
        table.forget(&[Id(300)]);
        assert_eq!(changed(&table, Some(&before)).len(), 2);
        let row = table.insert(Id(5));
        table.row_mut(row).fill(f32::NAN);
        let copy = table.clone();
        table.insert(Id(2000));
        let row = table.insert(Id(6));
        table.row_mut(row).fill(1.0);
        assert!(changed(&table, Some(&copy)).len() >= 2, "NaN differs from itself");
    }
}
