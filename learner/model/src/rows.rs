//! The embedding rows of a model: one shared table, and one for each feature whose rows are narrower.
//!
//! Blocks read rows of one width, the model's `dim`. A narrower row is padded with zeros, so pairwise products cover the
//! floats that both rows have, and gradients stop at the row's width. Keys of different features never collide, so all
//! features of full width share one table and its bound.

use crate::config::ModelConfig;
use crate::fields::{Feature, Key};
use crate::table::{Pages, Table};

/// Name of the shared table.
const SHARED: &str = "rows";

/// The tables of embedding rows. Cloning makes a version, see [`Table`].
#[derive(Clone, Debug)]
pub struct Rows {
    dim: usize,
    shared: Table,
    own: [Option<Table>; Feature::N],
    /// Features whose ids are admitted later: without a row they read as zeros, not as a new row.
    waits: [bool; Feature::N],
}

impl Rows {
    /// Empty tables. Each row ends with `n_state` floats of optimizer state that start at `init_state`.
    #[must_use]
    pub fn new(config: &ModelConfig, n_state: usize, init_state: f32) -> Self {
        let (std, seed) = (config.row_init_std, config.seed);
        let table = |name, width| Table::new(name, width, n_state, std, init_state, seed);
        let own = Feature::ALL.map(|feature| {
            let width = config.width(feature);
            (width != config.dim).then(|| table(feature.name(), width))
        });
        Self {
            dim: config.dim,
            shared: table(SHARED, config.dim),
            own,
            waits: [false; Feature::N],
        }
    }

    /// Sets for which features an id without a row reads as zeros: those whose ids must be seen before they are admitted.
    pub fn set_waits(&mut self, waits: [bool; Feature::N]) {
        self.waits = waits;
    }

    /// Floats of a row as blocks read it.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Floats of optimizer state of a row.
    #[must_use]
    pub fn n_state(&self) -> usize {
        self.shared.stride() - self.shared.dim()
    }

    /// Floats of weight in a row of this feature, at most `dim`.
    #[must_use]
    pub fn width(&self, feature: Feature) -> usize {
        self.table(feature).dim()
    }

    /// The table of a feature.
    #[must_use]
    pub fn table(&self, feature: Feature) -> &Table {
        self.own[feature.index()].as_ref().unwrap_or(&self.shared)
    }

    /// The table of a feature, for writing.
    pub fn table_mut(&mut self, feature: Feature) -> &mut Table {
        self.own[feature.index()].as_mut().unwrap_or(&mut self.shared)
    }

    /// The tables, the shared one first.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        std::iter::once(&self.shared).chain(self.own.iter().flatten())
    }

    /// The table of a feature, for writing.
    pub fn tables_mut(&mut self) -> impl Iterator<Item = &mut Table> {
        std::iter::once(&mut self.shared).chain(self.own.iter_mut().flatten())
    }

    /// Creates every row of `others`, with the leading floats that both widths have and their optimizer state. Features whose
    /// rows are in a table of their own here alone stay without rows.
    pub fn copy_from(&mut self, others: &Self) {
        for feature in Feature::ALL
            .into_iter()
            .filter(|feature| others.own[feature.index()].is_some())
        {
            self.table_mut(feature).copy_from(others.table(feature));
        }
        self.shared.copy_from(&others.shared);
    }

    /// The row of `key` in its feature's table, created if it is missing.
    pub fn insert(&mut self, key: Key) -> u32 {
        self.table_mut(key.feature).insert(key.id)
    }

    /// The row of `key` in its feature's table, if this version has it.
    #[must_use]
    pub fn find(&self, key: Key) -> Option<u32> {
        self.table(key.feature).find(key.id)
    }

    /// Copies the weights of `key` into `out [dim]`, padded with zeros. An id without a row has the values of a new row, or
    /// zeros where ids must be admitted first.
    pub fn read(&self, key: Key, out: &mut [f32]) {
        let table = self.table(key.feature);
        let (row, rest) = out.split_at_mut(table.dim());
        rest.fill(0.0);
        if self.waits[key.feature.index()] && table.find(key.id).is_none() {
            row.fill(0.0);
        } else {
            table.read(key.id, row);
        }
    }

    /// The weights of these keys, `[n_keys, dim]`.
    #[must_use]
    pub fn read_all(&self, keys: &[Key]) -> Vec<f32> {
        let mut out = vec![0.0; keys.len() * self.dim];
        for (key, out) in keys.iter().zip(out.chunks_exact_mut(self.dim)) {
            self.read(*key, out);
        }
        out
    }

    /// The pages of every table, in the order of [`tables`](Self::tables).
    #[must_use]
    pub fn pages(&self) -> Vec<Pages> {
        self.tables().map(Table::pages).collect()
    }
}

#[cfg(test)]
mod tests {
    use ouzel_sample::Id;

    use super::*;
    use crate::config::Dims;

    fn rows() -> Rows {
        let config = ModelConfig {
            dim: 6,
            dims: Dims {
                item: 4,
                ..Dims::default()
            },
            ..ModelConfig::default()
        };
        Rows::new(&config, 1, 0.1)
    }

    #[test]
    fn a_narrow_row_is_padded_with_zeros_and_stored_without_them() {
        let mut rows = rows();
        assert_eq!([Feature::User, Feature::Item].map(|f| rows.width(f)), [6, 4]);
        let read = rows.read_all(&[Key::item(Id(1)), Key::user(Id(1))]);
        assert!(
            read[..4].iter().chain(&read[6..]).all(|value| *value != 0.0),
            "{read:?}"
        );
        assert_eq!(read[4..6], [0.0, 0.0]);
        let row = rows.insert(Key::item(Id(1)));
        assert_eq!(rows.table(Feature::Item).row(row), &[&read[..4], &[0.1]].concat());
        assert_eq!(rows.read_all(&[Key::item(Id(1)), Key::user(Id(1))]), read);
        let names: Vec<_> = rows.tables().map(|table| (table.name(), table.len())).collect();
        assert_eq!(names, [("rows", 0), ("item", 1)]);
    }

    #[test]
    fn an_id_that_is_not_admitted_yet_reads_as_zeros() {
        let mut rows = rows();
        rows.set_waits([false, true, false]);
        let keys = [Key::item(Id(1)), Key::user(Id(1))];
        let before = rows.read_all(&keys);
        assert_eq!(before[..6], [0.0; 6]);
        assert!(before[6..].iter().all(|value| *value != 0.0), "users do not wait");
        rows.insert(keys[0]);
        assert!(rows.read_all(&keys)[..4].iter().all(|value| *value != 0.0));
    }
}
