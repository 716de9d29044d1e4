//! Learn: scores each batch, learns from it, publishes versions and completes snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use anyhow::Context;
use metrics::{counter, gauge, histogram};

use ouzel_learner::validation::{Bucket, Progressive, ScoreLog};
use ouzel_learner::{Trainer, metrics as names};
use ouzel_sample::Batch;
use ouzel_serving::{Published, Version};
use ouzel_snapshot::{Alias, CheckpointMeta, Draft, Fingerprint, SnapshotId, Store};

use crate::clock::Clock;
use crate::failpoint::{self, FailPoint};
use crate::live::PipelineStatus;
use crate::metrics::{FRESHNESS_SECONDS, SNAPSHOTS_SKIPPED_TOTAL};
use crate::stages::save::Save;
use crate::stages::{JoinCheckpoint, Joined};
use crate::turn::ModelOp;

/// Shortest time from one published version to the next, while batches keep coming. A version costs the
/// learner a copy of each page it then writes, so not every batch makes one.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

/// Batches from one time that figures by bucket are told to the next, count.
const BUCKETS_EVERY: u64 = 50;

/// What the admin socket asks of the learner; it answers with the new state or why not.
#[derive(Debug)]
pub enum Control {
    /// Go on from the weights of this snapshot.
    Rollback(SnapshotId),
    /// Freeze the base, or re-base it; and why.
    ModelOp(ModelOp, String),
    /// Serve this snapshot until further notice.
    Pin(SnapshotId),
    /// Serve the newest version again.
    Unpin,
}

/// A request with the place for its answer.
pub type ControlRequest = (Control, SyncSender<anyhow::Result<()>>);

/// What the manifest says besides the state.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// What decides the bits.
    pub fingerprint: Fingerprint,
    /// Hash of the effective configuration.
    pub config_hash: String,
    /// Fingerprint of the schema.
    pub schema: String,
    /// Version of the encoder of each modality that has one.
    pub encoders: BTreeMap<String, String>,
}

/// The stage.
pub struct Learn {
    /// The state machine.
    pub trainer: Trainer,
    /// Its running figures.
    pub progressive: Progressive,
    /// Every score, where someone wants them all.
    pub scores: Option<Arc<std::sync::Mutex<ScoreLog>>>,
    /// The swap cell.
    pub published: Arc<Published<Version>>,
    /// Snapshots, for rollback and pin.
    pub store: Arc<Store>,
    /// To the snapshot writer.
    pub saver: SyncSender<Save>,
    /// From the admin socket.
    pub control: Receiver<ControlRequest>,
    /// Figures for others.
    pub live: Arc<PipelineStatus>,
    /// The one clock: freshness and manifests only.
    pub clock: Arc<dyn Clock>,
    /// For manifests.
    pub provenance: Provenance,
    /// Record timestamps of actions learned from but not yet served, ms.
    pub unserved: Vec<i64>,
    /// Why the lineage turns here, for the next manifest.
    pub note: Option<String>,
    /// The next batch when figures by bucket were told last.
    pub buckets_told: Option<u64>,
}

