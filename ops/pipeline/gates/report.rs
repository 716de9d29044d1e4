//! What the gates report of themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The state of the gates, for the admin socket and `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GateReport {
    /// Why no new version serves; absent while the newest one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// The last thing that a gate found, over or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_breach: Option<String>,
    /// Automatic swaps back to an earlier version since the start.
    pub swaps_back: u64,
}

/// What the gates found over a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GateFigures {
    /// Versions checked.
    pub versions: u64,
    /// Versions refused.
    pub refused: u64,
    /// Refusals by the first gate that refused.
    pub refusals: BTreeMap<String, u64>,
    /// Intervals of samples closed.
    pub intervals: u64,
    /// Times that the breaker tripped, by signal.
    pub trips: BTreeMap<String, u64>,
}

impl std::fmt::Display for GateFigures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by_name = |counts: &BTreeMap<String, u64>| {
            let named = counts.iter().map(|(name, n)| format!("{name} {n}"));
            let named = named.collect::<Vec<_>>().join(", ");
            if named.is_empty() {
                named
            } else {
                format!(" ({named})")
            }
        };
        let n_trips: u64 = self.trips.values().sum();
        write!(
            f,
            "{} versions checked, {} would not serve{}; {} intervals, {n_trips} would stop learning{}",
            self.versions,
            self.refused,
            by_name(&self.refusals),
            self.intervals,
            by_name(&self.trips)
        )
    }
}
