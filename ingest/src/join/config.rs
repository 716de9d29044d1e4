//! The `[join]` section: windows, label policy, limits and store of the join.

use ouzel_sample::settings::{KeyError, Period, auto_period, out_of_range};
use ouzel_sample::{EventTime, MAX_TASKS, TaskId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::join::clock::passed;
use crate::join::sled_store::SledLimits;

/// One task to predict: an action type and its attribution window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// The `action` of the events that are the task's positives, such as `click`.
    ///
    /// Change it to predict another action.
    pub name: String,
    /// How long after its impression an action counts, in event time.
    ///
    /// Set it to the time within which nearly all of these actions happen.
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "3660d"))]
    pub window: Period,
    /// What the `value` of an action is to its positive.
    ///
    /// Change it when the actions carry an amount, a dwell time or a rating that matters.
    #[serde(default, skip_serializing_if = "ValueUse::is_ignored")]
    #[schemars(extend("default" = "ignore"))]
    pub value: ValueUse,
    /// The value that counts as 1, and every larger one too; negative values count as 0. Required for `weight` and `target`.
    ///
    /// Unit: that of the values. Set it to a large but usual value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_cap: Option<f32>,
}

/// What the value of an action is to its positive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueUse {
    /// Nothing.
    #[default]
    Ignore,
    /// The weight of the positive in the loss.
    Weight,
    /// What is predicted of a positive.
    Target,
}

impl ValueUse {
    /// True of the default.
    pub fn is_ignored(&self) -> bool {
        *self == ValueUse::Ignore
    }
}

impl TaskConfig {
    /// A task whose window is `window_ms` milliseconds of event time.
    pub fn new(name: impl Into<String>, window_ms: i64) -> Self {
        Self {
            name: name.into(),
            window: Period::from_ms(window_ms),
            value: ValueUse::default(),
            value_cap: None,
        }
    }

    /// A value in `[0, 1]` of the cap, and whether it was outside; `None` where values are ignored.
    pub(crate) fn scaled(&self, value: f32) -> Option<(f32, bool)> {
        let cap = self.value_cap.filter(|_| !self.value.is_ignored())?;
        // Adding 0 makes -0 a 0.
        Some(((value / cap).clamp(0.0, 1.0) + 0.0, !(0.0..=cap).contains(&value)))
    }
}

/// Which samples an outcome produces, and when. The matching losses are the learner's.
///
/// Each (impression, item, task) has exactly one outcome, decided by the windows alone; the policy only decides which
/// samples the learner gets. A sample never mixes kinds: an item with a certain positive of one task and a presumed
/// negative of another produces two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelPolicy {
    /// A positive when its action arrives, a negative when the window closes; each label is certain. Until a window has
    /// closed for the first time it works as `wait`, because a model that sees only positives predicts nothing else.
    Eager,
    /// One sample when the window closes. Tasks with equal windows share it.
    Wait,
    /// A negative when the item is shown, and a positive when its action arrives; trained with the
    /// fake-negative-weighted loss. While actions lag more than `label_wait` behind, negatives wait for them.
    #[default]
    Fnw,
    /// The samples of `fnw`, for the fake-negative-calibrated transform at serving.
    Fnc,
    /// The label seen `label_wait` after the impression, and a positive again when its action arrives later (ES-DFM).
    EsDfm,
    /// The label seen `label_wait` after the impression, and a second copy once the true label is certain (DEFER).
    Defer,
}

impl LabelPolicy {
    /// True of the policies that make a negative when the item is shown.
    pub fn is_at_once(self) -> bool {
        matches!(self, LabelPolicy::Fnw | LabelPolicy::Fnc)
    }
}

/// Which process joins impressions and actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JoinSource {
    /// The daemon itself.
    #[default]
    Events,
    /// Separate `ouzel join` processes.
    Tier,
}

/// What an action without a request id belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JoinBy {
    /// To no impression.
    #[default]
    Request,
    /// To the impression that showed its item to its user last, among those whose window is open at its time.
    UserItem,
}

