//! A second joiner that is too simple to be wrong: lists, linear scans, every question answered from the whole past.
//! It shares only the configuration with the first one.

use ouzel_sample::{Id, PartitionId, SampleKind};

use crate::join::config::{JoinBy, JoinConfig, LabelPolicy};
use crate::join::world::{
    EmittedSample, Report, VALUE_CAP, WorldEvent, known_value, record_ms, user_of, watermarks,
};

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

    fn first_samples(&mut self, k: usize, index: usize, group: &mut Vec<EmittedSample>) {
        let n_tasks = u8::try_from(self.config.n_tasks()).unwrap();
        if let Some(known_actions) = self.shown[index].known_actions.clone() {
            for item in self.shown[index].items.clone() {
                let labels: Vec<_> = (0..n_tasks)
                    .map(|task| (task, known_actions.contains(&(item, task))))
                    .collect();
                for (task, _) in labels.iter().filter(|(_, is_positive)| *is_positive) {
                    let value = self.value(*task, Some(known_value(item)));
                    self.shown[index].positives.push((item, *task, false, value));
                }
                group.push(self.emitted(&self.shown[index], item, SampleKind::Final, labels, None));
            }
        } else if self.config.label_policy.is_at_once()
            && (self.wait_end(&self.shown[index], 0)).is_some_and(|end| end < self.watermarks[k])
        {
            self.emit_negatives(index, group);
        }
    }

    fn emit_negatives(&mut self, index: usize, group: &mut Vec<EmittedSample>) {
        let s = &self.shown[index];
        for item in &s.items {
            let tasks = (0u8..).zip(&s.late).filter(|(_, late)| !**late);
            let labels = tasks.map(|(task, _)| (task, false)).collect();
            group.push(self.emitted(s, *item, SampleKind::EarlyNegative, labels, None));
        }
        self.shown[index].is_sampled_at_once = true;
    }

    /// Everything whose time comes with event `k`, in order of that time.
    fn close(&mut self, k: usize) {
        let (before, now) = (self.watermarks[k], self.watermarks[k + 1]);
        let mut moments = Vec::new();
        for (index, s) in self.shown.iter().enumerate() {
            for task in 0..self.config.n_tasks() {
                // A window that was open before, or would have been had the impression come before.
                if s.is_forced || s.known_actions.is_some() || s.late[task] {
                    continue;
                }
                let window_end = s.ts + self.config.tasks[task].window.ms();
                for end in self.wait_end(s, task).into_iter().chain([window_end]) {
                    if end < now && (end >= before || s.offset == k) {
                        moments.push((end, s.request, index));
                    }
                }
            }
        }
        moments.sort_unstable();
        moments.dedup();
        for (end, _, index) in moments {
            let s = &self.shown[index];
            let of = |at: &dyn Fn(usize) -> Option<i64>| -> Vec<u8> {
                let n_tasks = u8::try_from(self.config.n_tasks()).unwrap();
                (0..n_tasks)
                    .filter(|t| !s.late[usize::from(*t)] && at(usize::from(*t)) == Some(end))
                    .collect()
            };
            let waits = of(&|task| self.wait_end(s, task));
            let closes = of(&|task| Some(s.ts + self.config.tasks[task].window.ms()));
            let group = self.closing_samples(s, &waits, &closes, false);
            self.shown[index].is_sampled_at_once |= self.config.label_policy.is_at_once();
            self.emit(group);
        }
        let (given_up, waiting) = self
            .waiting
            .drain(..)
            .partition(|w| w.ts + self.config.allowed_lateness.ms() + self.config.max_clock_skew.ms() < now);
        self.waiting = waiting;
        let given_up: Vec<Waiting> = given_up;
        for w in &given_up {
            self.give_up(w);
        }
    }

    fn closing_samples(&self, s: &Shown, waits: &[u8], closes: &[u8], is_forced: bool) -> Vec<EmittedSample> {
        let mut group = Vec::new();
        let is_positive = |item, task| s.positives.iter().any(|p| (p.0, p.1) == (item, task));
        let label = |item: u64, tasks: &[u8], keep: &dyn Fn(u8) -> bool| -> Vec<(u8, bool)> {
            tasks
                .iter()
                .filter(|t| keep(**t))
                .map(|t| (*t, is_positive(item, *t)))
                .collect()
        };
        let split = |item: u64, tasks: &[u8]| {
            let positives = label(item, tasks, &|t| is_positive(item, t));
            let negatives = label(item, tasks, &|t| !is_positive(item, t));
            [
                (SampleKind::Final, positives),
                (SampleKind::EarlyNegative, negatives),
            ]
        };
        let mut labelled: Vec<(u64, SampleKind, LabelList)> = Vec::new();
        for item in &s.items {
            if self.config.label_policy.is_at_once() {
                let negatives = waits.iter().map(|task| (*task, false)).collect();
                labelled.push((*item, SampleKind::EarlyNegative, negatives));
                continue;
            }
            labelled.extend(split(*item, waits).map(|(kind, labels)| (*item, kind, labels)));
        }
        for item in &s.items {
            match self.config.label_policy {
                LabelPolicy::Eager => {
                    let unsampled: Vec<u8> = closes
                        .iter()
                        .copied()
                        .filter(|t| !is_positive(*item, *t) || s.held.contains(t))
                        .collect();
                    if is_forced {
                        labelled.extend(split(*item, &unsampled).map(|(kind, labels)| (*item, kind, labels)));
                    } else {
                        labelled.push((*item, SampleKind::Final, label(*item, &unsampled, &|_| true)));
                    }
                }
                LabelPolicy::Wait if is_forced => {
                    labelled.extend(split(*item, closes).map(|(kind, labels)| (*item, kind, labels)));
                }
                LabelPolicy::Wait => {
                    labelled.push((*item, SampleKind::Final, label(*item, closes, &|_| true)))
                }
                LabelPolicy::Defer => {
                    let rest = label(*item, closes, &|t| !s.copied.contains(&(*item, t)));
                    labelled.push((*item, SampleKind::RealCopy, rest));
                }
                LabelPolicy::Fnw | LabelPolicy::Fnc | LabelPolicy::EsDfm => {}
            }
        }
        for (item, kind, labels) in labelled {
            if !labels.is_empty() {
                group.push(self.emitted(s, item, kind, labels, None));
            }
        }
        group
    }

    fn enforce_caps(&mut self, now: i64) {
        loop {
            let open: Vec<&Shown> = self.shown.iter().filter(|s| self.is_open(s, now)).collect();
            if open.iter().map(|s| s.items.len()).sum::<usize>() <= self.config.max_pending_items {
                break;
            }
            let next = |s: &Shown| {
                (0..self.config.n_tasks())
                    .filter(|task| self.is_task_open(s, *task, now))
                    .flat_map(|task| {
                        let window_end = s.ts + self.config.tasks[task].window.ms();
                        self.wait_end(s, task).into_iter().chain([window_end])
                    })
                    .filter(|end| *end >= now)
                    .min()
            };
            let victim = open
                .iter()
                .min_by_key(|s| (next(s), s.request, s.offset))
                .unwrap();
            let n_tasks = u8::try_from(self.config.n_tasks()).unwrap();
            let closes: Vec<u8> = (0..n_tasks)
                .filter(|task| self.is_task_open(victim, usize::from(*task), now))
                .collect();
            let is_unsampled = |task: &u8| {
                self.wait_end(victim, usize::from(*task))
                    .is_some_and(|end| end >= now)
            };
            let waits: Vec<u8> = closes.iter().copied().filter(is_unsampled).collect();
            let group = self.closing_samples(victim, &waits, &closes, true);
            let offset = victim.offset;
            self.emit(group);
            self.report.early[0] += 1;
            self.shown
                .iter_mut()
                .find(|s| s.offset == offset)
                .unwrap()
                .is_forced = true;
        }
        while self.waiting.len() > self.config.max_early_actions {
            let first = self
                .waiting
                .iter()
                .map(|w| (self.gives_up_after(w), Self::slot_of(w)))
                .min();
            let is_first = |w: &&Waiting| Some((self.gives_up_after(w), Self::slot_of(w))) == first;
            let given_up: Vec<Waiting> = self.waiting.iter().filter(is_first).cloned().collect();
            let waiting = self.waiting.iter().filter(|w| !is_first(w)).cloned().collect();
            self.waiting = waiting;
            self.report.early[1] += given_up.len() as u64;
            for w in &given_up {
                self.give_up(w);
            }
        }
        loop {
            let is_remembered = |s: &&Shown| self.is_known(s, now) && !self.is_open(s, now);
            if self.shown.iter().filter(is_remembered).count() <= self.config.max_closed_requests {
                break;
            }
            let oldest = self.shown.iter().filter(is_remembered).map(|s| (s.ts, s.request));
            let (ts, request) = oldest.min().unwrap();
            let is_oldest = |s: &&Shown| is_remembered(s) && (s.ts, s.request) == (ts, request);
            let oldest = self.shown.iter().filter(is_oldest).map(|s| s.offset);
            let oldest: Vec<usize> = oldest.collect();
            self.floor = self.floor.max(ts + self.config.dedup_ms() + 1);
            self.report.early[2] += oldest.len() as u64;
            for s in &mut self.shown {
                s.is_forgotten |= oldest.contains(&s.offset);
            }
        }
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
