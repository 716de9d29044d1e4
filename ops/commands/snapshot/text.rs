//! The text output of `ouzel snapshot`.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use ouzel_snapshot::{AuditLog, Diff, Manifest, SnapshotEntry, VerificationReport};

use crate::commands::output::{or_dash, row, table};

/// Writes one line per snapshot.
pub(super) fn list(listed: &[SnapshotEntry], out: &mut dyn Write) -> io::Result<()> {
    let mut rows = vec![row([
        "SNAPSHOT", "CREATED", "BATCH", "SAMPLES", "AUC", "NE", "SIZE", "NOTES",
    ])];
    for entry in listed {
        let known = |text: &dyn Fn(&Manifest) -> String| entry.manifest.as_ref().map_or("-".to_owned(), text);
        let metric = |name: &str| {
            let value = entry
                .manifest
                .as_ref()
                .and_then(|m| *m.checkpoint.metrics.get(name)?);
            or_dash(value, |value| format!("{value:.3}"))
        };
        let mut notes: Vec<String> = entry
            .aliases
            .iter()
            .map(|alias| alias.name().to_owned())
            .collect();
        if entry.is_rolled_back {
            notes.push("rolled back".to_owned());
        }
        notes.extend(entry.fault.iter().map(|fault| format!("damaged: {fault}")));
        rows.push(vec![
            entry.id.to_string(),
            known(&|m| time(m.created_ms)),
            known(&|m| m.checkpoint.batch_seq.to_string()),
            known(&|m| m.checkpoint.sample_seq.to_string()),
            metric("auc"),
            metric("ne"),
            size(entry.bytes),
            notes.join(", "),
        ]);
    }
    table(&rows, out)
}

/// Writes a manifest without the hashes of its files.
pub(super) fn show(entry: &SnapshotEntry, manifest: &Manifest, out: &mut dyn Write) -> io::Result<()> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    let aliases: Vec<&str> = entry.aliases.iter().map(|alias| alias.name()).collect();
    let (checkpoint, by) = (&manifest.checkpoint, &manifest.created_by);
    let mut rows = vec![
        ("snapshot", manifest.id.to_string()),
        (
            "called",
            or_none((!aliases.is_empty()).then(|| aliases.join(", "))),
        ),
        ("parent", or_none(manifest.parent.map(|id| id.to_string()))),
        ("created", time(manifest.created_ms)),
        (
            "created by",
            format!(
                "ouzel {}, {}, {}, {} threads",
                by.ouzel, by.device, by.cpu_capability, by.n_threads
            ),
        ),
        ("batches", checkpoint.batch_seq.to_string()),
        ("samples", checkpoint.sample_seq.to_string()),
        ("event time", time(checkpoint.event_time_ms)),
        ("ledger", checkpoint.ledger_hash.clone()),
        ("weights", checkpoint.weights_hash.clone()),
        (
            "base",
            match &checkpoint.frozen {
                Some(base) => format!("frozen, {base}"),
                None => "not frozen".to_owned(),
            },
        ),
        ("configuration", checkpoint.config_hash.clone()),
        ("schema", checkpoint.schema_fingerprint.clone()),
    ];
    if let Some(note) = &manifest.note {
        rows.push(("note", note.clone()));
    }
    if entry.is_rolled_back {
        rows.push(("state", "rolled back: a start does not resume from it".to_owned()));
    }
    if let Some(fault) = &entry.fault {
        rows.push(("damaged", fault.clone()));
    }
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    table(&rows, out)?;
    let metrics = checkpoint.metrics.iter();
    section(
        "metrics",
        metrics.map(|(name, value)| (name, or_dash(*value, |v| format!("{v:.6}")))),
        out,
    )?;
    let positions = checkpoint.positions.iter();
    section(
        "positions",
        positions.map(|(name, next)| (name, next.to_string())),
        out,
    )?;
    let counters = checkpoint.counters.iter();
    section("counters", counters.map(|(name, n)| (name, n.to_string())), out)?;
    let files = manifest.files.iter();
    section("files", files.map(|file| (&file.name, size(file.bytes))), out)
}

/// Writes the verdict on each snapshot and on the audit log, with every fault.
pub(super) fn verify(
    reports: &[VerificationReport],
    audit: &AuditLog,
    out: &mut dyn Write,
) -> io::Result<()> {
    for report in reports {
        let n_bytes = report.files.iter().map(|file| file.bytes).sum();
        let verdict = if report.is_valid() { "valid" } else { "DAMAGED" };
        writeln!(
            out,
            "{}  {verdict}, {} files, {}",
            report.id,
            report.files.len(),
            size(n_bytes)
        )?;
        if let Some(fault) = &report.fault {
            writeln!(out, "  {fault}")?;
        }
        for file in &report.files {
            if let Some(fault) = &file.fault {
                writeln!(out, "  {}: {fault}", file.name)?;
            }
        }
    }
    match audit.broken_at {
        None => writeln!(out, "audit log  valid, {} lines", audit.lines.len()),
        Some(n) => writeln!(
            out,
            "audit log  BROKEN at line {n}: it was changed, or lines were removed"
        ),
    }
}

/// Writes the differences between two snapshots.
pub(super) fn diff(diff: &Diff, out: &mut dyn Write) -> io::Result<()> {
    let mut rows = vec![vec!["FIELD".to_owned(), diff.a.to_string(), diff.b.to_string()]];
    rows.extend(
        diff.fields
            .iter()
            .map(|f| vec![f.field.clone(), f.a.to_string(), f.b.to_string()]),
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
    let arrays = diff
        .files
        .iter()
        .flat_map(|file| file.arrays.iter().map(move |array| (file, array)));
    let arrays: Vec<_> = arrays.collect();
    if arrays.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let number = |value: Option<f64>| or_dash(value, |value| format!("{value:.4e}"));
    let mut rows = vec![row(["ARRAY", "NORM", "", "DIFFERING", "LARGEST DIFFERENCE"])];
    for (file, array) in arrays {
        rows.push(vec![
            format!("{}/{}", file.name, array.name),
            number(array.a_norm),
            number(array.b_norm),
            format!("{} of {}", array.n_differing, array.n_compared),
            number(array.max_abs_diff),
        ]);
    }
    table(&rows, out)
}

fn section<'a>(
    name: &str,
    entries: impl Iterator<Item = (&'a String, String)>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let rows: Vec<_> = entries
        .map(|(key, value)| vec![format!("  {key}"), value])
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "{name}")?;
    table(&rows, out)
}

/// A time in UTC, or "unknown".
fn time(ms: i64) -> String {
    /// 9999-12-31, the last day that RFC 3339 can express.
    const LAST_MS: u64 = 253_402_300_799_000;
    match u64::try_from(ms) {
        Ok(ms) if ms <= LAST_MS => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
        }
        _ => "unknown".to_owned(),
    }
}

/// A size in binary units with one decimal.
fn size(bytes: u64) -> String {
    let mut unit = (1_u64, "B");
    for larger in [(1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB")] {
        if bytes >= larger.0 {
            unit = larger;
        }
    }
    match unit {
        (1, name) => format!("{bytes} {name}"),
        (length, name) => {
            let tenths = u128::from(bytes) * 10 / u128::from(length);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (u64::from(u32::MAX), "3.9 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (ms, text) in [
            (1_777_636_800_999, "2026-05-01T12:00:00Z"),
            (i64::MIN, "unknown"),
            (i64::MAX, "unknown"),
        ] {
            assert_eq!(time(ms), text);
        }
    }
}
