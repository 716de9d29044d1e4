//! One event or one moment applied to one slot: the whole logic of the join, without store, clock or caps.

use std::sync::Arc;

use ouzel_sample::{EventTime, Id, Impression, Position, Sample, TaskId};

use crate::join::config::JoinConfig;
use crate::join::counters::Counters;
use crate::join::error::JoinError;
use crate::join::fault::Fault;
use crate::join::joiner::{Captured, Outcome, ResolvedEarlyAction};
use crate::join::policy::{self, Close};
use crate::join::slot::{Closed, Early, Open, OpenItem, Positive, Slot, Waiting};

/// Actions that may wait for one impression; more than a slate has (item, task) pairs is an attack.
const MAX_WAITING_PER_REQUEST: usize = 1_024;

/// What a slot is changed under, and where its samples and outcomes go.
pub(crate) struct Step<'a> {
    pub(crate) config: &'a JoinConfig,
    pub(crate) counters: &'a mut Counters,
    /// The watermark before the event.
    pub(crate) now: EventTime,
    /// Requests that would be forgotten by then may have been forgotten already.
    pub(crate) floor: EventTime,
    pub(crate) fault: Option<Fault>,
    /// When the first impression was shown; the distant past once the start-up is over.
    pub(crate) first_shown: Option<EventTime>,
    pub(crate) group: Vec<Sample>,
    /// Actions that had waited for this impression and count for it.
    pub(crate) resolved: Vec<ResolvedEarlyAction>,
    /// The impression of this slot, if its last window closed.
    pub(crate) closed: Option<(Position, Id)>,
}

