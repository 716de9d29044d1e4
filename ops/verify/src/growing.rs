//! Lineages on a growing log: a new process that follows the plan log must reach the same states.

use std::path::Path;

use anyhow::Context;

use crate::digest::{StateDigest, check_outcomes, compare};
use crate::event_log::EventLog;
use crate::lineage::{Lineage, Timing};
use crate::lineage_dir::{LineageDir, copy_plan, plan_segments};
use crate::report::Check;
use crate::settings::{DaemonSettings, KEEP_ALL};
use crate::workload::Workload;
use crate::{Verification, n_slates, snapshot_interval};

/// The run that follows the plan log, in error messages.
const FOLLOWING: &str = "the run that follows its plan log";

impl Verification<'_> {
    /// Kills the daemons of one lineage up to `max_kills` times while its log grows.
    pub(crate) fn kill_on_growing_log(&mut self, max_kills: u64, timing: Timing) -> anyhow::Result<()> {
        let (request, n_lineages) = (self.request, self.report.n_lineages());
        let name = format!("growing-{n_lineages:04}");
        let workload = Workload::new(request.seed ^ n_lineages, n_slates(request), false);
        let n_lives = u32::try_from(max_kills).unwrap_or(u32::MAX);
        let mut log = EventLog::growing(workload, timing.total.saturating_mul(n_lives) / 2)?;
        let settings = DaemonSettings::new(&log.bootstrap)
            .of_workload(&log.workload)
            .with("learner", "flush_after_idle", "20ms")
            .with("order", "max_reorder_delay", "2ms")
            .with("snapshot", "every_batches", snapshot_interval(request, &name))
            .with("snapshot", "keep", KEEP_ALL);
        let dir = LineageDir::create(&request.dir.join(&name), &settings)?;
        let mut lineage = Lineage::new(dir.clone(), request, &mut log, timing, &name);
        let archive = lineage.archive_plan()?;
        let finished = lineage
            .kill_repeatedly(&mut self.scenarios, max_kills, &[])
            .and_then(|()| lineage.finish());
        let mut history = lineage.into_history();
        let outcome = finished.and_then(|(snapshot, _)| {
            check_outcomes(&dir, &snapshot, &log.workload.expected)?;
            let digest = StateDigest::new(snapshot.manifest())?;
            let follower = follower_dir(&dir, &archive)?;
            let mut lineage = Lineage::new(follower, request, &mut log, timing, &name);
            let (last, _) = lineage
                .finish()
                .context("a new process cannot follow the plan log")?;
            let snapshots = (StateDigest::read_all(&dir)?, StateDigest::read_all(&lineage.dir)?);
            history
                .compared
                .extend(compare(&snapshots.0, &snapshots.1, FOLLOWING)?);
            digest.must_equal(&StateDigest::new(last.manifest())?, FOLLOWING)?;
            Ok(digest)
        });
        self.record(Check::GrowingLog, &name, history, outcome)
    }
}

/// The folder of a new process with the plan log of `dir`, from its first entry if that is in the archive.
fn follower_dir(dir: &LineageDir, archive: &Path) -> anyhow::Result<LineageDir> {
    // Only the plan log may close a batch early.
    let settings = dir.settings.clone().with("learner", "flush_after_idle", "0ms");
    let follower = LineageDir::create(&dir.path.join("follower"), &settings)?;
    if plan_segments(archive)?
        .first()
        .is_some_and(|first| is_first_segment(first))
    {
        copy_plan(archive, &follower.plan())?;
    } else {
        // The first segment was pruned before it could be archived: start at the first snapshot.
        copy_plan(&dir.plan(), &follower.plan())?;
        dir.copy_first_snapshot(&follower)?;
    }
    Ok(follower)
}

/// True for the segment that starts with entry 0.
fn is_first_segment(segment: &Path) -> bool {
    let stem = segment.file_stem().and_then(|stem| stem.to_str());
    let entry = stem.and_then(|stem| stem.strip_prefix("plan-")?.parse::<u64>().ok());
    entry == Some(0)
}
