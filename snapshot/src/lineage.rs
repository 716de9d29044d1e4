//! Which snapshots rollbacks left behind.
//!
//! The rollbacks that happened are written in the file `latest` itself, so that they and the alias move in one
//! step; the audit log also has those that a crash prevented.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Alias, Error, SnapshotId, Store, Verb};

/// `latest` was moved to `to` when `newest` was the highest id given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rollback {
    pub(crate) to: SnapshotId,
    pub(crate) newest: SnapshotId,
}

/// The parent of each snapshot on disk, as far as manifests can be read.
pub(crate) type Parents = BTreeMap<SnapshotId, Option<SnapshotId>>;

/// The snapshots that rollbacks left behind, each with itself or the ancestor that was.
///
/// A rollback to `a` when `b` was the newest leaves everything between behind, and whatever grows from there
/// later (a daemon that had not heard of it). A later rollback to one of them takes that one, and what grows
/// from it afterwards, back in.
pub(crate) fn left_behind(rollbacks: &[Rollback], parents: &Parents) -> BTreeMap<SnapshotId, SnapshotId> {
    // A parent may have been collected and still be what its children are judged by.
    let known: BTreeSet<SnapshotId> = parents
        .keys()
        .copied()
        .chain(parents.values().flatten().copied())
        .collect();
    let mut left = BTreeMap::new();
    let mut chosen = BTreeSet::new();
    for Rollback { to, newest } in rollbacks {
        for id in known.iter().filter(|id| to < *id && *id <= newest) {
            left.insert(*id, *id);
        }
        left.remove(to);
        chosen.insert(*to);
    }
    // Parents are older, so one pass in order of id sees every ancestor first.
    for (id, parent) in parents {
        let ancestor = parent.and_then(|parent| left.get(&parent).copied());
        if let Some(ancestor) = ancestor.filter(|_| !chosen.contains(id)) {
            left.entry(*id).or_insert(ancestor);
        }
    }
    left.retain(|id, _| parents.contains_key(id));
    left
}

/// The rollbacks that still say something about a snapshot on disk.
pub(crate) fn still_relevant(mut rollbacks: Vec<Rollback>, parents: &Parents) -> Vec<Rollback> {
    let oldest = parents.iter().map(|(id, parent)| parent.unwrap_or(*id)).min();
    rollbacks.retain(|rollback| oldest.is_some_and(|oldest| oldest <= rollback.newest));
    rollbacks
}

impl Store {
    /// Every rollback that happened, oldest first. Without a readable `latest`, those that were asked for.
    pub(crate) fn rollbacks(&self) -> Result<Vec<Rollback>, Error> {
        match self.pointer(Alias::Latest) {
            Ok(Some(pointer)) => return Ok(pointer.rollbacks),
            Ok(None) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
        let audit = self.audit()?;
        let lines = audit.lines.iter().filter(|line| line.verb == Verb::Rollback);
        Ok(lines
            .filter_map(|line| {
                Some(Rollback {
                    to: line.id?,
                    newest: line.newest?,
                })
            })
            .collect())
    }

    /// The parent of each of `ids`.
    pub(crate) fn parents(&self, ids: &[SnapshotId]) -> Parents {
        let parent = |id: SnapshotId| self.peek(id).ok().and_then(|snapshot| snapshot.manifest().parent);
        ids.iter().map(|id| (*id, parent(*id))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollbacks(pairs: &[(u64, u64)]) -> Vec<Rollback> {
        let rollback = |(to, newest): &(u64, u64)| Rollback {
            to: SnapshotId::new(*to),
            newest: SnapshotId::new(*newest),
        };
        pairs.iter().map(rollback).collect()
    }

    /// A snapshot that is its own parent has none.
    fn parents(pairs: &[(u64, u64)]) -> Parents {
        let parent = |(id, parent): &(u64, u64)| {
            (
                SnapshotId::new(*id),
                (id != parent).then(|| SnapshotId::new(*parent)),
            )
        };
        pairs.iter().map(parent).collect()
    }

    fn check(moves: &[(u64, u64)], tree: &[(u64, u64)], expected: &[u64]) {
        let (rollbacks, parents) = (rollbacks(moves), parents(tree));
        let numbers = |left: BTreeMap<SnapshotId, SnapshotId>| -> Vec<u64> {
            left.keys().map(|id| id.number()).collect()
        };
        assert_eq!(
            numbers(left_behind(&rollbacks, &parents)),
            expected,
            "{moves:?} of {tree:?}"
        );
        let fewer = still_relevant(rollbacks, &parents);
        assert_eq!(
            numbers(left_behind(&fewer, &parents)),
            expected,
            "only {fewer:?} of {tree:?}"
        );
    }

    #[test]
    fn a_rollback_leaves_behind_what_it_skipped_and_all_that_grows_from_it() {
        let line = [(1, 1), (2, 1), (3, 2), (4, 3)];
        check(&[], &line, &[]);
        check(&[(2, 4)], &line, &[3, 4]);
        // 5 was written by a daemon that had not heard of the rollback, 6 by the one that resumed from 2.
        let forked = [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (6, 2), (7, 6)];
        check(&[(2, 4)], &forked, &[3, 4, 5]);
        // Forward again to 4: what is between and what came later stays behind.
        check(&[(2, 4), (4, 7)], &forked, &[3, 5, 6, 7]);
        check(&[(2, 4), (4, 4)], &forked, &[3]);
        check(&[(2, 4), (4, 4), (1, 4)], &forked, &[2, 3, 4, 5, 6, 7]);
        // 2 to 4 were collected; what 5 grew from is still known.
        check(&[(2, 4)], &[(5, 4), (6, 2), (7, 6)], &[5]);
        check(&[(2, 4)], &[(6, 5), (7, 6)], &[]);
    }
}
