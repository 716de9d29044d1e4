//! Learn: the learner's thread. Feeds it from the join stage and carries out control requests between two batches.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};

use ouzel_learner::Trainer;
use ouzel_snapshot::{Alias, SnapshotId, Store};

use super::Joined;
use crate::pipeline::learner::Learner;
use crate::pipeline::model_op::ModelOp;
use crate::telemetry::clock::Clock;

/// A control request to the learner, from the admin socket.
#[derive(Debug)]
pub enum LearnerRequest {
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
pub type PendingRequest = (LearnerRequest, SyncSender<anyhow::Result<()>>);

/// The stage.
pub struct Learn {
    /// The state machine.
    pub learner: Learner,
    /// Snapshots, for rollback and pin.
    pub store: Arc<Store>,
    /// From the admin socket.
    pub requests: Receiver<PendingRequest>,
    /// For the audit log.
    pub clock: Arc<dyn Clock>,
}

impl Learn {
    /// Learns until the join stage ends.
    pub fn run(mut self, input: &Receiver<Joined>) -> anyhow::Result<()> {
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
            match input.recv_timeout(self.learner.patience()) {
                Ok(joined) => self.learner.take(joined)?,
                Err(RecvTimeoutError::Timeout) => self.learner.idle()?,
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
                let announce = |latest| Ok(store.record_action(op.verb(), latest, &reason, now_ms)?);
                self.learner.apply(op, &reason, announce)
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
