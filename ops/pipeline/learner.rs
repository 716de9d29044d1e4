//! The model side of a pipeline: scores each batch, learns from it, saves checkpoints and publishes versions.
//!
//! [`Learner::take`] is the one step of daemon, demo and replay. A replay has no [`Outputs`], so it saves and publishes
//! nothing.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use metrics::{counter, histogram};

use ouzel_learner::model::{TowerItem, catalog};
use ouzel_learner::validation::{MAX_RANKED_ITEMS, Progressive, ScoreLog};
use ouzel_learner::{StepReport, Trainer, metrics as names};
use ouzel_sample::{Batch, FeatureState};
use ouzel_serving::CandidateSlot;
use ouzel_snapshot::SnapshotId;
use ouzel_verify::failpoint::{self, FailPoint};

use super::candidate::RunningCandidate;
use super::checkpoint::{CheckpointState, CheckpointWriter};
use super::control::{LearnerControl, LearningState, Rollback};
use super::gates::{GateFigures, Gates};
use super::lock;
use super::messages::{JoinCheckpoint, Joined};
use super::model_op::ModelOp;
use super::publisher::Publisher;
use super::second::{CheckpointPoint, SecondPlace};
use super::status::PipelineStatus;

/// Every score of a run, for exact figures at its end.
pub(crate) type SharedScores = Arc<Mutex<ScoreLog>>;

/// The trainer with its running figures and its outputs.
pub(crate) struct Learner {
    pub(crate) trainer: Trainer,
    pub(crate) progressive: Progressive,
    scores: Option<SharedScores>,
    pub(super) status: Arc<PipelineStatus>,
    pub(super) outputs: Option<Outputs>,
    /// None if they are off.
    pub(super) gates: Option<Gates>,
    /// What is compared with the trainer, if anything is.
    pub(super) candidate: Option<RunningCandidate>,
    /// The catalog that recall is measured over; none without towers.
    catalog: Option<Arc<FeatureState>>,
    /// Changes to the lineage, for the next manifest.
    note: Option<String>,
}

/// The outputs of a learner that is served and saved.
pub(crate) struct Outputs {
    pub(crate) control: LearnerControl,
    pub(crate) publisher: Publisher,
    pub(crate) checkpoints: CheckpointWriter,
    /// The place of the candidate among the scorers.
    pub(crate) candidates: Arc<CandidateSlot>,
    /// What a second learner needs.
    pub(crate) second: SecondPlace,
}

impl Learner {
    /// A learner without outputs.
    pub(crate) fn new(
        trainer: Trainer,
        progressive: Progressive,
        scores: Option<SharedScores>,
        status: Arc<PipelineStatus>,
    ) -> Self {
        Self {
            trainer,
            progressive,
            scores,
            status,
            outputs: None,
            gates: None,
            candidate: None,
            catalog: None,
            note: None,
        }
    }

    /// Measures recall over the catalog of `features`, if the model has towers.
    pub(crate) fn with_catalog(mut self, features: &Arc<FeatureState>) -> Self {
        let has_towers = self.trainer.model().retrieval.is_on();
        self.catalog = has_towers.then(|| Arc::clone(features));
        self
    }

    /// Adds outputs.
    pub(crate) fn with_outputs(mut self, outputs: Outputs) -> Self {
        self.outputs = Some(outputs);
        self
    }

    /// Adds the gates.
    pub(crate) fn with_gates(mut self, gates: Option<Gates>) -> Self {
        self.gates = gates;
        self
    }

    /// What the gates found over the run; none if they are off.
    pub(crate) fn gate_figures(&self) -> Option<&GateFigures> {
        self.gates.as_ref().map(Gates::figures)
    }

    /// True while batches are learned; else they wait.
    pub(crate) fn is_running(&self) -> bool {
        let outputs = self.outputs.as_ref();
        outputs.is_none_or(|outputs| outputs.control.state().learning() == LearningState::Running)
    }

    /// Sets whether batches are learned.
    pub(crate) fn set_learning(&self, state: LearningState) {
        if let Some(outputs) = &self.outputs {
            outputs.control.set_learning(state);
        }
    }

    /// Learns the next batch or saves the checkpoint, then publishes a version if one is due.
    pub(crate) fn take(&mut self, joined: Joined) -> anyhow::Result<()> {
        match joined {
            Joined::Batch(batch) => self.learn(&Arc::new(batch))?,
            Joined::Checkpoint(checkpoint) => self.save(*checkpoint)?,
        }
        self.publish_if_due()
    }

