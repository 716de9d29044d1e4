//! Fail points: named places where a daemon aborts if it was started with `OUZEL_FAIL_AT`.
//!
//! `OUZEL_FAIL_AT=batch_learned:3` aborts after the third batch was learned, `snapshot_call_17:2` before write call 17 of
//! the second snapshot. Without the variable a fail point costs one load of a pointer.

mod counting_fs;

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow, bail};

pub use counting_fs::file_system;

/// The environment variable that arms a daemon.
pub(crate) const VARIABLE: &str = "OUZEL_FAIL_AT";
/// Prefix of the name of [`FailPoint::SnapshotCall`].
const CALL_PREFIX: &str = "snapshot_call_";

/// A place at which a daemon can abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailPoint {
    /// The store is open; nothing was read from it.
    StoreOpened,
    /// The state is restored; no thread runs.
    StateRestored,
    /// The plan log was followed to its end.
    PlanFollowed,
    /// An entry is in the plan log; its batches were not sent to the learner.
    PlanAppended,
    /// A batch was sent to the learner.
    BatchSent,
    /// The plan log was synced for a checkpoint that is not taken yet.
    PlanSynced,
    /// The checkpoint of the join stage was taken; the learner does not have it.
    CheckpointTaken,
    /// The plan log has a new segment.
    PlanRolled,
    /// Plan log segments that no snapshot needs were removed.
    PlanPruned,
    /// A batch was learned.
    BatchLearned,
    /// A version was published.
    VersionPublished,
    /// A checkpoint has its weights; the saver does not have it.
    CheckpointCompleted,
    /// A snapshot is written; `latest` names the one before.
    SnapshotWritten,
    /// `latest` names the new snapshot; expired snapshots are still there.
    LatestMoved,
    /// Expired snapshots were removed.
    SnapshotsCollected,
    /// Before this write call of a snapshot, counted from 1. A write of bytes writes half of them first.
    SnapshotCall(u64),
}

impl FailPoint {
    /// Every named point with its name.
    pub const NAMED: [(FailPoint, &'static str); 15] = [
        (FailPoint::StoreOpened, "store_opened"),
        (FailPoint::StateRestored, "state_restored"),
        (FailPoint::PlanFollowed, "plan_followed"),
        (FailPoint::PlanAppended, "plan_appended"),
        (FailPoint::BatchSent, "batch_sent"),
        (FailPoint::PlanSynced, "plan_synced"),
        (FailPoint::CheckpointTaken, "checkpoint_taken"),
        (FailPoint::PlanRolled, "plan_rolled"),
        (FailPoint::PlanPruned, "plan_pruned"),
        (FailPoint::BatchLearned, "batch_learned"),
        (FailPoint::VersionPublished, "version_published"),
        (FailPoint::CheckpointCompleted, "checkpoint_completed"),
        (FailPoint::SnapshotWritten, "snapshot_written"),
        (FailPoint::LatestMoved, "latest_moved"),
        (FailPoint::SnapshotsCollected, "snapshots_collected"),
    ];

    /// True if a process reaches the point once, during startup.
    pub(crate) fn is_startup(self) -> bool {
        use FailPoint::{PlanFollowed, StateRestored, StoreOpened};
        matches!(self, StoreOpened | StateRestored | PlanFollowed)
    }
}

impl fmt::Display for FailPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let FailPoint::SnapshotCall(number) = self {
            return write!(f, "{CALL_PREFIX}{number}");
        }
        let mut names = FailPoint::NAMED.iter().filter(|(point, _)| point == self);
        names.try_for_each(|(_, name)| f.write_str(name))
    }
}

impl FromStr for FailPoint {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some(number) = text.strip_prefix(CALL_PREFIX) {
            return Ok(FailPoint::SnapshotCall(positive(number)?));
        }
        let named = FailPoint::NAMED.iter().find(|(_, name)| *name == text);
        named
            .map(|(point, _)| *point)
            .ok_or_else(|| anyhow!("there is no fail point `{text}`"))
    }
}

/// A fail point and the number of the visit that aborts, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Visit {
    pub(crate) point: FailPoint,
    pub(crate) number: u64,
}

impl fmt::Display for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.point, self.number)
    }
}

impl FromStr for Visit {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (point, number) = text
            .split_once(':')
            .with_context(|| format!("`{text}` is not POINT:VISIT"))?;
        Ok(Self {
            point: point.parse()?,
            number: positive(number)?,
        })
    }
}

fn positive(text: &str) -> anyhow::Result<u64> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => bail!("`{text}` is not a positive integer"),
    }
}

/// The visit at which this process aborts, and the number of visits of its point so far.
static ARMED: OnceLock<(Visit, AtomicU64)> = OnceLock::new();

/// Arms this process if the environment variable `OUZEL_FAIL_AT` is set.
///
/// # Errors
/// If the value of the variable is not `POINT:VISIT`.
pub fn arm() -> anyhow::Result<()> {
    let Ok(text) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    let visit: Visit = text.parse().with_context(|| format!("cannot use {VARIABLE}"))?;
    tracing::warn!(%visit, "this process will abort at a fail point");
    ARMED.get_or_init(|| (visit, AtomicU64::new(0)));
    Ok(())
}

/// Aborts the process if it is armed for this visit of `point`.
pub fn reach(point: FailPoint) {
    if let Some((visit, n_visits)) = ARMED.get()
        && visit.point == point
        && n_visits.fetch_add(1, Ordering::SeqCst) + 1 == visit.number
    {
        abort();
    }
}

/// Ends the process as a kill does: no destructor runs, nothing is flushed.
fn abort() -> ! {
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_parsed_from_its_name() {
        let named = FailPoint::NAMED.map(|(point, _)| point);
        for point in named.into_iter().chain([FailPoint::SnapshotCall(17)]) {
            let visit = Visit { point, number: 3 };
            assert_eq!(visit.to_string().parse::<Visit>().unwrap(), visit);
        }
    }

    #[test]
    fn an_unknown_point_or_visit_is_refused() {
        for (text, why) in [
            ("batch_learned", "is not POINT:VISIT"),
            ("batch_learned:0", "is not a positive integer"),
            ("lunch:1", "there is no fail point"),
            ("snapshot_call_x:1", "is not a positive integer"),
        ] {
            let error = text.parse::<Visit>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_process_that_is_not_armed_continues() {
        reach(FailPoint::BatchLearned);
    }
}
