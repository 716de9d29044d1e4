//! `ouzel snapshot diff`: configuration, manifest, churn of rows and norms by block.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use ouzel_learner::{ROW_STATE, WIDE_STATE};
use ouzel_snapshot::{ArrayDiff, Diff, FileKind, SnapshotId, Store};
use serde::Serialize;
use serde_json::Value;

use super::text::size;
use crate::commands::output::{self, or_dash, row, table};
use crate::error::Exit;
use crate::pipeline::checkpoint::CONFIG_FILE;

/// The differences of two snapshots, with those of the configurations that they were made under.
#[derive(Debug, Serialize)]
struct Comparison {
    /// Keys with both values; `None` when a snapshot has no configuration, as those of format 1.
    configuration: Option<Vec<KeyDiff>>,
    #[serde(flatten)]
    diff: Diff,
}

/// A configuration key that differs.
#[derive(Debug, Serialize)]
struct KeyDiff {
    key: String,
    a: Value,
    b: Value,
}

/// Compares two snapshots.
pub(super) fn diff(
    store: &Store,
    a: SnapshotId,
    b: SnapshotId,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let n_state = |file: &str| {
        if file.ends_with("wide.safetensors") {
            WIDE_STATE
        } else {
            ROW_STATE
        }
    };
    let comparison = Comparison {
        configuration: match (configuration(store, a)?, configuration(store, b)?) {
            (Some(a), Some(b)) => Some(differing_keys(&a, &b)),
            _ => None,
        },
        diff: store.diff(a, b, n_state)?,
    };
    match json {
        true => output::json(&comparison, out)?,
        false => write(&comparison, out)?,
    }
    Ok(Exit::Ok)
}

fn configuration(store: &Store, id: SnapshotId) -> anyhow::Result<Option<BTreeMap<String, Value>>> {
    let snapshot = store.read(id)?;
    if snapshot
        .manifest()
        .file(CONFIG_FILE)
        .is_none_or(|file| file.kind != FileKind::Blob)
    {
        return Ok(None);
    }
    let mut keys = BTreeMap::new();
    flatten(
        String::new(),
        serde_json::from_slice(&snapshot.blob(CONFIG_FILE)?)?,
        &mut keys,
    );
    Ok(Some(keys))
}

fn flatten(path: String, value: Value, keys: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(format!("{path}{dot}{name}"), value, keys);
            }
        }
        leaf => {
            keys.insert(path, leaf);
        }
    }
}

fn differing_keys(a: &BTreeMap<String, Value>, b: &BTreeMap<String, Value>) -> Vec<KeyDiff> {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let value = |of: &BTreeMap<String, Value>, key: &String| of.get(key).cloned().unwrap_or_default();
    let diffs = keys.into_iter().map(|key| KeyDiff {
        key: key.clone(),
        a: value(a, key),
        b: value(b, key),
    });
    diffs.filter(|diff| diff.a != diff.b).collect()
}

fn write(comparison: &Comparison, out: &mut dyn Write) -> std::io::Result<()> {
    let diff = &comparison.diff;
    let heads = [diff.a, diff.b].map(|id| id.number().to_string());
    let titled = |title: &str| vec![title.to_owned(), heads[0].clone(), heads[1].clone()];
    match &comparison.configuration {
        None => writeln!(
            out,
            "a snapshot without its configuration: `config_hash` below tells whether it differs"
        )?,
        Some(keys) if keys.is_empty() => writeln!(out, "the configuration is the same")?,
        Some(keys) => {
            let mut rows = vec![titled("KEY")];
            rows.extend(
                keys.iter()
                    .map(|key| vec![key.key.clone(), key.a.to_string(), key.b.to_string()]),
            );
            table(&rows, out)?;
        }
    }
    writeln!(out)?;
    let mut rows = vec![titled("FIELD")];
    let value = |value: &Value| match value {
        Value::Number(number) if number.is_f64() => or_dash(number.as_f64(), |value| format!("{value:.6}")),
        value => value.to_string(),
    };
    rows.extend(
        diff.fields
            .iter()
            .map(|f| vec![f.field.clone(), value(&f.a), value(&f.b)]),
    );
    table(&rows, out)?;
    writeln!(out)?;
    let mut rows = vec![row(["FILE", "SIZE", "", "EQUAL"])];
    for file in &diff.files {
        let equal = if file.is_equal { "yes" } else { "no" };
        rows.push(vec![
            file.name.clone(),
            or_dash(file.a_bytes, size),
            or_dash(file.b_bytes, size),
            equal.to_owned(),
        ]);
    }
    table(&rows, out)?;
    tables(diff, out)?;
    blocks(diff, out)
}

