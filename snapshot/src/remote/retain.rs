//! Which snapshots stay in a remote copy: by the rules of the state directory, over all that the copy has.

use std::collections::{BTreeMap, BTreeSet};

use super::index::{RemoteSnapshot, StateFile};
use crate::store::{Lineage, Rollback, decide};
use crate::{Retention, SnapshotEntry, SnapshotId};

/// The plan log that a copy keeps: of as many of the newest snapshots.
const PLAN_OF_NEWEST: usize = 10;

/// The snapshots that stay. Those with an alias or tag do, and those that are in the state directory.
pub(super) fn kept(
    snapshots: &BTreeMap<SnapshotId, RemoteSnapshot>,
    files: &BTreeMap<String, StateFile>,
    local: &BTreeSet<SnapshotId>,
    rollbacks: Vec<Rollback>,
    rules: Retention,
) -> BTreeSet<SnapshotId> {
    let parents = snapshots.iter().map(|(id, found)| (*id, found.manifest.parent));
    let lineage = Lineage {
        parents: parents.collect(),
        rollbacks,
    };
    let abandoned = lineage.abandoned();
    let listed: Vec<SnapshotEntry> = snapshots
        .iter()
        .map(|(id, snapshot)| SnapshotEntry {
            id: *id,
            bytes: snapshot.n_bytes(),
            aliases: Vec::new(),
            tags: Vec::new(),
            is_rolled_back: abandoned.contains_key(id),
            manifest: Some(snapshot.manifest.clone()),
            fault: None,
        })
        .collect();
    let named = files
        .iter()
        .filter_map(|(name, file)| Some((file.target?, name.clone())));
    let local = local.iter().map(|id| (*id, "in the state directory".to_owned()));
    let protected = local.chain(named).collect();
    let decisions = decide(&listed, &protected, rules);
    let kept = decisions.into_iter().filter(|decision| decision.is_kept);
    kept.map(|decision| decision.id).collect()
}

/// The first entry of the plan log that a start from one of the newest snapshots needs.
pub(super) fn plan_from<'a>(snapshots: impl DoubleEndedIterator<Item = &'a RemoteSnapshot>) -> u64 {
    let newest = snapshots.rev().take(PLAN_OF_NEWEST);
    let positions = newest.map(|snapshot| snapshot.manifest.checkpoint.plan_position);
    positions.min().unwrap_or(0)
}