/// Where impressions wait for their windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// In memory.
    #[default]
    Memory,
    /// On disk, except for ids, times and the requests touched last.
    Sled,
}

/// How impressions and actions become samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JoinConfig {
    /// Which process joins: `events`, the daemon itself, or `tier`, any number of `ouzel join` processes with the same
    /// `[join]` and `[ids]`, whose samples the daemon reads.
    ///
    /// Change it when one process cannot read and join all events.
    pub source: JoinSource,
    /// What an action without a `request_id` belongs to: with `request` to no impression, so that it only enters its user's
    /// history; with `user_item` to the impression that showed its item to its user last.
    ///
    /// Change it to `user_item` when actions do not carry the request.
    pub by: JoinBy,
    /// The tasks to predict, 1 to 8, the primary one first, whose prediction is the score of an item.
    ///
    /// Change it to predict other or further actions. `ouzel snapshot migrate` continues from a snapshot made with others.
    pub tasks: Vec<TaskConfig>,
    /// Which samples an outcome produces, and when.
    ///
    /// Change it to `eager` or `wait` when certain labels matter more than fresh ones.
    pub label_policy: LabelPolicy,
    /// From the impression to the first sample under `es_dfm` and `defer`, in event time. Under `fnw` and `fnc`, how far
    /// actions may lag behind an impression before its negatives wait for them, so that an outage of the actions topic is
    /// not learned as lack of interest.
    ///
    /// Raise it when actions usually reach the topic later than this.
    #[schemars(extend("x-maximum" = "3660d"))]
    pub label_wait: Period,
    /// How far the watermark stays behind the newest event, in event time. A later event may miss its window.
    ///
    /// Raise it when late events are dropped; lower it to close windows sooner.
    #[schemars(extend("x-maximum" = "3660d"))]
    pub allowed_lateness: Period,
    /// How far an event may be dated after the newest event of its partition, in event time, and time follow it at once.
    /// Beyond that time follows only when four requests agree, so that one wrong clock makes no other event late. After a
    /// longer pause of the log, time moves with the fourth request.
    ///
    /// Lower it when clocks are wrong by less, but not below the usual pause between the events of a partition; `3660d`
    /// trusts every clock, from the first event of the log on.
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "3660d"))]
    pub max_time_jump: Period,
    /// How far before its impression an action may be dated and still belong to it, in event time.
    ///
    /// Raise it when the clocks of the producers differ by more.
    #[schemars(extend("x-maximum" = "3660d"))]
    pub max_clock_skew: Period,
    /// How long the items of an impression are remembered to drop duplicates, in event time; `auto` is the longest window plus
    /// `allowed_lateness` plus `max_clock_skew`, the shortest safe value.
    ///
    /// Raise it when producers send duplicates later than that.
    #[serde(with = "auto_period")]
    #[schemars(with = "String", extend("x-type" = "duration or auto"))]
    pub dedup_window: Option<Period>,
    /// Shown items that may wait for their windows. Above it the oldest windows close early, in order, and are counted.
    ///
    /// Unit: items. Lower it to save memory; raise it when windows close early.
    #[schemars(range(min = 1))]
    pub max_pending_items: usize,
    /// Actions that may wait for their impression. Above it the oldest are given up, in order, and are counted.
    ///
    /// Unit: actions. Raise it when impressions arrive much later than actions.
    #[schemars(range(min = 1))]
    pub max_early_actions: usize,
    /// Closed impressions remembered to drop duplicates. Above it the oldest are forgotten, and every event as old as they
    /// are is late from then on, so nothing is joined twice.
    ///
    /// Unit: impressions. Lower it to save memory.
    #[schemars(range(min = 1))]
    pub max_closed_requests: usize,
    /// Where impressions wait for their windows: `memory`, or `sled`, which writes those not touched lately to `join` in
    /// the state directory. The disk store is a cache: emptied at every start and filled from the snapshot. Samples and
    /// weights are the same; but a sample that was on disk is validated by its prediction at learning time, not at
    /// impression time.
    ///
    /// Change it to `sled` when pending impressions do not fit in memory.
    pub store: StoreKind,
    /// Limits of the store `sled`.
    pub sled: SledLimits,
}

