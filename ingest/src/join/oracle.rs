//! A second joiner that is too simple to be wrong: lists, linear scans, every question answered from the whole past.
//! It shares only the configuration with the first one.

mod closing;

use ouzel_sample::{Id, PartitionId, SampleKind};

use crate::join::clock_oracle::watermarks;
use crate::join::config::{JoinBy, JoinConfig, LabelPolicy};
use crate::join::world::{EmittedSample, Report, VALUE_CAP, WorldEvent, known_value, record_ms, user_of};

/// Labels by task.
type LabelList = Vec<(u8, bool)>;

/// One impression, with the items that were new.
struct Shown {
    request: u64,
    partition: i32,
    offset: usize,
    ts: i64,
    items: Vec<u64>,
    late: Vec<bool>,
    known_actions: Option<Vec<(u64, u8)>>,
    is_forced: bool,
    is_forgotten: bool,
    /// Its items were sampled as negatives, by a policy that does so on arrival.
    is_sampled_at_once: bool,
    /// Tasks whose positives wait for the window.
    held: Vec<u8>,
    /// (item, task), whether its action arrived, and its value.
    positives: Vec<(u64, u8, bool, Option<f32>)>,
    /// (item, task) whose true label was emitted by a real copy already.
    copied: Vec<(u64, u8)>,
}

#[derive(Clone)]
struct Waiting {
    /// None for an action that does not name it.
    request: Option<u64>,
    user: u64,
    item: u64,
    task: u8,
    ts: i64,
    value: Option<f32>,
}

pub(super) struct Oracle<'a> {
    config: &'a JoinConfig,
    /// The watermark before event k is `watermarks[k]`, after it `watermarks[k + 1]`.
    watermarks: Vec<i64>,
    shown: Vec<Shown>,
    waiting: Vec<Waiting>,
    floor: i64,
    report: Report,
}

impl<'a> Oracle<'a> {
    /// The report that a joiner must give on these events, when the log is over after them.
    pub(super) fn report(config: &'a JoinConfig, partitions: &[PartitionId], all: &[WorldEvent]) -> Report {
        let mut oracle = Self {
            config,
            watermarks: watermarks(config, partitions, all),
            shown: Vec::new(),
            waiting: Vec::new(),
            floor: i64::MIN,
            report: Report::default(),
        };
        for (k, event) in all.iter().enumerate() {
            let mut group = Vec::new();
            let outcome = oracle.apply(k, event, &mut group);
            oracle.report.outcomes.push(outcome);
            oracle.emit(group);
            oracle.close(k);
            oracle.enforce_caps(oracle.watermarks[k + 1]);
        }
        oracle.report.watermarks = oracle.watermarks[1..].to_vec();
        oracle.watermarks.push(i64::MAX);
        oracle.close(all.len());
        oracle.report.labels = (0..config.n_tasks()).map(|task| oracle.labels(task)).collect();
        oracle.report
    }

