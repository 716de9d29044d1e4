//! The `[snapshot]` section: where snapshots are, how often they are written, and how many are kept.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is stored on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotConfig {
    /// The state directory, with snapshots, plan log and admin socket, for one daemon at a time.
    ///
    /// Set it to a durable disk.
    pub dir: PathBuf,
    /// Batches from one snapshot to the next; another one is written at shutdown.
    ///
    /// Unit: batches. Lower it for a shorter restart, raise it for less writing.
    #[schemars(range(min = 1))]
    pub every_batches: u64,
    /// Newest snapshots that are kept, beside the pinned and the served one.
    ///
    /// Unit: snapshots. Raise it to be able to roll back further.
    #[schemars(range(min = 1))]
    pub keep: usize,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("state"),
            every_batches: 500,
            keep: 10,
        }
    }
}
