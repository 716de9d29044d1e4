//! Tables of rows of other widths.

use ouzel_model::{Feature, ModelConfig, Table, Weights};
use ouzel_sample::Id;
use ouzel_snapshot::Arrays;

use super::{WeightsMigration, ids_of};
use crate::error::Error;

/// What became of a table of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMigration {
    /// Its name: that of a feature, `rows` for the shared one, `wide` for the wide part.
    pub name: String,
    /// Rows with their former values, or the leading ones of them.
    pub kept: usize,
    /// Rows that start anew when their id is learned from next.
    pub lost: usize,
    /// Floats of a row before; 0 where there was no table.
    pub former_width: usize,
    /// Floats of a row; 0 where there is no table any more.
    pub width: usize,
}

/// A table of a snapshot, weights and optimizer state in one row.
pub(super) struct SavedTable {
    name: &'static str,
    width: usize,
    stride: usize,
    ids: Vec<u64>,
    values: Vec<f32>,
    free: Vec<u32>,
    seen: Option<Vec<u32>>,
}

impl SavedTable {
    /// Takes the arrays of a table that is shaped like `shape`.
    pub(super) fn take(shape: &Table, prefix: &str, arrays: &mut Arrays) -> Result<Self, Error> {
        let name = |name: &str| format!("{prefix}{name}");
        let has = |arrays: &Arrays, name: &str| arrays.find(name).is_some();
        let ids = ids_of(arrays, &name("ids"))?;
        let (n, stride) = (ids.len(), shape.stride());
        let values = arrays.take::<f32>(&name("values"), &[n, stride])?;
        let mut free = Vec::new();
        if has(arrays, &name("free")) {
            free = arrays.take::<u32>(&name("free"), &[ouzel_snapshot::ANY])?;
        }
        let mut seen = None;
        if has(arrays, &name("seen")) {
            seen = Some(arrays.take::<u32>(&name("seen"), &[n])?);
        }
        Ok(Self {
            name: shape.name(),
            width: shape.dim(),
            stride,
            ids,
            values,
            free,
            seen,
        })
    }

    fn n_live(&self) -> usize {
        self.ids.len().saturating_sub(self.free.len())
    }

    /// The rows for `table`: leading floats, 0 for floats that are new, then the optimizer state.
    fn values_for(&self, table: &Table) -> Vec<f32> {
        if table.dim() == self.width {
            return self.values.clone();
        }
        let kept = self.width.min(table.dim());
        let mut values = Vec::with_capacity(self.ids.len() * table.stride());
        for row in self.values.chunks_exact(self.stride) {
            values.extend_from_slice(&row[..kept]);
            values.resize(values.len() + table.dim() - kept, 0.0);
            values.extend_from_slice(&row[self.width..]);
        }
        values
    }

    /// Fills the empty `table` with all rows.
    fn fill(&self, table: &mut Table, expires: bool) -> Result<(), Error> {
        table.import(&self.ids, &self.values_for(table), &self.free)?;
        if let Some(seen) = self.seen.as_ref().filter(|_| expires) {
            table.import_seen(seen)?;
        }
        Ok(())
    }

    /// Adds all rows to `table`, which has others.
    fn merge(&self, table: &mut Table) {
        let stride = table.stride();
        let values = self.values_for(table);
        for ((row, id), values) in (0u32..).zip(&self.ids).zip(values.chunks_exact(stride)) {
            if self.free.binary_search(&row).is_err() {
                let row = table.insert(Id(*id));
                table.row_mut(row).copy_from_slice(values);
            }
        }
    }
}

/// Moves the rows of a snapshot into the empty tables of `weights`.
///
/// Rows of one table do not say whose they are, so a feature that gets a table of its own starts anew.
pub(super) fn migrate(
    saved: &[SavedTable],
    (former, present): (&ModelConfig, &ModelConfig),
    weights: &mut Weights,
    expires: bool,
    (prefix, done): (&str, &mut WeightsMigration),
) -> Result<(), Error> {
    let is_own = |model: &ModelConfig, feature: Feature| model.width(feature) != model.dim;
    let find = |name: &str| saved.iter().find(|table| table.name == name);
    let mut report = |name: &str, kept: usize, lost: usize, widths: [usize; 2]| {
        done.tables.push(TableMigration {
            name: format!("{prefix}{name}"),
            kept,
            lost,
            former_width: widths[0],
            width: widths[1],
        });
    };
    let mut notes = Vec::new();
    if let Some(shared) = saved.first() {
        let is_read = Feature::ALL.iter().any(|feature| !is_own(present, *feature));
        let width = if is_read { present.dim } else { 0 };
        if let Some(table) = weights.rows.tables_mut().next().filter(|_| is_read) {
            shared.fill(table, expires)?;
            report("rows", shared.n_live(), 0, [shared.width, width]);
        } else {
            report("rows", 0, shared.n_live(), [shared.width, width]);
        }
    }
    for feature in Feature::ALL {
        let (name, width) = (feature.name(), present.width(feature));
        match (is_own(former, feature), is_own(present, feature)) {
            (true, true) => {
                let Some(table) = find(name) else { continue };
                table.fill(weights.rows.table_mut(feature), expires)?;
                report(name, table.n_live(), 0, [table.width, width]);
            }
            (true, false) => {
                let Some(table) = find(name) else { continue };
                table.merge(weights.rows.table_mut(feature));
                report(name, table.n_live(), 0, [table.width, width]);
            }
            (false, true) => notes.push(format!(
                "rows of the feature {name} start anew: it gets a table of its own, and the shared one does not say which \
                 rows are its"
            )),
            (false, false) => {}
        }
    }
    if let Some(wide) = find("wide") {
        let widths = [wide.width, usize::from(present.wide)];
        if present.wide {
            wide.fill(&mut weights.wide, expires)?;
            report("wide", wide.n_live(), 0, widths);
        } else {
            report("wide", 0, wide.n_live(), widths);
        }
    }
    done.notes.extend(notes);
    Ok(())
}
