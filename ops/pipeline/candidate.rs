//! A candidate: a snapshot, or a second learner, that scores a share of the traffic beside the served version, and is
//! compared with the model that learns.
//!
//! `choice` is what the operator has chosen, `report` what is reported of it, `requests` how a running learner starts,
//! stops and promotes it, `learner` the same of a second learner. Nothing learned depends on a candidate.

pub(crate) mod choice;
mod learner;
mod report;
mod requests;

use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use ouzel_learner::FixedModel;
use ouzel_learner::validation::Comparison;
use ouzel_sample::Batch;
use ouzel_serving::{CandidateCounts, CandidateSlot, Variant, Version};
use ouzel_snapshot::{Draft, Snapshot};

use super::learner::Learner;
use super::promoted::list;
use super::second::{CheckpointPoint, SecondHandle, SecondReport};
use choice::CandidateChoice;

pub(crate) use report::summary;
pub use report::{CandidateReport, TaskReport};
pub(crate) use requests::{CandidateRequest, load_candidate, no_candidate};

/// File of the comparison in a snapshot.
const STATE: &str = "candidate.json";

/// Batches between two updates of the report, whose figures take as long as a step.
const REPORT_EVERY: u64 = 50;

/// A candidate that takes part.
pub(crate) struct RunningCandidate {
    choice: CandidateChoice,
    tasks: Vec<String>,
    side: Side,
    /// Why it cannot go on.
    fault: Option<String>,
    /// Batches since the last report.
    n_unreported: u64,
}

/// What is compared with the serving learner.
enum Side {
    /// Fixed weights, scored here.
    Snapshot(Box<FixedSide>),
    /// A learner on a thread of its own, with the version of its figures that was last reported.
    Learner(SecondHandle, u64),
}

struct FixedSide {
    model: FixedModel,
    comparison: Comparison,
}

/// The comparison in a snapshot, with the candidate that it is about.
#[derive(Serialize, Deserialize)]
struct SavedComparison {
    candidate: CandidateChoice,
    comparison: Value,
}

impl RunningCandidate {
    fn new(choice: CandidateChoice, tasks: Vec<String>, side: Side) -> Self {
        Self {
            choice,
            tasks,
            side,
            fault: None,
            n_unreported: REPORT_EVERY,
        }
    }

    /// Takes over the comparison that a snapshot has of this candidate, if it has one.
    fn restore(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let Side::Snapshot(side) = &mut self.side else {
            return Ok(());
        };
        if snapshot.manifest().file(STATE).is_none() {
            return Ok(());
        }
        let failed = || format!("cannot read {STATE} of snapshot {}", snapshot.id());
        let saved: SavedComparison = serde_json::from_slice(&snapshot.blob(STATE)?).with_context(failed)?;
        if saved.candidate == self.choice {
            let bytes = saved.comparison.to_string();
            side.comparison = Comparison::restore(bytes.as_bytes(), self.tasks.len()).with_context(failed)?;
        }
        Ok(())
    }

    /// Adds the comparison to a draft. Those of a second learner are in its own state.
    pub(crate) fn save(&self, draft: &mut Draft) -> anyhow::Result<()> {
        let Side::Snapshot(side) = &self.side else {
            return Ok(());
        };
        let saved = SavedComparison {
            candidate: self.choice.clone(),
            comparison: serde_json::from_slice(&side.comparison.dump())?,
        };
        Ok(draft.add_blob(STATE, serde_json::to_vec(&saved)?)?)
    }

    /// Compares the candidate on a batch that was learned, with its logits from before.
    fn observe(&mut self, batch: &Arc<Batch>, taught: &Batch, logits: &[f32]) {
        self.n_unreported += 1;
        match &mut self.side {
            Side::Snapshot(side) => {
                side.comparison.shown(&taught.shown);
                if self.fault.is_none() {
                    self.fault = side.observe(taught, logits, self.choice.variant);
                }
            }
            Side::Learner(learner, _) => {
                // Most batches are taught as they were joined, and need no copy.
                let taught = match std::ptr::eq(taught, &raw const **batch) {
                    true => Arc::clone(batch),
                    false => Arc::new(taught.clone()),
                };
                learner.learned(Arc::clone(batch), taught, logits.to_vec());
                self.fault = self.fault.take().or_else(|| learner.fault());
            }
        }
    }

    /// Why it cannot go on.
    fn fault(&self) -> Option<String> {
        let of_learner = match &self.side {
            Side::Snapshot(_) => None,
            Side::Learner(learner, _) => learner.fault(),
        };
        self.fault.clone().or(of_learner)
    }

