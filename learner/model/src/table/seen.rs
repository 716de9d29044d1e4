//! Last-seen times of rows, where they are recorded: a number of the owner's clock per row.

use std::sync::Arc;

use super::{PAGE_ROWS, Table, own};
use crate::error::Error;

impl Table {
    /// Starts recording when rows are seen; existing rows count as seen `now`.
    pub fn keep_seen(&mut self, now: u32) {
        if self.seen.is_some() {
            return;
        }
        let page = |ids: &Arc<Vec<_>>| {
            let mut page = Vec::with_capacity(PAGE_ROWS);
            page.resize(ids.len(), now);
            Arc::new(page)
        };
        self.seen = Some(self.ids.iter().map(page).collect());
    }

    /// Records that a row is seen, if that is recorded.
    pub fn see(&mut self, row: u32, now: u32) {
        let (page, place) = Self::id_place(row);
        if let Some(page) = self.seen.as_mut().and_then(|seen| seen.get_mut(page)) {
            own(page, PAGE_ROWS)[place] = now;
        }
    }

    /// Removes the rows last seen before `oldest`, if that is recorded. Returns their number.
    pub fn expire(&mut self, oldest: u32) -> usize {
        let Some(seen) = &self.seen else { return 0 };
        let is_old = |row: u32| {
            let (page, place) = Self::id_place(row);
            seen[page][place] < oldest
        };
        let rows: Vec<u32> = self
            .live()
            .map(|(row, _)| row)
            .filter(|row| is_old(*row))
            .collect();
        let n_forgotten = rows.len();
        self.release(rows);
        n_forgotten
    }

    /// Restores last-seen times, `seen [n_rows]`.
    pub fn import_seen(&mut self, seen: &[u32]) -> Result<(), Error> {
        if seen.len() != self.n_rows {
            return Err(Error::WrongSeen {
                table: self.name,
                n_rows: self.n_rows,
                n_seen: seen.len(),
            });
        }
        let page = |seen: &[u32]| {
            let mut page = Vec::with_capacity(PAGE_ROWS);
            page.extend_from_slice(seen);
            Arc::new(page)
        };
        self.seen = Some(seen.chunks(PAGE_ROWS).map(page).collect());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ouzel_sample::Id;
    use proptest::prelude::*;

    use super::*;

    fn table() -> Table {
        Table::new("rows", 2, 1, 0.02, 0.0, 7)
    }

    #[test]
    fn rows_from_before_the_recording_count_as_seen_at_its_start() {
        let mut table = table();
        (0..200).for_each(|id| _ = table.insert(Id(id)));
        assert_eq!(table.expire(u32::MAX), 0, "nothing is recorded");
        table.keep_seen(10);
        table.keep_seen(99);
        let row = table.find(Id(150)).unwrap();
        table.see(row, 12);
        assert_eq!((table.expire(10), table.expire(11)), (0, 199));
        assert_eq!((table.find(Id(150)), table.n_live()), (Some(row), 1));
    }

    #[test]
    fn restored_times_must_cover_every_row() {
        let mut table = table();
        (0..200).for_each(|id| _ = table.insert(Id(id)));
        assert!(table.import_seen(&[1; 199]).is_err());
        table.import_seen(&[1; 200]).unwrap();
        assert_eq!(table.expire(2), 200);
    }

    proptest! {
        /// Agrees with a map from id to last-seen time, whatever is seen and expired.
        #[test]
        fn a_row_expires_when_it_was_not_seen_for_too_long(
            events in prop::collection::vec((0u64..30, 0u32..3, prop::bool::weighted(0.1)), 1..300),
        ) {
            let (mut table, mut last, mut now) = (table(), BTreeMap::new(), 100);
            table.keep_seen(now);
            for (id, passed, is_swept) in events {
                now += passed;
                let row = table.insert(Id(id));
                table.see(row, now);
                last.insert(id, now);
                if is_swept {
                    let before = last.len();
                    last.retain(|_, seen| *seen >= now - 8);
                    prop_assert_eq!(table.expire(now - 8), before - last.len());
                }
                for id in 0..30 {
                    prop_assert_eq!(table.find(Id(id)).is_some(), last.contains_key(&id), "{}", id);
                }
                prop_assert_eq!(table.n_live(), last.len());
            }
            let seen: Vec<u32> = table.pages().seen.iter().flat_map(|page| page.to_vec()).collect();
            for (id, seen_at) in last {
                let row = usize::try_from(table.find(Id(id)).unwrap()).unwrap();
                prop_assert_eq!(seen[row], seen_at);
            }
        }
    }
}
