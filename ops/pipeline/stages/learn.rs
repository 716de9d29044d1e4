//! Learn: passes batches to the learner and carries out control requests between two batches.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use ouzel_learner::Trainer;
use ouzel_snapshot::{Alias, AuditVerb, SnapshotId, Store};

use super::Joined;
use super::backlog::Backlog;
use crate::config::Config;
use crate::pipeline::candidate::CandidateRequest;
use crate::pipeline::control::LearningState;
use crate::pipeline::learner::Learner;
use crate::pipeline::model_op::ModelOp;
use crate::pipeline::pause::Pause;
use crate::telemetry::clock::Clock;

/// Time between two looks for a shutdown while learning is stopped.
const STOPPED_TICK: Duration = Duration::from_millis(50);

/// A control request from the admin socket to the learner.
#[derive(Debug)]
pub(crate) enum LearnerRequest {
    /// Continue from the weights of this snapshot, for this reason.
    Rollback(SnapshotId, String),
    /// Freeze or rebase, for this reason.
    ModelOp(ModelOp, String),
    /// Serve this snapshot until it is unpinned, for this reason.
    Pin(SnapshotId, String),
    /// Serve this snapshot as long as this learner runs, under this configuration if it is not the one in use.
    Hold(SnapshotId, Option<Box<Config>>),
    /// Serve the newest version again, for this reason.
    Unpin(String),
    /// Take no more batches, for this reason.
    Pause(String),
    /// Take batches again, whatever stopped it, for this reason.
    Resume(String),
    /// Start, stop or promote the candidate.
    Candidate(CandidateRequest),
}

/// A control request with the channel for its answer.
pub(crate) type PendingRequest = (LearnerRequest, SyncSender<anyhow::Result<()>>);

/// The stage.
pub(crate) struct Learn {
    pub(crate) learner: Learner,
    /// Snapshots and their aliases. A request that cannot be carried out changes none of them.
    pub(crate) store: Arc<Store>,
    pub(crate) requests: Receiver<PendingRequest>,
    /// Records between poll and join, which says when poll has ended.
    pub(crate) backlog: Arc<Backlog>,
    /// For the audit log.
    pub(crate) clock: Arc<dyn Clock>,
}

impl Learn {
    /// Learns until the join stage ends.
    pub(crate) fn run(mut self, input: &Receiver<Joined>) -> anyhow::Result<()> {
        if let Some(pause) = Pause::read(self.store.root())? {
            tracing::warn!(note = pause.note, "learning is paused; `ouzel resume` goes on");
            self.learner.set_learning(LearningState::Paused);
        }
        match self.store.alias(Alias::Pinned)? {
            Some(id) => self.apply(LearnerRequest::Hold(id, None))?,
            None => self.learner.publish()?,
        }
        let mut is_candidate_known = false;
        loop {
            // A standby writes nothing and has none: it takes part once this daemon is the writer.
            if !is_candidate_known && self.store.epoch().is_some() {
                self.learner.resume_candidate(&self.store, self.clock.now_ms())?;
                is_candidate_known = true;
            }
            self.learner.watch_candidate(&self.store, self.clock.now_ms())?;
            while let Ok((request, reply)) = self.requests.try_recv() {
                let done = self.apply(request);
                // The caller may have given up waiting.
                let _is_received = reply.send(done).is_ok();
            }
            if !self.learner.is_running() {
                if self.backlog.has_ended() {
                    tracing::info!(
                        "learning is stopped: no last snapshot, the next start reads on from the newest one"
                    );
                    return Ok(());
                }
                // Batches wait in the channel, and so does everything before it.
                if let Ok((request, reply)) = self.requests.recv_timeout(STOPPED_TICK) {
                    let _is_received = reply.send(self.apply(request)).is_ok();
                }
                self.learner.on_idle()?;
                continue;
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
            LearnerRequest::Rollback(id, reason) => self.learner.roll_back(id, self.load(id)?, reason),
            LearnerRequest::Hold(id, config) => {
                let trainer = match config {
                    None => self.load(id)?,
                    Some(config) => Trainer::load(
                        &self.store.read(id)?,
                        &config.model_config(),
                        config.learner_config(),
                    )?,
                };
                self.learner.pin(id, trainer)
            }
            LearnerRequest::Pin(id, reason) => {
                let trainer = self.load(id)?;
                self.store.pin(id, &reason, self.clock.now_ms())?;
                self.learner.pin(id, trainer)
            }
            LearnerRequest::Unpin(reason) => {
                self.store.unpin(&reason, self.clock.now_ms())?;
                self.learner.unpin()
            }
            LearnerRequest::Pause(note) => {
                let at_ms = self.clock.now_ms();
                self.record(AuditVerb::Pause, &note)?;
                Pause { note, at_ms }.begin(&self.store)?;
                self.learner.set_learning(LearningState::Paused);
                Ok(())
            }
            LearnerRequest::Resume(note) => {
                self.record(AuditVerb::Resume, &note)?;
                if Pause::read(self.store.root())?.is_some() {
                    Pause::end(&self.store)?;
                    self.learner.set_learning(LearningState::Running);
                    return Ok(());
                }
                self.learner.resume()
            }
            LearnerRequest::Candidate(request) => {
                let now_ms = self.clock.now_ms();
                self.learner.apply_to_candidate(request, &self.store, now_ms)
            }
            LearnerRequest::ModelOp(op, reason) => {
                let (store, now_ms) = (&self.store, self.clock.now_ms());
                let audit = |latest| Ok(store.record_action(op.verb(), latest, &reason, now_ms)?);
                self.learner.apply(op, &reason, audit)
            }
        }
    }

    /// Records an action on the newest snapshot in the audit log, if there is one.
    fn record(&self, verb: AuditVerb, note: &str) -> anyhow::Result<()> {
        match self.store.alias(Alias::Latest)? {
            Some(latest) => Ok(self
                .store
                .record_action(verb, latest, note, self.clock.now_ms())?),
            None => Ok(()),
        }
    }

    fn load(&self, id: SnapshotId) -> anyhow::Result<Trainer> {
        let snapshot = self.store.read(id)?;
        let trainer = &self.learner.trainer;
        let (model, config) = (trainer.model().clone(), trainer.config().clone());
        Ok(Trainer::load(&snapshot, &model, config)?)
    }
}