    /// Saves a checkpoint, unless the gates say that its weights are not good.
    fn save(&mut self, checkpoint: JoinCheckpoint) -> anyhow::Result<()> {
        if let Some(why) = self.refuse_snapshot()? {
            tracing::warn!(
                why,
                "no snapshot written: the newest one stays that of the last good weights"
            );
            if let Some(outputs) = &self.outputs {
                outputs.control.fail(checkpoint.answers);
            }
            return Ok(());
        }
        let Some(outputs) = &mut self.outputs else {
            return Ok(());
        };
        let state = CheckpointState {
            trainer: &mut self.trainer,
            progressive: &mut self.progressive,
            gates: self.gates.as_ref(),
            candidate: self.candidate.as_ref(),
        };
        let point = CheckpointPoint {
            batch_seq: state.trainer.next_batch(),
            ledger_hash: checkpoint.stage.ledger.hex(),
            at_ms: outputs.checkpoints.clock.now_ms(),
        };
        let is_saved = outputs
            .checkpoints
            .save(checkpoint, state, &outputs.control, &mut self.note)?;
        if is_saved {
            self.checkpoint_candidate(point);
        }
        Ok(())
    }

    /// Scores a batch, then learns from it.
    fn learn(&mut self, batch: &Arc<Batch>) -> anyhow::Result<()> {
        let started = Instant::now();
        let was_frozen = self.trainer.is_frozen();
        let context = || format!("cannot learn from batch {}", batch.seq);
        self.measure_recall(batch).with_context(context)?;
        self.trainer.predict(batch).with_context(context)?;
        let report = self.trainer.step(batch).with_context(context)?;
        let elapsed = started.elapsed();
        histogram!(names::STEP_SECONDS).record(elapsed);
        if self.trainer.is_frozen() != was_frozen {
            let after = self.trainer.config().optimizer.freeze_after_samples;
            self.add_note(format!("base frozen after {after} samples, as configured"));
        }
        self.count(batch, &report);
        self.status.learned(batch.samples.len() as u64, elapsed);
        let taught = self.trainer.taught(batch);
        self.progressive.add(&taught, &report.logits);
        if let Some(scores) = &self.scores {
            lock(scores).add(&taught, &report.logits);
        }
        self.compare(batch, &taught, &report.logits);
        self.observe(&taught, &report.logits)?;
        if let Some(outputs) = &mut self.outputs {
            outputs.publisher.learned(batch);
        }
        failpoint::reach(FailPoint::BatchLearned);
        Ok(())
    }

    /// Ranks the positives of a batch among the items of the catalog, if a measurement is due. The join may be ahead of the
    /// learner, so the catalog may have newer items; no weight depends on that.
    fn measure_recall(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let Some(features) = &self.catalog else {
            return Ok(());
        };
        if self.progressive.recall.is_due(features.n_items()) {
            let items = catalog(features, MAX_RANKED_ITEMS).into_iter();
            let items: Vec<TowerItem> = items.map(|(_, item)| item).collect();
            self.progressive
                .recall
                .measure(&mut self.trainer, batch, &items)?;
        }
        Ok(())
    }

    /// Updates counters after a step.
    fn count(&self, batch: &Batch, report: &StepReport) {
        if !report.is_learned {
            tracing::error!(
                batch = batch.seq,
                loss = f64::from(report.loss),
                "batch skipped: its loss or a gradient is not finite; the weights stay as they were"
            );
            counter!(names::SKIPPED, "reason" => "non_finite").increment(1);
        }
        if report.retrieval.n_positives > 0 && !report.retrieval.is_learned {
            tracing::error!(
                batch = batch.seq,
                loss = report.retrieval.loss,
                "step of the towers skipped: its loss or a gradient is not finite; their weights stay as they were"
            );
            counter!(names::RETRIEVAL_SKIPPED).increment(1);
        }
        for (part, is_clipped) in [("dense", report.clipped.dense), ("rows", report.clipped.rows)] {
            counter!(names::CLIPPED, "part" => part).increment(u64::from(is_clipped));
        }
        for task in &report.jumped {
            let task = self.trainer.model().tasks.get(*task).cloned().unwrap_or_default();
            counter!(names::CALIBRATION_JUMPS, "task" => task).increment(1);
        }
        for (reason, n) in [
            ("full", report.n_forgotten),
            ("expired", report.n_expired),
            ("deleted", report.n_deleted),
        ] {
            counter!(names::FORGOTTEN, "reason" => reason).increment(n as u64);
        }
        counter!(names::ADMITTED).increment(report.n_admitted as u64);
        counter!(names::SIGHTINGS).increment(report.n_waiting as u64);
        let n_samples = batch.samples.len() as u64;
        counter!(names::SAMPLES).increment(n_samples);
        counter!(names::BATCHES).increment(1);
    }

