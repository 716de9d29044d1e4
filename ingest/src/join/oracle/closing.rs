//! What the oracle makes of waits and windows that end, and of caps.

use super::*;

impl Oracle<'_> {
    pub(super) fn first_samples(&mut self, k: usize, index: usize, group: &mut Vec<EmittedSample>) {
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

    pub(super) fn emit_negatives(&mut self, index: usize, group: &mut Vec<EmittedSample>) {
        let s = &self.shown[index];
        for item in &s.items {
            let tasks = (0u8..).zip(&s.late).filter(|(_, late)| !**late);
            let labels = tasks.map(|(task, _)| (task, false)).collect();
            group.push(self.emitted(s, *item, SampleKind::EarlyNegative, labels, None));
        }
        self.shown[index].is_sampled_at_once = true;
    }

    /// Everything whose time comes with event `k`, in order of that time.
    pub(super) fn close(&mut self, k: usize) {
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

    pub(super) fn closing_samples(
        &self,
        s: &Shown,
        waits: &[u8],
        closes: &[u8],
        is_forced: bool,
    ) -> Vec<EmittedSample> {
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

    pub(super) fn enforce_caps(&mut self, now: i64) {
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
}
