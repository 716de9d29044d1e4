//! Waits for a moment in the life of a daemon, which it starts if none runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Lineage;
use crate::daemon::Daemon;
use crate::lineage_dir::plan_segments;

/// Time between two status requests.
const STATUS_INTERVAL: Duration = Duration::from_millis(10);
/// Time between two looks for a snapshot that is being written.
const SNAPSHOT_POLL: Duration = Duration::from_micros(200);
/// Time between two looks for anything else.
const POLL: Duration = Duration::from_millis(1);
/// Longest time that a lineage may take to consume the rest of its log.
const LOG_TIMEOUT: Duration = Duration::from_secs(120);

/// A condition to wait for.
#[derive(Clone, Copy)]
pub(super) enum Until {
    /// The daemon is this old.
    Age(Duration),
    /// A snapshot is being written; then this long.
    SnapshotWrite { then: Duration },
    /// There are `n` complete snapshots; then this long.
    Snapshots { n: usize, then: Duration },
    /// The log is consumed.
    LogConsumed,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitEnd {
    /// The condition holds, or the daemon aborted at its fail point.
    Condition,
    /// The log was consumed first.
    LogConsumed,
}

impl Lineage<'_> {
    /// Waits, and meanwhile writes due records to the log and archives the plan log.
    pub(super) fn wait(&mut self, until: Until) -> anyhow::Result<WaitEnd> {
        let mut daemon = match self.daemon.take() {
            Some(daemon) => daemon,
            None => Daemon::start(&self.request.exe, &self.dir, self.is_on_one_core, self.fail_at)?,
        };
        let end = self.wait_with(&mut daemon, until);
        self.daemon = Some(daemon);
        if self.fail_at.is_some() && matches!(end, Ok(WaitEnd::Condition)) {
            self.take_daemon();
        }
        end
    }

    fn wait_with(&mut self, daemon: &mut Daemon, until: Until) -> anyhow::Result<WaitEnd> {
        let started = Instant::now();
        let (mut asked, mut seen) = (None, None);
        loop {
            self.log.send_due()?;
            self.archive_segments()?;
            // It is looked at once: between two looks it may abort.
            match daemon.check() {
                Err(_) if self.fail_at.is_some() && daemon.has_aborted()? => return Ok(WaitEnd::Condition),
                checked => checked?,
            }
            if asked.is_none_or(|asked: Instant| asked.elapsed() >= STATUS_INTERVAL) {
                if let (Some(n_read), Some(n_records)) = (daemon.n_read(), self.log.n_records)
                    && n_read >= n_records
                {
                    return Ok(WaitEnd::LogConsumed);
                }
                asked = Some(Instant::now());
            }
            if started.elapsed() > LOG_TIMEOUT {
                bail!("the log was not consumed within {} s", LOG_TIMEOUT.as_secs());
            }
            let age = daemon.age();
            let (poll, is_met) = match until {
                Until::Age(at) => (POLL.min(at.saturating_sub(age)), age >= at),
                Until::LogConsumed => (POLL, false),
                Until::SnapshotWrite { then } => {
                    let is_writing = || self.dir.n_snapshots(false) > 0;
                    (SNAPSHOT_POLL, has_held(&mut seen, is_writing, then))
                }
                Until::Snapshots { n, then } => {
                    let is_there = || self.dir.n_snapshots(true) >= n;
                    (POLL, has_held(&mut seen, is_there, then))
                }
            };
            if is_met {
                return Ok(WaitEnd::Condition);
            }
            std::thread::sleep(poll);
        }
    }

    /// Links new segments of the plan log into the archive, if there is one.
    pub(super) fn archive_segments(&self) -> anyhow::Result<()> {
        let Some(archive) = &self.archive else {
            return Ok(());
        };
        for path in plan_segments(&self.dir.plan())? {
            let link = archive.join(path.file_name().context("a segment has a name")?);
            // The next writer replaces a segment without an entry by one of its own.
            if inode(&link) == inode(&path) {
                continue;
            }
            let new = link.with_extension("new");
            let linked = fs::hard_link(&path, &new).and_then(|()| fs::rename(&new, &link));
            // A segment that was pruned since it was listed cannot be linked.
            if let Err(error) = linked
                && path.exists()
            {
                return Err(error).with_context(|| format!("cannot link {}", path.display()));
            }
        }
        Ok(())
    }
}

/// The inode of a file; `None` if there is none.
fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

/// Returns true `then` after `is_there` was first true.
fn has_held(seen: &mut Option<Instant>, is_there: impl FnOnce() -> bool, then: Duration) -> bool {
    if seen.is_none() && is_there() {
        *seen = Some(Instant::now());
    }
    seen.is_some_and(|seen| seen.elapsed() >= then)
}
