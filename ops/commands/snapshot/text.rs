//! The text output of `ouzel snapshot`.

use std::io::{self, Write};

use ouzel_snapshot::{AuditLog, GateResult, Manifest, RetentionDecision, SnapshotEntry};

use super::verdict::Verdict;
use crate::commands::output::{or_dash, row, table, time};

/// Writes a manifest without the hashes of its files.
pub(super) fn show(entry: &SnapshotEntry, manifest: &Manifest, out: &mut dyn Write) -> io::Result<()> {
    let checkpoint = &manifest.checkpoint;
    let rows: Vec<_> = summary(entry, manifest)
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    table(&rows, out)?;
    let names: Vec<(String, String)> = manifest.gates.iter().map(gate).collect();
    section(
        "checks",
        names.iter().map(|(name, result)| (name, result.clone())),
        out,
    )?;
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

/// The rows of a manifest above its sections: name and value.
fn summary(entry: &SnapshotEntry, manifest: &Manifest) -> Vec<(&'static str, String)> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    let aliases: Vec<&str> = entry.aliases.iter().map(|alias| alias.name()).collect();
    let (checkpoint, by) = (&manifest.checkpoint, &manifest.created_by);
    let mut rows = vec![
        ("snapshot", manifest.id.to_string()),
        (
            "called",
            or_none((!aliases.is_empty()).then(|| aliases.join(", "))),
        ),
        (
            "tags",
            or_none((!entry.tags.is_empty()).then(|| entry.tags.join(", "))),
        ),
        (
            "parent",
            or_none(
                manifest
                    .parent
                    .map(|id| format!("{id}, branch {}", manifest.branch)),
            ),
        ),
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
        (
            "event time",
            match &checkpoint.interval_start {
                Some(start) => format!(
                    "{} to {}",
                    time(start.event_time_ms),
                    time(checkpoint.event_time_ms)
                ),
                None => time(checkpoint.event_time_ms),
            },
        ),
        (
            "interval",
            or_none(checkpoint.interval_start.map(|start| {
                format!(
                    "{} batches, {} samples since the snapshot before",
                    checkpoint.batch_seq.saturating_sub(start.batch_seq),
                    checkpoint.sample_seq.saturating_sub(start.sample_seq)
                )
            })),
        ),
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
    rows
}

/// Writes the verdict on each snapshot and on the audit log, with every fault.
pub(super) fn verify(verdicts: &[Verdict], audit: &AuditLog, out: &mut dyn Write) -> io::Result<()> {
    for verdict in verdicts {
        let report = &verdict.report;
        let n_bytes = report.files.iter().map(|file| file.bytes).sum();
        let state = if verdict.is_valid() { "valid" } else { "DAMAGED" };
        let probe = match &verdict.weights {
            None => String::new(),
            Some(weights) if weights.n_scores == 0 => format!(", {} rows, no probe recorded", weights.n_rows),
            Some(weights) if weights.is_exact => {
                format!(
                    ", {} rows, {} scores as recorded",
                    weights.n_rows, weights.n_scores
                )
            }
            Some(weights) => format!(
                ", {} rows, {} scores within {:.0e} (made on another machine)",
                weights.n_rows, weights.n_scores, weights.largest_difference
            ),
        };
        let (n_files, size) = (report.files.len(), size(n_bytes));
        writeln!(out, "{}  {state}, {n_files} files, {size}{probe}", report.id)?;
        let faults = report.fault.iter().chain(&verdict.weights_fault);
        for fault in faults {
            writeln!(out, "  {fault}")?;
        }
        if let Some(gate) = &verdict.failed_gate {
            writeln!(out, "  it failed the check `{gate}` when it was written")?;
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

/// Writes what a garbage collection would do with each snapshot.
pub(super) fn retention(decisions: &[RetentionDecision], out: &mut dyn Write) -> io::Result<()> {
    let mut rows = vec![row(["ID", "SIZE", "", "WHY"])];
    for decision in decisions {
        let verb = if decision.is_kept { "keep" } else { "remove" };
        rows.push(vec![
            decision.id.number().to_string(),
            size(decision.bytes),
            verb.to_owned(),
            decision.reason.clone(),
        ]);
    }
    table(&rows, out)?;
    let of = |is_kept: bool| {
        let chosen = decisions
            .iter()
            .filter(move |decision| decision.is_kept == is_kept);
        chosen.fold((0, 0), |(n, bytes), decision| (n + 1, bytes + decision.bytes))
    };
    let ((n_kept, kept), (n_removed, removed)) = (of(true), of(false));
    writeln!(
        out,
        "keeps {n_kept} ({}), would remove {n_removed} ({})",
        size(kept),
        size(removed)
    )
}

/// A check as `name` and `passed, 1.2 of at most 3`.
fn gate((name, gate): (&String, &GateResult)) -> (String, String) {
    let verdict = if gate.passed { "passed" } else { "FAILED" };
    let figure = gate
        .figure
        .map(|figure| format!(", {figure:.4}"))
        .unwrap_or_default();
    let limit = gate
        .limit
        .map(|limit| format!(", limit {limit:.4}"))
        .unwrap_or_default();
    (name.clone(), format!("{verdict}{figure}{limit}"))
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

/// A time in UTC to the minute, or "unknown".
pub(super) fn minutes(ms: i64) -> String {
    let text = time(ms);
    match text.split_once('T') {
        Some((day, time)) => format!("{day} {}", time.get(..5).unwrap_or(time)),
        None => text,
    }
}

/// A count in at most seven characters.
pub(super) fn count(n: u64) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{}.{:02}M", n / 1_000_000, n / 10_000 % 100),
        _ => format!("{}.{:02}G", n / 1_000_000_000, n / 10_000_000 % 100),
    }
}

/// A size in binary units with one decimal.
pub(super) fn size(bytes: u64) -> String {
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
    fn counts_are_short() {
        for (n, text) in [
            (0, "0"),
            (999_999, "999999"),
            (12_345_678, "12.34M"),
            (5_000_000_000, "5.00G"),
        ] {
            assert_eq!(count(n), text);
        }
        assert_eq!(minutes(1_777_636_800_999), "2026-05-01 12:00");
    }

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
