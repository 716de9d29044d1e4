//! Learn: passes batches to the learner and carries out control requests between two batches.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};

use ouzel_learner::Trainer;
use ouzel_snapshot::{Alias, SnapshotId, Store};

use super::Joined;
use crate::pipeline::learner::Learner;
use crate::pipeline::model_op::ModelOp;
use crate::telemetry::clock::Clock;

/// A control request from the admin socket to the learner.
#[derive(Debug)]
pub(crate) enum LearnerRequest {
    /// Continue from the weights of this snapshot.
    Rollback(SnapshotId),
    /// Freeze or rebase, for this reason.
    ModelOp(ModelOp, String),
    /// Serve this snapshot until it is unpinned.
    Pin(SnapshotId),
    /// Serve the newest version again.
    Unpin,
}

/// A control request with the channel for its answer.
pub(crate) type PendingRequest = (LearnerRequest, SyncSender<anyhow::Result<()>>);

/// The stage.
pub(crate) struct Learn {
    pub(crate) learner: Learner,
    /// Snapshots, for rollback and pin.
    pub(crate) store: Arc<Store>,
    pub(crate) requests: Receiver<PendingRequest>,
    /// For the audit log.
    pub(crate) clock: Arc<dyn Clock>,
}

impl Learn {
    /// Learns until the join stage ends.
    pub(crate) fn run(mut self, input: &Receiver<Joined>) -> anyhow::Result<()> {
        match self.store.alias(Alias::Pinned)? {
            Some(id) => self.apply(LearnerRequest::Pin(id))?,
            None => self.learner.publish()?,
        }
        loop {
            while let Ok((request, reply)) = self.requests.try_recv() {
                let done = self.apply(request);
                // The caller may have given up waiting.
                let _is_received = reply.send(done).is_ok();
            }
            match input.recv_timeout(self.learner.idle_timeout()) {
                Ok(joined) => self.learner.take(joined)?,
                Err(RecvTimeoutError::Timeout) => self.learner.on_idle()?,
                Err(RecvTimeoutError::Disconnected) => return self.learner.publish(),
            }
        }
    }

    fn apply(&mut self, request: LearnerRequest) -> anyhow::Result<()> {
        match request {
            LearnerRequest::Rollback(id) => self.learner.roll_back(id, self.load(id)?),
            LearnerRequest::Pin(id) => self.learner.pin(id, self.load(id)?),
            LearnerRequest::Unpin => self.learner.unpin(),
            LearnerRequest::ModelOp(op, reason) => {
                let (store, now_ms) = (&self.store, self.clock.now_ms());
                let audit = |latest| Ok(store.record_action(op.verb(), latest, &reason, now_ms)?);
                self.learner.apply(op, &reason, audit)
            }
        }
    }

    fn load(&self, id: SnapshotId) -> anyhow::Result<Trainer> {
        let snapshot = self.store.read(id)?;
        let trainer = &self.learner.trainer;
        let (model, config) = (trainer.model().clone(), trainer.config().clone());
        Ok(Trainer::load(&snapshot, &model, config)?)
    }
}
