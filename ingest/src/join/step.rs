//! One event or one due time applied to one slot: the logic of the join, without store, clock or caps.

use std::sync::Arc;

use ouzel_sample::{Action, EventTime, Id, Impression, Position, Sample, TaskId};

use crate::join::clock::passed;
use crate::join::config::JoinConfig;
use crate::join::counters::Counters;
use crate::join::effects::{Captured, ClosedImpression, CountedAction, FeatureSource, JoinEffects, Outcome};
use crate::join::error::JoinError;
use crate::join::planted_bug::PlantedBug;
use crate::join::policy::{self, CloseReason};
use crate::join::slot::{ClosedRequest, EarlyAction, EarlyActions, OpenImpression, OpenItem, RequestSlot};

/// Actions that may wait for one impression; more than a slate has (item, task) pairs is an attack.
const MAX_WAITING_PER_REQUEST: usize = 1_024;

/// The surroundings of a change to one slot, and where its samples and outcomes go.
pub(crate) struct SlotChange<'a> {
    pub(crate) config: &'a JoinConfig,
    pub(crate) counters: &'a mut Counters,
    /// The watermark before the event.
    pub(crate) watermark: EventTime,
    /// Requests that expire by then may have been forgotten already.
    pub(crate) floor: EventTime,
    pub(crate) planted_bug: Option<PlantedBug>,
    /// When the first impression was shown; [`EventTime::MIN`] once the start-up is over.
    pub(crate) first_shown: Option<EventTime>,
    /// The samples made by this change.
    pub(crate) group: Vec<Sample>,
    pub(crate) effects: &'a mut JoinEffects,
}

