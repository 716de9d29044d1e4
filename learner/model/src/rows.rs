//! The embedding rows of a model: one table, and one more for each feature whose rows are narrower.
//!
//! Blocks read rows of one width, the model's `dim`. A narrower row is read with zeros behind it: a fixed projection
//! that costs no weight, so that products in pairs are those of the floats that both sides have, and the gradient
//! stops where the row does. Keys of features never meet, so features of the full width share one table and its bound.

use crate::config::ModelConfig;
use crate::fields::{Feature, Key};
use crate::table::{Pages, Table};

/// Name of the table that features share.
const SHARED: &str = "rows";

/// Tables of rows. Cloning makes a version, see [`Table`].
#[derive(Clone, Debug)]
pub struct Rows {
    dim: usize,
    shared: Table,
    own: [Option<Table>; Feature::N],
    /// Features whose ids wait for their rows: without one they read as zeros, not as a new row.
    waits: [bool; Feature::N],
}

impl Rows {
    /// Empty tables, `n_state` floats of the optimizer behind each row, from `init_state`.
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

    /// Has an id without a row read as zeros, by feature: that of the features whose ids must be seen more often
    /// before they have one.
    pub fn set_waits(&mut self, waits: [bool; Feature::N]) {
        self.waits = waits;
    }

    /// Floats of a row as the blocks read it.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Floats of the optimizer behind a row.
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

    /// The same, to be written.
    pub fn table_mut(&mut self, feature: Feature) -> &mut Table {
        self.own[feature.index()].as_mut().unwrap_or(&mut self.shared)
    }

    /// The tables, the shared one first.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        std::iter::once(&self.shared).chain(self.own.iter().flatten())
    }

    /// The same, to be written.
    pub fn tables_mut(&mut self) -> impl Iterator<Item = &mut Table> {
        std::iter::once(&mut self.shared).chain(self.own.iter_mut().flatten())
    }

    /// The row of `key` in its feature's table, made if it is not there.
    pub fn insert(&mut self, key: Key) -> u32 {
        self.table_mut(key.feature).insert(key.id)
    }

    /// The row of `key` in its feature's table, if this version has it.
    #[must_use]
    pub fn find(&self, key: Key) -> Option<u32> {
        self.table(key.feature).find(key.id)
    }

    /// Copies the weights of `key` into `out [dim]`, zeros behind a narrow row. Of an id without a row these are what
    /// a new row starts from, or zeros where ids wait for theirs.
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
    fn a_narrow_row_reads_with_zeros_behind_it_and_costs_no_more_than_it_holds() {
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
    fn an_id_that_waits_for_its_row_reads_as_zeros() {
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
