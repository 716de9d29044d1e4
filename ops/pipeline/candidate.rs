//! A candidate: a snapshot that scores a share of the traffic beside the served version, and is compared with the model
//! that learns.
//!
//! `choice` is what the operator has chosen, `report` what is reported of it, `requests` how a running learner starts,
//! stops and promotes it. Nothing learned depends on a candidate.

pub(crate) mod choice;
mod report;
mod requests;

use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use ouzel_learner::FixedModel;
use ouzel_learner::validation::Comparison;
use ouzel_sample::{Batch, EventTime};
use ouzel_serving::{CandidateCounts, CandidateSlot, Variant, Version};
use ouzel_snapshot::{Draft, Snapshot};

use super::learner::Learner;
use choice::CandidateChoice;

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
    model: FixedModel,
    comparison: Comparison,
    /// Why it cannot go on.
    fault: Option<String>,
    /// Batches since the last report.
    n_unreported: u64,
}

/// The comparison in a snapshot, with the candidate that it is about.
#[derive(Serialize, Deserialize)]
struct SavedComparison {
    candidate: CandidateChoice,
    comparison: Value,
}

impl RunningCandidate {
    /// A candidate for these tasks, compared over items shown after `now`.
    fn new(choice: CandidateChoice, tasks: Vec<String>, model: FixedModel, now: EventTime) -> Self {
        Self {
            comparison: Comparison::new(choice.share, now, tasks.len()),
            choice,
            tasks,
            model,
            fault: None,
            n_unreported: REPORT_EVERY,
        }
    }

    /// Takes over the comparison that a snapshot has of this candidate, if it has one.
    fn restore(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        if snapshot.manifest().file(STATE).is_none() {
            return Ok(());
        }
        let failed = || format!("cannot read {STATE} of snapshot {}", snapshot.id());
        let saved: SavedComparison = serde_json::from_slice(&snapshot.blob(STATE)?).with_context(failed)?;
        if saved.candidate == self.choice {
            let bytes = saved.comparison.to_string();
            self.comparison = Comparison::restore(bytes.as_bytes(), self.tasks.len()).with_context(failed)?;
        }
        Ok(())
    }

    /// Adds the comparison to a draft.
    pub(crate) fn save(&self, draft: &mut Draft) -> anyhow::Result<()> {
        let saved = SavedComparison {
            candidate: self.choice.clone(),
            comparison: serde_json::from_slice(&self.comparison.dump())?,
        };
        Ok(draft.add_blob(STATE, serde_json::to_vec(&saved)?)?)
    }

    /// Scores the compared samples of a batch that was learned, with its logits from before.
    fn observe(&mut self, taught: &Batch, logits: &[f32]) {
        self.n_unreported += 1;
        self.comparison.shown(&taught.shown);
        if self.fault.is_some() {
            return;
        }
        let Some(compared) = self.comparison.select(taught, logits) else {
            return;
        };
        match self.model.score(compared.batch()) {
            Ok(logits) => {
                let n_broken = self.comparison.add(compared, logits);
                if n_broken > 0 && self.choice.variant == Variant::Canary {
                    self.fault = Some(format!(
                        "{n_broken} of its scores in batch {} are not finite",
                        taught.seq
                    ));
                }
            }
            Err(error) => self.fault = Some(format!("it cannot score batch {}: {error}", taught.seq)),
        }
    }

    fn report(&self) -> CandidateReport {
        let (choice, figures) = (&self.choice, self.comparison.tasks());
        let slates = self.comparison.n_requests();
        CandidateReport {
            snapshot: choice.snapshot,
            variant: choice.variant,
            share: choice.share,
            since_ms: choice.at_ms,
            requests: CandidateCounts::default(),
            slates,
            not_finite: self.comparison.n_not_finite(),
            summary: report::summary(&figures.first().copied().unwrap_or_default(), slates),
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

impl Learner {
    /// Compares the candidate, if there is one, on a batch that was learned, with its logits from before.
    pub(in crate::pipeline) fn compare(&mut self, taught: &Batch, logits: &[f32]) {
        if let Some(candidate) = &mut self.candidate {
            candidate.observe(taught, logits);
        }
    }

    /// Copies the figures of the candidate to the status and the metrics, at intervals of batches, and when idle.
    pub(in crate::pipeline) fn report_candidate(&mut self, is_idle: bool) {
        let Some(candidate) = &mut self.candidate else {
            return;
        };
        let is_due = candidate.n_unreported >= REPORT_EVERY || (is_idle && candidate.n_unreported > 0);
        if is_due {
            candidate.n_unreported = 0;
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
