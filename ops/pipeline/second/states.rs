//! The states of a second learner on disk, each at a checkpoint of the serving learner.
//!
//! They are snapshots in a store of their own, `second-learner` in `snapshot.local_dir`, with weights, optimizer state and
//! figures. Join state and features are in the snapshot of the serving learner at the same point, so a state is of use only
//! together with that.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use ouzel_learner::{SecondLearner, check_draft, weights_hash};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint, Retention, Snapshot, SnapshotId, Store};

use crate::pipeline::checkpoint::CONFIG_FILE;

/// States that are kept: a start may go back to the serving learner's snapshot before the newest one.
const KEPT: usize = 3;

/// File of the figures in a state.
const COMPARISON: &str = "comparison.json";

/// A point of the stream at which the serving learner is saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointPoint {
    /// Number of batches before it.
    pub(crate) batch_seq: u64,
    /// Hash of all samples before it.
    pub(crate) ledger_hash: String,
    /// Creation time, ms since the epoch.
    pub(crate) at_ms: i64,
}

impl From<&CheckpointMeta> for CheckpointPoint {
    fn from(checkpoint: &CheckpointMeta) -> Self {
        Self {
            batch_seq: checkpoint.batch_seq,
            ledger_hash: checkpoint.ledger_hash.clone(),
            at_ms: 0,
        }
    }
}

/// The states of one second learner, for its thread.
pub(crate) struct SecondStates {
    store: Store,
    fingerprint: Fingerprint,
    config: Vec<u8>,
}

impl SecondStates {
    /// Opens the directory of the states. With `is_new`, removes what it holds of a learner before.
    pub(crate) fn open(
        local_dir: &Path,
        is_new: bool,
        fingerprint: Fingerprint,
        config: Vec<u8>,
    ) -> anyhow::Result<Self> {
        if is_new {
            remove_states(local_dir)?;
        }
        let dir = dir(local_dir);
        let store = Store::open(&dir)
            .with_context(|| format!("cannot open {}, the states of the second learner", dir.display()))?;
        Ok(Self {
            store,
            fingerprint,
            config,
        })
    }

    /// Writes the state of a learner that has learned everything before `point`.
    pub(super) fn save(
        &self,
        learner: &mut SecondLearner,
        point: &CheckpointPoint,
    ) -> anyhow::Result<SnapshotId> {
        if learner.next_batch() != point.batch_seq {
            let (next, seq) = (learner.next_batch(), point.batch_seq);
            return Err(anyhow!(
                "its next batch is {next}, and that of the serving learner {seq}"
            ));
        }
        let checkpoint = CheckpointMeta {
            batch_seq: point.batch_seq,
            ledger_hash: point.ledger_hash.clone(),
            ..CheckpointMeta::default()
        };
        let mut draft = Draft::new(None, point.at_ms, self.fingerprint.clone(), checkpoint);
        learner.trainer().save(&mut draft)?;
        draft.add_blob(COMPARISON, learner.comparison().dump())?;
        draft.add_blob(CONFIG_FILE, self.config.clone())?;
        draft.checkpoint.weights_hash = weights_hash(&draft);
        check_draft(&draft)?;
        let id = self.store.write(&draft)?;
        self.store.gc(Retention::newest(KEPT), point.at_ms)?;
        Ok(id)
    }
}

/// The newest state at `point`. The inner error says why there is none.
pub(crate) fn find_state(
    local_dir: &Path,
    point: &CheckpointPoint,
) -> anyhow::Result<Result<Snapshot, String>> {
    let store = Store::inspect(&dir(local_dir));
    let listed = store.list()?;
    let sound = || listed.iter().rev().filter(|entry| entry.fault.is_none());
    let is_there = |checkpoint: &CheckpointMeta| {
        (checkpoint.batch_seq, &checkpoint.ledger_hash) == (point.batch_seq, &point.ledger_hash)
    };
    let found = sound().find(|entry| {
        entry
            .manifest
            .as_ref()
            .is_some_and(|manifest| is_there(&manifest.checkpoint))
    });
    if let Some(entry) = found {
        return Ok(Ok(store.read(entry.id)?));
    }
    let at = point.batch_seq;
    let newest = sound().find_map(|entry| Some(entry.manifest.as_ref()?.checkpoint.batch_seq));
    Ok(Err(match newest {
        Some(newest) if newest == at => format!(
            "its state at batch {at} is of another lineage: learning went back, and the log was read differently"
        ),
        Some(newest) => {
            format!("learning goes on from batch {at}, and its newest state is of batch {newest}")
        }
        None => format!(
            "learning goes on from batch {at}, and it has no state in {}",
            dir(local_dir).display()
        ),
    }))
}

/// The figures of a state.
pub(crate) fn comparison_of(state: &Snapshot) -> anyhow::Result<Vec<u8>> {
    Ok(state.blob(COMPARISON)?.to_vec())
}

/// Removes the states of the last second learner, if there are any.
pub(crate) fn remove_states(local_dir: &Path) -> anyhow::Result<()> {
    let dir = dir(local_dir);
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn dir(local_dir: &Path) -> PathBuf {
    local_dir.join("second-learner")
}
