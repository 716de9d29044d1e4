//! Finds the snapshot to resume from, even when the intended one is damaged or cannot be loaded.

use metrics::counter;
use serde::Serialize;

use super::{Alias, Store};
use crate::metrics::SKIPPED;
use crate::{Error, Snapshot, SnapshotId};

/// The result of [`Store::newest_valid`] and [`Store::newest_loaded`].
#[derive(Debug)]
pub struct Recovery<T = Snapshot> {
    /// The snapshot to resume from. `None` with nothing skipped means a new store; `None` with something skipped is a
    /// loss that a person should see before training starts from nothing.
    pub snapshot: Option<T>,
    /// The snapshots passed over, newest first.
    pub skipped: Vec<SkippedSnapshot>,
}

/// A snapshot or alias that was passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedSnapshot {
    /// The snapshot; `None` for the alias `latest` itself.
    pub id: Option<SnapshotId>,
    /// The reason.
    pub why: String,
}

impl Store {
    /// Finds the snapshot to resume from: the one `latest` names or, if that is damaged, the newest valid one below it.
    ///
    /// Snapshots that failed a check or that a rollback abandoned are passed over, and so are those above `latest`: they
    /// were never published or were rolled back. Only without a readable `latest` all snapshots count.
    ///
    /// # Errors
    /// [`Error::Io`] when the store cannot be read for a reason that says nothing about the snapshots (permissions,
    /// descriptors, memory), and [`Error::Format`] when a snapshot has another format: skipping those would silently
    /// resume from older state.
    pub fn newest_valid(&self) -> Result<Recovery, Error> {
        self.newest_loaded(|snapshot| Ok(Ok(snapshot)))
    }

    /// Loads the newest valid snapshot that can be loaded, in the order of [`Store::newest_valid`].
    ///
    /// `load` returns what it loaded, the reason to pass over this snapshot, or an error that ends the search.
    ///
    /// # Errors
    /// As for [`Store::newest_valid`], and those of `load`.
    pub fn newest_loaded<T, E: From<Error>>(
        &self,
        mut load: impl FnMut(Snapshot) -> Result<Result<T, String>, E>,
    ) -> Result<Recovery<T>, E> {
        let mut skipped = Vec::new();
        let mut try_load = |read: Result<Snapshot, Error>, id: SnapshotId, skipped: &mut Vec<_>| {
            let why = match unless_damaged(read, Some(id), skipped)? {
                None => return Ok(None),
                Some(snapshot) => match snapshot.manifest().failed_gate() {
                    Some(gate) => format!("it failed the check `{gate}`"),
                    None => match load(snapshot)? {
                        Ok(loaded) => return Ok::<_, E>(Some(loaded)),
                        Err(why) => why,
                    },
                },
            };
            skipped.push(SkippedSnapshot { id: Some(id), why });
            Ok(None)
        };
        let latest = unless_damaged(self.alias_target(Alias::Latest), None, &mut skipped)?.flatten();
        let mut loaded = None;
        if let Some(target) = &latest {
            loaded = try_load(self.follow(target), target.id, &mut skipped)?;
        }
        if loaded.is_none() {
            let lineage = self.lineage()?;
            let abandoned = lineage.abandoned();
            let is_below = |id: &SnapshotId| latest.as_ref().is_none_or(|latest| *id < latest.id);
            for id in lineage.parents.into_keys().rev().filter(is_below) {
                if let Some(ancestor) = abandoned.get(&id) {
                    skipped.push(SkippedSnapshot {
                        id: Some(id),
                        why: format!("{ancestor} was rolled back"),
                    });
                    continue;
                }
                loaded = try_load(self.read(id), id, &mut skipped)?;
                if loaded.is_some() {
                    break;
                }
            }
        }
        counter!(SKIPPED).increment(skipped.len() as u64);
        Ok(Recovery {
            snapshot: loaded,
            skipped,
        })
    }
}

/// Turns damage into `None` and an entry of `skipped`; passes other errors on.
fn unless_damaged<T>(
    result: Result<T, Error>,
    id: Option<SnapshotId>,
    skipped: &mut Vec<SkippedSnapshot>,
) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_damage() => {
            let why = error.to_string();
            skipped.push(SkippedSnapshot { id, why });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
