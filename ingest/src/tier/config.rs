//! The `[tier]` section: how `ouzel join` processes share the partitions.

use std::net::SocketAddr;

use ouzel_sample::settings::{KeyError, Period, out_of_range};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How `ouzel join` processes share the work. Each impressions partition, with the actions partition of the same number, is
/// joined by one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TierConfig {
    /// The consumer group of the processes. Its commits record how far each partition was joined, for its lag; the join
    /// itself needs no recent commit.
    ///
    /// Change it to run two deployments on one cluster.
    pub group: String,
    /// Name of this process in the group, the same over restarts: a process that is back within `session_timeout` gets its
    /// partitions back and no others move. Empty: its partitions move when it stops. `ouzel join --instance` overrides it.
    ///
    /// Set it where processes restart often.
    pub instance: String,
    /// How long a process may be silent before its partitions move to others, in wall time. The broker has limits of its
    /// own, 6s and 30m by default.
    ///
    /// Raise it above the time that a restart takes.
    #[schemars(extend("x-minimum" = "1ms"))]
    pub session_timeout: Period,
    /// From one commit to the next, in wall time: about as much is joined again when a partition moves.
    ///
    /// Rarely changed.
    #[schemars(extend("x-minimum" = "1ms"))]
    pub commit_interval: Period,
    /// How long a partition of one topic may be silent, while others of that topic are not, before its time follows the
    /// other topic's, in wall time. A process sees only its own partitions: one that has only a silent one waits.
    ///
    /// Raise it when a topic pauses for longer.
    #[schemars(extend("x-minimum" = "1ms"))]
    pub idle_timeout: Period,
    /// Address and port of `/metrics` and `/healthz` of `ouzel join`. Unset: none.
    ///
    /// Set it to monitor the processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

impl Default for TierConfig {
    fn default() -> Self {
        Self {
            group: "ouzel-join".to_owned(),
            instance: String::new(),
            session_timeout: Period::from_secs(45),
            commit_interval: Period::from_secs(1),
            idle_timeout: Period::from_secs(30),
            listen: None,
        }
    }
}

impl TierConfig {
    /// Every value that cannot be used, by its key below `tier`.
    #[must_use]
    pub fn validate(&self) -> Vec<KeyError> {
        let mut errors = out_of_range(self);
        if self.group.is_empty() {
            errors.push(KeyError::new("group", "must name a consumer group, not be empty"));
        }
        errors
    }
}
