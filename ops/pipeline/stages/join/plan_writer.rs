//! Writes the plan log; retries while the file system refuses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use metrics::{counter, gauge};

use ouzel_ingest::plan::{PlanEntry, PlanError, PlanLog};
use ouzel_verify::failpoint::{self, FailPoint};

use crate::error::{ErrorExt, Exit};
use crate::pipeline::stages::backlog::Backlog;
use crate::telemetry::metrics::{PLAN_STALLED, PLAN_STALLS_TOTAL};

/// Time between two syncs of the log.
const SYNC_EVERY: Duration = Duration::from_millis(200);
/// Pause between two tries of a failed write.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// How long a failed write is retried after poll has ended.
const RETRY_AT_END: Duration = Duration::from_secs(5);

/// The plan log of a running pipeline.
pub struct PlanWriter {
    log: PlanLog,
    backlog: Arc<Backlog>,
    synced: Instant,
}

impl PlanWriter {
    /// A writer to `log`, which gives up some seconds after `backlog` has ended.
    pub fn new(log: PlanLog, backlog: Arc<Backlog>) -> Self {
        Self {
            log,
            backlog,
            synced: Instant::now(),
        }
    }

    /// Appends an entry.
    pub(super) fn append(&mut self, entry: &PlanEntry) -> anyhow::Result<()> {
        self.retry(|log| log.append(entry))?;
        failpoint::reach(FailPoint::PlanAppended);
        Ok(())
    }

    /// Makes all appended entries durable.
    pub(super) fn sync(&mut self) -> anyhow::Result<()> {
        self.synced = Instant::now();
        self.retry(PlanLog::sync)
    }

    /// Syncs if the last sync was a while ago.
    pub(super) fn sync_if_due(&mut self) -> anyhow::Result<()> {
        match self.synced.elapsed() < SYNC_EVERY {
            true => Ok(()),
            false => self.sync(),
        }
    }

    /// Starts a new segment and removes those that end before entry `keep_from`.
    pub(super) fn roll(&mut self, keep_from: u64) -> anyhow::Result<()> {
        self.retry(PlanLog::roll)?;
        failpoint::reach(FailPoint::PlanRolled);
        if let Err(error) = self.log.prune(keep_from) {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(error, "old segments of the plan log not removed");
        }
        failpoint::reach(FailPoint::PlanPruned);
        Ok(())
    }

    /// Repeats `work` while the file system refuses.
    ///
    /// Fails on a permanent error, or some seconds after poll has ended. The next start reads the unrecorded records again.
    fn retry(&mut self, work: impl Fn(&mut PlanLog) -> Result<(), PlanError>) -> anyhow::Result<()> {
        let mut stalled: Option<Instant> = None;
        let mut ended: Option<Instant> = None;
        loop {
            let Err(error) = work(&mut self.log) else {
                if stalled.is_some() {
                    tracing::info!("the plan log can be written again: learning continues");
                    gauge!(PLAN_STALLED).set(0.0);
                }
                return Ok(());
            };
            if matches!(error, PlanError::TakenOver { .. }) {
                return Err(error).exit(Exit::TakenOver);
            }
            let is_transient = error.is_transient();
            let error = anyhow::Error::from(error);
            if stalled.is_none() {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the plan log cannot be written: learning pauses until it can, serving continues"
                );
                counter!(PLAN_STALLS_TOTAL).increment(1);
                gauge!(PLAN_STALLED).set(1.0);
            }
            let since = *stalled.get_or_insert_with(Instant::now);
            if self.backlog.has_ended() {
                ended.get_or_insert_with(Instant::now);
            }
            let is_hopeless = ended.is_some_and(|ended| ended.elapsed() >= RETRY_AT_END);
            if !is_transient || is_hopeless {
                let waited = since.elapsed().as_secs();
                return Err(error).with_context(|| {
                    format!(
                        "stopped without a last snapshot, after {waited} s; the next start reads the unrecorded \
                         records again"
                    )
                });
            }
            std::thread::sleep(RETRY_EVERY);
        }
    }
}
