//! Outcome counters, and the identities by which nothing is lost and nothing counted twice.

use ouzel_sample::{ReadTotals, Sample, Stream, TaskId};
use serde::{Deserialize, Serialize};

/// The number of records and shown items by outcome.
///
/// `pending`, `pending_items`, `waiting` and `remembered` are states, the others only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Impression records, rejected ones included.
    pub impressions: u64,
    /// Impressions that were joined.
    pub accepted: u64,
    /// Impressions that showed nothing that their request had not shown before.
    pub duplicate_impressions: u64,
    /// Impressions whose every window was over on arrival.
    pub late_impressions: u64,
    /// Impressions that could not be decoded.
    pub rejected_impressions: u64,
    /// Shown items of all impressions that were not rejected.
    pub items: u64,
    /// Shown items that their request had shown before, those repeated in one record included.
    pub duplicate_items: u64,
    /// Further impressions of requests that had shown too many items.
    pub excess_impressions: u64,
    /// Shown items of those.
    pub excess_items: u64,
    /// The outcomes of shown items, by task.
    pub tasks: Vec<TaskCounters>,
    /// Action records, rejected ones included.
    pub actions: u64,
    /// Actions that made a positive.
    pub matched: u64,
    /// Actions whose (request, item, task) was positive already, or that wait already.
    pub duplicate_actions: u64,
    /// Actions after their window.
    pub late_actions: u64,
    /// Actions whose item was never shown in their request.
    pub orphans: u64,
    /// Actions without a request that belong to no impression.
    pub unattributed: u64,
    /// Actions dated before their impression by more than the allowed skew.
    pub before_shown: u64,
    /// Actions that could not be decoded.
    pub rejected_actions: u64,
    /// Actions that wait until their item is shown.
    pub waiting: u64,
    /// Impressions closed before their time by the cap on pending items.
    pub closed_early: u64,
    /// Shown items of impressions with an open window: what the cap on pending items counts.
    pub pending_items: u64,
    /// Actions given up before their time by the cap on waiting actions; they count as orphans or unattributed too.
    pub orphaned_early: u64,
    /// Closed impressions forgotten before their time by the cap on them.
    pub forgotten_early: u64,
    /// Closed impressions that are remembered: what the cap on them counts.
    pub remembered: u64,
    /// Events so far ahead of their partition that time did not follow them before other requests confirmed it.
    pub time_jumps_held: u64,
    /// Samples emitted, by `SampleKind` in its declared order.
    pub samples: [u64; 5],
}

/// The outcomes of the shown items for one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounters {
    /// The window was over when the impression came.
    pub late: u64,
    /// An action joined, or was known with the impression.
    pub positive: u64,
    /// The window closed without one.
    pub negative: u64,
    /// Undecided.
    pub pending: u64,
    /// Positives whose value was negative or beyond the cap of the task.
    pub values_clamped: u64,
}

/// An identity that does not hold: the join is broken and must stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the join lost count: {left} = {left_value}, but {right} = {right_value}{}", of_task(*.task))]
pub struct IdentityViolation {
    left: &'static str,
    left_value: u64,
    right: &'static str,
    right_value: u64,
    task: Option<TaskId>,
}