impl Step<'_> {
    /// An impression comes. `capture` is called only if it is joined.
    pub(crate) fn impression(
        &mut self,
        slot: &mut Option<Slot>,
        position: Position,
        impression: &Impression,
        capture: impl FnOnce(&Impression) -> Captured,
    ) -> Result<Outcome, JoinError> {
        let n_items = count(impression.items.len());
        if matches!(slot, Some(Slot::Open(_) | Slot::Closed(_))) && !self.has(Fault::ForgetImpressionDedup) {
            self.counters.impressions += 1;
            self.counters.items += n_items;
            self.counters.duplicate_impressions += 1;
            self.counters.duplicate_items += n_items;
            return Ok(Outcome::Duplicate);
        }
        let expires = passed(impression.ts, self.config.dedup_ms());
        let is_forgotten = expires <= self.now.max(self.floor);
        let all = self.config.all_tasks();
        let late = match impression.known_actions {
            _ if is_forgotten => all,
            Some(_) => 0,
            None => self.tasks_over(impression.ts),
        };
        let captured = if late == all {
            None
        } else {
            Some(capture(impression))
        };
        if let Some(captured) = &captured
            && captured.candidates.len() != impression.items.len()
        {
            return Err(JoinError::Captured {
                request: impression.request,
                shown: impression.items.len(),
                captured: captured.candidates.len(),
            });
        }

        self.counters.impressions += 1;
        self.counters.items += n_items;
        for (task, _) in self.config.tasks() {
            let of = &mut self.counters.tasks[usize::from(task)];
            if late & (1 << task) != 0 {
                of.late += n_items;
            } else {
                of.pending += n_items;
            }
        }
        let waiting = match slot.take() {
            Some(Slot::Early(early)) if !self.has(Fault::ForgetEarlyActions) => early.actions,
            _ => Vec::new(),
        };
        self.counters.waiting = self.counters.waiting.wrapping_sub(count(waiting.len()));
        let Some(captured) = captured else {
            self.counters.late_impressions += 1;
            self.counters.late_actions += count(waiting.len());
            if !is_forgotten {
                *slot = Some(Slot::Closed(Closed {
                    expires,
                    positives: Box::default(),
                }));
            }
            return Ok(Outcome::Late);
        };
        self.counters.accepted += 1;
        let mut open = open(position, captured, late);
        open.held = self.starting_up(impression.ts);
        if let Some(known_actions) = &impression.known_actions {
            let mut closed = self.reveal(&mut open, known_actions, expires);
            for action in &waiting {
                self.act_closed(&mut closed, action.item, action.task);
            }
            *slot = Some(Slot::Closed(closed));
        } else {
            let wait = self.config.policy.wait_ms();
            if self.config.policy.is_at_once()
                && wait.is_some_and(|wait| passed(open.request.ts, wait) <= self.now)
            {
                policy::shown(&mut open, all & !late, &mut self.group);
            }
            for action in &waiting {
                let is_late = match self.act(&mut open, action) {
                    Outcome::Matched(_) => false,
                    Outcome::LateAction => true,
                    _ => continue,
                };
                self.resolved.push(ResolvedEarlyAction {
                    item: action.item,
                    task: action.task,
                    ts: action.ts,
                    offset: action.offset,
                    is_late,
                });
            }
            self.resolved.sort_by_key(|resolved| resolved.is_late);
            self.counters.pending_items += n_items;
            open.next = self.next(&open);
            *slot = Some(Slot::Open(Box::new(open)));
        }
        Ok(Outcome::Accepted)
    }

    /// An action comes.
    pub(crate) fn action(&mut self, slot: &mut Option<Slot>, action: Waiting) -> Outcome {
        self.counters.actions += 1;
        let is_given_up = action.expires <= self.now;
        match slot {
            Some(Slot::Open(open)) => self.act(open, &action),
            Some(Slot::Closed(closed)) => self.act_closed(closed, action.item, action.task),
            Some(Slot::Early(early)) => {
                let same = |other: &Waiting| {
                    (other.item, other.task, other.ts) == (action.item, action.task, action.ts)
                };
                if early.actions.iter().any(same) {
                    self.counters.duplicate_actions += 1;
                    return Outcome::DuplicateAction;
                }
                if is_given_up || early.actions.len() >= MAX_WAITING_PER_REQUEST {
                    self.counters.orphans += 1;
                    return Outcome::Orphan;
                }
                self.counters.waiting += 1;
                early.next = early.next.min(action.expires);
                early.actions.push(action);
                Outcome::Early
            }
            None if is_given_up => {
                self.counters.orphans += 1;
                Outcome::Orphan
            }
            None => {
                self.counters.waiting += 1;
                let next = action.expires;
                *slot = Some(Slot::Early(Box::new(Early {
                    next,
                    actions: vec![action],
                })));
                Outcome::Early
            }
        }
    }

    /// The watermark has reached the moment an open slot waits for.
    pub(crate) fn due(&mut self, slot: &mut Option<Slot>) {
        let Some(Slot::Open(open)) = slot else { return };
        let (at, shown) = (open.next, open.request.ts);
        let (mut waits, mut closes) = (0, 0);
        for (task, config) in self.config.tasks() {
            let bit = 1 << task;
            let wait = self.config.wait_ms(config);
            if (open.closed | open.sampled) & bit == 0 && wait.is_some_and(|wait| passed(shown, wait) <= at) {
                waits |= bit;
            }
            if open.closed & bit == 0 && passed(shown, config.window_ms) <= at {
                closes |= bit;
            }
        }
        self.shut(slot, waits, closes, Close::Due);
    }

    /// Too much is pending: an open slot closes before its time.
    pub(crate) fn overload(&mut self, slot: &mut Option<Slot>) {
        let Some(Slot::Open(open)) = slot else { return };
        let closes = self.config.all_tasks() & !open.closed;
        let waits = match self.config.policy.wait_ms() {
            Some(_) => closes & !open.sampled,
            None => 0,
        };
        self.counters.closed_early += 1;
        self.shut(slot, waits, closes, Close::Overload);
    }

    /// Gives up the waiting actions that expire by `until`. Returns how many.
    pub(crate) fn give_up(&mut self, slot: &mut Option<Slot>, until: EventTime) -> u64 {
        let Some(Slot::Early(early)) = slot else { return 0 };
        let before = early.actions.len();
        early.actions.retain(|action| action.expires > until);
        let given_up = count(before - early.actions.len());
        if !early.settle() {
            *slot = None;
        }
        self.counters.waiting = self.counters.waiting.wrapping_sub(given_up);
        self.counters.orphans += given_up;
        given_up
    }

    fn shut(&mut self, slot: &mut Option<Slot>, waits: u8, closes: u8, close: Close) {
        let Some(Slot::Open(open)) = slot else { return };
        if waits != 0 {
            policy::waited(self.config.policy, open, waits, &mut self.group);
        }
        if closes != 0 {
            for item in &open.items {
                for task in bits(closes & !item.positive) {
                    self.counters.decide(task, false);
                }
            }
            policy::closed(self.config.policy, open, closes, close, &mut self.group);
            open.closed |= closes;
        }
        if open.closed == self.config.all_tasks() {
            self.counters.pending_items -= count(open.items.len());
            self.closed = Some((open.shown_at, open.request.user));
            let expires = passed(open.request.ts, self.config.dedup_ms());
            let closed = open.close(expires);
            *slot = (!self.has(Fault::ForgetClosed)).then_some(Slot::Closed(closed));
        } else {
            open.next = self.next(open);
        }
    }

    fn act(&mut self, open: &mut Open, action: &Waiting) -> Outcome {
        let bit = 1u8 << action.task;
        let Some(index) = open
            .items
            .iter()
            .position(|item| item.candidate.item == action.item)
        else {
            self.counters.orphans += 1;
            return Outcome::Orphan;
        };
        if open.items[index].positive & bit != 0 && !self.has(Fault::ForgetActionDedup) {
            self.counters.duplicate_actions += 1;
            return Outcome::DuplicateAction;
        }
        let since_shown = action.ts.since_ms(open.request.ts);
        let earliest = i64::from(self.has(Fault::SkewEdge)) - self.config.skew_ms;
        if since_shown < earliest {
            self.counters.before_shown += 1;
            return Outcome::BeforeShown;
        }
        let window = self.config.tasks[usize::from(action.task)].window_ms;
        let latest = window - i64::from(self.has(Fault::WindowEdge));
        if open.closed & bit != 0 || since_shown > latest {
            self.counters.late_actions += 1;
            return Outcome::LateAction;
        }
        if self.config.policy.is_at_once() && !self.has(Fault::PositiveFirst) {
            // Actions do come; and a positive corrects only what was told.
            let untold = self.config.all_tasks() & !(open.closed | open.sampled);
            if untold != 0 {
                policy::shown(open, untold, &mut self.group);
                open.next = self.next(open);
            }
        }
        open.items[index].positive |= bit;
        self.counters.matched += 1;
        self.counters.decide(action.task, true);
        let record_ms = Some(action.record_ms);
        policy::acted(
            self.config.policy,
            open,
            index,
            action.task,
            record_ms,
            &mut self.group,
        );
        Outcome::Matched(Some(Arc::clone(&open.request)))
    }

    fn act_closed(&mut self, closed: &mut Closed, item: Id, task: TaskId) -> Outcome {
        let bit = 1u8 << task;
        let positive = closed
            .positives
            .iter_mut()
            .find(|positive| positive.item == item && positive.tasks & bit != 0);
        match positive {
            None => {
                self.counters.late_actions += 1;
                Outcome::LateAction
            }
            Some(positive) if positive.seen & bit != 0 => {
                self.counters.duplicate_actions += 1;
                Outcome::DuplicateAction
            }
            Some(positive) => {
                positive.seen |= bit;
                self.counters.matched += 1;
                Outcome::Matched(None)
            }
        }
    }

    /// Decides every task of every item by the labels that came with the impression.
    fn reveal(&mut self, open: &mut Open, known_actions: &[(Id, TaskId)], expires: EventTime) -> Closed {
        let all = self.config.all_tasks();
        for item in &mut open.items {
            item.positive = known_actions
                .iter()
                .filter(|(id, _)| *id == item.candidate.item)
                .fold(0, |mask, (_, task)| mask | 1 << task)
                & all;
            for (task, _) in self.config.tasks() {
                self.counters.decide(task, item.positive & (1 << task) != 0);
            }
        }
        policy::known_actions(open, all, &mut self.group);
        let mut closed = open.close(expires);
        closed
            .positives
            .iter_mut()
            .for_each(|Positive { seen, .. }| *seen = 0);
        closed
    }

    /// Tasks of which no window has closed yet, so that no negative can have been told.
    fn starting_up(&self, shown: EventTime) -> u8 {
        let first = self.first_shown.unwrap_or(shown);
        if first == EventTime::MIN {
            return 0;
        }
        self.config.all_tasks() & !self.tasks_over(first)
    }

    /// Tasks whose window is over for an impression shown at `shown`.
    fn tasks_over(&self, shown: EventTime) -> u8 {
        self.config
            .tasks()
            .filter(|(_, config)| passed(shown, config.window_ms) <= self.now)
            .fold(0, |mask, (task, _)| mask | 1 << task)
    }

    /// The next end of a wait or a window.
    fn next(&self, open: &Open) -> EventTime {
        let shown = open.request.ts;
        self.config
            .tasks()
            .filter(|(task, _)| open.closed & (1 << task) == 0)
            .map(|(task, config)| match self.config.wait_ms(config) {
                Some(wait) if open.sampled & (1 << task) == 0 => passed(shown, wait),
                _ => passed(shown, config.window_ms),
            })
            .min()
            .unwrap_or(EventTime::MAX)
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }
}

fn open(shown_at: Position, captured: Captured, late: u8) -> Open {
    let items = captured
        .candidates
        .into_iter()
        .map(|candidate| OpenItem {
            candidate,
            positive: 0,
            copied: 0,
        })
        .collect();
    Open {
        request: captured.request,
        shown_at,
        items,
        next: EventTime::MAX,
        closed: late,
        sampled: 0,
        held: 0,
    }
}

/// The first watermark at which no on-time event dated up to `span_ms` after `ts` can still come. An event on
/// the watermark is on time, so that is one past the end of the span.
pub(crate) fn passed(ts: EventTime, span_ms: i64) -> EventTime {
    ts.plus_ms(span_ms.saturating_add(1))
}

/// The tasks of a set.
fn bits(mask: u8) -> impl Iterator<Item = TaskId> {
    (0..8).filter(move |task| mask & (1 << task) != 0)
}

fn count(n: usize) -> u64 {
    n as u64
}
