//! Which task of an older configuration is which task of the present one.

use crate::{Labels, MAX_TASKS, Sample, TaskId};

/// The tasks of two configurations, matched by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskMap {
    /// The present index of each former task; `None` for one that was removed.
    to: Vec<Option<TaskId>>,
    /// The former index of each present task; `None` for one that was added.
    from: Vec<Option<TaskId>>,
}

impl TaskMap {
    /// Matches the former tasks with the present ones. Of both, only the first [`MAX_TASKS`] count.
    #[must_use]
    pub fn new(former: &[String], present: &[String]) -> Self {
        let place = |name: &String, tasks: &[String]| {
            let tasks = tasks.iter().take(MAX_TASKS).zip(0..);
            tasks
                .into_iter()
                .find(|(task, _)| *task == name)
                .map(|(_, id)| id)
        };
        let matched = |tasks: &[String], others: &[String]| {
            let tasks = tasks.iter().take(MAX_TASKS);
            tasks.map(|name| place(name, others)).collect()
        };
        Self {
            to: matched(former, present),
            from: matched(present, former),
        }
    }

    /// True when both configurations have the same tasks in the same order.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        let same = |tasks: &[Option<TaskId>]| (0..).zip(tasks).all(|(id, other)| *other == Some(id));
        same(&self.to) && same(&self.from)
    }

    /// True when the primary task is the same.
    #[must_use]
    pub fn keeps_primary(&self) -> bool {
        self.from.first() == Some(&Some(0))
    }

    /// Number of present tasks.
    #[must_use]
    pub fn n_present(&self) -> usize {
        self.from.len()
    }

    /// Number of former tasks.
    #[must_use]
    pub fn n_former(&self) -> usize {
        self.to.len()
    }

    /// The present index of a former task.
    #[must_use]
    pub fn present(&self, former: TaskId) -> Option<TaskId> {
        self.to.get(usize::from(former)).copied().flatten()
    }

    /// The former index of each present task, in order.
    pub fn former(&self) -> impl ExactSizeIterator<Item = Option<TaskId>> + '_ {
        self.from.iter().copied()
    }

    /// A set of former tasks, one bit each, as a set of present ones; those that were removed are left out.
    #[must_use]
    pub fn set(&self, former: u8) -> u8 {
        let tasks = (0..).zip(&self.to);
        let kept = tasks.filter(|(id, _)| former & (1u8 << id) != 0);
        kept.fold(0, |set, (_, to): (TaskId, _)| set | to.map_or(0, |to| 1u8 << to))
    }

    /// The tasks that were added, one bit each.
    #[must_use]
    pub fn added(&self) -> u8 {
        let tasks = (0..).zip(&self.from);
        let added = tasks.filter(|(_, from)| from.is_none());
        added.fold(0, |set, (id, _): (TaskId, _)| set | 1u8 << id)
    }

    /// Former labels as present ones.
    #[must_use]
    pub fn labels(&self, former: Labels) -> Labels {
        let [known, positive] = former.to_bytes();
        Labels::from_masks(self.set(known), self.set(positive))
    }

    /// A former sample as a present one; `None` when it has no label of a present task.
    #[must_use]
    pub fn sample(&self, former: Sample) -> Option<Sample> {
        let labels = self.labels(former.labels);
        let values = former.values.iter();
        let mut values: Vec<(TaskId, f32)> = values
            .filter_map(|(task, value)| Some((self.present(*task)?, *value)))
            .collect();
        values.sort_by_key(|(task, _)| *task);
        (!labels.is_unknown()).then_some(Sample {
            labels,
            values,
            ..former
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn tasks_are_matched_by_name() {
        let map = TaskMap::new(
            &names(&["click", "like", "buy"]),
            &names(&["buy", "share", "click"]),
        );
        assert!(!map.is_identity() && !map.keeps_primary());
        assert_eq!(
            [0, 1, 2, 7].map(|task| map.present(task)),
            [Some(2), None, Some(0), None]
        );
        assert_eq!(map.former().collect::<Vec<_>>(), [Some(2), None, Some(0)]);
        assert_eq!(map.set(0b111), 0b101);
        assert_eq!(map.set(0b010), 0);
        assert_eq!(map.added(), 0b010);
        let labels = map.labels(Labels::from_masks(0b011, 0b001));
        assert_eq!([0, 1, 2].map(|task| labels.get(task)), [None, None, Some(true)]);
        assert!(map.labels(Labels::from_masks(0b010, 0b010)).is_unknown());
        assert!(TaskMap::new(&names(&["a", "b"]), &names(&["a", "b"])).is_identity());
        let longer = TaskMap::new(&names(&["a"]), &names(&["a", "b"]));
        assert!(!longer.is_identity() && longer.keeps_primary());
    }
}
