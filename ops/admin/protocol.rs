//! What is asked and answered on the admin socket.

use serde::{Deserialize, Serialize};

/// Longest line in either direction, in bytes.
pub(super) const MAX_LINE_BYTES: u64 = 64 * 1024;

/// What can be asked of a running daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    /// How it is doing.
    Status,
    /// Write a snapshot now; answered once it is on disk.
    Snapshot,
    /// Serve this snapshot, and go on learning from it.
    Rollback {
        /// The snapshot.
        id: String,
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Keep serving this snapshot, whatever is learned.
    Pin {
        /// The snapshot.
        id: String,
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Freeze the base of the model; answered once a snapshot has it.
    FreezeBase {
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Add what the adapters have learned to the base; answered once a snapshot has it.
    Rebase {
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Serve the newest version again.
    Unpin {
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
}

/// What a daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum AdminReply {
    /// To [`AdminRequest::Status`].
    Status(Status),
    /// It is done.
    Done {
        /// The snapshot it was about, if about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<String>,
    },
    /// It was not done, and nothing has changed.
    Refused {
        /// Why.
        error: String,
        /// What to do.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

impl AdminReply {
    /// A refusal without a hint.
    pub fn refused(error: impl Into<String>) -> Self {
        Self::Refused {
            error: error.into(),
            hint: None,
        }
    }
}

/// How a daemon is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Since the start, s.
    pub uptime_seconds: u64,
    /// The snapshot being served.
    pub serving: Option<String>,
    /// The newest snapshot on disk.
    pub latest: Option<String>,
    /// The pinned snapshot.
    pub pinned: Option<String>,
    /// Events read since the start.
    pub events: u64,
    /// Events rejected since the start.
    pub rejected: u64,
    /// Samples learned in this lineage.
    pub samples: u64,
    /// Batches learned in this lineage.
    pub batches: u64,
    /// Impressions that wait for their windows.
    pub pending: u64,
}
