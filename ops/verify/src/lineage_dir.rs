//! The folder of one lineage: the configuration, the log and the state directory of its daemons.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use ouzel_snapshot::{SnapshotId, Store};

use crate::settings::DaemonSettings;

/// Lines of the daemons' log that an error message quotes.
const QUOTED_LINES: usize = 6;

/// The folder of one lineage.
#[derive(Clone, Debug)]
pub(crate) struct LineageDir {
    pub(crate) path: PathBuf,
    /// The state directory.
    pub(crate) state: PathBuf,
    pub(crate) settings: DaemonSettings,
}

impl LineageDir {
    /// Creates the folder and writes the configuration of its daemons.
    pub(crate) fn create(path: &Path, settings: &DaemonSettings) -> anyhow::Result<Self> {
        create_dir(path)?;
        let state = path.join("state");
        let settings = settings.clone();
        let dir = Self {
            path: path.to_owned(),
            settings: settings.with("snapshot", "dir", state.display().to_string()),
            state,
        };
        let file = dir.config_path();
        fs::write(&file, dir.settings.to_toml())
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(dir)
    }

    /// The folder of the plan log.
    pub(crate) fn plan(&self) -> PathBuf {
        self.state.join("plan")
    }

    /// The folder of the snapshots.
    pub(crate) fn snapshots(&self) -> PathBuf {
        self.state.join("snapshots")
    }

    /// The store, read-only.
    pub(crate) fn store(&self) -> Store {
        Store::inspect(&self.state)
    }

    /// The configuration file.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.path.join("ouzel.toml")
    }

    /// The log of all daemons.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.path.join("daemon.log")
    }

    /// The last lines of the daemons' log.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n  ")
    }

    /// Number of snapshots that are complete, or that are being written or removed.
    pub(crate) fn n_snapshots(&self, is_complete: bool) -> usize {
        let names = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
        if is_complete {
            return names(&self.snapshots()).count();
        }
        // The others are in the working directory of the writer.
        let claims = names(&self.state.join("lease"));
        let work = claims.flat_map(|claim| names(&claim.path().join("work")));
        work.filter(|entry| entry.file_name().to_string_lossy().parse::<SnapshotId>().is_ok())
            .count()
    }

    /// Copies the oldest valid snapshot to another lineage.
    pub(crate) fn copy_first_snapshot(&self, target: &Self) -> anyhow::Result<()> {
        let store = self.store();
        let is_valid = |id: SnapshotId| store.verify(id).is_ok_and(|report| report.is_valid());
        let listed = store.list()?;
        let first = listed.iter().find(|listed| is_valid(listed.id));
        let id = first.context("no snapshot is valid")?.id.to_string();
        let source = self.snapshots().join(&id);
        let files = fs::read_dir(&source).with_context(|| format!("cannot list {}", source.display()))?;
        let files = files
            .map(|entry| Ok(entry?.path()))
            .collect::<anyhow::Result<Vec<_>>>()?;
        copy_files(&files, &target.snapshots().join(&id))
    }
}

/// The segments of a plan log, oldest first.
pub(crate) fn plan_segments(plan: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(plan) else {
        return Ok(Vec::new());
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {}", plan.display()))?
            .path();
        if path.extension().is_some_and(|extension| extension == "log") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Copies the segments of a plan log into another folder.
pub(crate) fn copy_plan(plan: &Path, target: &Path) -> anyhow::Result<()> {
    copy_files(&plan_segments(plan)?, target)
}

/// Creates a folder and its parents.
pub(crate) fn create_dir(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

fn copy_files(files: &[PathBuf], target: &Path) -> anyhow::Result<()> {
    create_dir(target)?;
    for file in files {
        let name = file.file_name().context("a listed file has a name")?;
        fs::copy(file, target.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}