impl SlotChange<'_> {
    /// An impression arrives.
    pub(crate) fn impression(
        &mut self,
        slot: &mut Option<RequestSlot>,
        position: Position,
        impression: &Impression,
        features: &mut dyn FeatureSource,
    ) -> Result<Outcome, JoinError> {
        let n_items = impression.items.len() as u64;
        let is_known = matches!(slot, Some(RequestSlot::Open(_) | RequestSlot::Closed(_)));
        if is_known && !self.has(PlantedBug::ForgetImpressionDedup) {
            self.counters.add_duplicate_impression(n_items);
            return Ok(Outcome::Duplicate);
        }
        let expires = passed(impression.ts, self.config.dedup_ms());
        let is_forgotten = expires <= self.watermark.max(self.floor);
        let late = match impression.known_actions {
            _ if is_forgotten => self.config.all_tasks(),
            Some(_) => 0,
            None => self.tasks_over(impression.ts),
        };
        // Checked before anything changes.
        let captured = if late == self.config.all_tasks() {
            None
        } else {
            Some(capture(features, impression)?)
        };
        self.counters.add_impression(n_items, late);
        let waiting = match slot.take() {
            Some(RequestSlot::Early(early)) if !self.has(PlantedBug::ForgetEarlyActions) => early.actions,
            _ => Vec::new(),
        };
        self.counters.waiting = self.counters.waiting.wrapping_sub(waiting.len() as u64);
        let Some(captured) = captured else {
            self.counters.late_actions += waiting.len() as u64;
            *slot = (!is_forgotten).then(|| {
                RequestSlot::Closed(ClosedRequest {
                    expires,
                    positives: Box::default(),
                })
            });
            return Ok(Outcome::Late);
        };
        let mut open = open(position, captured, late);
        open.held = self.tasks_starting_up(impression.ts);
        *slot = Some(match &impression.known_actions {
            Some(known_actions) => {
                let mut closed = self.reveal(&mut open, known_actions, expires);
                for action in &waiting {
                    self.act_closed(&mut closed, action.item, action.task);
                }
                RequestSlot::Closed(closed)
            }
            None => {
                self.accept(&mut open, &waiting);
                RequestSlot::Open(Box::new(open))
            }
        });
        Ok(Outcome::Accepted)
    }

    /// Makes the first samples of an accepted impression, and attributes the actions that waited for it.
    fn accept(&mut self, open: &mut OpenImpression, waiting: &[EarlyAction]) {
        let wait = self.config.policy_wait_ms();
        if self.config.label_policy.is_at_once()
            && wait.is_some_and(|wait| passed(open.request.ts, wait) <= self.watermark)
        {
            policy::shown(open, self.config.all_tasks() & !open.closed, &mut self.group);
        }
        for action in waiting {
            let outcome = self.act(open, action);
            let counted = Action {
                request: open.request.id,
                item: action.item,
                user: open.request.user,
                ts: action.ts,
                task: action.task,
                value: None,
            };
            self.count_action(outcome, counted, action.offset, Some(open));
        }
        self.effects.actions.sort_by_key(|action| action.is_late);
        self.counters.pending_items += open.items.len() as u64;
        open.next = self.next_due(open);
    }

    /// An action arrives.
    pub(crate) fn action(
        &mut self,
        slot: &mut Option<RequestSlot>,
        action: &Action,
        waiting: EarlyAction,
    ) -> Outcome {
        self.counters.actions += 1;
        let mut impression = None;
        let outcome = match slot {
            Some(RequestSlot::Open(open)) => {
                let outcome = self.act(open, &waiting);
                impression = Some(&**open);
                outcome
            }
            Some(RequestSlot::Closed(closed)) => self.act_closed(closed, action.item, action.task),
            _ => self.wait(slot, waiting),
        };
        self.count_action(outcome, *action, waiting.offset, impression);
        outcome
    }

    /// Notes an action that counts from here on: one that matched, or one that is late. Its user did both.
    fn count_action(&mut self, outcome: Outcome, action: Action, offset: i64, open: Option<&OpenImpression>) {
        let is_late = outcome == Outcome::LateAction;
        if is_late || outcome == Outcome::Matched {
            let attributed = |open: &OpenImpression| (open.shown_at, Arc::clone(&open.request));
            self.effects.actions.push(CountedAction {
                action,
                offset,
                impression: open.filter(|_| !is_late).map(attributed),
                is_late,
            });
        }
    }

    fn wait(&mut self, slot: &mut Option<RequestSlot>, action: EarlyAction) -> Outcome {
        let is_given_up = action.expires <= self.watermark;
        let Some(RequestSlot::Early(early)) = slot else {
            if is_given_up {
                self.counters.orphans += 1;
                return Outcome::Orphan;
            }
            self.counters.waiting += 1;
            *slot = Some(RequestSlot::Early(Box::new(EarlyActions {
                next: action.expires,
                actions: vec![action],
            })));
            return Outcome::Early;
        };
        let same =
            |other: &EarlyAction| (other.item, other.task, other.ts) == (action.item, action.task, action.ts);
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

    /// The watermark has reached the time that an open slot waits for.
    pub(crate) fn close_due(&mut self, slot: &mut Option<RequestSlot>) {
        let Some(RequestSlot::Open(open)) = slot else {
            return;
        };
        let (at, shown) = (open.next, open.request.ts);
        let (mut waits, mut closes) = (0, 0);
        for (task, config) in self.config.tasks() {
            let bit = 1 << task;
            let wait = self.config.wait_ms(config);
            if (open.closed | open.sampled) & bit == 0 && wait.is_some_and(|wait| passed(shown, wait) <= at) {
                waits |= bit;
            }
            if open.closed & bit == 0 && passed(shown, config.window.ms()) <= at {
                closes |= bit;
            }
        }
        self.close(slot, waits, closes, CloseReason::Due);
    }

    /// Too much is pending: closes an open slot before its time.
    pub(crate) fn close_early(&mut self, slot: &mut Option<RequestSlot>) {
        let Some(RequestSlot::Open(open)) = slot else {
            return;
        };
        let closes = self.config.all_tasks() & !open.closed;
        let waits = match self.config.policy_wait_ms() {
            Some(_) => closes & !open.sampled,
            None => 0,
        };
        self.counters.closed_early += 1;
        self.close(slot, waits, closes, CloseReason::Overload);
    }

    /// Gives up the waiting actions that expire by `due`. Returns their number.
    pub(crate) fn give_up(&mut self, slot: &mut Option<RequestSlot>, due: EventTime) -> u64 {
        let Some(RequestSlot::Early(early)) = slot else {
            return 0;
        };
        let before = early.actions.len();
        early.actions.retain(|action| action.expires > due);
        let n_given_up = (before - early.actions.len()) as u64;
        if !early.update_next() {
            *slot = None;
        }
        self.counters.waiting = self.counters.waiting.wrapping_sub(n_given_up);
        self.counters.orphans += n_given_up;
        n_given_up
    }

    fn close(&mut self, slot: &mut Option<RequestSlot>, waits: u8, closes: u8, close: CloseReason) {
        let Some(RequestSlot::Open(open)) = slot else {
            return;
        };
        if waits != 0 {
            policy::waited(self.config.label_policy, open, waits, &mut self.group);
        }
        if closes != 0 {
            for item in &open.items {
                for task in bits(closes & !item.positive) {
                    self.counters.decide(task, false);
                }
            }
            policy::closed(self.config.label_policy, open, closes, close, &mut self.group);
            open.closed |= closes;
        }
        if open.closed == self.config.all_tasks() {
            self.counters.pending_items -= open.items.len() as u64;
            self.effects.closed.push(ClosedImpression {
                shown_at: open.shown_at,
                user: open.request.user,
            });
            let expires = passed(open.request.ts, self.config.dedup_ms());
            let closed = open.close(expires);
            *slot = (!self.has(PlantedBug::ForgetClosed)).then_some(RequestSlot::Closed(closed));
        } else {
            open.next = self.next_due(open);
        }
    }

    fn act(&mut self, open: &mut OpenImpression, action: &EarlyAction) -> Outcome {
        let bit = 1u8 << action.task;
        let is_shown = |item: &OpenItem| item.candidate.item == action.item;
        let Some(index) = open.items.iter().position(is_shown) else {
            self.counters.orphans += 1;
            return Outcome::Orphan;
        };
        if open.items[index].positive & bit != 0 && !self.has(PlantedBug::ForgetActionDedup) {
            self.counters.duplicate_actions += 1;
            return Outcome::DuplicateAction;
        }
        let since_shown = action.ts.since_ms(open.request.ts);
        let earliest = i64::from(self.has(PlantedBug::SkewEdge)) - self.config.max_clock_skew.ms();
        if since_shown < earliest {
            self.counters.before_shown += 1;
            return Outcome::BeforeShown;
        }
        let window = self.config.tasks[usize::from(action.task)].window.ms();
        let latest = window - i64::from(self.has(PlantedBug::WindowEdge));
        if open.closed & bit != 0 || since_shown > latest {
            self.counters.late_actions += 1;
            return Outcome::LateAction;
        }
        if self.config.label_policy.is_at_once() && !self.has(PlantedBug::PositiveFirst) {
            // A late positive corrects an early negative, which must come first.
            let unsampled = self.config.all_tasks() & !(open.closed | open.sampled);
            if unsampled != 0 {
                policy::shown(open, unsampled, &mut self.group);
                open.next = self.next_due(open);
            }
        }
        open.items[index].positive |= bit;
        self.counters.matched += 1;
        self.counters.decide(action.task, true);
        let record_ms = Some(action.record_ms);
        policy::acted(
            self.config.label_policy,
            open,
            index,
            action.task,
            record_ms,
            &mut self.group,
        );
        Outcome::Matched
    }

    fn act_closed(&mut self, closed: &mut ClosedRequest, item: Id, task: TaskId) -> Outcome {
        let bit = 1u8 << task;
        let mut positives = closed.positives.iter_mut();
        match positives.find(|positive| positive.item == item && positive.tasks & bit != 0) {
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
                Outcome::Matched
            }
        }
    }

    /// Decides every task of every item by the labels that came with the impression.
    fn reveal(
        &mut self,
        open: &mut OpenImpression,
        known_actions: &[(Id, TaskId)],
        expires: EventTime,
    ) -> ClosedRequest {
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
        policy::fully_labeled(open, all, &mut self.group);
        let mut closed = open.close(expires);
        for positive in &mut closed.positives {
            positive.seen = 0;
        }
        closed
    }

    /// Tasks of which no window has closed yet, so that no negative can have been emitted.
    fn tasks_starting_up(&self, shown: EventTime) -> u8 {
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
            .filter(|(_, config)| passed(shown, config.window.ms()) <= self.watermark)
            .fold(0, |mask, (task, _)| mask | 1 << task)
    }

    /// The next end of a wait or a window.
    fn next_due(&self, open: &OpenImpression) -> EventTime {
        let shown = open.request.ts;
        self.config
            .tasks()
            .filter(|(task, _)| open.closed & (1 << task) == 0)
            .map(|(task, config)| match self.config.wait_ms(config) {
                Some(wait) if open.sampled & (1 << task) == 0 => passed(shown, wait),
                _ => passed(shown, config.window.ms()),
            })
            .min()
            .unwrap_or(EventTime::MAX)
    }

    fn has(&self, bug: PlantedBug) -> bool {
        self.planted_bug == Some(bug)
    }
}

/// The features of an impression, one candidate for each item it showed.
fn capture(features: &mut dyn FeatureSource, impression: &Impression) -> Result<Captured, JoinError> {
    let captured = features.capture(impression);
    if captured.candidates.len() != impression.items.len() {
        return Err(JoinError::Captured {
            request: impression.request,
            shown: impression.items.len(),
            captured: captured.candidates.len(),
        });
    }
    Ok(captured)
}

fn open(shown_at: Position, captured: Captured, late: u8) -> OpenImpression {
    let items = captured
        .candidates
        .into_iter()
        .map(|candidate| OpenItem {
            candidate,
            positive: 0,
            copied: 0,
        })
        .collect();
    OpenImpression {
        request: captured.request,
        shown_at,
        items,
        next: EventTime::MAX,
        closed: late,
        sampled: 0,
        held: 0,
    }
}

/// The tasks of a set.
fn bits(mask: u8) -> impl Iterator<Item = TaskId> {
    (0..8).filter(move |task| mask & (1 << task) != 0)
}
