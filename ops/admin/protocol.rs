//! Requests and replies of the admin socket.

use ouzel_ingest::QuarantineRule;
use ouzel_sample::UserShare;
use ouzel_serving::Variant;
use serde::{Deserialize, Serialize};

use crate::pipeline::candidate::CandidateReport;
use crate::pipeline::gates::GateReport;
use crate::pipeline::go_back::ReadAgain;
use crate::pipeline::remote::RemoteReport;

/// Longest line in either direction, in bytes.
pub(super) const MAX_LINE_BYTES: u64 = 64 * 1024;

/// A request to a running daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    /// Report the status.
    Status,
    /// Write a snapshot now; answered once it is on disk.
    Snapshot,
    /// Serve this snapshot and continue learning from its weights.
    Rollback {
        /// The snapshot.
        id: String,
        /// Where learning goes on.
        from: LearnFrom,
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Exclude events from learning, and read the log again without them.
    Quarantine {
        /// The events.
        rule: QuarantineRule,
        /// Where to go back to.
        again: ReadAgain,
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
    /// Freeze the base of the model; answered once a snapshot with it is on disk.
    FreezeBase {
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Merge the adapters into the base; answered once a snapshot with it is on disk.
    Rebase {
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Give a snapshot a tag, which keeps it from being removed.
    Tag {
        /// The snapshot.
        id: String,
        /// The tag.
        name: String,
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Remove a tag.
    Untag {
        /// The tag.
        name: String,
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Stop learning and go on serving; answered once a snapshot of what was learned is on disk.
    Pause {
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Learn again after a pause; or after a gate stopped it, and then take what the gate found as normal.
    Resume {
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Let a snapshot score a share of the traffic beside the served version.
    CandidateStart {
        /// The snapshot.
        id: String,
        /// Whether it answers.
        variant: Variant,
        /// The users whose requests it scores.
        share: UserShare,
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Let a second learner with settings of its own score a share of the traffic beside the served version.
    CandidateLearn {
        /// The settings in which it differs, as a TOML file.
        settings: String,
        /// Name of that file, for messages.
        file: String,
        /// The snapshot that it starts from; absent to start from nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// Whether it answers.
        variant: Variant,
        /// The users whose requests it scores.
        share: UserShare,
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// End the candidate.
    CandidateStop {
        /// Why, for the audit log.
        #[serde(default)]
        note: String,
    },
    /// Serve the candidate and learn on from it; answered once a snapshot with it is on disk.
    Promote {
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

/// Where learning goes on after a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearnFrom {
    /// From the snapshot's position of the log, with its join state and features: what came after is read again.
    Rewind,
    /// From the present position, with the present join state and features: what came after the snapshot is not learned.
    Now,
    /// From the first records at or after this time by their timestamps, ms since the epoch, with the snapshot's join state
    /// and features: what lies between is not learned.
    Time(i64),
}

/// The reply of a daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum AdminReply {
    /// The status.
    Status(Box<Status>),
    /// The request was carried out.
    Done {
        /// The snapshot that was written or named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<String>,
        /// What else has changed, a sentence each.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        also: Vec<String>,
    },
    /// The request was refused; nothing has changed.
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

/// A partition that the watermark waits for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldBy {
    /// Stream and number, `actions[1]`.
    pub partition: String,
    /// Its newest event time, ms since the epoch; absent before its first event.
    pub event_time_ms: Option<i64>,
}

/// The status of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Time since the start, s.
    pub uptime_seconds: u64,
    /// The snapshot being served.
    pub serving: Option<String>,
    /// The newest snapshot on disk.
    pub latest: Option<String>,
    /// The pinned snapshot.
    pub pinned: Option<String>,
    /// Whether the learner takes batches: `running`, `paused` or `stopped`.
    pub learning: String,
    /// The gate that stopped it.
    pub stopped_because: Option<String>,
    /// The state of the gates.
    pub gates: GateReport,
    /// Number of events read since the start.
    pub events: u64,
    /// Number of events rejected since the start.
    pub rejected: u64,
    /// Number of valid records that nothing reads, since the start: other events, and actions of no task.
    pub unneeded: u64,
    /// Newest event time of impressions and actions, ms since the epoch.
    pub event_time_ms: Option<i64>,
    /// The watermark: no event on time is older, ms since the epoch.
    pub watermark_ms: Option<i64>,
    /// The partition that the watermark waits for; none behind a join tier.
    pub watermark_held_by: Option<HeldBy>,
    /// Number of samples learned in this lineage.
    pub samples: u64,
    /// Number of batches learned in this lineage.
    pub batches: u64,
    /// Why the daemon cannot read its log, if it only serves.
    pub not_learning: Option<String>,
    /// Samples that the learner can take, per second, as measured since the start; 0 before the first.
    pub samples_per_second: f64,
    /// Number of impressions with an open window.
    pub pending: u64,
    /// The candidate, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CandidateReport>,
    /// `primary`, or `standby` while another daemon writes to the state directory.
    pub role: String,
    /// Number of this writer, higher than that of every writer before; `None` for a standby.
    pub epoch: Option<u64>,
    /// How far a standby is behind the other daemon, in batches.
    pub behind: u64,
    /// How the remote copy of the state directory stands; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteReport>,
}
