//! What a snapshot of a large table costs: the learner's stall, bytes and time of each delta, and a restore.
//!
//! `snapshots [--rows N]`, 1,000,000 rows of 32 weights by default. One JSON object a line. The stall is the time that
//! `Trainer::save` takes, which is all that a learner waits for; what has changed is found by the writer.

#![expect(clippy::print_stdout, reason = "figures go to stdout")]

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use ouzel_learner::model::ModelConfig;
use ouzel_learner::{LearnerConfig, Trainer, set_intra_op_threads};
use ouzel_snapshot::{ANY, Array, Arrays, CheckpointMeta, Draft, FileKind, Fingerprint, SnapshotId, Store};

const ROWS: &str = "rows.safetensors";
/// Snapshots after the whole one.
const MAX_DELTAS: usize = 10;

fn main() {
    let asked: Vec<String> = std::env::args().collect();
    let n_rows = asked
        .iter()
        .position(|arg| arg == "--rows")
        .and_then(|at| asked.get(at + 1)?.parse().ok());
    let n_rows: usize = n_rows.unwrap_or(1_000_000);
    set_intra_op_threads(1);
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    run(dir.path(), n_rows).expect("the store and the trainer work");
}

fn run(dir: &Path, n_rows: usize) -> Result<(), ouzel_learner::Error> {
    let store = Store::open(dir)?;
    let model = ModelConfig {
        dim: 32,
        ..ModelConfig::default()
    };
    let learner = LearnerConfig::default();
    let mut small = new_draft(None);
    Trainer::new(model.clone(), learner.clone())?.save(&mut small)?;
    let small = store.write(&small)?;
    let mut rows = table(&store.read(small)?.arrays(ROWS)?, n_rows)?;
    let whole = store.write(&with_rows(&store, small, None, &rows)?)?;

    let started = Instant::now();
    let mut trainer = Trainer::load(&store.read(whole)?, &model, learner.clone())?;
    println!(
        "{}",
        json!({ "restore": "whole", "rows": n_rows, "seconds": started.elapsed().as_secs_f64() })
    );
    for run in 0..5 {
        let started = Instant::now();
        let mut draft = new_draft(None);
        trainer.save(&mut draft)?;
        let stall = started.elapsed();
        println!(
            "{}",
            json!({ "stall": run, "rows": n_rows, "milliseconds": stall.as_secs_f64() * 1e3 })
        );
    }
    drop(trainer);

    let mut parent = None;
    for (link, touched) in [0, 100, 1_000, 10_000, 10_000, 10_000, 20_000]
        .into_iter()
        .enumerate()
    {
        touch(&mut rows, touched.min(n_rows), link)?;
        let draft = with_rows(&store, small, parent, &rows)?;
        let started = Instant::now();
        let id = store.write_chained(&draft, MAX_DELTAS)?;
        let seconds = started.elapsed().as_secs_f64();
        let snapshot = store.read(id)?;
        let bytes = snapshot.manifest().file(ROWS).map_or(0, |file| file.bytes);
        let is_delta = !snapshot.manifest().bases().is_empty();
        println!(
            "{}",
            json!({ "touched": touched, "delta": is_delta, "bytes": bytes, "write_seconds": seconds })
        );
        parent = Some(id);
    }
    if let Some(id) = parent {
        let started = Instant::now();
        Trainer::load(&store.read(id)?, &model, learner)?;
        println!(
            "{}",
            json!({ "restore": "chain", "rows": n_rows, "seconds": started.elapsed().as_secs_f64() })
        );
    }
    Ok(())
}

fn new_draft(parent: Option<SnapshotId>) -> Draft {
    Draft::new(parent, 0, Fingerprint::default(), CheckpointMeta::default())
}

/// A table of `n_rows` rows of the stride that `small` has.
fn table(small: &Arrays, n_rows: usize) -> Result<Arrays, ouzel_learner::Error> {
    let stride = small.array("values")?.shape().get(1).copied().unwrap_or(1);
    let ids = (0..n_rows as u64)
        .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .collect();
    let values = (0..n_rows * stride).map(|n| (n % 1000) as f32 / 1e4).collect();
    let mut arrays = Arrays::new();
    arrays.insert("ids", Array::new::<u64>(&[n_rows], ids)?)?;
    arrays.insert("values", Array::new::<f32>(&[n_rows, stride], values)?)?;
    Ok(arrays)
}

/// Changes `n` rows spread over the table.
fn touch(rows: &mut Arrays, n: usize, seed: usize) -> Result<(), ouzel_learner::Error> {
    let shape = rows.array("values")?.shape().to_vec();
    let mut values = rows.take::<f32>("values", &[ANY, ANY])?;
    let (n_rows, stride) = (shape[0], shape[1]);
    for at in 0..n {
        let row = (at * (n_rows / n.max(1)) + seed) % n_rows;
        values[row * stride] += 1.0;
    }
    Ok(rows.insert("values", Array::new(&shape, values)?)?)
}

/// A draft with the files of the small snapshot and another table.
fn with_rows(
    store: &Store,
    small: SnapshotId,
    parent: Option<SnapshotId>,
    rows: &Arrays,
) -> Result<Draft, ouzel_learner::Error> {
    let snapshot = store.read(small)?;
    let mut draft = new_draft(parent);
    draft.add_arrays(ROWS, rows.clone())?;
    for file in snapshot.manifest().files.iter().filter(|file| file.name != ROWS) {
        match file.kind {
            FileKind::Blob => draft.add_blob(&file.name, snapshot.blob(&file.name)?)?,
            FileKind::Arrays => draft.add_arrays(&file.name, snapshot.arrays(&file.name)?)?,
        }
    }
    Ok(draft)
}
