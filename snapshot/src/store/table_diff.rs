//! Compares the rows of two versions of a table by their ids.

use std::collections::HashMap;

use serde::Serialize;

use crate::{ANY, Arrays, Error};

/// Number of rows that are listed as moved most.
const N_MOVED: usize = 5;

/// The churn of one table: arrays `ids [n_rows]`, `values [n_rows, stride]` and `free` of one prefix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableDiff {
    /// File and prefix of the arrays.
    pub table: String,
    /// Rows with an id in the first.
    pub a_rows: usize,
    /// Rows with an id in the second.
    pub b_rows: usize,
    /// Ids only in the second.
    pub added: usize,
    /// Ids only in the first.
    pub removed: usize,
    /// Ids in both whose values differ in any bit.
    pub changed: usize,
    /// The ids in both whose weights moved most, the farthest first.
    pub moved: Vec<MovedRow>,
}

/// A row that moved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MovedRow {
    /// Its id.
    pub id: u64,
    /// Euclidean distance of its weights.
    pub distance: f64,
    /// Euclidean norm of its weights in the second.
    pub norm: f64,
}

/// Compares every table of a file. The last `n_state` values of a row are optimizer state and count for no distance.
pub(super) fn diff_tables(
    file: &str,
    left: &Arrays,
    right: &Arrays,
    n_state: usize,
) -> Result<Vec<TableDiff>, Error> {
    let mut tables = Vec::new();
    for (name, _) in right.iter() {
        let Some(prefix) = name
            .strip_suffix("ids")
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        else {
            continue;
        };
        let values = format!("{prefix}values");
        if left.find(name).is_some() && left.find(&values).is_some() && right.find(&values).is_some() {
            tables.push(diff_table(file, prefix, [left, right], n_state)?);
        }
    }
    Ok(tables)
}

fn diff_table(file: &str, prefix: &str, both: [&Arrays; 2], n_state: usize) -> Result<TableDiff, Error> {
    let [a, b] = both.map(|arrays| Rows::read(arrays, prefix));
    let (a, b) = (a?, b?);
    let stride = a.stride.min(b.stride);
    let n_weights = stride.saturating_sub(n_state);
    let mut diff = TableDiff {
        table: format!(
            "{file}{}{}",
            if prefix.is_empty() { "" } else { "/" },
            prefix.trim_end_matches('.')
        ),
        a_rows: a.rows.len(),
        b_rows: b.rows.len(),
        added: 0,
        removed: a.rows.keys().filter(|id| !b.rows.contains_key(id)).count(),
        changed: 0,
        moved: Vec::new(),
    };
    for (id, after) in &b.rows {
        let Some(before) = a.rows.get(id) else {
            diff.added += 1;
            continue;
        };
        let bits = |row: &[f32]| row.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        if a.stride == b.stride && bits(before) == bits(after) {
            continue;
        }
        diff.changed += 1;
        let weights = before.iter().zip(*after).take(n_weights);
        let distance: f64 = weights
            .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
            .sum();
        let norm: f64 = after
            .iter()
            .take(n_weights)
            .map(|value| f64::from(*value).powi(2))
            .sum();
        diff.moved.push(MovedRow {
            id: *id,
            distance: distance.sqrt(),
            norm: norm.sqrt(),
        });
        if diff.moved.len() >= 1000 {
            keep_farthest(&mut diff.moved);
        }
    }
    keep_farthest(&mut diff.moved);
    Ok(diff)
}

fn keep_farthest(moved: &mut Vec<MovedRow>) {
    moved.sort_by(|a, b| b.distance.total_cmp(&a.distance).then(a.id.cmp(&b.id)));
    moved.truncate(N_MOVED);
}

/// The rows of a table by id, without those that have none.
struct Rows<'a> {
    rows: HashMap<u64, &'a [f32]>,
    stride: usize,
}

impl<'a> Rows<'a> {
    fn read(arrays: &'a Arrays, prefix: &str) -> Result<Self, Error> {
        let name = |name: &str| format!("{prefix}{name}");
        let ids = arrays.values::<u64>(&name("ids"), &[ANY])?;
        let stride = arrays
            .array(&name("values"))?
            .shape()
            .get(1)
            .copied()
            .unwrap_or(0);
        let std::borrow::Cow::Borrowed(values) =
            arrays.values::<f32>(&name("values"), &[ids.len(), stride])?
        else {
            return Err(Error::invalid(name("values"), "it is not in one piece"));
        };
        let free = match arrays.find(&name("free")) {
            Some(_) => arrays.values::<u32>(&name("free"), &[ANY])?.into_owned(),
            None => Vec::new(),
        };
        let rows = ids.iter().zip(values.chunks_exact(stride.max(1))).zip(0u32..);
        let live = rows.filter(|(_, row)| free.binary_search(row).is_err());
        Ok(Self {
            rows: live.map(|((id, values), _)| (*id, values)).collect(),
            stride,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Array;

    fn table(rows: &[(u64, [f32; 3])], free: &[u32]) -> Arrays {
        let mut arrays = Arrays::new();
        let ids: Vec<u64> = rows.iter().map(|(id, _)| *id).collect();
        let values: Vec<f32> = rows.iter().flat_map(|(_, values)| *values).collect();
        arrays
            .insert("user.ids", Array::new(&[rows.len()], ids).unwrap())
            .unwrap();
        arrays
            .insert("user.values", Array::new(&[rows.len(), 3], values).unwrap())
            .unwrap();
        if !free.is_empty() {
            arrays
                .insert("user.free", Array::new(&[free.len()], free.to_vec()).unwrap())
                .unwrap();
        }
        arrays
    }

    #[test]
    fn rows_are_compared_by_id_without_optimizer_state_and_free_rows() {
        let before = table(
            &[
                (7, [0.0, 0.0, 1.0]),
                (8, [1.0, 0.0, 1.0]),
                (9, [5.0, 5.0, 5.0]),
                (1, [0.0; 3]),
            ],
            &[3],
        );
        let after = table(&[(8, [1.0, 0.0, 2.0]), (7, [3.0, 4.0, 9.0]), (10, [0.0; 3])], &[]);
        let diff = &diff_tables("rows", &before, &after, 1).unwrap()[0];
        assert_eq!(diff.table, "rows/user");
        assert_eq!((diff.a_rows, diff.b_rows), (3, 3));
        assert_eq!((diff.added, diff.removed, diff.changed), (1, 1, 2));
        let moved: Vec<_> = diff
            .moved
            .iter()
            .map(|row| (row.id, row.distance, row.norm))
            .collect();
        assert_eq!(moved, [(7, 5.0, 5.0), (8, 0.0, 1.0)]);
    }
}
