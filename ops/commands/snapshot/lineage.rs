//! `ouzel snapshot list`: the lineage as a table of at most 80 columns.
//!
//! A branch is indented under the snapshot that it grew from. Figures are those of the interval since the snapshot before.

use std::collections::BTreeMap;
use std::io::{self, Write};

use ouzel_snapshot::{Manifest, SnapshotEntry, SnapshotId};

use super::text::{count, minutes, size};
use crate::commands::output::{or_dash, row, table};

const COLUMNS: usize = 80;
/// Branches are indented by at most this many steps.
const MAX_DEPTH: usize = 3;

/// Writes one line per snapshot, and below it its names and what happened.
pub(super) fn list(listed: &[SnapshotEntry], out: &mut dyn Write) -> io::Result<()> {
    let depths = depths(listed);
    let mut rows = vec![row([
        "  ID",
        "CREATED (UTC)",
        "BATCHES",
        "SAMPLES",
        "AUC",
        "NE",
        "CALIB",
        "SIZE",
    ])];
    for entry in listed {
        rows.push(cells(entry, depths.get(&entry.id).copied().unwrap_or(0)));
    }
    let mut text = Vec::new();
    table(&rows, &mut text)?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    writeln!(out, "{}", lines.next().unwrap_or_default())?;
    for (entry, line) in listed.iter().zip(lines) {
        writeln!(out, "{line}")?;
        let indent = 4 + 2 * depths.get(&entry.id).copied().unwrap_or(0);
        for line in wrap(&notes(entry), COLUMNS - indent) {
            writeln!(out, "{:indent$}{line}", "")?;
        }
    }
    writeln!(
        out,
        "AUC, NE and CALIB are of the samples since the snapshot before. * has a name."
    )
}

fn cells(entry: &SnapshotEntry, depth: usize) -> Vec<String> {
    let known = |text: &dyn Fn(&Manifest) -> String| entry.manifest.as_ref().map_or("-".to_owned(), text);
    let metric = |name: &str| {
        let manifest = entry.manifest.as_ref();
        let value = manifest.and_then(|manifest| *manifest.checkpoint.metrics.get(name)?);
        or_dash(value, |value| format!("{value:.3}"))
    };
    let mark = if entry.aliases.is_empty() && entry.tags.is_empty() {
        ' '
    } else {
        '*'
    };
    vec![
        format!("{mark} {:width$}{}", "", entry.id.number(), width = 2 * depth),
        known(&|manifest| minutes(manifest.created_ms)),
        known(&|manifest| count(manifest.checkpoint.batch_seq)),
        known(&|manifest| count(manifest.checkpoint.sample_seq)),
        metric("interval_auc"),
        metric("interval_ne"),
        metric("interval_calibration"),
        size(entry.bytes),
    ]
}

/// Names, state and what happened, as phrases.
fn notes(entry: &SnapshotEntry) -> Vec<String> {
    let mut notes: Vec<String> = entry
        .aliases
        .iter()
        .map(|alias| alias.name().to_owned())
        .collect();
    notes.extend(entry.tags.iter().map(|tag| format!("tag {tag}")));
    if entry.is_rolled_back {
        notes.push("rolled back".to_owned());
    }
    if let Some(gate) = entry.manifest.as_ref().and_then(Manifest::failed_gate) {
        notes.push(format!("failed the check {gate}"));
    }
    notes.extend(entry.fault.iter().map(|fault| format!("damaged: {fault}")));
    notes.extend(entry.manifest.iter().filter_map(|manifest| manifest.note.clone()));
    notes
}

/// Phrases in lines of at most `width` characters, broken between words.
fn wrap(phrases: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let text = phrases.join(", ");
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// How deep each snapshot is indented: one step for each branch between it and the first one.
fn depths(listed: &[SnapshotEntry]) -> BTreeMap<SnapshotId, usize> {
    let mut depths: BTreeMap<SnapshotId, usize> = BTreeMap::new();
    let mut branches: BTreeMap<SnapshotId, u64> = BTreeMap::new();
    for entry in listed {
        let Some(manifest) = &entry.manifest else { continue };
        let parent = manifest
            .parent
            .and_then(|parent| Some((depths.get(&parent)?, branches.get(&parent)?)));
        let depth = match parent {
            Some((depth, branch)) => depth + usize::from(*branch != manifest.branch),
            None => 0,
        };
        depths.insert(entry.id, depth.min(MAX_DEPTH));
        branches.insert(entry.id, manifest.branch);
    }
    depths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wrapped_between_lines() {
        let phrases = ["latest".to_owned(), "tag v1".to_owned(), "rolled back".to_owned()];
        assert_eq!(wrap(&phrases, 20), ["latest, tag v1,", "rolled back"]);
        assert!(wrap(&[], 20).is_empty());
    }
}
