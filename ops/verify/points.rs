//! A daemon that dies at each fail point, and at each write-side call of a snapshot, in turn.
//!
//! Nothing here is left to chance but which visit of a point it is: every place is enumerated. The named ones come
//! first; then call 1, 2, 3 of a snapshot, until there is no such call.

use anyhow::bail;

use crate::cli::FailPoints;
use crate::failpoint::{FailPoint, Visit};

use super::dice::Dice;
use super::evidence::Evidence;
use super::feed::Log;
use super::lineage::{Lineage, Met};
use super::report::{Check, Report};
use super::settings::SNAPSHOT_EVERY;
use super::{Golden, Request, n_samples};

/// Deaths of one lineage at most: what follows a death is done again.
const MOST_OF_LINEAGE: usize = 24;
/// Most visits of a point until it is died at.
const MOST_VISITS: u64 = 3;
/// More calls than a snapshot can have: what never ends is a fault.
const MOST_CALLS: u64 = 2000;

/// The places that are left.
#[derive(Debug)]
struct Places {
    named: Vec<FailPoint>,
    /// The next call; `None` when there is none.
    call: Option<u64>,
}

impl Places {
    fn next(&self) -> Option<FailPoint> {
        let named = self.named.last().copied();
        named.or(self.call.map(FailPoint::Call))
    }

    fn met(&mut self) {
        if self.named.pop().is_none() {
            self.call = self.call.map(|call| call + 1);
        }
    }
}

/// Verifies lineages until every place was died at.
pub(super) fn run(
    request: &Request,
    which: FailPoints,
    log: &mut Log,
    golden: &Golden,
    report: &mut Report,
    tell: &mut impl FnMut(u64, u64, &str),
) -> anyhow::Result<()> {
    let mut places = Places {
        named: FailPoint::NAMED.into_iter().rev().collect(),
        call: (which == FailPoints::All).then_some(1),
    };
    let mut dice = Dice::new(request.seed, "points");
    while places.next().is_some() && report.is_passed() {
        let name = format!("points-{:04}", report.n_lineages());
        let mut lineage = golden.lineage_of(request, &name, log, SNAPSHOT_EVERY[0])?;
        let outcome = harm(&mut lineage, &mut places, &mut dice, &golden.evidence)
            .and_then(|()| golden.check(&mut lineage));
        report.take_points(&lineage);
        drop(lineage);
        report.enter(Check::Points, &name, outcome.map(n_samples), tell)?;
    }
    Ok(())
}

/// Lets one lineage die at one place after the other, until its log is consumed.
fn harm(
    lineage: &mut Lineage<'_>,
    places: &mut Places,
    dice: &mut Dice,
    golden: &[Evidence],
) -> anyhow::Result<()> {
    // Some of a plan log to follow, and a snapshot to begin from.
    lineage.kill_after_first_snapshot()?;
    let mut is_first = true;
    while lineage.points.len() < MOST_OF_LINEAGE
        && let Some(point) = places.next()
    {
        // What a lineage with the whole log before it does not reach is not reached at all; the later snapshots
        // are those that have old ones to collect.
        let number = match point {
            FailPoint::Call(_) if is_first => MOST_VISITS + 2,
            _ if is_first || point.is_once() => 1,
            _ => 1 + dice.below(MOST_VISITS),
        };
        match (lineage.die_at(Visit { point, number })?, point) {
            (Met::Moment, FailPoint::Call(MOST_CALLS)) => bail!("a snapshot has no end of calls"),
            (Met::Moment, _) => places.met(),
            (Met::Consumed, FailPoint::Call(_)) if is_first => places.call = None,
            (Met::Consumed, _) if is_first => bail!("no daemon reaches the fail point {point}"),
            (Met::Consumed, _) => return Ok(()),
        }
        lineage.compare(golden)?;
        is_first = false;
    }
    Ok(())
}