    fn apply(&mut self, k: usize, event: &WorldEvent, group: &mut Vec<EmittedSample>) -> &'static str {
        let now = self.watermarks[k];
        match event {
            WorldEvent::Shown {
                partition,
                request,
                ts,
                items,
                known_actions,
            } => {
                let mut new: Vec<u64> = Vec::new();
                for item in items {
                    if !new.contains(item) && self.known(*request, *item, now).is_none() {
                        new.push(*item);
                    }
                }
                self.report.duplicate_items += (items.len() - new.len()) as u64;
                if new.is_empty() {
                    return "duplicate";
                }
                let is_forgotten = ts + self.config.dedup_ms() < now.max(self.floor);
                let late = self
                    .config
                    .tasks
                    .iter()
                    .map(|task| is_forgotten || (known_actions.is_none() && ts + task.window.ms() < now));
                let late: Vec<bool> = late.collect();
                let first = self
                    .shown
                    .iter()
                    .find(|s| s.late.contains(&false))
                    .map_or(*ts, |s| s.ts);
                let is_starting =
                    |task: &u8| now <= first + self.config.tasks[usize::from(*task)].window.ms();
                let n_tasks = u8::try_from(self.config.n_tasks()).unwrap();
                let shown = Shown {
                    held: (0..n_tasks).filter(is_starting).collect(),
                    request: *request,
                    partition: partition.partition,
                    offset: k,
                    ts: *ts,
                    items: new,
                    late,
                    known_actions: known_actions.clone(),
                    is_forced: false,
                    is_forgotten,
                    is_sampled_at_once: false,
                    positives: Vec::new(),
                    copied: Vec::new(),
                };
                let is_late = shown.late.iter().all(|late| *late);
                self.shown.push(shown);
                let index = self.shown.len() - 1;
                if !is_late {
                    self.first_samples(k, index, group);
                }
                self.match_waiting(k, index, group);
                if is_late { "late" } else { "accepted" }
            }
            WorldEvent::Acted {
                request,
                user,
                item,
                task,
                ts,
                value,
                ..
            } => {
                let action = Waiting {
                    request: *request,
                    user: *user,
                    item: *item,
                    task: *task,
                    ts: *ts,
                    value: value.map(f32::from),
                };
                self.act(k, action, group)
            }
            WorldEvent::Advanced(..) | WorldEvent::Idle(_) | WorldEvent::Active(_) => "",
            WorldEvent::Broken(_) => "rejected",
        }
    }

    /// The actions that waited for an impression.
    fn match_waiting(&mut self, k: usize, index: usize, group: &mut Vec<EmittedSample>) {
        let (now, s) = (self.watermarks[k], &self.shown[index]);
        let is_named = |w: &Waiting| w.request == Some(s.request) && s.items.contains(&w.item);
        let mut mine: Vec<Waiting> = self.waiting.iter().filter(|w| is_named(w)).cloned().collect();
        for item in &s.items {
            let is_of = |w: &&Waiting| w.item == *item && self.fits(index, w, now);
            mine.extend(self.waiting.iter().filter(is_of).cloned());
        }
        let is_mine = |w: &Waiting| is_named(w) || self.fits(index, w, now);
        let waiting = self.waiting.iter().filter(|w| !is_mine(w)).cloned().collect();
        self.waiting = waiting;
        for w in mine {
            self.resolve(k, index, &w, group);
        }
    }

    fn act(&mut self, k: usize, action: Waiting, group: &mut Vec<EmittedSample>) -> &'static str {
        let now = self.watermarks[k];
        let index = match action.request {
            Some(request) => self.known(request, action.item, now),
            None if self.config.by == JoinBy::Request => return self.give_up(&action),
            // The last touch.
            None => (0..self.shown.len())
                .filter(|index| self.fits(*index, &action, now))
                .max_by_key(|index| self.touch(*index)),
        };
        if let Some(index) = index {
            return self.resolve(k, index, &action, group);
        }
        let key = |w: &Waiting| (w.request, w.item, w.task, w.ts);
        let same =
            |w: &Waiting| key(w) == key(&action) && (action.request.is_some() || w.user == action.user);
        if self.waiting.iter().any(same) {
            return "duplicate action";
        }
        if self.gives_up_after(&action) < now {
            return self.give_up(&action);
        }
        self.waiting.push(action);
        "early"
    }

    /// The impression that is known at watermark `now` to have shown an item of a request.
    fn known(&self, request: u64, item: u64, now: i64) -> Option<usize> {
        self.shown
            .iter()
            .position(|s| s.request == request && s.items.contains(&item) && self.is_known(s, now))
    }

    fn is_known(&self, s: &Shown, now: i64) -> bool {
        !s.is_forgotten && now <= s.ts + self.config.dedup_ms()
    }

    fn is_task_open(&self, s: &Shown, task: usize, now: i64) -> bool {
        let is_over = s.is_forced || s.known_actions.is_some() || s.late[task];
        !is_over && now <= s.ts + self.config.tasks[task].window.ms()
    }

    fn is_open(&self, s: &Shown, now: i64) -> bool {
        (0..self.config.n_tasks()).any(|task| self.is_task_open(s, task, now))
    }

    /// When the sample with the labels seen so far is made, if time alone makes it.
    fn wait_end(&self, s: &Shown, task: usize) -> Option<i64> {
        let wait = self.config.policy_wait_ms().filter(|_| !s.is_sampled_at_once)?;
        Some(s.ts + wait.min(self.config.tasks[task].window.ms()))
    }

    /// True if an action that does not name its request may belong to an impression.
    fn fits(&self, index: usize, w: &Waiting, now: i64) -> bool {
        let s = &self.shown[index];
        let task = usize::from(w.task);
        let since = w.ts - s.ts;
        let is_in_window =
            since >= -self.config.max_clock_skew.ms() && since <= self.config.tasks[task].window.ms();
        self.config.by == JoinBy::UserItem
            && w.request.is_none()
            && w.user == user_of(s.request)
            && s.items.contains(&w.item)
            && is_in_window
            && self.is_task_open(s, task, now)
    }

    /// The order of touches.
    fn touch(&self, index: usize) -> (i64, i32, usize) {
        let s = &self.shown[index];
        (s.ts, s.partition, s.offset)
    }

    /// The value of a positive as its samples have it. The second task ignores values.
    fn value(&mut self, task: u8, value: Option<f32>) -> Option<f32> {
        let value = value.filter(|_| task != 1)?;
        self.report.clamped += u64::from(!(0.0..=VALUE_CAP).contains(&value));
        Some(value.clamp(0.0, VALUE_CAP) / VALUE_CAP)
    }

    fn give_up(&mut self, w: &Waiting) -> &'static str {
        if w.request.is_none() {
            self.report.fates[3] += 1;
            return "unattributed";
        }
        self.report.fates[0] += 1;
        "orphan"
    }

    /// The key of the slot in which an action waits.
    fn slot_of(w: &Waiting) -> u64 {
        w.request.unwrap_or_else(|| Id(w.user).pair(Id(w.item)).0)
    }

    fn gives_up_after(&self, w: &Waiting) -> i64 {
        w.ts + self.config.allowed_lateness.ms() + self.config.max_clock_skew.ms()
    }

    /// An action meets its impression.
    fn resolve(
        &mut self,
        k: usize,
        index: usize,
        a: &Waiting,
        group: &mut Vec<EmittedSample>,
    ) -> &'static str {
        let now = self.watermarks[k];
        let s = &self.shown[index];
        let is_open = self.is_open(s, now);
        let task = usize::from(a.task);
        let positive = s.positives.iter().position(|p| (p.0, p.1) == (a.item, a.task));
        let since = a.ts - s.ts;
        if let Some(place) = positive {
            if s.positives[place].2 {
                return "duplicate action";
            }
            self.shown[index].positives[place].2 = true;
            self.report.fates[1] += 1;
            return "matched";
        }
        if is_open && since < -self.config.max_clock_skew.ms() {
            return "before shown";
        }
        if !self.is_task_open(s, task, now) || since > self.config.tasks[task].window.ms() {
            self.report.fates[2] += 1;
            return "late action";
        }
        if self.config.label_policy.is_at_once() && !s.is_sampled_at_once {
            self.emit_negatives(index, group);
        }
        let value = self.value(a.task, a.value);
        self.shown[index].positives.push((a.item, a.task, true, value));
        let s = &self.shown[index];
        let was_sampled = k > s.offset && self.wait_end(s, task).is_some_and(|end| end < now);
        let emitted = |kind| self.emitted(s, a.item, kind, vec![(a.task, true)], Some(record_ms(a.ts)));
        match (self.config.label_policy, was_sampled) {
            (LabelPolicy::Eager, _) if s.held.contains(&a.task) => {}
            (LabelPolicy::Eager, _) => group.push(emitted(SampleKind::Final)),
            (LabelPolicy::Fnw | LabelPolicy::Fnc, _) => group.push(emitted(SampleKind::LatePositive)),
            (LabelPolicy::EsDfm, true) => group.push(emitted(SampleKind::LatePositive)),
            (LabelPolicy::Defer, true) => {
                group.push(emitted(SampleKind::RealCopy));
                self.shown[index].copied.push((a.item, a.task));
            }
            _ => {}
        }
        self.report.fates[1] += 1;
        "matched"
    }

    /// Late, positive and negative items of a task over all impressions.
    fn labels(&self, task: usize) -> [u64; 3] {
        let mut counts = [0; 3];
        for s in &self.shown {
            let positives = s.positives.iter().filter(|p| usize::from(p.1) == task).count() as u64;
            let items = s.items.len() as u64;
            if s.late[task] {
                counts[0] += items;
            } else {
                counts[1] += positives;
                counts[2] += items - positives;
            }
        }
        counts
    }

    fn emitted(
        &self,
        s: &Shown,
        item: u64,
        kind: SampleKind,
        labels: Vec<(u8, bool)>,
        ms: Option<i64>,
    ) -> EmittedSample {
        let value = |(task, is_positive): &(u8, bool)| {
            let positive = s.positives.iter().find(|p| (p.0, p.1) == (item, *task))?;
            Some((*task, positive.3.filter(|_| *is_positive)?.to_bits()))
        };
        EmittedSample {
            request: s.request,
            shown_at: i64::try_from(s.offset).unwrap(),
            item,
            kind: kind as u8,
            values: labels.iter().filter_map(value).collect(),
            labels,
            action_ms: ms,
        }
    }

    fn emit(&mut self, group: Vec<EmittedSample>) {
        if !group.is_empty() {
            self.report.groups.push(group);
        }
    }
}