    /// How long to wait for the next input before [`Learner::on_idle`].
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.outputs
            .as_ref()
            .map_or(Duration::MAX, |outputs| outputs.publisher.idle_timeout())
    }

    /// Frees unused versions and publishes a version if one is due. Call it when no input arrives.
    pub(crate) fn on_idle(&mut self) -> anyhow::Result<()> {
        if let Some(outputs) = &self.outputs {
            outputs.publisher.sweep();
            outputs.candidates.sweep();
        }
        self.report_candidate(true);
        self.publish_if_due()
    }

    /// Publishes the current weights if they are new and the last version is old enough.
    fn publish_if_due(&mut self) -> anyhow::Result<()> {
        self.watch()?;
        match &self.outputs {
            Some(outputs) if outputs.publisher.is_due() && outputs.control.state().latest().is_some() => {
                self.publish()
            }
            _ => Ok(()),
        }
    }

    /// Reports the figures, and publishes the current weights unless a snapshot is pinned or none was written yet.
    pub(crate) fn publish(&mut self) -> anyhow::Result<()> {
        let Some(outputs) = &mut self.outputs else {
            return Ok(());
        };
        outputs
            .publisher
            .report(&mut self.trainer, &self.progressive, &self.status);
        self.report_candidate(false);
        let Some(outputs) = &mut self.outputs else {
            return Ok(());
        };
        let control = outputs.control.state();
        if control.pinned().is_some() {
            outputs.publisher.skip();
            return Ok(());
        }
        let Some(latest) = control.latest() else {
            return Ok(());
        };
        let admitted = self.admit()?;
        let Some(outputs) = &mut self.outputs else {
            return Ok(());
        };
        match admitted {
            Some(weights) => outputs.publisher.publish(latest, weights, &self.status),
            None => {
                outputs.publisher.skip();
                Ok(())
            }
        }
    }

    /// Continues from `trainer`, which has the weights of snapshot `id`, at the present position of the log.
    pub(crate) fn roll_back(
        &mut self,
        id: SnapshotId,
        trainer: Trainer,
        reason: String,
    ) -> anyhow::Result<()> {
        self.add_note(format!("rolled back to {id} while running"));
        self.continue_from(trainer, Rollback::new(id, reason))
    }

    /// Serves and learns on from `trainer`, which has the weights of the snapshot of `rollback`, at the present position of
    /// the log.
    pub(super) fn continue_from(&mut self, mut trainer: Trainer, rollback: Rollback) -> anyhow::Result<()> {
        trainer.resume_at(self.trainer.next_batch());
        self.trainer = trainer;
        self.weights_replaced();
        if let Some(outputs) = &mut self.outputs {
            let id = rollback.to;
            outputs.control.roll_back(rollback);
            outputs.publisher.publish_snapshot(id, self.trainer.weights()?)?;
        }
        Ok(())
    }

    /// Serves `trainer`, which has the weights of snapshot `id`, until [`Learner::unpin`].
    pub(crate) fn pin(&mut self, id: SnapshotId, mut trainer: Trainer) -> anyhow::Result<()> {
        if let Some(outputs) = &mut self.outputs {
            outputs.publisher.publish_snapshot(id, trainer.weights()?)?;
            outputs.control.set_pinned(Some(id));
        }
        Ok(())
    }

    /// Serves the newest version again.
    pub(crate) fn unpin(&mut self) -> anyhow::Result<()> {
        if let Some(outputs) = &self.outputs {
            outputs.control.set_pinned(None);
        }
        self.publish()
    }

    /// Carries out an operator action, after `audit` has recorded it for the latest snapshot.
    pub(crate) fn apply(
        &mut self,
        op: ModelOp,
        reason: &str,
        audit: impl FnOnce(SnapshotId) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        op.check(&self.trainer)?;
        if let Some(latest) = self
            .outputs
            .as_ref()
            .and_then(|outputs| outputs.control.state().latest())
        {
            audit(latest)?;
        }
        let note = op.apply(&mut self.trainer, reason)?;
        tracing::info!(note, "model changed by the operator");
        self.add_note(note);
        self.publish()
    }

    /// Adds a note to the next manifest.
    pub(crate) fn add_note(&mut self, note: String) {
        self.note = Some(match self.note.take() {
            Some(before) => format!("{before}; {note}"),
            None => note,
        });
    }
}
