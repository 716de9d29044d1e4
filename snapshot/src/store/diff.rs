//! Compares two snapshots: fields of the manifests, and values of arrays.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::Store;
use super::table_diff::{TableDiff, diff_tables};
use crate::{Array, Arrays, Dtype, Error, FileEntry, FileKind, Snapshot, SnapshotId};

/// The differences between two snapshots.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// The first snapshot.
    pub a: SnapshotId,
    /// The second snapshot.
    pub b: SnapshotId,
    /// Differing fields of the manifests, without `files`.
    pub fields: Vec<FieldDiff>,
    /// All files of both.
    pub files: Vec<FileDiff>,
}

/// A differing field of the manifests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldDiff {
    /// Its path, such as `/cut/batch_seq`.
    pub field: String,
    /// Its value in the first; `null` when absent.
    pub a: Value,
    /// Its value in the second.
    pub b: Value,
}

/// A file of either snapshot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileDiff {
    /// Its name.
    pub name: String,
    /// Size in the first, bytes, if present.
    pub a_bytes: Option<u64>,
    /// Size in the second, bytes, if present.
    pub b_bytes: Option<u64>,
    /// True when both have the same bytes.
    pub is_equal: bool,
    /// The differing arrays, when both are files of arrays.
    pub arrays: Vec<ArrayDiff>,
    /// The churn of tables, when both are files of arrays.
    pub tables: Vec<TableDiff>,
}

/// A differing array.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArrayDiff {
    /// Its name.
    pub name: String,
    /// Type and shape in the first, if present.
    pub a: Option<(Dtype, Vec<usize>)>,
    /// Type and shape in the second, if present.
    pub b: Option<(Dtype, Vec<usize>)>,
    /// Euclidean norm in the first; `None` when it is not finite or the array is absent.
    pub a_norm: Option<f64>,
    /// Euclidean norm in the second.
    pub b_norm: Option<f64>,
    /// Number of compared values: all of equal shapes, the common rows of grown tables, otherwise none.
    pub n_compared: usize,
    /// Number of compared values that differ in any bit.
    pub n_differing: usize,
    /// Euclidean norm of the differences; `None` when nothing was compared or it is not finite.
    pub diff_norm: Option<f64>,
    /// Largest absolute difference; `None` when nothing was compared or it is not finite.
    pub max_abs_diff: Option<f64>,
}

impl Store {
    /// Compares two snapshots. Differing files of arrays are read into memory, two at a time.
    ///
    /// `n_state` tells how many values at the end of a row of a file's tables are optimizer state.
    ///
    /// # Errors
    /// As for [`Store::read`].
    pub fn diff(&self, a: SnapshotId, b: SnapshotId, n_state: impl Fn(&str) -> usize) -> Result<Diff, Error> {
        let (left, right) = (self.peek(a)?, self.peek(b)?);
        let entries = |snapshot: &Snapshot| -> BTreeMap<String, FileEntry> {
            let files = snapshot.manifest().files.iter();
            files.map(|entry| (entry.name.clone(), entry.clone())).collect()
        };
        let (left_files, right_files) = (entries(&left), entries(&right));
        let names: BTreeSet<&String> = left_files.keys().chain(right_files.keys()).collect();
        let mut files = Vec::new();
        for name in names {
            let (in_left, in_right) = (left_files.get(name), right_files.get(name));
            let hash = |entry: &FileEntry| (entry.kind, entry.content_hash().to_owned());
            let is_equal = in_left.map(hash) == in_right.map(hash);
            let both = in_left
                .zip(in_right)
                .filter(|(entry, _)| !is_equal && entry.kind == FileKind::Arrays);
            let (arrays, tables) = match both {
                Some(_) => {
                    let (left, right) = (left.arrays(name)?, right.arrays(name)?);
                    (
                        diff_arrays(&left, &right),
                        diff_tables(name, &left, &right, n_state(name))?,
                    )
                }
                None => (Vec::new(), Vec::new()),
            };
            files.push(FileDiff {
                name: name.clone(),
                a_bytes: in_left.map(|entry| entry.bytes),
                b_bytes: in_right.map(|entry| entry.bytes),
                is_equal,
                arrays,
                tables,
            });
        }
        Ok(Diff {
            a,
            b,
            fields: diff_fields(&left, &right),
            files,
        })
    }
}