impl IdentityViolation {
    pub(crate) fn expect_equal(
        task: Option<TaskId>,
        (left, left_value): (&'static str, u64),
        (right, right_value): (&'static str, u64),
    ) -> Result<(), Self> {
        if left_value == right_value {
            return Ok(());
        }
        Err(Self {
            left,
            left_value,
            right,
            right_value,
            task,
        })
    }
}

fn of_task(task: Option<TaskId>) -> String {
    task.map(|task| format!(" (task {task})")).unwrap_or_default()
}

impl Counters {
    /// The totals that a batch brings along.
    pub fn read_totals(&self) -> ReadTotals {
        ReadTotals {
            records: self.impressions + self.actions,
            rejected: self.rejected_impressions + self.rejected_actions,
            shown: self.items,
            actions: self.actions,
            unmatched: self.late_actions + self.orphans + self.unattributed + self.before_shown,
        }
    }

    /// Zero, for `n_tasks` tasks.
    pub fn new(n_tasks: usize) -> Self {
        Self {
            tasks: vec![TaskCounters::default(); n_tasks],
            ..Self::default()
        }
    }

    /// Checks the conservation identities; cheap enough for every batch.
    pub fn check(&self) -> Result<(), IdentityViolation> {
        let equal = IdentityViolation::expect_equal;
        let outcomes = self.accepted
            + self.duplicate_impressions
            + self.excess_impressions
            + self.late_impressions
            + self.rejected_impressions;
        equal(
            None,
            ("impressions", self.impressions),
            ("accepted + duplicate + excess + late + rejected", outcomes),
        )?;
        for (task, counters) in (0..).zip(&self.tasks) {
            let outcomes = self.duplicate_items
                + self.excess_items
                + counters.late
                + counters.positive
                + counters.negative
                + counters.pending;
            equal(
                Some(task),
                ("items", self.items),
                (
                    "duplicate + excess + late + positive + negative + pending",
                    outcomes,
                ),
            )?;
        }
        let outcomes = self.matched
            + self.duplicate_actions
            + self.late_actions
            + self.orphans
            + self.unattributed
            + self.before_shown
            + self.rejected_actions
            + self.waiting;
        equal(
            None,
            ("actions", self.actions),
            (
                "matched + duplicate + late + orphan + unattributed + before shown + rejected + waiting",
                outcomes,
            ),
        )
    }

    /// Counts an impression that shows nothing new.
    pub(crate) fn add_duplicate_impression(&mut self, n_items: u64) {
        self.impressions += 1;
        self.items += n_items;
        self.duplicate_impressions += 1;
        self.duplicate_items += n_items;
    }

    /// Counts an impression of a request that has shown too many items.
    pub(crate) fn add_excess_impression(&mut self, n_items: u64) {
        self.impressions += 1;
        self.items += n_items;
        self.excess_impressions += 1;
        self.excess_items += n_items;
    }

    /// Counts an impression with new items; `n_duplicate` of its `n_shown` items are not. The windows of the tasks in
    /// `late` (one bit each) were over; with all of them in it the impression is late, else it is accepted.
    pub(crate) fn add_impression(&mut self, n_shown: u64, n_duplicate: u64, late: u8) {
        self.impressions += 1;
        self.items += n_shown;
        self.duplicate_items += n_duplicate;
        let n_items = n_shown - n_duplicate;
        let mut is_accepted = false;
        for (task, counters) in self.tasks.iter_mut().enumerate() {
            if late & (1 << task) == 0 {
                counters.pending += n_items;
                is_accepted = true;
            } else {
                counters.late += n_items;
            }
        }
        self.accepted += u64::from(is_accepted);
        self.late_impressions += u64::from(!is_accepted);
    }

    pub(crate) fn add_rejected(&mut self, stream: Stream) {
        match stream {
            Stream::Items | Stream::Users | Stream::Samples => {}
            Stream::Impressions => {
                self.impressions += 1;
                self.rejected_impressions += 1;
            }
            Stream::Actions => {
                self.actions += 1;
                self.rejected_actions += 1;
            }
        }
    }

    pub(crate) fn add_samples(&mut self, group: &[Sample]) {
        for sample in group {
            self.samples[sample.kind as usize] += 1;
        }
    }

    /// Decides one task of a shown item.
    pub(crate) fn decide(&mut self, task: TaskId, is_positive: bool) {
        let counters = &mut self.tasks[usize::from(task)];
        // A broken join may decide twice: `check` reports that, and an overflow must not.
        counters.pending = counters.pending.wrapping_sub(1);
        if is_positive {
            counters.positive += 1;
        } else {
            counters.negative += 1;
        }
    }

    /// Share of the actions on joined impressions that came in time, in `[0, 1]`; `None` before the first.
    pub fn action_coverage(&self) -> Option<f64> {
        let (matched, late) = (self.matched as f64, self.late_actions as f64);
        (matched + late > 0.0).then(|| matched / (matched + late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_item_or_action_is_named() {
        let mut counters = Counters::new(2);
        counters.check().unwrap();
        counters.items = 3;
        for task in &mut counters.tasks {
            task.pending = 3;
        }
        counters.check().unwrap();
        counters.tasks[1].pending = 2;
        assert_eq!(
            counters.check().unwrap_err().to_string(),
            "the join lost count: items = 3, but duplicate + excess + late + positive + negative + pending = 2 (task 1)"
        );
        counters.tasks[1].negative = 1;
        counters.actions = 1;
        assert!(
            counters
                .check()
                .unwrap_err()
                .to_string()
                .starts_with("the join lost count: actions = 1")
        );
    }

    #[test]
    fn coverage_is_the_share_of_actions_in_time() {
        let mut counters = Counters::new(1);
        assert_eq!(counters.action_coverage(), None);
        counters.matched = 3;
        counters.late_actions = 1;
        assert!((counters.action_coverage().unwrap() - 0.75).abs() < 1e-12);
    }
}
