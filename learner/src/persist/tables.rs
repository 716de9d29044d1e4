//! Tables and counts of waiting ids as named arrays.

use ouzel_model::{Pages, Table};
use ouzel_snapshot::{ANY, Array, Arrays, SharedChunk};

use crate::admission::AdmissionCounts;
use crate::error::Error;
use crate::shown_logits::ShownLogits;

/// Prefix of the names of a table's arrays; empty for the first table, which always exists.
pub(super) fn table_prefix(n: usize, table: &Table) -> String {
    match n {
        0 => String::new(),
        _ => format!("{}.", table.name()),
    }
}

pub(super) fn add_table(arrays: &mut Arrays, prefix: &str, table: &Table) -> Result<(), Error> {
    let Pages {
        ids,
        values,
        seen,
        free,
    } = table.pages();
    // The only copy that a learner waits for. Page by page, so that it is one of memory.
    let mut all_ids: Vec<u64> = Vec::with_capacity(table.len());
    for page in &ids {
        all_ids.extend(page.iter().map(|id| id.0));
    }
    let values = values
        .into_iter()
        .map(|page| -> SharedChunk<f32> { page })
        .collect();
    let name = |name: &str| format!("{prefix}{name}");
    arrays.insert(name("ids"), Array::new(&[table.len()], all_ids)?)?;
    arrays.insert(
        name("values"),
        Array::shared(&[table.len(), table.stride()], values)?,
    )?;
    if !free.is_empty() {
        arrays.insert(name("free"), Array::new(&[free.len()], free)?)?;
    }
    if !seen.is_empty() {
        let seen = seen
            .into_iter()
            .map(|page| -> SharedChunk<u32> { page })
            .collect();
        arrays.insert(name("seen"), Array::shared(&[table.len()], seen)?)?;
    }
    Ok(())
}

/// Restores a table, with last-seen times only if rows expire.
pub(super) fn restore_table(
    table: &mut Table,
    prefix: &str,
    arrays: &mut Arrays,
    expires: bool,
) -> Result<(), Error> {
    let name = |name: &str| format!("{prefix}{name}");
    let has = |arrays: &Arrays, name: &str| arrays.iter().any(|(found, _)| found == name);
    let ids = arrays.take::<u64>(&name("ids"), &[ANY])?;
    let values = arrays.take::<f32>(&name("values"), &[ids.len(), table.stride()])?;
    let free = if has(arrays, &name("free")) {
        arrays.take::<u32>(&name("free"), &[ANY])?
    } else {
        Vec::new()
    };
    table.import(&ids, &values, &free)?;
    if expires && has(arrays, &name("seen")) {
        table.import_seen(&arrays.take::<u32>(&name("seen"), &[ids.len()])?)?;
    }
    Ok(())
}

pub(super) fn admission_arrays(counts: AdmissionCounts) -> Result<Arrays, Error> {
    let n = counts.ids.len();
    let mut arrays = Arrays::new();
    arrays.insert("ids", Array::new(&[n], counts.ids)?)?;
    arrays.insert("counts", Array::new(&[n], counts.counts)?)?;
    arrays.insert("users", Array::new(&[n, AdmissionCounts::USERS], counts.users)?)?;
    Ok(arrays)
}

pub(super) fn admission_counts(mut arrays: Arrays) -> Result<AdmissionCounts, Error> {
    let ids = arrays.take::<u64>("ids", &[ANY])?;
    Ok(AdmissionCounts {
        counts: arrays.take::<u16>("counts", &[ids.len()])?,
        users: arrays.take::<u16>("users", &[ids.len(), AdmissionCounts::USERS])?,
        ids,
    })
}

/// What a model of a mixture predicted of items whose outcome may still change; none where nothing is kept.
pub(super) fn shown_logits_arrays(kept: &ShownLogits) -> Result<Option<Arrays>, Error> {
    let (ids, logits) = kept.export();
    if ids.is_empty() {
        return Ok(None);
    }
    let shape = [ids.len(), kept.n_tasks()];
    let mut arrays = Arrays::new();
    arrays.insert("ids", Array::new(&shape[..1], ids)?)?;
    arrays.insert("logits", Array::new(&shape, logits)?)?;
    Ok(Some(arrays))
}

/// Restores what [`shown_logits_arrays`] returned.
pub(super) fn restore_shown_logits(kept: &mut ShownLogits, mut arrays: Arrays) -> Result<(), Error> {
    let ids = arrays.take::<u64>("ids", &[ANY])?;
    let logits = arrays.take::<f32>("logits", &[ids.len(), kept.n_tasks()])?;
    kept.import(&ids, &logits);
    Ok(())
}
