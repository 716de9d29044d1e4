//! Completes the join side of a checkpoint with the weights and sends it to the snapshot writer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};

use metrics::counter;

use ouzel_ingest::join::Counters;
use ouzel_learner::Trainer;
use ouzel_learner::validation::{Figures, Progressive};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, IntervalStart};
use ouzel_verify::failpoint::{self, FailPoint};

use super::candidate::RunningCandidate;
use super::control::LearnerControl;
use super::gates::Gates;
use super::messages::JoinCheckpoint;
use super::promoted::UsedConfig;
use super::stages::save::Save;
use crate::telemetry::clock::Clock;
use crate::telemetry::float;
use crate::telemetry::metrics::SNAPSHOTS_SKIPPED_TOTAL;

/// The configuration that a snapshot was made under, for people: what is compared is its hash in the manifest.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// Completes checkpoints and sends them to the snapshot writer.
pub(crate) struct CheckpointWriter {
    pub(crate) saver: SyncSender<Save>,
    pub(crate) fingerprint: Fingerprint,
    /// The part of a manifest that describes this process.
    pub(crate) provenance: CheckpointMeta,
    /// The configuration in use.
    pub(crate) used: UsedConfig,
    /// The same, see [`Config::recorded`](crate::config::Config::recorded).
    pub(crate) config: Arc<[u8]>,
    /// The last checkpoint that was handed over, where the present interval began.
    pub(crate) interval_start: Option<IntervalStart>,
    /// For the creation time of manifests.
    pub(crate) clock: Arc<dyn Clock>,
}

/// The learner's side of a checkpoint.
pub(crate) struct CheckpointState<'a> {
    pub(crate) trainer: &'a mut Trainer,
    pub(crate) progressive: &'a mut Progressive,
    /// None if they are off.
    pub(crate) gates: Option<&'a Gates>,
    /// None if there is none.
    pub(crate) candidate: Option<&'a RunningCandidate>,
}

impl CheckpointWriter {
    /// Completes a checkpoint. Moves `note` to its manifest, unless the snapshot is skipped. Returns false if it is.
    pub(crate) fn save(
        &mut self,
        checkpoint: JoinCheckpoint,
        state: CheckpointState<'_>,
        control: &LearnerControl,
        note: &mut Option<String>,
    ) -> anyhow::Result<bool> {
        let CheckpointState {
            trainer,
            progressive,
            gates,
            candidate,
        } = state;
        let manifest = self.manifest(&checkpoint, trainer, progressive);
        let end = IntervalStart {
            batch_seq: manifest.batch_seq,
            sample_seq: manifest.sample_seq,
            event_time_ms: manifest.event_time_ms,
        };
        let mut draft = Draft::new(
            control.state().latest(),
            self.clock.now_ms(),
            self.fingerprint.clone(),
            manifest,
        );
        draft.note = note.take();
        trainer.save(&mut draft)?;
        draft.add_blob("join.bin", checkpoint.stage.bytes.join)?;
        draft.add_blob("features.bin", checkpoint.stage.bytes.features)?;
        draft.add_blob("batcher.bin", checkpoint.stage.bytes.batcher)?;
        draft.add_blob("validation.json", progressive.dump())?;
        draft.add_blob(CONFIG_FILE, Arc::clone(&self.config))?;
        self.used.save(&mut draft)?;
        if let Some(gates) = gates {
            gates.save(trainer, &mut draft)?;
        }
        if let Some(candidate) = candidate {
            candidate.save(&mut draft)?;
        }
        failpoint::reach(FailPoint::CheckpointCompleted);
        let save = Save {
            draft,
            lineage: control.state().lineage(),
            request: checkpoint.answers,
            is_followed: checkpoint.is_followed,
        };
        if checkpoint.is_last || checkpoint.answers.is_some() || checkpoint.is_followed {
            // A caller waits for this snapshot, or it is to be compared with another one, so it is not skipped. A writer that has ended has reported its own error.
            if self.saver.send(save).is_err() {
                control.fail(checkpoint.answers);
            }
            self.start_interval(end, progressive);
            return Ok(true);
        }
        match self.saver.try_send(save) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {
                self.start_interval(end, progressive);
                Ok(true)
            }
            Err(TrySendError::Full(save)) => {
                *note = save.draft.note;
                counter!(SNAPSHOTS_SKIPPED_TOTAL).increment(1);
                tracing::warn!("snapshot skipped: the previous one is still being written");
                Ok(false)
            }
        }
    }

    fn start_interval(&mut self, start: IntervalStart, progressive: &mut Progressive) {
        self.interval_start = Some(start);
        progressive.start_interval();
    }

    fn manifest(
        &self,
        checkpoint: &JoinCheckpoint,
        trainer: &Trainer,
        progressive: &Progressive,
    ) -> CheckpointMeta {
        let stage = &checkpoint.stage;
        let (window, total) = (progressive.window(), progressive.total());
        let tasks = trainer.model().tasks.iter().zip(progressive.total_by_task());
        let mut intervals = progressive.interval_by_task().into_iter();
        let interval = intervals.next().unwrap_or_default();
        let tasks = tasks.zip(progressive.window_by_task()).skip(1).zip(intervals);
        let tasks = tasks.flat_map(|(((task, total), window), interval)| {
            let named = move |(name, value)| (format!("{task}.{name}"), value);
            named_figures(&total, &window, &interval).into_iter().map(named)
        });
        let shares = trainer.shares().into_iter();
        let shares = shares.map(|(member, share)| (format!("share.{member}"), Some(f64::from(share))));
        let positions = stage.positions.iter().map(|(id, next)| (id.to_string(), next));
        CheckpointMeta {
            batch_seq: trainer.next_batch(),
            sample_seq: stage.ledger.n_samples(),
            ledger_hash: stage.ledger.hex(),
            frozen: trainer.base(),
            positions: positions.collect(),
            plan_position: checkpoint.plan_position,
            event_time_ms: stage.event_time.0,
            counters: counters(&stage.counters, &trainer.model().tasks),
            interval_start: self.interval_start,
            metrics: named_figures(&total, &window, &interval)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .chain(tasks)
                .chain(shares)
                .collect(),
            ..self.provenance.clone()
        }
    }
}

/// The figures of one task by the names that a manifest gives them.
fn named_figures(total: &Figures, window: &Figures, interval: &Figures) -> [(&'static str, Option<f64>); 12] {
    let count = |n: u64| Some(float(n));
    [
        ("auc", total.auc),
        ("ne", total.ne),
        ("calibration", total.calibration),
        ("window_auc", window.auc),
        ("window_gauc", window.gauc),
        ("window_ne", window.ne),
        ("window_calibration", window.calibration),
        ("interval_auc", interval.auc),
        ("interval_ne", interval.ne),
        ("interval_calibration", interval.calibration),
        ("interval_judged", count(interval.judged)),
        ("interval_positives", count(interval.positives)),
    ]
}

/// Counters of the join by name, for the manifest; those of a task as `click.positive`.
pub(crate) fn counters(counters: &Counters, tasks: &[String]) -> BTreeMap<String, u64> {
    let flat = serde_json::to_value(counters).unwrap_or_default();
    let fields = flat.as_object().into_iter().flatten();
    let mut named: BTreeMap<String, u64> = fields
        .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
        .collect();
    for (task, counters) in tasks.iter().zip(&counters.tasks) {
        for (outcome, n) in [
            ("late", counters.late),
            ("positive", counters.positive),
            ("negative", counters.negative),
            ("pending", counters.pending),
        ] {
            named.insert(format!("{task}.{outcome}"), n);
        }
    }
    named
}
