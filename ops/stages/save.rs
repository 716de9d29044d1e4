//! Save: writes snapshots, moves `latest`, collects old ones.
//!
//! A failure here costs a snapshot and nothing else: serving and learning go on, the last good one stays, and
//! the next one is tried at the next cut.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use ouzel_learner::weights_hash;
use ouzel_snapshot::{Alias, Draft, SnapshotId, Store};

use crate::clock::Clock;
use crate::live::Live;

/// A snapshot to write.
#[derive(Debug)]
pub struct Save {
    /// All of it, but for the hash of the weights.
    pub draft: Draft,
    /// The lineage it belongs to, by [`Live::lineage`].
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
    pub live: Arc<Live>,
    /// For the audit log.
    pub clock: Arc<dyn Clock>,
}

impl Saver {
    /// Writes until the learner ends.
    pub fn run(&self, input: &Receiver<Save>) -> anyhow::Result<()> {
        for mut save in input {
            save.draft.cut.weights_hash = weights_hash(&save.draft);
            match self.write(&save.draft) {
                Ok(id) => {
                    tracing::info!(snapshot = %id, batches = save.draft.cut.batch_seq, "snapshot written");
                    self.live.saved_at(self.clock.now_ms());
                    self.live.saved(id, save.lineage);
                    self.live.answer(save.answers, Some(id));
                }
                Err(error) => {
                    tracing::error!(%error, "snapshot not written; the last good one stays");
                    self.live.answer(save.answers, None);
                }
            }
        }
        Ok(())
    }

    fn write(&self, draft: &Draft) -> Result<SnapshotId, ouzel_snapshot::Error> {
        let id = self.store.write(draft)?;
        self.store.set_alias(Alias::Latest, id)?;
        // What follows only saves room: the snapshot is there and counts.
        if let Err(error) = self.store.gc(self.keep, self.clock.now_ms()) {
            tracing::warn!(%error, "old snapshots not removed");
        }
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
