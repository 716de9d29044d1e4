//! Compares what a standby has learned with the snapshots of the writer, bit for bit.

use std::collections::VecDeque;
use std::sync::Arc;

use metrics::counter;

use ouzel_snapshot::{Alias, CheckpointMeta, SnapshotId, Store};

use super::Resync;
use crate::telemetry::metrics::STANDBY_COMPARED;

/// Points of the plan whose hashes are kept until a snapshot of the same point is found.
const MAX_POINTS: usize = 64;

/// The state at one point of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    plan_position: u64,
    weights: String,
    ledger: String,
}

impl From<&CheckpointMeta> for Point {
    fn from(checkpoint: &CheckpointMeta) -> Self {
        Self {
            plan_position: checkpoint.plan_position,
            weights: checkpoint.weights_hash.clone(),
            ledger: checkpoint.ledger_hash.clone(),
        }
    }
}

/// What the comparison with the newest snapshot has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// It is the one compared last, or there is none.
    Nothing,
    /// This process has the same state at its point.
    Equal(SnapshotId),
    /// This process has not come to its point.
    Ahead,
    /// This process has another state at its point, or none to compare.
    Different(SnapshotId),
}

/// The recent points of this process, and the snapshot that it descends from or was equal to last.
pub(crate) struct Comparison {
    store: Arc<Store>,
    pub(crate) resync: Resync,
    /// Oldest first.
    points: VecDeque<Point>,
    compared: Option<SnapshotId>,
}

impl Comparison {
    /// A comparison for stages that start from this snapshot.
    pub(crate) fn new(store: Arc<Store>, resync: Resync, resumed: Option<(SnapshotId, Point)>) -> Self {
        Self {
            store,
            resync,
            compared: resumed.as_ref().map(|(id, _)| *id),
            points: resumed.into_iter().map(|(_, point)| point).collect(),
        }
    }

    /// Adds the state of this process at a point of the plan.
    pub(crate) fn add(&mut self, point: Point) {
        if self.points.len() == MAX_POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// Compares the newest snapshot, if it was not compared yet.
    pub(crate) fn check(&mut self) -> Result<Compared, ouzel_snapshot::Error> {
        let Some(latest) = self.store.alias(Alias::Latest)? else {
            return Ok(Compared::Nothing);
        };
        if self.compared == Some(latest) {
            return Ok(Compared::Nothing);
        }
        let point = Point::from(&self.store.manifest(latest)?.checkpoint);
        let newest = self.points.back().map(|newest| newest.plan_position);
        if newest.is_none_or(|newest| newest < point.plan_position) {
            return Ok(Compared::Ahead);
        }
        let is_equal = self.points.contains(&point);
        counter!(STANDBY_COMPARED, "outcome" => if is_equal { "equal" } else { "different" }).increment(1);
        if !is_equal {
            self.resync.request(&format!(
                "the state at entry {} of the plan log is not that of snapshot {latest}, or was not kept",
                point.plan_position
            ));
            return Ok(Compared::Different(latest));
        }
        self.compared = Some(latest);
        Ok(Compared::Equal(latest))
    }
}
