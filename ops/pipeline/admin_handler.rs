//! Carries out the requests of the admin socket on a running pipeline.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use ouzel_serving::{Published, Version};
use ouzel_snapshot::{SnapshotId, Store};

use super::control::{CheckpointRequests, ControlState};
use super::model_op::ModelOp;
use super::stages::learn::{LearnerRequest, PendingRequest};
use super::status::PipelineStatus;
use crate::admin::{AdminReply, AdminRequest, Status};
use crate::telemetry::clock::Clock;

/// Longest wait for a stage to carry out a request.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Answers the requests of the admin socket.
pub(crate) struct AdminHandler {
    pub(crate) status: Arc<PipelineStatus>,
    pub(crate) control: ControlState,
    pub(crate) requests: CheckpointRequests,
    pub(crate) store: Arc<Store>,
    pub(crate) published: Arc<Published<Version>>,
    pub(crate) learner: Sender<PendingRequest>,
    /// For the audit log.
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) started: Instant,
}

impl AdminHandler {
    /// Carries out a request.
    pub(crate) fn answer(&self, request: AdminRequest) -> AdminReply {
        let done = match request {
            AdminRequest::Status => return AdminReply::Status(self.report()),
            AdminRequest::Snapshot => self
                .requests
                .snapshot_now(TIMEOUT)
                .map(Some)
                .ok_or_else(|| anyhow!("no snapshot was written; the log of the daemon says why")),
            AdminRequest::Rollback { id, note } => self.roll_back(&id, &note).map(Some),
            AdminRequest::Pin { id, note } => self.pin(&id, &note).map(Some),
            AdminRequest::FreezeBase { note } => self.apply(ModelOp::FreezeBase, note).map(Some),
            AdminRequest::Rebase { note } => self.apply(ModelOp::Rebase, note).map(Some),
            AdminRequest::Unpin { note } => self.unpin(&note).map(|()| None),
        };
        match done {
            Ok(snapshot) => AdminReply::Done {
                snapshot: snapshot.map(|id| id.to_string()),
            },
            Err(error) => AdminReply::refused(format!("{error:#}")),
        }
    }

    /// Continues from the weights of `id`, with the present features and positions. The log is not read again.
    ///
    /// The snapshot that follows makes the rollback durable.
    fn roll_back(&self, id: &str, note: &str) -> anyhow::Result<SnapshotId> {
        let id = self.readable(id)?;
        // From here on no snapshot of the abandoned lineage can become the newest.
        self.store.rollback(id, note, self.clock.now_ms())?;
        // A restart serves this snapshot, even if another was pinned.
        self.store.unpin(note, self.clock.now_ms())?;
        self.request(LearnerRequest::Rollback(id))?;
        self.requests
            .snapshot_now(TIMEOUT)
            .with_context(|| format!("rolled back to {id}, but the snapshot after it was not written"))?;
        Ok(id)
    }

    /// Changes the model between two batches. The snapshot that follows makes the change durable.
    fn apply(&self, op: ModelOp, note: String) -> anyhow::Result<SnapshotId> {
        self.request(LearnerRequest::ModelOp(op, note))?;
        self.requests.snapshot_now(TIMEOUT).with_context(|| {
            let done = op.done();
            format!(
                "{done}, but the snapshot after it was not written: a crash before the next one undoes it"
            )
        })
    }

    fn pin(&self, id: &str, note: &str) -> anyhow::Result<SnapshotId> {
        let id = self.readable(id)?;
        self.store.pin(id, note, self.clock.now_ms())?;
        self.request(LearnerRequest::Pin(id))?;
        Ok(id)
    }

    fn unpin(&self, note: &str) -> anyhow::Result<()> {
        self.store.unpin(note, self.clock.now_ms())?;
        self.request(LearnerRequest::Unpin)
    }

    /// Parses the id of a snapshot that can be read.
    fn readable(&self, id: &str) -> anyhow::Result<SnapshotId> {
        let id = SnapshotId::from_str(id)?;
        self.store.read(id)?;
        Ok(id)
    }

    /// Sends a request to the learner and waits until it is carried out.
    fn request(&self, request: LearnerRequest) -> anyhow::Result<()> {
        let (reply, answer) = sync_channel(1);
        self.learner
            .send((request, reply))
            .map_err(|_| anyhow!("the learner has ended; the log of the daemon says why"))?;
        answer.recv_timeout(TIMEOUT).with_context(|| {
            let limit = TIMEOUT.as_secs();
            format!("the learner did not answer within {limit} s")
        })?
    }

    fn report(&self) -> Status {
        let served = self.published.served();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            serving: served.map(|model| model.snapshot.to_string()),
            latest: self.control.latest().map(|id| id.to_string()),
            pinned: self.control.pinned().map(|id| id.to_string()),
            events: self.status.events.load(Ordering::Relaxed),
            rejected: self.status.rejected.load(Ordering::Relaxed),
            samples: self.status.samples.load(Ordering::Relaxed),
            batches: self.status.batches.load(Ordering::Relaxed),
            pending: self.status.counters().pending_items,
        }
    }
}
