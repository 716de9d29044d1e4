//! What is known of a shown item, task by task.

use serde::{Deserialize, Serialize};

/// The most tasks (click, order, like, ...) one deployment may learn.
pub const MAX_TASKS: usize = 8;

/// A task's place in the configured list; 0 is the primary one.
pub type TaskId = u8;

/// For each task: positive, negative, or not yet known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Labels {
    known: u8,
    positive: u8,
}

impl Labels {
    /// Nothing known of any task.
    pub const UNKNOWN: Labels = Labels {
        known: 0,
        positive: 0,
    };

    /// The outcomes of the tasks in `known`, one bit each; those in `positive` are 1.
    #[must_use]
    pub fn of(known: u8, positive: u8) -> Self {
        Self {
            known,
            positive: positive & known,
        }
    }

    /// What is known of the tasks in `mask`, one bit each.
    #[must_use]
    pub fn only(self, mask: u8) -> Self {
        Self::of(self.known & mask, self.positive)
    }

    /// What either knows; `other` is right where both do.
    #[must_use]
    pub fn and(self, other: Labels) -> Self {
        let mine = self.only(!other.known);
        Self::of(mine.known | other.known, mine.positive | other.positive)
    }

    /// The tasks that are known, one bit each.
    #[must_use]
    pub fn known(self) -> u8 {
        self.known
    }

    /// Adds the outcome of one task. `task` is below [`MAX_TASKS`].
    #[must_use]
    pub fn with(self, task: TaskId, positive: bool) -> Self {
        let bit = 1u8 << task;
        Self {
            known: self.known | bit,
            positive: if positive {
                self.positive | bit
            } else {
                self.positive & !bit
            },
        }
    }

    /// The outcome of `task`, if known.
    #[must_use]
    pub fn get(self, task: TaskId) -> Option<bool> {
        let bit = 1u8 << task;
        (self.known & bit != 0).then_some(self.positive & bit != 0)
    }

    /// True when no task is known.
    #[must_use]
    pub fn is_unknown(self) -> bool {
        self.known == 0
    }

    /// Two bytes that stand for this value in a hash: known tasks, positive tasks.
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