    /// Whether a report is due.
    fn is_due(&self, is_idle: bool) -> bool {
        let has_news = match &self.side {
            Side::Snapshot(_) => is_idle && self.n_unreported > 0,
            Side::Learner(learner, reported) => {
                learner.version() > *reported || (is_idle && self.n_unreported > 0)
            }
        };
        has_news || self.n_unreported >= REPORT_EVERY
    }

    fn report(&self) -> CandidateReport {
        let choice = &self.choice;
        let (figures, slates, not_finite, second) = match &self.side {
            Side::Snapshot(side) => (
                side.comparison.tasks(),
                side.comparison.n_requests(),
                side.comparison.n_not_finite(),
                None,
            ),
            Side::Learner(learner, _) => {
                let found = learner.figures();
                let report = SecondReport {
                    settings: choice.learns.as_deref().map(list).unwrap_or_default(),
                    batches: found.next_batch,
                    behind: learner.n_behind(),
                    skipped: found.n_skipped,
                    memory: found.memory,
                };
                (found.tasks, found.n_requests, found.n_not_finite, Some(report))
            }
        };
        CandidateReport {
            snapshot: choice.snapshot,
            learner: second,
            variant: choice.variant,
            share: choice.share,
            since_ms: choice.at_ms,
            requests: CandidateCounts::default(),
            slates,
            not_finite,
            summary: summary(&figures.first().copied().unwrap_or_default(), slates),
            tasks: self
                .tasks
                .iter()
                .zip(figures)
                .map(|(task, figures)| TaskReport {
                    task: task.clone(),
                    figures,
                })
                .collect(),
            withdrawn: None,
        }
    }
}

impl FixedSide {
    /// Scores the compared samples of a batch. Returns why it cannot go on, if so.
    fn observe(&mut self, taught: &Batch, logits: &[f32], variant: Variant) -> Option<String> {
        let compared = self.comparison.select(taught, logits)?;
        match self.model.score(compared.batch()) {
            Ok(logits) => {
                let n_broken = self.comparison.add(compared, logits);
                (n_broken > 0 && variant == Variant::Canary)
                    .then(|| format!("{n_broken} of its scores in batch {} are not finite", taught.seq))
            }
            Err(error) => Some(format!("it cannot score batch {}: {error}", taught.seq)),
        }
    }
}

impl Learner {
    /// Compares the candidate, if there is one, on a batch that was learned, with its logits from before.
    pub(in crate::pipeline) fn compare(&mut self, batch: &Arc<Batch>, taught: &Batch, logits: &[f32]) {
        if let Some(candidate) = &mut self.candidate {
            candidate.observe(batch, taught, logits);
        }
    }

    /// Lets a second learner save its state where this learner was saved.
    pub(in crate::pipeline) fn checkpoint_candidate(&self, point: CheckpointPoint) {
        if let Some(Side::Learner(learner, _)) = self.candidate.as_ref().map(|candidate| &candidate.side) {
            learner.checkpoint(point);
        }
    }

    /// Copies the figures of the candidate to the status and the metrics, at intervals of batches, and when idle.
    pub(in crate::pipeline) fn report_candidate(&mut self, is_idle: bool) {
        let Some(candidate) = &mut self.candidate else {
            return;
        };
        if candidate.is_due(is_idle) {
            candidate.n_unreported = 0;
            if let Side::Learner(learner, reported) = &mut candidate.side {
                *reported = learner.version();
            }
            let report = candidate.report();
            report.set_gauges();
            self.status.set_candidate(Some(report));
        }
    }

    /// The place of the candidate among the scorers; `None` without outputs.
    fn candidate_slot(&self) -> Option<Arc<CandidateSlot>> {
        let outputs = self.outputs.as_ref();
        outputs.map(|outputs| Arc::clone(&outputs.candidates))
    }

    /// Lets a candidate take part.
    fn start_candidate(&mut self, candidate: RunningCandidate, version: Version) {
        if let Some(slot) = self.candidate_slot() {
            slot.start(candidate.choice.role(), Arc::new(version));
        }
        self.candidate = Some(candidate);
        self.report_candidate(true);
    }

    /// Ends the candidate. Its last report goes on being shown with the reason, if it has ended by itself.
    fn end_candidate(&mut self, withdrawn: Option<String>) {
        let Some(candidate) = self.candidate.take() else {
            return;
        };
        let report = candidate.report();
        report.clone().clear_gauges();
        let slot = self.candidate_slot();
        let report = match &slot {
            Some(slot) => report.with_counts(slot),
            None => report,
        };
        if let Some(slot) = slot {
            slot.stop();
        }
        self.status.set_candidate(withdrawn.map(|why| CandidateReport {
            withdrawn: Some(why),
            ..report
        }));
    }
}
