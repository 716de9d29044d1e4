//! Labels of a shown item, one per task.

use serde::{Deserialize, Serialize};

/// Largest number of tasks (click, order, like, ...) of one deployment.
pub const MAX_TASKS: usize = 8;

/// Index of a task in the configured list; 0 is the primary task.
pub type TaskId = u8;

/// The label of each task: positive, negative or unknown.
///
/// Task sets are bit masks: bit `t` stands for task `t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Labels {
    known: u8,
    positive: u8,
}

impl Labels {
    /// The label of every task is unknown.
    pub const UNKNOWN: Labels = Labels {
        known: 0,
        positive: 0,
    };

    /// Labels of the tasks in the mask `known`; those also in `positive` are positive, the others negative.
    #[must_use]
    pub fn from_masks(known: u8, positive: u8) -> Self {
        Self {
            known,
            positive: positive & known,
        }
    }

    /// The labels of the tasks in `mask`; all others become unknown.
    #[must_use]
    pub fn masked(self, mask: u8) -> Self {
        Self::from_masks(self.known & mask, self.positive)
    }

    /// The known labels of both; `newer` wins where both know a task.
    #[must_use]
    pub fn updated_with(self, newer: Labels) -> Self {
        let older = self.masked(!newer.known);
        Self::from_masks(older.known | newer.known, older.positive | newer.positive)
    }

    /// The mask of the tasks with a known label.
    #[must_use]
    pub fn known(self) -> u8 {
        self.known
    }

    /// Sets the label of one task, which must be below [`MAX_TASKS`].
    #[must_use]
    pub fn with(self, task: TaskId, positive: bool) -> Self {
        let bit = 1u8 << task;
        self.updated_with(Self::from_masks(bit, if positive { bit } else { 0 }))
    }

    /// The label of `task`: `Some(true)` when positive, `None` when unknown.
    #[must_use]
    pub fn get(self, task: TaskId) -> Option<bool> {
        let bit = 1u8 << task;
        (self.known & bit != 0).then_some(self.positive & bit != 0)
    }

    /// True when no label is known.
    #[must_use]
    pub fn is_unknown(self) -> bool {
        self.known == 0
    }

    /// The two masks as they enter the ledger hash: known tasks, positive tasks.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 2] {
        [self.known, self.positive]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_is_positive_negative_or_unknown() {
        let labels = Labels::UNKNOWN.with(0, true).with(2, false);
        assert_eq!(labels.get(0), Some(true));
        assert_eq!(labels.get(1), None);
        assert_eq!(labels.get(2), Some(false));
        assert_eq!(labels.with(0, false).get(0), Some(false));
    }
}
