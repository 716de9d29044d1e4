//! Save: writes snapshots, moves `latest`, collects old ones.
//!
//! A failure here costs a snapshot and nothing else: serving and learning go on, the last good one stays, and
//! another one is asked for after a while, though nothing new be learned until then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use ouzel_learner::weights_hash;
use ouzel_snapshot::{Alias, Draft, SnapshotId, Store};

use crate::clock::Clock;
use crate::failpoint::{self, FailPoint};
use crate::live::PipelineStatus;

/// From a snapshot that could not be written to the next one asked for; doubled up to the second with each failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A snapshot to write.
#[derive(Debug)]
pub struct Save {
    /// All of it, but for the hash of the weights.
    pub draft: Draft,
    /// The lineage it belongs to, by [`PipelineStatus::lineage`].
    pub lineage: u64,
    /// Requests that it answers.
    pub answers: Option<u64>,
}

/// The stage.
pub struct Saver {
    /// Where snapshots go.
    pub store: Arc<Store>,
    /// How many are kept.
    pub keep: usize,
    /// Who wants to know.
    pub live: Arc<PipelineStatus>,
    /// For the audit log.
    pub clock: Arc<dyn Clock>,
}

impl Saver {
    /// Writes until the learner ends.
    pub fn run(&self, input: &Receiver<Save>) -> anyhow::Result<()> {
        let (first, longest) = RETRY;
        let mut retry = None;
        loop {
            let mut save = match retry {
                None => match input.recv() {
                    Ok(save) => save,
                    Err(_) => return Ok(()),
                },
                Some(wait) => match input.recv_timeout(wait) {
                    Ok(save) => save,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                    Err(RecvTimeoutError::Timeout) => {
                        self.live.want_cut();
                        retry = Some((wait * 2).min(longest));
                        continue;
                    }
                },
            };
            save.draft.cut.weights_hash = weights_hash(&save.draft);
            match self.write(&save.draft) {
                Ok(id) => {
                    tracing::info!(snapshot = %id, batches = save.draft.cut.batch_seq, "snapshot written");
                    self.live.saved_at(self.clock.now_ms());
                    self.live.saved(id, save.lineage);
                    self.live.answer(save.answers, Some(id));
                    retry = None;
                }
                Err(error) => {
                    tracing::error!(%error, "snapshot not written; the last good one stays");
                    self.live.answer(save.answers, None);
                    retry.get_or_insert(first);
                }
            }
        }
    }

    fn write(&self, draft: &Draft) -> Result<SnapshotId, ouzel_snapshot::Error> {
        let id = self.store.write(draft)?;
        failpoint::reach(FailPoint::SnapshotWritten);
        self.store.set_alias(Alias::Latest, id)?;
        failpoint::reach(FailPoint::LatestMoved);
        // What follows only saves room: the snapshot is there and counts.
        if let Err(error) = self.store.gc(self.keep, self.clock.now_ms()) {
            tracing::warn!(%error, "old snapshots not removed");
        }
        failpoint::reach(FailPoint::Collected);
        let kept = self.store.list()?;
        let oldest = kept
            .iter()
            .filter_map(|listed| listed.manifest.as_ref())
            .map(|m| m.cut.plan_position)
            .min();
        if let Some(position) = oldest {
            self.live.plan_keep_from.store(position, Ordering::Release);
        }
        Ok(id)
    }
}
