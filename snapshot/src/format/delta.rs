//! Deltas: the rows of arrays that changed since another version of the same file.
//!
//! In a delta file, `NAME@rows [k]` are the numbers of the changed rows of array `NAME`, ascending, `NAME@values [k, ..]`
//! their values, and `NAME@len []` the number of rows. An array that is not split is in the file as it is.

use std::collections::BTreeMap;

use super::array::Array;
use super::arrays::Arrays;
use super::chunks::Chunks;
use super::element::{Dtype, Element, with_chunks, with_type};
use crate::ANY;

/// Arrays with fewer rows are stored whole.
const MIN_ROWS: usize = 1024;
/// Rows of at most this many bytes are their own key.
const KEY_BYTES: usize = 16;

const ROWS: &str = "@rows";
const VALUES: &str = "@values";
const LEN: &str = "@len";

/// The keys of an array's rows: equal keys mean equal bits, but for a chance of 2^-128.
#[derive(Debug)]
struct ArrayKeys {
    dtype: Dtype,
    /// The shape of one row.
    row_shape: Vec<usize>,
    keys: Vec<u128>,
}

/// The keys of the large arrays of one file; 16 bytes a row.
#[derive(Debug, Default)]
pub(crate) struct FileKeys(BTreeMap<String, ArrayKeys>);

impl FileKeys {
    /// The keys of every array of at least [`MIN_ROWS`] rows.
    pub(crate) fn of(arrays: &Arrays) -> Self {
        let large = arrays
            .iter()
            .filter(|(name, array)| is_large(array) && !name.contains('@'));
        let keys = large.map(|(name, array)| {
            let keys = ArrayKeys {
                dtype: array.dtype(),
                row_shape: array.shape()[1..].to_vec(),
                keys: with_chunks!(array.chunks(), chunks => row_keys(chunks, row_len(array))),
            };
            (name.to_owned(), keys)
        });
        Self(keys.collect())
    }
}

fn is_large(array: &Array) -> bool {
    let n_rows = array.shape().first().copied().unwrap_or(0);
    n_rows >= MIN_ROWS && u32::try_from(n_rows).is_ok() && row_len(array) > 0
}

/// Values of one row.
fn row_len(array: &Array) -> usize {
    array.shape().iter().skip(1).product()
}

/// Calls `visit` with the values of each row; runs need not end where rows do.
fn for_each_row<T: Element>(chunks: &Chunks<T>, row_len: usize, mut visit: impl FnMut(&[T])) {
    let mut row = Vec::with_capacity(row_len);
    for run in chunks.runs() {
        let mut rest = run;
        while !rest.is_empty() {
            if row.is_empty() && rest.len() >= row_len {
                let (whole, after) = rest.split_at(row_len);
                visit(whole);
                rest = after;
                continue;
            }
            let (part, after) = rest.split_at(rest.len().min(row_len - row.len()));
            row.extend_from_slice(part);
            rest = after;
            if row.len() == row_len {
                visit(&row);
                row.clear();
            }
        }
    }
}

fn row_keys<T: Element>(chunks: &Chunks<T>, row_len: usize) -> Vec<u128> {
    let mut keys = Vec::new();
    let mut bytes = Vec::new();
    for_each_row(chunks, row_len, |row| {
        bytes.clear();
        T::encode(row, &mut bytes);
        let mut key = [0; KEY_BYTES];
        if bytes.len() <= KEY_BYTES {
            key[..bytes.len()].copy_from_slice(&bytes);
        } else {
            key.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..KEY_BYTES]);
        }
        keys.push(u128::from_le_bytes(key));
    });
    keys
}

/// The delta from the file that has the keys `before` to `arrays`, whose keys are `after`.
///
/// `None` when no array is worth splitting: all are small, new, or changed in more than half of their rows.
pub(crate) fn encode(
    arrays: &Arrays,
    before: &FileKeys,
    after: &FileKeys,
) -> Result<Option<Arrays>, crate::Error> {
    let mut delta = Arrays::new();
    let mut is_split = false;
    for (name, array) in arrays.iter() {
        if name.contains('@') {
            return Ok(None);
        }
        let changed = match (before.0.get(name), after.0.get(name)) {
            (Some(before), Some(after)) => changed_rows(before, after),
            _ => None,
        };
        let Some(rows) = changed else {
            delta.insert(name, array.clone())?;
            continue;
        };
        is_split = true;
        let values = with_chunks!(array.chunks(), chunks => {
            let mut shape = array.shape().to_vec();
            shape[0] = rows.len();
            Array::new(&shape, select(chunks, row_len(array), &rows))?
        });
        let n_rows = array.shape().first().map_or(0, |n| *n as u64);
        delta.insert(format!("{name}{LEN}"), Array::scalar(n_rows))?;
        delta.insert(format!("{name}{VALUES}"), values)?;
        delta.insert(format!("{name}{ROWS}"), Array::new(&[rows.len()], rows)?)?;
    }
    Ok(is_split.then_some(delta))
}