fn diff_fields(left: &Snapshot, right: &Snapshot) -> Vec<FieldDiff> {
    let leaves = |snapshot: &Snapshot| {
        let mut leaves = BTreeMap::new();
        let value =
            serde_json::to_value(snapshot.manifest()).expect("a manifest that was read can be written");
        flatten(String::new(), value, &mut leaves);
        leaves
    };
    let (left, right) = (leaves(left), leaves(right));
    let fields: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let values = fields.into_iter().map(|field| FieldDiff {
        field: field.clone(),
        a: left.get(field).cloned().unwrap_or_default(),
        b: right.get(field).cloned().unwrap_or_default(),
    });
    values.filter(|field| field.a != field.b).collect()
}

/// Collects the leaves of `value` by path, without `/files`.
fn flatten(path: String, value: Value, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(format!("{path}/{name}"), value, leaves);
            }
        }
        _ if path == "/files" => {}
        leaf => {
            leaves.insert(path, leaf);
        }
    }
}

fn diff_arrays(left: &Arrays, right: &Arrays) -> Vec<ArrayDiff> {
    let names: BTreeSet<&str> = left.iter().chain(right.iter()).map(|(name, _)| name).collect();
    let pairs = names
        .into_iter()
        .map(|name| (name, left.find(name), right.find(name)));
    pairs
        .filter(|(_, a, b)| a != b)
        .map(|(name, a, b)| diff_array(name, a, b))
        .collect()
}

fn diff_array(name: &str, a: Option<&Array>, b: Option<&Array>) -> ArrayDiff {
    let (mut n_compared, mut n_differing, mut max_abs_diff, mut squares) = (0, 0, 0.0f64, 0.0f64);
    if let (Some(a), Some(b)) = (a, b)
        && a.dtype() == b.dtype()
        && a.shape().len() == b.shape().len()
        && a.shape().get(1..) == b.shape().get(1..)
    {
        for ((a, a_bits), (b, b_bits)) in a.numbers().zip(b.numbers()) {
            n_compared += 1;
            if a_bits != b_bits {
                n_differing += 1;
                let diff = (a - b).abs();
                squares += diff * diff;
                max_abs_diff = if diff.is_nan() {
                    f64::INFINITY
                } else {
                    max_abs_diff.max(diff)
                };
            }
        }
    }
    let kind = |array: &Array| (array.dtype(), array.shape().to_vec());
    ArrayDiff {
        name: name.to_owned(),
        a: a.map(kind),
        b: b.map(kind),
        a_norm: a.and_then(norm),
        b_norm: b.and_then(norm),
        n_compared,
        n_differing,
        diff_norm: (n_compared > 0 && squares.is_finite()).then(|| squares.sqrt()),
        max_abs_diff: (n_compared > 0 && max_abs_diff.is_finite()).then_some(max_abs_diff),
    }
}

fn norm(array: &Array) -> Option<f64> {
    let norm = array
        .numbers()
        .map(|(value, _)| value * value)
        .sum::<f64>()
        .sqrt();
    norm.is_finite().then_some(norm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize], values: &[f32]) -> Array {
        Array::new(shape, values.to_vec()).unwrap()
    }

    #[test]
    fn a_grown_table_is_compared_in_its_common_rows() {
        let diff = diff_array(
            "rows",
            Some(&array(&[1, 2], &[3.0, 4.0])),
            Some(&array(&[2, 2], &[3.0, 2.0, 9.0, 9.0])),
        );
        assert_eq!(
            (diff.n_compared, diff.n_differing, diff.max_abs_diff),
            (2, 1, Some(2.0))
        );
        assert_eq!(diff.a_norm, Some(5.0));
    }

    #[test]
    fn arrays_of_other_types_or_shapes_are_not_compared() {
        let a = array(&[4], &[0.0; 4]);
        for b in [
            array(&[2, 2], &[0.0; 4]),
            Array::new(&[4], vec![0i32; 4]).unwrap(),
        ] {
            let diff = diff_array("x", Some(&a), Some(&b));
            assert_eq!((diff.n_compared, diff.max_abs_diff), (0, None));
        }
        assert_eq!(diff_array("x", Some(&a), None).b, None);
    }

    #[test]
    fn a_nan_differs_without_a_largest_difference() {
        let diff = diff_array(
            "x",
            Some(&array(&[2], &[1.0, 1.0])),
            Some(&array(&[2], &[f32::NAN, 1.5])),
        );
        assert_eq!(
            (diff.n_differing, diff.max_abs_diff, diff.b_norm),
            (2, None, None)
        );
    }
}
