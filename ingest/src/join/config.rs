//! The settings of the join: defaults, bounds and checks.

use std::fmt;

use ouzel_sample::{EventTime, MAX_TASKS, TaskId};
use serde::{Deserialize, Serialize};

use crate::join::clock::passed;
use crate::join::error::JoinError;

/// One task: the action type that is its positive, and its attribution window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// The action type on the wire, as `click`.
    pub name: String,
    /// Attribution window: an action counts up to this long after the impression, ms of event time.
    pub window_ms: i64,
}

impl TaskConfig {
    /// A task.
    pub fn new(name: impl Into<String>, window_ms: i64) -> Self {
        Self {
            name: name.into(),
            window_ms,
        }
    }
}

/// Which samples an outcome makes, and when. The losses that belong to them live in the learner.
///
/// Whatever the policy, each (impression, item, task) has exactly one outcome, decided by the windows alone; a policy
/// only chooses the samples that the learner gets. A sample never mixes kinds: where an item has both a
/// certain positive of one task and a presumed negative of another, two samples are emitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LabelPolicy {
    /// A positive (`Final`) when its action joins; a negative (`Final`) when the window closes. One sample per
    /// item and task, each certain. Impressions shown before the first window of the log has closed are sampled as
    /// under `wait`: there are no negatives yet, and a model of positives alone would predict nothing else.
    #[default]
    Eager,
    /// Both (`Final`) when the window closes. Tasks with equal windows share the sample.
    Wait,
    /// On the impression every task as negative (`EarlyNegative`); when an action joins, its positive again
    /// (`LatePositive`); nothing when the window closes. For the fake-negative-weighted loss.
    ///
    /// An impression more than `ahead_ms` ahead of the watermark is sampled when the watermark has come that near:
    /// while no actions come, which stops the watermark, items are not taken for negatives.
    Fnw {
        /// How far ahead of the watermark an impression may be to be sampled at once, ms.
        ahead_ms: i64,
    },
    /// The same stream as `fnw`, for the fake-negative-calibrated transform at serving.
    Fnc {
        /// As `ahead_ms` of `fnw`.
        ahead_ms: i64,
    },
    /// `wait_ms` after the impression (at the window's end if that is sooner) the label seen so far: `Final` if
    /// positive, else `EarlyNegative`; a positive that joins later again (`LatePositive`); nothing when the
    /// window closes.
    ///
    /// The auxiliary heads need no third copy: over the whole stream, P(`LatePositive`) = d / (1 + d) with d the
    /// delayed-positive rate; over early negatives and late positives, P(`EarlyNegative`) = n / (n + d) with n
    /// the observed-negative rate.
    EsDfm {
        /// From the impression to the first sample, ms of event time.
        wait_ms: i64,
    },
    /// The first sample as `es_dfm`; then a second copy (`RealCopy`) of every sample with its true label: when
    /// the action joins if the first copy had gone out (`action_record_ms` is set: a delayed positive), else
    /// when the window closes (`action_record_ms` is not set).
    Defer {
        /// From the impression to the first sample, ms of event time.
        wait_ms: i64,
    },
}

impl fmt::Display for LabelPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelPolicy::Eager => f.write_str("eager"),
            LabelPolicy::Wait => f.write_str("wait"),
            LabelPolicy::Fnw { ahead_ms } => write!(f, "fnw with ahead = {ahead_ms} ms"),
            LabelPolicy::Fnc { ahead_ms } => write!(f, "fnc with ahead = {ahead_ms} ms"),
            LabelPolicy::EsDfm { wait_ms } => write!(f, "es_dfm with wait = {wait_ms} ms"),
            LabelPolicy::Defer { wait_ms } => write!(f, "defer with wait = {wait_ms} ms"),
        }
    }
}

impl LabelPolicy {
    /// How far past the impression the watermark must be for a sample of the labels seen by then, ms; negative where
    /// the watermark may still be behind. `None` where the policy makes no such sample.
    #[must_use]
    pub fn wait_ms(self) -> Option<i64> {
        match self {
            LabelPolicy::Eager | LabelPolicy::Wait => None,
            LabelPolicy::Fnw { ahead_ms } | LabelPolicy::Fnc { ahead_ms } => Some(-ahead_ms),
            LabelPolicy::EsDfm { wait_ms } | LabelPolicy::Defer { wait_ms } => Some(wait_ms),
        }
    }

