//! Save: writes snapshots, moves `latest`, removes old snapshots.
//!
//! A failure loses one snapshot only: serving and learning continue, the last snapshot stays, and another checkpoint is
//! requested after a while.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use metrics::counter;

use ouzel_learner::{check_draft, weights_hash};
use ouzel_snapshot::metrics::FAILED;
use ouzel_snapshot::{Alias, Draft, GateResult, Retention, SnapshotId, Store};
use ouzel_verify::failpoint::{self, FailPoint};

use crate::pipeline::control::{Rollback, SaverControl};
use crate::pipeline::standby::comparison::{Compared, Comparison};
use crate::pipeline::status::PipelineStatus;
use crate::telemetry::clock::Clock;

/// Delay from a failed snapshot to the next request: the first delay, doubled after each failure, and its limit.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Time between two looks of a standby for a new snapshot of the writer.
const COMPARE_EVERY: Duration = Duration::from_millis(200);

/// Name of the check that every weight and all optimizer state is finite. A draft that fails it is not written.
pub(crate) const FINITE_GATE: &str = "finite";

/// A snapshot to write.
#[derive(Debug)]
pub(crate) struct Save {
    /// Complete except for the hash of the weights.
    pub(crate) draft: Draft,
    /// The lineage that it belongs to.
    pub(crate) lineage: u64,
    /// The newest request that it answers.
    pub(crate) request: Option<u64>,
    /// True if another daemon writes it: here it is only compared.
    pub(crate) is_followed: bool,
}

/// The stage.
pub(crate) struct Saver {
    pub(crate) store: Arc<Store>,
    /// Snapshots after a whole one that store changed rows only.
    pub(crate) max_deltas: usize,
    /// The snapshots that are kept.
    pub(crate) retention: Retention,
    pub(crate) control: SaverControl,
    pub(crate) status: Arc<PipelineStatus>,
    /// For the audit log.
    pub(crate) clock: Arc<dyn Clock>,
    /// For a standby: what it has learned, and the snapshots of the writer.
    pub(crate) comparison: Option<Comparison>,
}

impl Saver {
    /// Writes snapshots until the learner ends.
    pub(crate) fn run(mut self, input: &Receiver<Save>) -> anyhow::Result<()> {
        let (first, longest) = RETRY;
        let mut retry = None;
        loop {
            let received = match retry {
                None if self.comparison.is_some() => match input.recv_timeout(COMPARE_EVERY) {
                    Err(RecvTimeoutError::Timeout) => {
                        self.compare();
                        continue;
                    }
                    received => received,
                },
                None => input.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => input.recv_timeout(wait),
            };
            match received {
                Ok(save) => {
                    retry = if self.save(save) {
                        None
                    } else {
                        retry.or(Some(first))
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {
                    self.control.request_again();
                    retry = retry.map(|wait| (wait * 2).min(longest));
                }
            }
        }
    }

    /// Compares the newest snapshot of the writer with what this process has learned. Returns true if they are equal or
    /// there is nothing to compare.
    fn compare(&mut self) -> bool {
        let Some(comparison) = &mut self.comparison else {
            return true;
        };
        match comparison.check() {
            Ok(Compared::Equal(id)) => {
                tracing::info!(snapshot = %id, "the state is that of the writer's snapshot");
                self.control.saved(id, self.control.lineage(), None);
                true
            }
            Ok(Compared::Nothing) => true,
            Ok(Compared::Ahead | Compared::Different(_)) => false,
            Err(error) => {
                tracing::warn!(%error, "the newest snapshot of the writer cannot be compared");
                false
            }
        }
    }

    /// True if this process, which has taken over, has the state of the last snapshot of the former writer.
    fn may_write(&mut self) -> bool {
        if !self.compare() {
            if let Some(comparison) = &self.comparison {
                comparison
                    .resync
                    .request("the state is not known to be that of the former writer's last snapshot");
            }
            return false;
        }
        self.comparison = None;
        true
    }

    /// Writes a snapshot and answers its requests. Returns false if it could not be written.
    fn save(&mut self, mut save: Save) -> bool {
        save.draft.checkpoint.weights_hash = weights_hash(&save.draft);
        if save.is_followed {
            if let Some(comparison) = &mut self.comparison {
                comparison.add((&save.draft.checkpoint).into());
            }
            self.compare();
            return true;
        }
        if !self.may_write() {
            self.control.fail(save.request);
            // The stages start again, from the newest snapshot.
            return true;
        }
        // The draft may have been made while the snapshot before it was still being written.
        save.draft.parent = self.control.latest_of(save.lineage).or(save.draft.parent);
        match self.write(&mut save) {
            Ok(id) => {
                tracing::info!(snapshot = %id, batches = save.draft.checkpoint.batch_seq, "snapshot written");
                self.status.set_last_saved(self.clock.now_ms());
                self.control.saved(id, save.lineage, save.request);
                true
            }
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    batches = save.draft.checkpoint.batch_seq,
                    "snapshot not written; the last good one stays, and writing is tried again"
                );
                self.control.fail(save.request);
                false
            }
        }
    }

    fn write(&self, save: &mut Save) -> anyhow::Result<SnapshotId> {
        if let Err(error) = check_draft(&save.draft) {
            counter!(FAILED, "reason" => "weights").increment(1);
            return Err(error.into());
        }
        let passed = GateResult {
            passed: true,
            figure: None,
            limit: None,
        };
        save.draft.gates.insert(FINITE_GATE.to_owned(), passed);
        let rollback = self.control.unsaved_rollback(save.lineage);
        save.draft.checkpoint.promoted_over = rollback.as_ref().and_then(|rollback| rollback.promoted_over);
        let id = self.store.write_chained(&save.draft, self.max_deltas)?;
        failpoint::reach(FailPoint::SnapshotWritten);
        match rollback {
            Some(Rollback { reason, .. }) => self.store.adopt(id, &reason, self.clock.now_ms())?,
            None => self.store.set_alias(Alias::Latest, id)?,
        }
        failpoint::reach(FailPoint::LatestMoved);
        // The snapshot is complete; the rest only frees space.
        if let Err(error) = self.store.gc(self.retention, self.clock.now_ms()) {
            tracing::warn!(%error, "old snapshots not removed; the next snapshot tries again");
        }
        failpoint::reach(FailPoint::SnapshotsCollected);
        let kept = self.store.list()?;
        let manifests = kept.iter().filter_map(|listed| listed.manifest.as_ref());
        if let Some(position) = manifests.map(|manifest| manifest.checkpoint.plan_position).min() {
            self.control.set_plan_keep_from(position);
        }
        Ok(id)
    }
}