impl Default for JoinConfig {
    fn default() -> Self {
        Self {
            source: JoinSource::default(),
            by: JoinBy::default(),
            tasks: vec![TaskConfig::new("click", 10 * 60_000)],
            label_policy: LabelPolicy::default(),
            label_wait: Period::from_secs(60),
            allowed_lateness: Period::from_secs(60),
            max_time_jump: Period::from_secs(600),
            max_clock_skew: Period::from_secs(5),
            dedup_window: None,
            max_pending_items: 5_000_000,
            max_early_actions: 1_000_000,
            max_closed_requests: 10_000_000,
            store: StoreKind::default(),
            sled: SledLimits::default(),
        }
    }
}

impl JoinConfig {
    /// Every value that cannot be used, by its key below `join`.
    #[must_use]
    pub fn validate(&self) -> Vec<KeyError> {
        let mut errors = out_of_range(self);
        let mut refuse = |key: String, message: String| errors.push(KeyError::new(key, message));
        if !(1..=MAX_TASKS).contains(&self.tasks.len()) {
            let n = self.tasks.len();
            refuse(
                "tasks".to_owned(),
                format!("must list 1 to {MAX_TASKS} tasks, not {n}"),
            );
        }
        for (index, task) in self.tasks.iter().enumerate() {
            let is_cap = |cap: f32| cap > 0.0 && cap.is_finite();
            match task.value_cap {
                None if !task.value.is_ignored() => refuse(
                    format!("tasks[{index}].value_cap"),
                    "must be set: `value` is used in parts of it".to_owned(),
                ),
                Some(cap) if !is_cap(cap) => refuse(
                    format!("tasks[{index}].value_cap"),
                    format!("must be a number above 0, not {cap}"),
                ),
                _ => {}
            }
        }
        for (index, TaskConfig { name, .. }) in self.tasks.iter().enumerate() {
            let key = format!("tasks[{index}].name");
            if name.is_empty() {
                refuse(key, "must name an action, not be empty".to_owned());
            } else if self.tasks[..index].iter().any(|earlier| earlier.name == *name) {
                refuse(
                    key,
                    format!("must differ from the other tasks: {name} is listed twice"),
                );
            }
        }
        let least = self.least_dedup_ms();
        if let Some(window) = self.dedup_window
            && !(least..=4 * Period::TEN_YEARS.ms()).contains(&window.ms())
        {
            refuse(
                "dedup_window".to_owned(),
                format!(
                    "must be \"auto\" or at least {}, the longest window plus allowed_lateness plus max_clock_skew, \
                     not {window}",
                    Period::from_ms(least)
                ),
            );
        }
        errors
    }