/// The rows whose keys differ or are new; `None` if those are more than half, or rows have another shape.
fn changed_rows(before: &ArrayKeys, after: &ArrayKeys) -> Option<Vec<u32>> {
    if before.dtype != after.dtype || before.row_shape != after.row_shape {
        return None;
    }
    let rows = after.keys.iter().zip(0u32..).enumerate();
    let changed = rows.filter(|(at, (key, _))| before.keys.get(*at) != Some(key));
    let changed: Vec<u32> = changed.map(|(_, (_, row))| row).collect();
    (changed.len() <= after.keys.len() / 2).then_some(changed)
}

fn select<T: Element>(chunks: &Chunks<T>, row_len: usize, rows: &[u32]) -> Vec<T> {
    let mut values = Vec::with_capacity(rows.len() * row_len);
    let mut wanted = rows.iter().peekable();
    let mut at = 0u32;
    for_each_row(chunks, row_len, |row| {
        if wanted.next_if_eq(&&at).is_some() {
            values.extend_from_slice(row);
        }
        at += 1;
    });
    values
}

/// Applies a delta to the version that it was made from; `file` names the result in messages.
pub(crate) fn apply(mut base: Arrays, delta: Arrays, file: String) -> Result<Arrays, String> {
    let mut arrays = Arrays::from_file(file);
    let names: Vec<String> = delta.iter().map(|(name, _)| name.to_owned()).collect();
    let mut delta = delta;
    for name in names {
        let whole = match name.rsplit_once('@') {
            None => delta.remove(&name),
            Some((array, "rows")) => Some(patch(&mut base, &mut delta, array)?),
            Some(_) => continue,
        };
        let plain = name.split('@').next().unwrap_or_default();
        let whole = whole.ok_or_else(|| format!("array `{name}` is listed and not there"))?;
        arrays.insert(plain, whole).map_err(|error| error.to_string())?;
    }
    Ok(arrays)
}

