//! The plan log of a standby: reads the entries of another daemon, then becomes their writer.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use ouzel_ingest::plan::{Encoded, Followed, PlanEntry, PlanError, PlanFollower, PlanLease, PlanLog};
use ouzel_snapshot::Store;

use super::PlanWriter;
use crate::pipeline::stages::backlog::Backlog;
use crate::pipeline::stages::encode::Encoding;
use crate::pipeline::standby::RunRole;
use crate::telemetry::metrics::{PLAN_STALLED, PLAN_STALLS_TOTAL};

/// Time between two reads that found nothing.
const READ_EVERY: Duration = Duration::from_millis(20);
/// Entries that wait to be joined at which no more are read.
pub(super) const MAX_WAITING: usize = 1024;
/// How long an entry waits for the vectors that it names, which this process encodes too. Then they count as lost.
const WAIT_FOR_VECTORS: Duration = Duration::from_secs(30);

/// The plan log that another daemon writes.
pub struct PlanReader {
    follower: PlanFollower,
    dir: PathBuf,
    store: Arc<Store>,
    role: RunRole,
    backlog: Arc<Backlog>,
    /// Entries before which the other daemon took a checkpoint, in order.
    checkpoints: VecDeque<u64>,
    read: Option<Instant>,
    /// Since when the first entry waits for vectors.
    waits_for_vectors: Option<Instant>,
    /// True once the file system has refused the segment of a new writer.
    is_stalled: bool,
}

/// The plan log of a join stage.
pub enum Plan {
    /// This process decides.
    Write(PlanWriter),
    /// Another daemon does.
    Follow(PlanReader),
}

impl From<PlanWriter> for Plan {
    fn from(writer: PlanWriter) -> Self {
        Self::Write(writer)
    }
}

/// The lease of a store for its plan log.
pub(crate) fn plan_lease(store: &Store) -> anyhow::Result<Option<PlanLease>> {
    let Some(epoch) = store.epoch() else {
        return Ok(None);
    };
    let work_dir = store.work_dir()?;
    Ok(Some(PlanLease { epoch, work_dir }))
}

impl PlanReader {
    /// A reader of the plan log of `store` from entry `position` on.
    pub(crate) fn new(store: Arc<Store>, role: RunRole, backlog: Arc<Backlog>, position: u64) -> Self {
        let dir = store.root().join("plan");
        Self {
            follower: PlanFollower::new(dir.clone(), position),
            dir,
            store,
            role,
            backlog,
            checkpoints: VecDeque::new(),
            read: None,
            waits_for_vectors: None,
            is_stalled: false,
        }
    }

    /// The entries that were written since the last call.
    pub(super) fn entries(&mut self) -> anyhow::Result<Vec<PlanEntry>> {
        let is_soon = self.read.is_some_and(|read| read.elapsed() < READ_EVERY);
        if is_soon || self.role.resync.is_requested() {
            return Ok(Vec::new());
        }
        let found = match self.follower.poll() {
            Err(error @ (PlanError::Gap { .. } | PlanError::Superseded { .. })) => {
                self.role.resync.request(&error.to_string());
                return Ok(Vec::new());
            }
            // A segment that is removed or created at this moment, or a disk that fails: the next read shows which.
            Err(error @ PlanError::Io { .. }) => {
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::from(error)),
                    "the plan log cannot be read"
                );
                Vec::new()
            }
            found => found?,
        };
        self.read = found.is_empty().then(Instant::now);
        let mut entries = Vec::with_capacity(found.len());
        for followed in found {
            match followed {
                Followed::Entry(entry) => entries.push(entry),
                Followed::Segment(first) => self.checkpoints.push_back(first),
            }
        }
        Ok(entries)
    }

    /// True if the other daemon took a checkpoint before entry `position`; once.
    pub(super) fn take_checkpoint(&mut self, position: u64) -> bool {
        while self.checkpoints.front().is_some_and(|first| *first < position) {
            self.checkpoints.pop_front();
        }
        let is_due = self.checkpoints.front() == Some(&position);
        if is_due {
            self.checkpoints.pop_front();
        }
        is_due
    }

    /// True while the next entry must wait for vectors that this process has not encoded yet.
    pub(super) fn waits_for(&mut self, encoding: &Encoding, encoded: &[Encoded]) -> anyhow::Result<bool> {
        if encoding.has(encoded)? {
            self.waits_for_vectors = None;
            return Ok(false);
        }
        let since = *self.waits_for_vectors.get_or_insert_with(Instant::now);
        let waits = since.elapsed() < WAIT_FOR_VECTORS;
        if !waits {
            self.waits_for_vectors = None;
        }
        Ok(waits)
    }

    /// True once this process is the writer, and may decide.
    pub(super) fn may_lead(&self) -> bool {
        self.role.may_lead() && !self.role.resync.is_requested()
    }

    /// Opens the log to write to it, and returns the entries of the former writer that were not read yet.
    pub(super) fn take_over(&mut self) -> anyhow::Result<Option<(PlanWriter, Vec<PlanEntry>)>> {
        let Some(lease) = plan_lease(&self.store)? else {
            return Ok(None);
        };
        // It begins a segment, which ends what counts of the former writer's.
        let (log, _) = match PlanLog::open_leased(lease, &self.dir, self.follower.position()) {
            Err(error) if error.is_transient() => {
                self.stall(error);
                return Ok(None);
            }
            opened => opened?,
        };
        if self.is_stalled {
            tracing::info!("the plan log can be written again: learning continues");
            gauge!(PLAN_STALLED).set(0.0);
        }
        let mut left = Vec::new();
        while self.follower.position() < log.position() && !self.role.resync.is_requested() {
            self.read = None;
            let entries = self.entries()?;
            if entries.is_empty() {
                std::thread::sleep(READ_EVERY);
            }
            left.extend(entries);
        }
        if self.role.resync.is_requested() {
            return Ok(None);
        }
        Ok(Some((PlanWriter::new(log, Arc::clone(&self.backlog)), left)))
    }

    /// Says once that the file system refuses the segment of a new writer. The join stage tries again in a moment.
    fn stall(&mut self, error: PlanError) {
        if !self.is_stalled {
            self.is_stalled = true;
            tracing::error!(
                error = format!("{:#}", anyhow::Error::from(error)),
                "the plan log cannot be written: learning pauses until it can, serving continues"
            );
            counter!(PLAN_STALLS_TOTAL).increment(1);
            gauge!(PLAN_STALLED).set(1.0);
        }
        std::thread::sleep(READ_EVERY);
    }
}