    /// The number of tasks.
    pub fn n_tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Every task with its id.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskId, &TaskConfig)> {
        (0..TaskId::MAX).zip(&self.tasks)
    }

    /// The action names of the tasks, in task order.
    pub fn task_names(&self) -> Vec<String> {
        self.tasks.iter().map(|task| task.name.clone()).collect()
    }

    /// The set of all tasks, one bit each.
    pub(crate) fn all_tasks(&self) -> u8 {
        self.tasks().fold(0, |mask, (task, _)| mask | 1 << task)
    }

    /// How long the items of an impression are remembered, ms.
    pub fn dedup_ms(&self) -> i64 {
        self.dedup_window
            .map_or_else(|| self.least_dedup_ms(), Period::ms)
    }

    /// The watermark at which an action dated `ts` is given up if its impression did not come.
    pub(crate) fn early_expiry(&self, ts: EventTime) -> EventTime {
        passed(ts, self.allowed_lateness.ms() + self.max_clock_skew.ms())
    }

    /// How far the watermark must be past an impression for the samples of what is seen by then, ms; negative where the
    /// watermark may still be behind, none where the policy makes no such samples.
    pub fn policy_wait_ms(&self) -> Option<i64> {
        match self.label_policy {
            LabelPolicy::Eager | LabelPolicy::Wait => None,
            LabelPolicy::Fnw | LabelPolicy::Fnc => Some(-self.label_wait.ms()),
            LabelPolicy::EsDfm | LabelPolicy::Defer => Some(self.label_wait.ms()),
        }
    }

    /// As [`JoinConfig::policy_wait_ms`] for `task`: at the latest when its window closes.
    pub(crate) fn wait_ms(&self, task: &TaskConfig) -> Option<i64> {
        self.policy_wait_ms().map(|wait| wait.min(task.window.ms()))
    }

    /// Span of event time before a checkpoint that must be joined again to rebuild its state, ms: see
    /// [`Joiner::warm_up`](crate::join::Joiner::warm_up). `ahead_ms` bounds how far an event may be ahead of the slowest
    /// partition when it is read; an event further ahead can only be an action long after its impression, which then
    /// counts as waiting for it. Not valid across an interval in which a cap was enforced.
    pub fn warm_up_ms(&self, ahead_ms: i64) -> i64 {
        let twice = 2 * (self.allowed_lateness.ms() + self.max_clock_skew.ms());
        (self.longest_window_ms() + self.dedup_ms() + twice).saturating_add(ahead_ms)
    }

    /// The longest window of a task, ms; 0 without tasks.
    pub fn longest_window_ms(&self) -> i64 {
        self.tasks.iter().map(|task| task.window.ms()).max().unwrap_or(0)
    }

    fn least_dedup_ms(&self) -> i64 {
        self.longest_window_ms()
            .saturating_add(self.allowed_lateness.ms())
            .saturating_add(self.max_clock_skew.ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut JoinConfig)) -> String {
        let mut config = JoinConfig::default();
        change(&mut config);
        let errors = config.validate();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].to_string()
    }

    #[test]
    fn the_default_is_valid_and_remembers_just_long_enough() {
        let config = JoinConfig::default();
        assert_eq!(config.validate(), []);
        assert_eq!(config.dedup_ms(), 600_000 + 60_000 + 5_000);
        assert_eq!(config.all_tasks(), 1);
    }

    #[test]
    fn each_value_that_cannot_be_used_is_refused_by_its_key() {
        let too_long = Period::from_secs(3_661 * 86_400);
        assert!(refused(|c| c.tasks.clear()).starts_with("tasks must list 1 to 8 tasks, not 0"));
        let twice = refused(|c| c.tasks = vec![TaskConfig::new("click", 1); 2]);
        assert!(twice.starts_with("tasks[1].name must differ"), "{twice}");
        let cap = refused(|c| c.tasks[0].value = ValueUse::Weight);
        assert!(cap.starts_with("tasks[0].value_cap must be set"), "{cap}");
        let cap = refused(|c| c.tasks[0].value_cap = Some(0.0));
        assert_eq!(cap, "tasks[0].value_cap must be a number above 0, not 0");
        let window = refused(|c| c.tasks[0].window = Period::from_ms(0));
        assert_eq!(window, "tasks[0].window must be from 1ms to 3660d, not 0s");
        let lateness = refused(|c| {
            c.allowed_lateness = too_long;
        });
        assert_eq!(lateness, "allowed_lateness must be at most 3660d, not 3661d");
        let dedup = refused(|c| c.dedup_window = Some(Period::from_ms(664_999)));
        assert!(
            dedup.starts_with("dedup_window must be \"auto\" or at least 11m5s"),
            "{dedup}"
        );
        let pending = refused(|c| c.max_pending_items = 0);
        assert_eq!(pending, "max_pending_items must be at least 1, not 0");
        let wait = refused(|c| c.label_wait = too_long);
        assert!(wait.starts_with("label_wait must be at most 3660d"), "{wait}");
    }
}
