//! The verdict of `ouzel snapshot verify`: hashes of all files, then the weights and the probe.

use ouzel_learner::{WeightsReport, verify_weights};
use ouzel_snapshot::{SnapshotId, Store, VerificationReport};
use serde::Serialize;

/// Name of the file that every snapshot of a learner has.
const TRAINER: &str = "trainer.json";

/// What was found out about one snapshot.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    /// Hashes of the files.
    #[serde(flatten)]
    pub(super) report: VerificationReport,
    /// The weights, where there are any and they could be loaded.
    pub(super) weights: Option<WeightsReport>,
    /// What is wrong with the weights.
    pub(super) weights_fault: Option<String>,
    /// A check that it failed when it was written.
    pub(super) failed_gate: Option<String>,
}

impl Verdict {
    /// Verifies a snapshot. Weights are loaded only from files whose hashes are right.
    pub(super) fn of(store: &Store, id: SnapshotId) -> anyhow::Result<Self> {
        let mut verdict = Self {
            report: store.verify(id)?,
            weights: None,
            weights_fault: None,
            failed_gate: None,
        };
        if !verdict.report.is_valid() {
            return Ok(verdict);
        }
        let snapshot = store.read(id)?;
        verdict.failed_gate = snapshot.manifest().failed_gate().map(str::to_owned);
        if snapshot.manifest().file(TRAINER).is_some() {
            match verify_weights(&snapshot) {
                Ok(report) => verdict.weights = Some(report),
                Err(error) => verdict.weights_fault = Some(error.to_string()),
            }
        }
        Ok(verdict)
    }

    /// True when nothing is wrong.
    pub(super) fn is_valid(&self) -> bool {
        self.report.is_valid() && self.weights_fault.is_none() && self.failed_gate.is_none()
    }
}
