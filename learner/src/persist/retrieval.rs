//! The towers' own rows and what learning them needs, as named arrays.

use std::sync::Arc;

use ouzel_model::{ContentVectors, TowerItem, Weights};
use ouzel_sample::{Id, MODALITIES};
use ouzel_snapshot::{ANY, Array, Arrays};

use super::tables::{add_table, restore_table};
use crate::error::Error;
use crate::retrieval::Retrieval;

/// Prefix of the arrays of the rows.
const ROWS: &str = "rows.";

/// The arrays of a model with towers.
pub(super) fn arrays(weights: &Weights, retrieval: &Retrieval) -> Result<Arrays, Error> {
    let mut arrays = Arrays::new();
    if let Some(table) = &weights.retrieval {
        add_table(&mut arrays, ROWS, table)?;
    }
    let frequency = &retrieval.frequency;
    let n = frequency.last.len();
    arrays.insert("frequency.n", Array::new(&[1], vec![frequency.n])?)?;
    arrays.insert("frequency.last", Array::new(&[n], frequency.last.clone())?)?;
    arrays.insert("frequency.gap", Array::new(&[n], frequency.gap.clone())?)?;
    arrays.insert("frequency.n_gaps", Array::new(&[n], frequency.n_gaps.clone())?)?;
    let newest = &retrieval.newest;
    let ids: Vec<u64> = newest.iter().map(|item| item.item.0).collect();
    let ends = newest.iter().scan(0u32, |end, item| {
        *end += u32::try_from(item.attributes.len()).unwrap_or(u32::MAX);
        Some(*end)
    });
    let ends: Vec<u32> = ends.collect();
    let attributes: Vec<u64> = newest
        .iter()
        .flat_map(|item| &item.attributes)
        .map(|id| id.0)
        .collect();
    arrays.insert("newest.items", Array::new(&[ids.len()], ids)?)?;
    arrays.insert("newest.attribute_ends", Array::new(&[ends.len()], ends)?)?;
    arrays.insert("newest.attributes", Array::new(&[attributes.len()], attributes)?)?;
    for (modality, name) in MODALITIES.iter().enumerate() {
        let lengths = newest.iter().map(|item| vector(&item.contents, modality).len());
        let lengths: Vec<u32> = lengths.map(|n| u32::try_from(n).unwrap_or(u32::MAX)).collect();
        let values = newest.iter().flat_map(|item| vector(&item.contents, modality));
        let values: Vec<f32> = values.copied().collect();
        arrays.insert(
            format!("newest.{name}_lengths"),
            Array::new(&[lengths.len()], lengths)?,
        )?;
        arrays.insert(format!("newest.{name}"), Array::new(&[values.len()], values)?)?;
    }
    Ok(arrays)
}

fn vector(contents: &ContentVectors, modality: usize) -> &[f32] {
    contents[modality].as_deref().unwrap_or_default()
}

/// Restores the rows into the empty table of `weights`, if it has one.
pub(super) fn restore_rows(weights: &mut Weights, arrays: &mut Arrays, expires: bool) -> Result<(), Error> {
    match &mut weights.retrieval {
        Some(table) => restore_table(table, ROWS, arrays, expires),
        None => Ok(()),
    }
}

/// Restores what [`arrays`] wrote beside the rows. Of more positives than are kept now, the newest stay.
///
/// # Errors
/// [`Error::Unsound`] when lengths contradict each other.
pub(super) fn restore(retrieval: &mut Retrieval, arrays: &mut Arrays, snapshot: &str) -> Result<(), Error> {
    let unsound = |why: &str| Error::Unsound {
        snapshot: snapshot.to_owned(),
        why: format!("retrieval: {why}"),
    };
    let frequency = &mut retrieval.frequency;
    let n = frequency.last.len();
    frequency.n = arrays.take::<u64>("frequency.n", &[1])?[0];
    frequency.last = arrays.take::<u64>("frequency.last", &[n])?;
    frequency.gap = arrays.take::<f32>("frequency.gap", &[n])?;
    frequency.n_gaps = arrays.take::<u16>("frequency.n_gaps", &[n])?;
    if frequency.last.iter().any(|last| *last > frequency.n) {
        return Err(unsound("an item's last positive is behind the newest one"));
    }
    let ids = arrays.take::<u64>("newest.items", &[ANY])?;
    let ends = arrays.take::<u32>("newest.attribute_ends", &[ids.len()])?;
    let attributes = arrays.take::<u64>("newest.attributes", &[ANY])?;
    let mut contents: Vec<ContentVectors> = vec![ContentVectors::default(); ids.len()];
    for (modality, name) in MODALITIES.iter().enumerate() {
        let lengths = arrays.take::<u32>(&format!("newest.{name}_lengths"), &[ids.len()])?;
        let values = arrays.take::<f32>(&format!("newest.{name}"), &[ANY])?;
        let mut left = values.as_slice();
        for (contents, length) in contents.iter_mut().zip(lengths) {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some((vector, behind)) = left.split_at_checked(length) else {
                return Err(unsound("vectors of the newest positives are missing"));
            };
            left = behind;
            contents[modality] = (length > 0).then(|| shared(vector));
        }
    }
    let mut start = 0;
    for ((id, end), contents) in ids.into_iter().zip(ends).zip(contents) {
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        let Some(of_item) = attributes.get(start..end) else {
            return Err(unsound("values of the newest positives are missing"));
        };
        start = end;
        retrieval.add(TowerItem {
            item: Id(id),
            attributes: of_item.iter().copied().map(Id).collect(),
            contents,
        });
    }
    Ok(())
}

fn shared(vector: &[f32]) -> Arc<[f32]> {
    vector.into()
}