    /// True of the policies that sample an impression as negative on arrival.
    #[must_use]
    pub fn is_at_once(self) -> bool {
        matches!(self, LabelPolicy::Fnw { .. } | LabelPolicy::Fnc { .. })
    }
}

/// Windows, bounds and caps of the join. All times are event time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JoinConfig {
    /// The tasks; a [`TaskId`] is a place in this list, 0 the primary one.
    pub tasks: Vec<TaskConfig>,
    /// How far behind the newest event of its partition an event may come and still be on time, ms.
    pub lateness_ms: i64,
    /// How far before its impression an action may be dated (two clocks differ), ms.
    pub skew_ms: i64,
    /// How long after its event time a request id is remembered, ms; at least the longest window + lateness +
    /// skew. `None` is exactly that.
    pub dedup_ms: Option<i64>,
    /// Shown items waiting for their windows, count. Beyond it the oldest windows close early, in order.
    pub max_pending: usize,
    /// Actions waiting for their impression, count. Beyond it the oldest are given up, in order.
    pub max_waiting: usize,
    /// Closed requests remembered against duplicates, count. Beyond it the oldest are forgotten, and whatever
    /// is as old as they were is late from then on, so nothing is ever joined twice.
    pub max_remembered: usize,
    /// Which samples are made, and when.
    pub policy: LabelPolicy,
}

impl Default for JoinConfig {
    fn default() -> Self {
        Self {
            tasks: vec![TaskConfig::new("click", 10 * 60_000)],
            lateness_ms: 60_000,
            skew_ms: 5_000,
            dedup_ms: None,
            max_pending: 5_000_000,
            max_waiting: 1_000_000,
            max_remembered: 10_000_000,
            policy: LabelPolicy::default(),
        }
    }
}

impl JoinConfig {
    /// Refuses settings that cannot hold, naming the field.
    pub fn validate(&self) -> Result<(), JoinError> {
        let refuse = |field: &'static str, detail: String| Err(JoinError::Config { field, detail });
        if self.tasks.is_empty() || self.tasks.len() > MAX_TASKS {
            return refuse(
                "tasks",
                format!("{} tasks, 1 to {MAX_TASKS} are possible", self.tasks.len()),
            );
        }
        for (index, task) in self.tasks.iter().enumerate() {
            if task.name.is_empty() || self.tasks[..index].iter().any(|other| other.name == task.name) {
                return refuse("tasks.name", format!("{:?} is empty or named twice", task.name));
            }
            if !(0..=MAX_SPAN_MS).contains(&task.window_ms) {
                return refuse("tasks.window_ms", out_of_span(task.window_ms));
            }
        }
        let bounds = [("lateness_ms", self.lateness_ms), ("skew_ms", self.skew_ms)];
        let of_policy = match self.policy {
            LabelPolicy::Eager | LabelPolicy::Wait => None,
            LabelPolicy::Fnw { ahead_ms } | LabelPolicy::Fnc { ahead_ms } => {
                Some(("policy.ahead_ms", ahead_ms))
            }
            LabelPolicy::EsDfm { wait_ms } | LabelPolicy::Defer { wait_ms } => {
                Some(("policy.wait_ms", wait_ms))
            }
        };
        for (field, value) in bounds.into_iter().chain(of_policy) {
            if !(0..=MAX_SPAN_MS).contains(&value) {
                return refuse(field, out_of_span(value));
            }
        }
        let least = self.least_dedup_ms();
        if self
            .dedup_ms
            .is_some_and(|dedup| !(least..=4 * MAX_SPAN_MS).contains(&dedup))
        {
            return refuse(
                "dedup_ms",
                format!("must be at least {least}, the longest window + lateness + skew"),
            );
        }
        for (field, cap) in [
            ("max_pending", self.max_pending),
            ("max_waiting", self.max_waiting),
            ("max_remembered", self.max_remembered),
        ] {
            if cap == 0 {
                return refuse(field, "must be at least 1".to_owned());
            }
        }
        Ok(())
    }

