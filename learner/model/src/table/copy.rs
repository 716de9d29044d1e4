//! Rows of another width: a table filled from one of a model that is narrower or wider.

use super::Table;

impl Table {
    /// Creates every row of `other` here, with the leading floats that both widths have, its optimizer state and its
    /// last-seen time. Floats beyond those of `other` are those of a new row.
    pub fn copy_from(&mut self, other: &Self) {
        if other.seen.is_some() {
            self.keep_seen(0);
        }
        let n_shared = self.dim.min(other.dim);
        for (from, id) in other.live() {
            let row = self.insert(id);
            let (dim, source) = (self.dim, other.row(from));
            let values = self.row_mut(row);
            values[..n_shared].copy_from_slice(&source[..n_shared]);
            for (state, of_source) in values[dim..].iter_mut().zip(&source[other.dim..]) {
                *state = *of_source;
            }
            if let Some(seen) = &other.seen {
                let (page, place) = Self::id_place(from);
                self.see(row, seen[page][place]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ouzel_sample::Id;

    use super::*;

    fn table(dim: usize) -> Table {
        Table::new("rows", dim, 1, 0.02, 0.1, 7)
    }

    #[test]
    fn rows_keep_their_leading_floats_their_state_and_when_they_were_seen() {
        let mut source = table(3);
        source.keep_seen(5);
        for (id, now) in [(4, 10), (9, 11), (2, 12)] {
            let row = source.insert(Id(id));
            source.row_mut(row).copy_from_slice(&[1.0, 2.0, 3.0, id as f32]);
            source.see(row, now);
        }
        source.forget(&[Id(9)]);
        for dim in [2, 5] {
            let mut copy = table(dim);
            copy.copy_from(&source);
            assert_eq!(copy.n_live(), 2);
            for (id, now) in [(4, 10), (2, 12)] {
                let row = copy.find(Id(id)).unwrap();
                let mut new = vec![0.0; dim];
                table(dim).read(Id(id), &mut new);
                let expected = [1.0, 2.0, 3.0].into_iter().chain(new.iter().skip(3).copied());
                let expected: Vec<f32> = expected.take(dim).chain([id as f32]).collect();
                assert_eq!(copy.row(row), expected);
                let mut aged = copy.clone();
                assert_eq!(
                    (aged.expire(now), aged.find(Id(id)).is_some()),
                    (usize::from(id == 2), true)
                );
            }
        }
    }
}
