//! Finding the snapshot a start resumes from, when the one it should be is damaged.

use serde::Serialize;

use crate::lineage::left_behind;
use crate::{Alias, Error, Snapshot, SnapshotId, Store, metrics};

/// What [`Store::newest_valid`] found.
#[derive(Debug)]
pub struct Recovery {
    /// The snapshot to resume from. `None` with nothing skipped is a new store; `None` with something skipped
    /// is a loss that a person should see before training starts from nothing.
    pub snapshot: Option<Snapshot>,
    /// What was passed over, newest first.
    pub skipped: Vec<Skipped>,
}

/// A snapshot or alias that was passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The snapshot; `None` for the alias `latest` itself.
    pub id: Option<SnapshotId>,
    /// Why.
    pub why: String,
}

impl Store {
    /// The snapshot `latest` names when it is valid, otherwise the newest valid one below it that no rollback
    /// left behind. Snapshots above `latest` were never published, or were rolled back, and are not looked at;
    /// only without a readable `latest` every snapshot counts.
    ///
    /// # Errors
    /// [`Error::Io`] when the store cannot be read for a reason that says nothing about the snapshots
    /// (permissions, descriptors, memory), and [`Error::Format`] when one was written by another format:
    /// skipping those would quietly resume from older state.
    pub fn newest_valid(&self) -> Result<Recovery, Error> {
        let mut skipped = Vec::new();
        let mut below = None;
        match self.pointer(Alias::Latest) {
            Ok(Some(pointer)) => match self.follow(&pointer) {
                Ok(snapshot) => {
                    return Ok(Recovery {
                        snapshot: Some(snapshot),
                        skipped,
                    });
                }
                Err(error) if error.is_damage() => {
                    skipped.push(Skipped {
                        id: Some(pointer.id),
                        why: error.to_string(),
                    });
                    below = Some(pointer.id);
                }
                Err(error) => return Err(error),
            },
            Ok(None) => {}
            Err(error) if error.is_damage() => skipped.push(Skipped {
                id: None,
                why: error.to_string(),
            }),
            Err(error) => return Err(error),
        }
        let ids = self.ids()?;
        let left_behind = left_behind(&self.rollbacks()?, &self.parents(&ids));
        for id in ids
            .into_iter()
            .rev()
            .filter(|id| below.is_none_or(|below| *id < below))
        {
            if let Some(ancestor) = left_behind.get(&id) {
                skipped.push(Skipped {
                    id: Some(id),
                    why: format!("{ancestor} was rolled back"),
                });
                continue;
            }
            match self.read(id) {
                Ok(snapshot) => {
                    metrics::skipped(skipped.len());
                    return Ok(Recovery {
                        snapshot: Some(snapshot),
                        skipped,
                    });
                }
                Err(error) if error.is_damage() => {
                    skipped.push(Skipped {
                        id: Some(id),
                        why: error.to_string(),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        metrics::skipped(skipped.len());
        Ok(Recovery {
            snapshot: None,
            skipped,
        })
    }
}