impl Learn {
    /// Learns until join ends.
    pub fn run(mut self, input: &Receiver<Joined>) -> anyhow::Result<()> {
        let mut last = Instant::now();
        let mut is_behind = false;
        match self.store.alias(Alias::Pinned)? {
            Some(id) => self.control(Control::Pin(id))?,
            None => self.publish()?,
        }
        loop {
            while let Ok((control, reply)) = self.control.try_recv() {
                let done = self.control(control);
                // Who asked may have gone.
                let _told = reply.send(done).is_ok();
            }
            let wait = PUBLISH_EVERY.saturating_sub(last.elapsed());
            match input.recv_timeout(if is_behind { wait } else { PUBLISH_EVERY }) {
                Ok(Joined::Batch(batch)) => {
                    self.learn(&batch)?;
                    is_behind = true;
                }
                Ok(Joined::Checkpoint(cut)) => self.save(*cut)?,
                Err(RecvTimeoutError::Timeout) => {
                    self.published.sweep();
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if is_behind && last.elapsed() >= PUBLISH_EVERY && self.live.latest().is_some() {
                self.publish()?;
                (last, is_behind) = (Instant::now(), false);
            }
        }
        if self.live.latest().is_some() {
            self.publish()
        } else {
            Ok(())
        }
    }

    fn learn(&mut self, batch: &Batch) -> anyhow::Result<()> {
        let started = Instant::now();
        let was_frozen = self.trainer.is_frozen();
        self.trainer.predict(batch)?;
        let report = self
            .trainer
            .step(batch)
            .with_context(|| format!("cannot learn from batch {}", batch.seq))?;
        histogram!(names::STEP_SECONDS).record(started.elapsed());
        if self.trainer.is_frozen() != was_frozen {
            let after = self.trainer.config().optimizer.freeze_after_samples;
            self.note(format!("base frozen after {after} samples, as configured"));
        }
        if !report.is_learned {
            tracing::error!(
                batch = batch.seq,
                loss = f64::from(report.loss),
                "batch skipped: not finite"
            );
            counter!(names::SKIPPED, "reason" => "non_finite").increment(1);
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
        self.progressive.add(batch, &report.logits);
        if let Some(scores) = &self.scores {
            scores
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .add(batch, &report.logits);
        }
        self.unserved
            .extend(batch.samples.iter().filter_map(|sample| sample.action_record_ms));
        let n_samples = batch.samples.len() as u64;
        counter!(names::SAMPLES).increment(n_samples);
        counter!(names::BATCHES).increment(1);
        self.live.samples.fetch_add(n_samples, Ordering::Relaxed);
        self.live.batches.fetch_add(1, Ordering::Relaxed);
        failpoint::reach(FailPoint::BatchLearned);
        Ok(())
    }

    /// Makes the current weights what is served, unless a snapshot is pinned.
    fn publish(&mut self) -> anyhow::Result<()> {
        let (window, total) = (self.progressive.window(), self.progressive.total());
        for (name, value) in [
            (names::AUC, window.auc),
            (names::GAUC, window.gauc),
            (names::NE, window.ne),
            (names::CALIBRATION, window.calibration),
        ] {
            if let Some(value) = value {
                gauge!(name).set(value);
            }
        }
        if window.samples > 0 {
            self.tell_buckets();
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge is an f64")]
        let float = |n: usize| n as f64;
        for (table, n) in self.trainer.tables() {
            gauge!(names::ROWS, "table" => table).set(float(n));
        }
        gauge!(names::WAITING).set(float(self.trainer.n_waiting()));
        if let Some((n, n_carried)) = self.trainer.device_rows() {
            gauge!(names::DEVICE_ROWS).set(float(n));
            counter!(names::DEVICE_ROWS_CARRIED).increment(n_carried);
        }
        self.live.learned(window, total);
        if self.live.pinned().is_some() {
            // What is not served is not fresh, and nothing is kept of it for a pin that stays for days.
            self.unserved.clear();
            return Ok(());
        }
        let Some(latest) = self.live.latest() else {
            return Ok(());
        };
        let version = Version::new(&latest.to_string(), self.trainer.weights()?)?;
        self.published.publish(Arc::new(version));
        failpoint::reach(FailPoint::VersionPublished);
        let now = self.clock.now_ms();
        for recorded in &self.unserved {
            #[expect(clippy::cast_precision_loss, reason = "a delay in a histogram")]
            histogram!(FRESHNESS_SECONDS).record((now - recorded) as f64 / 1000.0);
        }
        self.live
            .freshened(self.unserved.drain(..).map(|recorded| now - recorded));
        Ok(())
    }

    /// Figures by bucket, now and then: they take as long as a step.
    fn tell_buckets(&mut self) {
        let next = self.trainer.next_batch();
        if self.buckets_told.is_some_and(|told| next < told + BUCKETS_EVERY) {
            return;
        }
        self.buckets_told = Some(next);
        let buckets = self.progressive.window_buckets();
        for (side, of) in buckets.sides() {
            for (bucket, bucket_name) in Bucket::ALL {
                let figures = of.figures(bucket);
                #[expect(clippy::cast_precision_loss, reason = "a gauge is an f64")]
                let samples = Some(figures.samples as f64);
                for (name, value) in [
                    (names::BUCKET_AUC, figures.auc),
                    (names::BUCKET_NE, figures.ne),
                    (names::BUCKET_CALIBRATION, figures.calibration),
                    (names::BUCKET_SAMPLES, samples),
                ] {
                    // What can no longer be told of the window must not stand there as if it could.
                    gauge!(name, "side" => side, "bucket" => bucket_name).set(value.unwrap_or(f64::NAN));
                }
            }
        }
    }

    /// Completes a cut with the weights and hands it to the writer.
    fn save(&mut self, cut: JoinCheckpoint) -> anyhow::Result<()> {
        let stage = cut.stage;
        let (window, total) = (self.progressive.window(), self.progressive.total());
        let metrics = [
            ("auc", total.auc),
            ("ne", total.ne),
            ("calibration", total.calibration),
            ("window_auc", window.auc),
            ("window_gauc", window.gauc),
            ("window_ne", window.ne),
            ("window_calibration", window.calibration),
        ];
        let manifest_cut = CheckpointMeta {
            config_hash: self.provenance.config_hash.clone(),
            schema_fingerprint: self.provenance.schema.clone(),
            encoders: self.provenance.encoders.clone(),
            batch_seq: self.trainer.next_batch(),
            sample_seq: stage.ledger.n_samples(),
            ledger_hash: stage.ledger.hex(),
            weights_hash: String::new(),
            frozen: self.trainer.base(),
            positions: stage
                .positions
                .iter()
                .map(|(id, next)| (id.to_string(), next))
                .collect(),
            trained_positions: BTreeMap::new(),
            plan_position: cut.plan_position,
            event_time_ms: stage.event_time.0,
            counters: counters(&stage.counters, &self.trainer.model().tasks),
            metrics: metrics
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        };
        let mut draft = Draft::new(
            self.live.latest(),
            self.clock.now_ms(),
            self.provenance.fingerprint.clone(),
            manifest_cut,
        );
        draft.note = self.note.take();
        self.trainer.save(&mut draft)?;
        draft.add_blob("join.bin", stage.bytes.join)?;
        draft.add_blob("features.bin", stage.bytes.features)?;
        draft.add_blob("batcher.bin", stage.bytes.batcher)?;
        draft.add_blob("validation.json", self.progressive.dump())?;
        failpoint::reach(FailPoint::CutCompleted);
        let save = Save {
            draft,
            lineage: self.live.lineage(),
            answers: cut.answers,
        };
        if cut.is_last || cut.answers.is_some() {
            // Somebody waits for it, however busy the disk. A writer that is gone has said why.
            if self.saver.send(save).is_err() {
                self.live.answer(cut.answers, None);
            }
            return Ok(());
        }
        match self.saver.try_send(save) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(save)) => {
                self.note = save.draft.note;
                counter!(SNAPSHOTS_SKIPPED_TOTAL).increment(1);
                tracing::warn!("snapshot skipped: the one before is still being written");
            }
        }
        Ok(())
    }

    fn control(&mut self, control: Control) -> anyhow::Result<()> {
        match control {
            Control::Rollback(id) => {
                let mut trainer = self.restore(id)?;
                trainer.resume_at(self.trainer.next_batch());
                self.trainer = trainer;
                self.live.set_pinned(None);
                self.live.rolled_back(id);
                self.note(format!("rolled back to {id} while running"));
                let version = Version::new(&id.to_string(), self.trainer.weights()?)?;
                self.published.publish(Arc::new(version));
            }
            Control::ModelOp(turn, why) => {
                turn.check(&self.trainer)?;
                if let Some(latest) = self.live.latest() {
                    self.store
                        .record_action(turn.verb(), latest, &why, self.clock.now_ms())?;
                }
                let note = turn.take(&mut self.trainer, &why)?;
                tracing::info!(note, "the lineage turns");
                self.note(note);
                self.publish()?;
            }
            Control::Pin(id) => {
                let version = Version::new(&id.to_string(), self.restore(id)?.weights()?)?;
                self.published.publish(Arc::new(version));
                self.live.set_pinned(Some(id));
            }
            Control::Unpin => {
                self.live.set_pinned(None);
                self.publish()?;
            }
        }
        Ok(())
    }

    /// Has the next manifest say this, beside what it was to say already.
    fn note(&mut self, what: String) {
        self.note = Some(match self.note.take() {
            Some(before) => format!("{before}; {what}"),
            None => what,
        });
    }

    fn restore(&self, id: SnapshotId) -> anyhow::Result<Trainer> {
        let snapshot = self.store.read(id)?;
        let (model, config) = (self.trainer.model().clone(), self.trainer.config().clone());
        Ok(Trainer::load(&snapshot, &model, config)?)
    }
}

/// The join's counters by name, for the manifest; those of a task as `click.positive`.
fn counters(counters: &ouzel_ingest::join::Counters, tasks: &[String]) -> BTreeMap<String, u64> {
    let flat = serde_json::to_value(counters).unwrap_or_default();
    let fields = flat.as_object().into_iter().flatten();
    let mut named: BTreeMap<String, u64> = fields
        .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
        .collect();
    for (task, of) in tasks.iter().zip(&counters.tasks) {
        for (outcome, n) in [
            ("late", of.late),
            ("positive", of.positive),
            ("negative", of.negative),
            ("pending", of.pending),
        ] {
            named.insert(format!("{task}.{outcome}"), n);
        }
    }
    named
}