/// Writes the churn of each table and the rows that moved most.
fn tables(diff: &Diff, out: &mut dyn Write) -> std::io::Result<()> {
    let tables: Vec<_> = diff.files.iter().flat_map(|file| &file.tables).collect();
    if tables.is_empty() {
        return Ok(());
    }
    let mut rows = vec![row(["TABLE", "ROWS", "", "ADDED", "REMOVED", "CHANGED"])];
    for found in &tables {
        let counts = [
            found.a_rows,
            found.b_rows,
            found.added,
            found.removed,
            found.changed,
        ];
        let counts = counts.map(|n| n.to_string());
        rows.push(std::iter::once(found.table.clone()).chain(counts).collect());
    }
    writeln!(out)?;
    table(&rows, out)?;
    let mut rows = vec![row(["MOVED MOST", "ROW", "DISTANCE", "NORM"])];
    for found in tables {
        for moved in &found.moved {
            rows.push(vec![
                found.table.clone(),
                format!("{:016x}", moved.id),
                format!("{:.4}", moved.distance),
                format!("{:.4}", moved.norm),
            ]);
        }
    }
    if rows.len() > 1 {
        writeln!(out)?;
        table(&rows, out)?;
    }
    Ok(())
}

/// Writes norms of the differing arrays of each block: the part of their names before the first point.
fn blocks(diff: &Diff, out: &mut dyn Write) -> std::io::Result<()> {
    let mut blocks: BTreeMap<String, [Option<f64>; 3]> = BTreeMap::new();
    for (file, array) in diff
        .files
        .iter()
        .flat_map(|file| file.arrays.iter().map(move |array| (file, array)))
    {
        let block = array.name.split('.').next().unwrap_or_default();
        let block = format!("{}/{block}", file.name.trim_end_matches(".safetensors"));
        let sums = blocks.entry(block).or_insert([Some(0.0); 3]);
        let ArrayDiff {
            a_norm,
            b_norm,
            diff_norm,
            ..
        } = array;
        for (sum, norm) in sums.iter_mut().zip([a_norm, b_norm, diff_norm]) {
            *sum = sum.zip(*norm).map(|(sum, norm)| sum + norm * norm);
        }
    }
    if blocks.is_empty() {
        return Ok(());
    }
    let mut rows = vec![row(["BLOCK", "NORM", "", "OF THE DIFFERENCE"])];
    for (block, sums) in blocks {
        let norms = sums.map(|sum| or_dash(sum, |sum: f64| format!("{:.4e}", sum.sqrt())));
        rows.push(std::iter::once(block).chain(norms).collect());
    }
    writeln!(out)?;
    table(&rows, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_compared_by_key() {
        let keys = |text: &str| {
            let mut keys = BTreeMap::new();
            flatten(String::new(), serde_json::from_str(text).unwrap(), &mut keys);
            keys
        };
        let a = keys(r#"{"model": {"dim": 8, "hidden": [16]}, "log": {"level": "info"}}"#);
        let b = keys(r#"{"model": {"dim": 16, "hidden": [16]}, "log": {}}"#);
        let found = differing_keys(&a, &b);
        let found: Vec<_> = found
            .iter()
            .map(|diff| (diff.key.as_str(), diff.b.to_string()))
            .collect();
        assert_eq!(
            found,
            [("log.level", "null".to_owned()), ("model.dim", "16".to_owned())]
        );
    }
}
