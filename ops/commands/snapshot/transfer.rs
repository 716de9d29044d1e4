//! `ouzel snapshot export` and `import`: a snapshot as a folder, for other programs and other machines.

use std::io::Write;
use std::path::Path;

use ouzel_learner::{ROW_STATE, WIDE_STATE, verify_weights};
use ouzel_snapshot::{Snapshot, Store};
use serde_json::json;

use crate::cli::ExportFormat;
use crate::commands::output;
use crate::error::{ErrorExt, Exit};
use crate::telemetry::clock::{Clock, SystemClock};

/// Writes the files of a snapshot to the new folder `dir`.
pub(super) fn export(
    snapshot: &Snapshot,
    dir: &Path,
    format: ExportFormat,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    match format {
        ExportFormat::Safetensors => snapshot.export(dir)?,
        ExportFormat::Npz => snapshot.export_npz(dir)?,
        ExportFormat::Parquet => snapshot.export_parquet(dir, state_names)?,
    }
    let (id, n_files) = (snapshot.id(), snapshot.manifest().files.len());
    match json {
        true => output::json(&json!({ "snapshot": id, "dir": dir, "files": n_files }), out)?,
        false => writeln!(
            out,
            "exported {n_files} files of snapshot {id} to {}",
            dir.display()
        )?,
    }
    Ok(Exit::Ok)
}

/// Names of the optimizer's values of a row, in the tables of a file.
fn state_names(file: &str) -> &'static [&'static str] {
    const ROW: [&str; ROW_STATE] = ["mean_squared_gradient"];
    const WIDE: [&str; WIDE_STATE] = ["ftrl_z", "ftrl_n"];
    match file {
        _ if file.ends_with("wide.safetensors") => &WIDE,
        _ if file.ends_with("rows.safetensors") => &ROW,
        _ => &[],
    }
}

/// Writes an exported snapshot into the store, if its files are as written and its weights can be used.
pub(super) fn import(
    store: &Store,
    dir: &Path,
    note: &str,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let exported = Snapshot::open_exported(dir).hint(
        "`ouzel snapshot export ID DIR` writes a folder that can be imported; its files must not change",
    )?;
    verify_weights(&exported)?;
    let id = store.import(&exported, note, SystemClock.now_ms())?;
    match json {
        true => output::json(&json!({ "snapshot": id }), out)?,
        false => writeln!(
            out,
            "imported as snapshot {id}; `ouzel snapshot rollback {}` makes a start continue from it",
            id.number()
        )?,
    }
    Ok(Exit::Ok)
}
