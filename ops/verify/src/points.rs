//! Lineages whose daemons abort at each fail point in turn, and at each write call of a snapshot.
//!
//! Only the number of the visit is random. The named points come first, then call 1, 2, 3 of a snapshot, until a
//! snapshot has no such call.

use anyhow::bail;

use crate::Verification;
use crate::digest::StateDigest;
use crate::event_log::EventLog;
use crate::failpoint::{FailPoint, Visit};
use crate::lineage::{Lineage, WaitEnd};
use crate::reference::ReferenceRun;
use crate::report::Check;
use crate::rng::SeededRng;
use crate::settings::SNAPSHOT_EVERY;

/// Most aborts of one lineage: each makes daemons repeat work.
const MAX_ABORTS: usize = 24;
/// Most visits of a point before the abort.
const MAX_VISITS: u64 = 3;
/// More calls than a snapshot can have.
const MAX_CALLS: u64 = 2000;

/// The fail points of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailPoints {
    /// The named ones.
    Named,
    /// The named ones, and every write call of a snapshot.
    All,
}

/// The points that are left.
#[derive(Debug)]
struct Remaining {
    /// The next point is the last.
    named: Vec<FailPoint>,
    /// The next call; `None` if there are no more.
    call: Option<u64>,
}

impl Remaining {
    fn next(&self) -> Option<FailPoint> {
        let named = self.named.last().copied();
        named.or(self.call.map(FailPoint::SnapshotCall))
    }

    fn advance(&mut self) {
        if self.named.pop().is_none() {
            self.call = self.call.map(|call| call + 1);
        }
    }
}

impl Verification<'_> {
    /// Runs lineages until a daemon has aborted at every point.
    pub(crate) fn abort_at_points(
        &mut self,
        points: FailPoints,
        log: &mut EventLog,
        reference: &ReferenceRun,
    ) -> anyhow::Result<()> {
        let mut remaining = Remaining {
            named: FailPoint::NAMED.iter().rev().map(|(point, _)| *point).collect(),
            call: (points == FailPoints::All).then_some(1),
        };
        let mut rng = SeededRng::new(self.request.seed, "points");
        while remaining.next().is_some() && self.report.is_passed() {
            let name = format!("points-{:04}", self.report.n_lineages());
            let mut lineage = reference.lineage(self.request, log, &name, SNAPSHOT_EVERY[0])?;
            let outcome = abort_repeatedly(&mut lineage, &mut remaining, &mut rng, &reference.digests)
                .and_then(|()| reference.finish(&mut lineage));
            let mut history = lineage.into_history();
            // The kill that prepared the lineage belongs to no scenario.
            history.kills.clear();
            self.record(Check::FailPoints, &name, history, outcome)?;
        }
        Ok(())
    }
}

/// Lets the daemons of one lineage abort at one point after the other, until the log is consumed.
fn abort_repeatedly(
    lineage: &mut Lineage<'_>,
    remaining: &mut Remaining,
    rng: &mut SeededRng,
    expected: &[StateDigest],
) -> anyhow::Result<()> {
    // The daemons then have a plan log to follow and a snapshot to start from.
    lineage.kill_after_first_snapshot()?;
    let mut is_first = true;
    while lineage.history.aborts.len() < MAX_ABORTS
        && let Some(point) = remaining.next()
    {
        // The first daemon has the whole log before it: a point that it does not reach does not exist. Later snapshots
        // have more calls, because they remove expired ones.
        let number = match point {
            FailPoint::SnapshotCall(_) if is_first => MAX_VISITS + 2,
            _ if is_first || point.is_startup() => 1,
            _ => 1 + rng.below(MAX_VISITS),
        };
        match (lineage.abort_at(Visit { point, number })?, point) {
            (WaitEnd::Condition, FailPoint::SnapshotCall(MAX_CALLS)) => {
                bail!("a snapshot has more than {MAX_CALLS} write calls")
            }
            (WaitEnd::Condition, _) => remaining.advance(),
            (WaitEnd::LogConsumed, FailPoint::SnapshotCall(_)) if is_first => remaining.call = None,
            (WaitEnd::LogConsumed, _) if is_first => bail!("no daemon reaches the fail point {point}"),
            (WaitEnd::LogConsumed, _) => return Ok(()),
        }
        lineage.compare(expected)?;
        is_first = false;
    }
    Ok(())
}
