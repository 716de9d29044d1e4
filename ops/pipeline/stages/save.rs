//! Save: writes snapshots, moves `latest`, removes old snapshots.
//!
//! A failure costs one snapshot and nothing else: serving and learning continue, the last good snapshot stays, and
//! another checkpoint is requested after a while, even if nothing new is learned until then.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use ouzel_learner::weights_hash;
use ouzel_snapshot::{Alias, Draft, SnapshotId, Store};

use crate::failpoint::{self, FailPoint};
use crate::pipeline::control::SaverControl;
use crate::pipeline::status::PipelineStatus;
use crate::telemetry::clock::Clock;

/// From a snapshot that could not be written to the next request; doubled up to the second with each failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A snapshot to write.
#[derive(Debug)]
pub struct Save {
    /// All of it but the hash of the weights.
    pub draft: Draft,
    /// The lineage that it belongs to.
    pub lineage: u64,
    /// The newest request that it answers.
    pub request: Option<u64>,
}

/// The stage.
pub struct Saver {
    /// Where snapshots go.
    pub store: Arc<Store>,
    /// Number of snapshots kept.
    pub keep: usize,
    /// The saver's part of the control state.
    pub control: SaverControl,
    /// Where the time of the last snapshot is reported.
    pub status: Arc<PipelineStatus>,
    /// For the audit log.
    pub clock: Arc<dyn Clock>,
}

impl Saver {
    /// Writes snapshots until the learner ends.
    pub fn run(&self, input: &Receiver<Save>) -> anyhow::Result<()> {
        let (first, longest) = RETRY;
        let mut retry = None;
        loop {
            let received = match retry {
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

    /// Writes a snapshot and answers its requests. False when it could not be written.
    fn save(&self, mut save: Save) -> bool {
        save.draft.cut.weights_hash = weights_hash(&save.draft);
        match self.write(&save.draft) {
            Ok(id) => {
                tracing::info!(snapshot = %id, batches = save.draft.cut.batch_seq, "snapshot written");
                self.status.set_last_saved(self.clock.now_ms());
                self.control.saved(id, save.lineage, save.request);
                true
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    batches = save.draft.cut.batch_seq,
                    "snapshot not written; the last good one stays, and writing is tried again"
                );
                self.control.fail(save.request);
                false
            }
        }
    }

    fn write(&self, draft: &Draft) -> Result<SnapshotId, ouzel_snapshot::Error> {
        let id = self.store.write(draft)?;
        failpoint::reach(FailPoint::SnapshotWritten);
        self.store.set_alias(Alias::Latest, id)?;
        failpoint::reach(FailPoint::LatestMoved);
        // The snapshot counts from here on; what follows only saves space.
        if let Err(error) = self.store.gc(self.keep, self.clock.now_ms()) {
            tracing::warn!(%error, "old snapshots not removed; the next snapshot tries again");
        }
        failpoint::reach(FailPoint::Collected);
        let kept = self.store.list()?;
        let manifests = kept.iter().filter_map(|listed| listed.manifest.as_ref());
        if let Some(position) = manifests.map(|manifest| manifest.cut.plan_position).min() {
            self.control.set_plan_keep_from(position);
        }
        Ok(id)
    }
}