/// The array `name` of `base` with the changed rows of `delta`.
fn patch(base: &mut Arrays, delta: &mut Arrays, name: &str) -> Result<Array, String> {
    let text = |error: crate::Error| error.to_string();
    let rows = delta
        .take::<u32>(&format!("{name}{ROWS}"), &[ANY])
        .map_err(text)?;
    let n_rows = delta.scalar::<u64>(&format!("{name}{LEN}")).map_err(text)?;
    let n_rows = usize::try_from(n_rows).map_err(|_| format!("array `{name}` is too large"))?;
    let changed = delta.remove(&format!("{name}{VALUES}"));
    let changed = changed.ok_or_else(|| format!("array `{name}` has no changed values"))?;
    let before = base
        .remove(name)
        .ok_or_else(|| format!("its base has no array `{name}`"))?;
    let row_len = row_len(&before);
    let fits = changed.dtype() == before.dtype()
        && changed.shape().get(1..) == before.shape().get(1..)
        && changed.shape().first() == Some(&rows.len())
        && rows.is_sorted_by(|a, b| a < b)
        && rows.last().is_none_or(|row| (*row as usize) < n_rows);
    let n_before = before.shape().first().copied().unwrap_or(0);
    // Rows behind those of the base must all be in the delta.
    let n_new = rows.iter().filter(|row| (**row as usize) >= n_before).count();
    if !fits || n_new != n_rows.saturating_sub(n_before) {
        return Err(format!("the changed rows of array `{name}` do not fit its base"));
    }
    let mut shape = before.shape().to_vec();
    shape[0] = n_rows;
    let n_values = n_rows
        .checked_mul(row_len)
        .ok_or_else(|| format!("array `{name}` is too large"))?;
    with_type!(before.dtype(), T => {
        let wrong = |_| format!("array `{name}` has another type");
        let mut values = before.into_values::<T>().map_err(wrong)?;
        let changed = changed.into_values::<T>().map_err(wrong)?;
        let mut new = changed.chunks_exact(row_len.max(1));
        values.truncate(n_values);
        for (row, changed) in rows.iter().zip(new.by_ref()) {
            let at = *row as usize * row_len;
            if at == values.len() {
                values.extend_from_slice(changed);
            } else {
                values[at..at + row_len].copy_from_slice(changed);
            }
        }
        Array::new(&shape, values).map_err(text)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::SharedChunk;

    const WIDTH: usize = 5;

    /// A table in pages of a length that no row divides.
    fn table(rows: &[u32], small: u8) -> Arrays {
        let mut arrays = Arrays::new();
        let values: Vec<f32> = rows
            .iter()
            .flat_map(|row| (0..5u8).map(move |at| *row as f32 + f32::from(at) / 8.0))
            .collect();
        let pages: Vec<SharedChunk<f32>> = values
            .chunks(37)
            .map(|page| Arc::new(page.to_vec()) as SharedChunk<f32>)
            .collect();
        arrays
            .insert("values", Array::shared(&[rows.len(), WIDTH], pages).unwrap())
            .unwrap();
        arrays
            .insert(
                "ids",
                Array::new(&[rows.len()], rows.iter().map(|row| u64::from(*row)).collect()).unwrap(),
            )
            .unwrap();
        arrays
            .insert("small", Array::new(&[3], vec![small; 3]).unwrap())
            .unwrap();
        arrays
    }

    #[test]
    fn a_delta_has_the_bytes_of_the_changed_rows() {
        let before: Vec<u32> = (0..5000).collect();
        let mut after = before.clone();
        after[7] = 1_000_000;
        after.extend([9, 9]);
        let (a, b) = (table(&before, 1), table(&after, 2));
        let delta = encode(&b, &FileKeys::of(&a), &FileKeys::of(&b)).unwrap().unwrap();
        let n_bytes: usize = delta.iter().map(|(_, array)| array.n_bytes()).sum();
        assert_eq!(n_bytes, 3 * (WIDTH * 4 + 4) + 3 * (8 + 4) + 2 * 8 + 3);
        assert_eq!(apply(a, delta, "x".to_owned()).unwrap(), b);
    }

    #[test]
    fn a_delta_that_does_not_fit_its_base_is_refused() {
        let rows: Vec<u32> = (0..2000).collect();
        let longer: Vec<u32> = (0..2100).collect();
        let (a, b) = (table(&rows, 1), table(&longer, 1));
        let delta = encode(&b, &FileKeys::of(&a), &FileKeys::of(&b)).unwrap().unwrap();
        let shorter = table(&rows[..1900], 1);
        assert!(
            apply(shorter, delta.clone(), "x".to_owned())
                .unwrap_err()
                .contains("do not fit its base")
        );
        assert!(
            apply(Arrays::new(), delta, "x".to_owned())
                .unwrap_err()
                .contains("its base has no array")
        );
    }

    #[test]
    fn what_has_mostly_changed_is_stored_whole() {
        let rows: Vec<u32> = (0..2000).collect();
        let others: Vec<u32> = (0..2000).map(|row| row + u32::from(row > 900)).collect();
        let (a, b) = (table(&rows, 1), table(&others, 1));
        assert!(
            encode(&b, &FileKeys::of(&a), &FileKeys::of(&b))
                .unwrap()
                .is_none()
        );
        assert!(
            encode(&b, &FileKeys::default(), &FileKeys::of(&b))
                .unwrap()
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn base_and_delta_make_the_same_bits(
            n_before in 1024usize..3000,
            n_after in 1024usize..3000,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 0..200),
        ) {
            let before: Vec<u32> = (0..3000).take(n_before).collect();
            let mut after: Vec<u32> = (0..3000).take(n_after).collect();
            for (at, value) in changes {
                let at = at.index(n_after);
                after[at] = value;
            }
            let (a, b) = (table(&before, 1), table(&after, 7));
            if let Some(delta) = encode(&b, &FileKeys::of(&a), &FileKeys::of(&b)).unwrap() {
                prop_assert_eq!(apply(a, delta, "x".to_owned()).unwrap(), b);
            } else {
                prop_assert!(n_after > 2 * n_before.min(n_after) - 300 || n_after > n_before);
            }
        }
    }
}
