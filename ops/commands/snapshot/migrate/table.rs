//! The table of a migration that is only tried: what is kept, what starts anew, what is lost.

use std::io::Write;

use ouzel_ingest::join::TaskOutcome;
use ouzel_learner::WeightOutcome;
use ouzel_snapshot::Snapshot;
use serde_json::{Value, json};

use super::Migration;
use crate::commands::output;

/// One row of the table.
struct Part {
    name: String,
    kept: u64,
    anew: u64,
    lost: u64,
}

/// Writes what a migration would do.
pub(super) fn write(
    migration: &Migration,
    snapshot: &Snapshot,
    log: &[String],
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let parts = parts(migration);
    let notes = notes(migration, log);
    if json {
        return output::json(&document(migration, &parts, &notes), out);
    }
    writeln!(out, "from snapshot {}", snapshot.id())?;
    for setting in &migration.changed {
        writeln!(
            out,
            "  {}: {} becomes {}",
            setting.key, setting.former, setting.present
        )?;
    }
    let mut rows = vec![output::row(["PART", "KEPT", "STARTS ANEW", "LOST"])];
    for Part {
        name,
        kept,
        anew,
        lost,
    } in &parts
    {
        rows.push(vec![
            name.clone(),
            kept.to_string(),
            anew.to_string(),
            lost.to_string(),
        ]);
    }
    output::table(&rows, out)?;
    for note in notes {
        writeln!(out, "note: {note}")?;
    }
    writeln!(out, "nothing was changed")?;
    Ok(())
}

fn document(migration: &Migration, parts: &[Part], notes: &[String]) -> Value {
    let parts: serde_json::Map<String, Value> = parts
        .iter()
        .map(|part| {
            let counts = json!({ "kept": part.kept, "anew": part.anew, "lost": part.lost });
            (part.name.clone(), counts)
        })
        .collect();
    json!({ "snapshot": migration.from, "changed": migration.changed, "parts": parts, "notes": notes })
}

fn parts(migration: &Migration) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut part = |name: &str, kept: u64, anew: u64, lost: u64| {
        parts.push(Part {
            name: name.to_owned(),
            kept,
            anew,
            lost,
        });
    };
    let weights = &migration.weights;
    let n = |outcome: WeightOutcome| weights.n_parameters(outcome) as u64;
    let reshaped = n(WeightOutcome::Reshaped);
    part(
        "dense weights",
        n(WeightOutcome::Kept),
        n(WeightOutcome::Anew),
        n(WeightOutcome::Lost),
    );
    if reshaped > 0 {
        part("dense weights of another shape", reshaped, 0, 0);
    }
    for table in &weights.tables {
        part(
            &format!("rows: {}", table.name),
            table.kept as u64,
            0,
            table.lost as u64,
        );
    }
    let (join, features) = (&migration.stage.join, &migration.stage.features);
    part(
        "shown items in open windows",
        join.open_items,
        0,
        join.closed_items,
    );
    part("actions that wait", join.waiting, 0, join.lost_waiting);
    part("samples of the open batch", 0, 0, migration.stage.lost_samples);
    part("items", features.items, 0, 0);
    part("users", features.users, features.lost_users, 0);
    part("past actions of removed tasks", 0, 0, features.lost_actions);
    part("live counters", features.counters, features.lost_counters, 0);
    parts.retain(|part| part.kept + part.anew + part.lost > 0);
    parts
}

/// What the counts do not say.
fn notes(migration: &Migration, log: &[String]) -> Vec<String> {
    let mut notes = Vec::new();
    for (task, outcome) in &migration.stage.join.tasks {
        notes.push(match outcome {
            TaskOutcome::Added => format!(
                "task {task} is new: it takes the impressions that are read from now on, and starts at optimizer.prior_rate"
            ),
            TaskOutcome::Removed => format!("task {task} is removed, with its head and its open windows"),
            TaskOutcome::Window(former) => {
                format!("task {task} had the window {former}: open windows close by the new one, closed ones stay closed")
            }
            TaskOutcome::Kept => format!("task {task} is kept at another place"),
        });
    }
    let join = &migration.stage.join;
    if let Some(former) = join.former_policy.as_ref().filter(|_| join.closes_open) {
        notes.push(format!(
            "the samples of {former} cannot be continued: open windows close without further samples"
        ));
    }
    let changed = |outcome: WeightOutcome| {
        let weights = migration.weights.weights.iter();
        let names = weights.filter(|(_, _, found)| *found == outcome);
        names
            .map(|(name, _, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    for (outcome, what) in [
        (WeightOutcome::Reshaped, "keep the values that both shapes have"),
        (WeightOutcome::Anew, "start anew"),
        (WeightOutcome::Lost, "are lost"),
    ] {
        let names = changed(outcome);
        if !names.is_empty() {
            notes.push(format!("weights that {what}: {names}"));
        }
    }
    for table in migration
        .weights
        .tables
        .iter()
        .filter(|table| table.width != table.former_width)
    {
        let (name, was, is) = (&table.name, table.former_width, table.width);
        if is > 0 && was > 0 {
            notes.push(format!(
                "rows of {name}: {was} floats become {is}, the leading ones are kept and new ones are 0"
            ));
        }
    }
    if let Some(n) = migration.encoded {
        notes.push(format!("the contents of {n} items are encoded"));
    }
    if migration.stage.starts_anew {
        notes.push(
            "another version of ouzel wrote the join and the features: they start anew, and items and users are read from \
             their first record"
                .to_owned(),
        );
    } else {
        notes.push("nothing is read again: positions stay those of the snapshot".to_owned());
    }
    notes.push("the gates start anew, and warm up again".to_owned());
    notes.extend(
        migration
            .weights
            .notes
            .iter()
            .chain(&migration.notes)
            .chain(log)
            .cloned(),
    );
    notes
}
