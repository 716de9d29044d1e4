//! What the admin socket's requests do to a running pipeline.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use ouzel_serving::{Published, Version};
use ouzel_snapshot::{SnapshotId, Store};

use crate::admin::{AdminReply, AdminRequest, Status};
use crate::clock::Clock;
use crate::live::PipelineStatus;
use crate::stages::learn::{Control, ControlRequest};
use crate::turn::ModelOp;

/// Longest wait for a stage to do what was asked.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers requests.
pub struct AdminHandler {
    live: Arc<PipelineStatus>,
    store: Arc<Store>,
    published: Arc<Published<Version>>,
    learner: Sender<ControlRequest>,
    clock: Arc<dyn Clock>,
    started: Instant,
}

impl AdminHandler {
    /// A desk for one pipeline.
    #[must_use]
    pub fn new(
        live: Arc<PipelineStatus>,
        store: Arc<Store>,
        published: Arc<Published<Version>>,
        learner: Sender<ControlRequest>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            live,
            store,
            published,
            learner,
            clock,
            started: Instant::now(),
        }
    }

    /// Does what is asked.
    pub fn answer(&self, request: AdminRequest) -> AdminReply {
        let done = match request {
            AdminRequest::Status => return AdminReply::Status(self.status()),
            AdminRequest::Snapshot => self
                .live
                .snapshot_now(PATIENCE)
                .map(Some)
                .ok_or_else(|| anyhow!("no snapshot was written; the log of the daemon says why")),
            AdminRequest::Rollback { id, note } => self.rollback(&id, &note).map(Some),
            AdminRequest::Pin { id, note } => self.pin(&id, &note).map(Some),
            AdminRequest::FreezeBase { note } => self.turn(ModelOp::FreezeBase, note).map(Some),
            AdminRequest::Rebase { note } => self.turn(ModelOp::Rebase, note).map(Some),
            AdminRequest::Unpin { note } => self
                .store
                .unpin(&note, self.clock.now_ms())
                .map_err(anyhow::Error::from)
                .and_then(|()| self.ask(Control::Unpin))
                .map(|()| None),
        };
        match done {
            Ok(snapshot) => AdminReply::Done {
                snapshot: snapshot.map(|id| id.to_string()),
            },
            Err(error) => AdminReply::refused(format!("{error:#}")),
        }
    }

    /// Weights of `id`, features and positions of now: the log is not read again. The snapshot that follows
    /// makes it durable.
    fn rollback(&self, id: &str, note: &str) -> anyhow::Result<SnapshotId> {
        let id = self.known(id)?;
        // From here on no snapshot of the lineage left behind can become the newest.
        self.store.rollback(id, note, self.clock.now_ms())?;
        // It is to be served, also after a restart.
        self.store.unpin(note, self.clock.now_ms())?;
        self.ask(Control::Rollback(id))?;
        self.live
            .snapshot_now(PATIENCE)
            .context("rolled back, but the snapshot after it was not written")?;
        Ok(id)
    }

    /// Done between two batches, and durable with the snapshot that follows.
    fn turn(&self, turn: ModelOp, note: String) -> anyhow::Result<SnapshotId> {
        self.ask(Control::ModelOp(turn, note))?;
        self.live.snapshot_now(PATIENCE).with_context(|| {
            let done = turn.done();
            format!("{done}, but the snapshot after it was not written: until one is, a crash undoes it")
        })
    }

    fn pin(&self, id: &str, note: &str) -> anyhow::Result<SnapshotId> {
        let id = self.known(id)?;
        self.store.pin(id, note, self.clock.now_ms())?;
        self.ask(Control::Pin(id))?;
        Ok(id)
    }

    fn known(&self, id: &str) -> anyhow::Result<SnapshotId> {
        let id = SnapshotId::from_str(id)?;
        self.store.read(id)?;
        Ok(id)
    }

    fn ask(&self, control: Control) -> anyhow::Result<()> {
        let (reply, answer) = sync_channel(1);
        self.learner
            .send((control, reply))
            .map_err(|_| anyhow!("the learner has ended"))?;
        answer
            .recv_timeout(PATIENCE)
            .context("the learner did not answer")?
    }

    fn status(&self) -> Status {
        let served = self.published.served();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            serving: served.map(|model| model.snapshot.to_string()),
            latest: self.live.latest().map(|id| id.to_string()),
            pinned: self.live.pinned().map(|id| id.to_string()),
            events: self.live.events.load(Ordering::Relaxed),
            rejected: self.live.rejected.load(Ordering::Relaxed),
            samples: self.live.samples.load(Ordering::Relaxed),
            batches: self.live.batches.load(Ordering::Relaxed),
            pending: self.live.counters().pending_items,
        }
    }
}
