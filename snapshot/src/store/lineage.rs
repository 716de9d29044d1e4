//! The lineage of snapshots: which ones rollbacks abandoned.
//!
//! Rollbacks are recorded in the file `latest` itself, so that they and the alias move in one step. The audit log also
//! records rollbacks that a crash prevented.

use std::collections::{BTreeMap, BTreeSet};

use super::alias::Rollback;
use super::{Alias, AuditVerb, Store};
use crate::{Error, SnapshotId};

/// The parents of the snapshots on disk, and the rollbacks that happened.
pub(crate) struct Lineage {
    /// The parent of each snapshot, as far as manifests can be read.
    pub(crate) parents: BTreeMap<SnapshotId, Option<SnapshotId>>,
    /// Oldest first.
    pub(crate) rollbacks: Vec<Rollback>,
}

impl Lineage {
    /// The abandoned snapshots, each with the ancestor that a rollback skipped, which may be itself.
    ///
    /// A rollback to `a` when `b` was the newest abandons every snapshot between, and all that later grows from those (a
    /// daemon that did not know of the rollback). A later rollback to an abandoned snapshot takes it, and what grows from
    /// it afterwards, back in.
    pub(crate) fn abandoned(&self) -> BTreeMap<SnapshotId, SnapshotId> {
        // A parent may have been collected, and its children are still judged by it.
        let parents = self.parents.values().flatten();
        let known: BTreeSet<SnapshotId> = self.parents.keys().chain(parents).copied().collect();
        let mut abandoned = BTreeMap::new();
        let mut chosen = BTreeSet::new();
        for Rollback { to, newest } in &self.rollbacks {
            for id in known.iter().filter(|id| to < *id && *id <= newest) {
                abandoned.insert(*id, *id);
            }
            abandoned.remove(to);
            chosen.insert(*to);
        }
        // Parents are older, so one pass in order of id sees every ancestor first.
        for (id, parent) in &self.parents {
            let ancestor = parent.and_then(|parent| abandoned.get(&parent).copied());
            if let Some(ancestor) = ancestor.filter(|_| !chosen.contains(id)) {
                abandoned.entry(*id).or_insert(ancestor);
            }
        }
        abandoned.retain(|id, _| self.parents.contains_key(id));
        abandoned
    }

    /// The rollbacks that still affect a snapshot on disk.
    pub(crate) fn relevant_rollbacks(&self) -> Vec<Rollback> {
        let oldest = self
            .parents
            .iter()
            .map(|(id, parent)| parent.unwrap_or(*id))
            .min();
        let is_relevant = |rollback: &Rollback| oldest.is_some_and(|oldest| oldest <= rollback.newest);
        self.rollbacks.iter().copied().filter(is_relevant).collect()
    }
}

impl Store {
    pub(super) fn lineage(&self) -> Result<Lineage, Error> {
        let parent = |id: SnapshotId| self.peek(id).ok().and_then(|snapshot| snapshot.manifest().parent);
        Ok(Lineage {
            parents: self.ids()?.into_iter().map(|id| (id, parent(id))).collect(),
            rollbacks: self.rollbacks()?,
        })
    }

    /// The rollbacks that happened, oldest first; without a readable `latest`, those that were requested.
    pub(super) fn rollbacks(&self) -> Result<Vec<Rollback>, Error> {
        match self.alias_target(Alias::Latest) {
            Ok(Some(target)) => return Ok(target.rollbacks),
            Ok(None) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
        let audit = self.audit()?;
        let lines = audit.lines.iter().filter(|line| line.verb == AuditVerb::Rollback);
        let rollback = |(to, newest)| Rollback { to, newest };
        Ok(lines
            .filter_map(|line| line.id.zip(line.newest).map(rollback))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `rollbacks` are pairs of `to` and `newest`; `tree` has pairs of id and parent, a root being its own parent.
    fn check(rollbacks: &[(u64, u64)], tree: &[(u64, u64)], expected: &[u64]) {
        let id = SnapshotId::new;
        let mut lineage = Lineage {
            rollbacks: rollbacks
                .iter()
                .map(|(to, newest)| Rollback {
                    to: id(*to),
                    newest: id(*newest),
                })
                .collect(),
            parents: tree
                .iter()
                .map(|(child, parent)| (id(*child), (child != parent).then(|| id(*parent))))
                .collect(),
        };
        for _ in 0..2 {
            let abandoned: Vec<u64> = lineage.abandoned().keys().map(|id| id.number()).collect();
            assert_eq!(abandoned, expected, "{:?} of {tree:?}", lineage.rollbacks);
            lineage.rollbacks = lineage.relevant_rollbacks();
        }
    }

    #[test]
    fn a_rollback_abandons_what_it_skipped_and_all_that_grows_from_it() {
        let line = [(1, 1), (2, 1), (3, 2), (4, 3)];
        check(&[], &line, &[]);
        check(&[(2, 4)], &line, &[3, 4]);
        // 5 was written by a daemon that did not know of the rollback, 6 by the one that resumed from 2.
        let forked = [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (6, 2), (7, 6)];
        check(&[(2, 4)], &forked, &[3, 4, 5]);
        // Forward again to 4: snapshots between and later ones stay abandoned.
        check(&[(2, 4), (4, 7)], &forked, &[3, 5, 6, 7]);
        check(&[(2, 4), (4, 4)], &forked, &[3]);
        check(&[(2, 4), (4, 4), (1, 4)], &forked, &[2, 3, 4, 5, 6, 7]);
        // 2 to 4 were collected; the parent of 5 is still known.
        check(&[(2, 4)], &[(5, 4), (6, 2), (7, 6)], &[5]);
        check(&[(2, 4)], &[(6, 5), (7, 6)], &[]);
    }
}
