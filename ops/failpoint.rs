//! Fail points: named places where a daemon dies at once, when it was started with `OUZEL_FAIL_AT`.
//!
//! `ouzel verify --fail-points` starts daemons that die at each of them in turn, and at each write-side call of a
//! snapshot, and checks that none of it leaves a trace. A daemon that was not asked to pays one load of a pointer at
//! each.
//!
//! `OUZEL_FAIL_AT=batch_learned:3` dies when the third batch has been learned, `snapshot_call_17:2` before the
//! seventeenth write-side call of the second snapshot.

mod disk;

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow, bail};

pub use disk::file_system;

/// The variable that arms a daemon.
pub const VARIABLE: &str = "OUZEL_FAIL_AT";
/// Start of the name of a call of a snapshot.
const CALL: &str = "snapshot_call_";

/// A place to die at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailPoint {
    /// The store is open, nothing is read from it.
    StoreOpened,
    /// The state is restored, no thread runs.
    Restored,
    /// The plan log was followed to its end.
    CaughtUp,
    /// An entry was appended to the plan log, what it tells of is not handed over.
    PlanAppended,
    /// A batch was handed to the learner.
    BatchHanded,
    /// The plan log was synced for a cut that is not taken yet.
    PlanSynced,
    /// The state of the join was taken, the learner does not have it.
    CutTaken,
    /// A new segment of the plan log was begun.
    PlanRolled,
    /// Segments that nobody needs were removed.
    PlanPruned,
    /// A batch was learned from.
    BatchLearned,
    /// A version was published.
    VersionPublished,
    /// A cut has its weights, the writer does not have it.
    CutCompleted,
    /// A snapshot was written, `latest` names the one before.
    SnapshotWritten,
    /// `latest` was moved, older ones are still there.
    LatestMoved,
    /// Old snapshots were collected.
    Collected,
    /// Before this write-side call, counted from 1, from the first of one snapshot to the first of the next. A call
    /// that writes bytes writes half of them.
    Call(u64),
}

impl FailPoint {
    /// Every named one.
    pub const NAMED: [FailPoint; 15] = [
        FailPoint::StoreOpened,
        FailPoint::Restored,
        FailPoint::CaughtUp,
        FailPoint::PlanAppended,
        FailPoint::BatchHanded,
        FailPoint::PlanSynced,
        FailPoint::CutTaken,
        FailPoint::PlanRolled,
        FailPoint::PlanPruned,
        FailPoint::BatchLearned,
        FailPoint::VersionPublished,
        FailPoint::CutCompleted,
        FailPoint::SnapshotWritten,
        FailPoint::LatestMoved,
        FailPoint::Collected,
    ];

    /// Once in the life of a process.
    #[must_use]
    pub fn is_once(self) -> bool {
        matches!(
            self,
            FailPoint::StoreOpened | FailPoint::Restored | FailPoint::CaughtUp
        )
    }

    fn name(self) -> &'static str {
        match self {
            FailPoint::StoreOpened => "store_opened",
            FailPoint::Restored => "restored",
            FailPoint::CaughtUp => "caught_up",
            FailPoint::PlanAppended => "plan_appended",
            FailPoint::BatchHanded => "batch_handed",
            FailPoint::PlanSynced => "plan_synced",
            FailPoint::CutTaken => "cut_taken",
            FailPoint::PlanRolled => "plan_rolled",
            FailPoint::PlanPruned => "plan_pruned",
            FailPoint::BatchLearned => "batch_learned",
            FailPoint::VersionPublished => "version_published",
            FailPoint::CutCompleted => "cut_completed",
            FailPoint::SnapshotWritten => "snapshot_written",
            FailPoint::LatestMoved => "latest_moved",
            FailPoint::Collected => "collected",
            FailPoint::Call(_) => CALL,
        }
    }
}

impl fmt::Display for FailPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailPoint::Call(number) => write!(f, "{CALL}{number}"),
            named => f.write_str(named.name()),
        }
    }
}

impl FromStr for FailPoint {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        if let Some(number) = name.strip_prefix(CALL) {
            return Ok(FailPoint::Call(positive(number)?));
        }
        let mut named = FailPoint::NAMED.into_iter();
        named
            .find(|point| point.name() == name)
            .ok_or_else(|| anyhow!("there is no fail point {name:?}"))
    }
}

/// A point, and at which visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// The point.
    pub point: FailPoint,
    /// Counted from 1.
    pub number: u64,
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
            .with_context(|| format!("{text:?} is not POINT:VISIT"))?;
        Ok(Self {
            point: point.parse()?,
            number: positive(number)?,
        })
    }
}

fn positive(text: &str) -> anyhow::Result<u64> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => bail!("{text:?} is not a number from 1 on"),
    }
}

/// What this process is to die at, and how often it was there.
static ARMED: OnceLock<(Visit, AtomicU64)> = OnceLock::new();

/// Arms this process, if its environment says so.
pub fn arm() -> anyhow::Result<()> {
    let Ok(text) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    let visit: Visit = text.parse().with_context(|| format!("cannot use {VARIABLE}"))?;
    tracing::warn!(%visit, "this process will die of a fail point");
    ARMED.get_or_init(|| (visit, AtomicU64::new(0)));
    Ok(())
}

/// Dies here, if this is the place and the visit.
pub fn reach(point: FailPoint) {
    if let Some((visit, n_visits)) = ARMED.get()
        && visit.point == point
        && n_visits.fetch_add(1, Ordering::SeqCst) + 1 == visit.number
    {
        die();
    }
}

/// No destructor runs, nothing is flushed: what a kill leaves.
fn die() -> ! {
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_read_as_it_is_written() {
        for point in FailPoint::NAMED.into_iter().chain([FailPoint::Call(17)]) {
            let visit = Visit { point, number: 3 };
            assert_eq!(visit.to_string().parse::<Visit>().unwrap(), visit);
        }
    }

    #[test]
    fn what_names_no_point_is_refused() {
        for (text, why) in [
            ("batch_learned", "is not POINT:VISIT"),
            ("batch_learned:0", "is not a number from 1 on"),
            ("lunch:1", "there is no fail point"),
            ("snapshot_call_x:1", "is not a number from 1 on"),
        ] {
            let error = text.parse::<Visit>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_process_that_is_not_armed_passes() {
        reach(FailPoint::BatchLearned);
    }
}