    /// The number of tasks.
    #[must_use]
    pub fn n_tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Every task with its id.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskId, &TaskConfig)> {
        (0..TaskId::MAX).zip(&self.tasks)
    }

    /// The set of all tasks, one bit each.
    pub(crate) fn all_tasks(&self) -> u8 {
        self.tasks().fold(0, |mask, (task, _)| mask | 1 << task)
    }

    /// How long a request id is remembered, ms.
    #[must_use]
    pub fn dedup_ms(&self) -> i64 {
        self.dedup_ms.unwrap_or_else(|| self.least_dedup_ms())
    }

    /// The watermark at which an action dated `ts` is given up if its impression did not come.
    pub(crate) fn early_expiry(&self, ts: EventTime) -> EventTime {
        passed(ts, self.lateness_ms + self.skew_ms)
    }

    /// As [`LabelPolicy::wait_ms`] for `task`: at the latest when its window closes.
    pub(crate) fn wait_ms(&self, task: &TaskConfig) -> Option<i64> {
        self.policy.wait_ms().map(|wait| wait.min(task.window_ms))
    }

    /// Event time after which no state of a request known at a checkpoint is left, ms: see
    /// [`Joiner::warm_up`](crate::join::Joiner::warm_up). `ahead_ms` bounds how far an event may be ahead of the slowest
    /// partition when it is read; what is further ahead can only be an action long after its impression, which then
    /// counts as waiting for it. Not valid across an interval in which a cap was enforced.
    #[must_use]
    pub fn warm_up_ms(&self, ahead_ms: i64) -> i64 {
        (self.longest_window_ms() + self.dedup_ms() + 2 * (self.lateness_ms + self.skew_ms))
            .saturating_add(ahead_ms)
    }

    /// The longest attribution window, ms.
    pub(crate) fn longest_window_ms(&self) -> i64 {
        self.tasks.iter().map(|task| task.window_ms).max().unwrap_or(0)
    }

    fn least_dedup_ms(&self) -> i64 {
        self.longest_window_ms()
            .saturating_add(self.lateness_ms)
            .saturating_add(self.skew_ms)
    }
}

/// Ten years: beyond it a setting is a mistake of unit, and sums of a few stay far from overflow.
const MAX_SPAN_MS: i64 = 10 * 366 * 86_400_000;

fn out_of_span(value: i64) -> String {
    format!("{value} ms, must be from 0 to {MAX_SPAN_MS}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut JoinConfig)) -> &'static str {
        let mut config = JoinConfig::default();
        change(&mut config);
        match config.validate() {
            Err(JoinError::Config { field, .. }) => field,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn the_default_is_valid_and_remembers_just_long_enough() {
        let config = JoinConfig::default();
        config.validate().unwrap();
        assert_eq!(config.dedup_ms(), 600_000 + 60_000 + 5_000);
        assert_eq!(config.all_tasks(), 1);
    }

    #[test]
    fn each_setting_that_cannot_hold_is_refused_by_name() {
        assert_eq!(refused(|c| c.tasks.clear()), "tasks");
        assert_eq!(
            refused(|c| c.tasks = vec![TaskConfig::new("click", 1); 2]),
            "tasks.name"
        );
        assert_eq!(refused(|c| c.tasks[0].window_ms = -1), "tasks.window_ms");
        assert_eq!(refused(|c| c.lateness_ms = i64::MAX), "lateness_ms");
        assert_eq!(refused(|c| c.skew_ms = -5), "skew_ms");
        assert_eq!(refused(|c| c.dedup_ms = Some(664_999)), "dedup_ms");
        assert_eq!(refused(|c| c.max_pending = 0), "max_pending");
        assert_eq!(
            refused(|c| c.policy = LabelPolicy::Defer { wait_ms: -1 }),
            "policy.wait_ms"
        );
        assert_eq!(
            refused(|c| c.policy = LabelPolicy::Fnw { ahead_ms: -1 }),
            "policy.ahead_ms"
        );
    }
}
