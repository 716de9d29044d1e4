//! Actions: matched with an item that was shown, or kept waiting until it is.

use std::sync::Arc;

use ouzel_sample::{Action, EventTime, Id, Position, ShownItem, TaskId};

use super::{SlotChange, next_due};
use crate::join::effects::{CountedAction, Outcome};
use crate::join::planted_bug::PlantedBug;
use crate::join::policy;
use crate::join::remembered::{LateMatch, RememberedImpression};
use crate::join::slot::{EarlyAction, EarlyActions, OpenImpression, PositiveValue, RequestSlot, append};

/// Actions that may wait in one request; more than a slate has (item, task) pairs is an attack.
const MAX_WAITING_PER_REQUEST: usize = 1_024;

impl SlotChange<'_> {
    /// An action arrives.
    pub(crate) fn action(
        &mut self,
        slot: &mut RequestSlot,
        action: &Action,
        waiting: EarlyAction,
    ) -> Outcome {
        self.counters.actions += 1;
        let mut impression = None;
        let is_open = |open: &OpenImpression| open.index_of(action.item).is_some();
        let outcome = if let Some(index) = slot.open.iter().position(is_open) {
            let open = &mut slot.open[index];
            let outcome = self.act(open, &waiting);
            impression = Some(&*open);
            outcome
        } else if let Some(closed) = slot
            .closed
            .iter_mut()
            .find(|closed| closed.has_shown(action.item))
        {
            self.act_closed(closed, action.item, action.task)
        } else {
            self.wait(slot, waiting)
        };
        self.count_action(outcome, *action, waiting.offset, impression);
        outcome
    }

    /// An action without a request arrives, which belongs to the open impression at `shown_at`.
    pub(crate) fn action_on(
        &mut self,
        slot: &mut RequestSlot,
        shown_at: Position,
        action: &Action,
        waiting: EarlyAction,
    ) -> Outcome {
        self.counters.actions += 1;
        let Some(open) = slot.open.iter_mut().find(|open| open.shown_at == shown_at) else {
            return self.unattributed(waiting);
        };
        let outcome = self.act(open, &waiting);
        let counted = Action {
            request: Some(open.request.id),
            ..*action
        };
        self.count_action(outcome, counted, waiting.offset, Some(&*open));
        outcome
    }

    /// Counts an action without a request that belongs to no impression. Its user did it all the same.
    pub(crate) fn unattributed(&mut self, action: EarlyAction) -> Outcome {
        self.counters.unattributed += 1;
        self.effects.actions.push(CountedAction {
            action: Action {
                request: None,
                item: action.item,
                user: action.user.unwrap_or_default(),
                ts: action.ts,
                task: action.task,
                value: action.value,
            },
            offset: action.offset,
            impression: None,
            is_late: true,
        });
        Outcome::Unattributed
    }

    /// Drops actions without a request that were matched with an impression.
    pub(crate) fn stop_waiting(&mut self, slot: &mut RequestSlot, matched: &EarlyAction) {
        let Some(early) = &mut slot.early else { return };
        let before = early.actions.len();
        early.actions.retain(|action| action != matched);
        let n_matched = (before - early.actions.len()) as u64;
        if !early.update_next() {
            slot.early = None;
        }
        self.counters.waiting = self.counters.waiting.wrapping_sub(n_matched);
    }

    fn give_up_one(&mut self, action: EarlyAction) -> Outcome {
        if action.user.is_some() {
            return self.unattributed(action);
        }
        self.counters.orphans += 1;
        Outcome::Orphan
    }

    /// Notes an action that counts from here on: one that matched, or one that is late. Its user did both.
    pub(super) fn count_action(
        &mut self,
        outcome: Outcome,
        action: Action,
        offset: i64,
        open: Option<&OpenImpression>,
    ) {
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

    /// Takes the actions that waited for one of `items`, in order of arrival.
    pub(super) fn take_waiting(&mut self, slot: &mut RequestSlot, items: &[ShownItem]) -> Vec<EarlyAction> {
        let Some(early) = &mut slot.early else {
            return Vec::new();
        };
        let shows = |action: &mut EarlyAction| {
            action.user.is_none() && items.iter().any(|shown| shown.item == action.item)
        };
        let taken: Vec<EarlyAction> = early.actions.extract_if(.., shows).collect();
        if !early.update_next() {
            slot.early = None;
        }
        self.counters.waiting = self.counters.waiting.wrapping_sub(taken.len() as u64);
        if self.has(PlantedBug::ForgetEarlyActions) {
            return Vec::new();
        }
        taken
    }

    fn wait(&mut self, slot: &mut RequestSlot, action: EarlyAction) -> Outcome {
        let same =
            |other: &EarlyAction| (other.item, other.task, other.ts) == (action.item, action.task, action.ts);
        let n_waiting = match &slot.early {
            None => 0,
            Some(early) if early.actions.iter().any(same) => {
                self.counters.duplicate_actions += 1;
                return Outcome::DuplicateAction;
            }
            Some(early) => early.actions.len(),
        };
        if action.expires <= self.watermark || n_waiting >= MAX_WAITING_PER_REQUEST {
            return self.give_up_one(action);
        }
        self.counters.waiting += 1;
        match &mut slot.early {
            Some(early) => {
                early.next = early.next.min(action.expires);
                early.actions.push(action);
            }
            None => {
                slot.early = Some(Box::new(EarlyActions {
                    next: action.expires,
                    actions: vec![action],
                }));
            }
        }
        Outcome::Early
    }

    /// Gives up the waiting actions that expire by `due`. Returns their number.
    pub(crate) fn give_up(&mut self, slot: &mut RequestSlot, due: EventTime) -> u64 {
        let Some(early) = &mut slot.early else {
            return 0;
        };
        let is_over = |action: &mut EarlyAction| action.expires <= due;
        let given_up: Vec<EarlyAction> = early.actions.extract_if(.., is_over).collect();
        if !early.update_next() {
            slot.early = None;
        }
        let n_given_up = given_up.len() as u64;
        self.counters.waiting = self.counters.waiting.wrapping_sub(n_given_up);
        for action in given_up {
            self.give_up_one(action);
        }
        n_given_up
    }

    /// Matches an action with an item of an open impression.
    pub(super) fn act(&mut self, open: &mut OpenImpression, action: &EarlyAction) -> Outcome {
        let bit = 1u8 << action.task;
        let Some(index) = open.index_of(action.item) else {
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
                open.next = next_due(self.config, open);
            }
        }
        open.items[index].positive |= bit;
        self.keep_value(open, action.item, action.task, action.value);
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

    /// Keeps the value of a positive, where its task uses it.
    pub(super) fn keep_value(
        &mut self,
        open: &mut OpenImpression,
        item: Id,
        task: TaskId,
        value: Option<f32>,
    ) {
        let config = &self.config.tasks[usize::from(task)];
        if let Some((value, is_clamped)) = value.and_then(|value| config.scaled(value)) {
            self.counters.tasks[usize::from(task)].values_clamped += u64::from(is_clamped);
            append(&mut open.values, PositiveValue { item, task, value });
        }
    }

    /// Matches an action with an item of a closed impression.
    pub(super) fn act_closed(
        &mut self,
        closed: &mut RememberedImpression,
        item: Id,
        task: TaskId,
    ) -> Outcome {
        match closed.see(item, task) {
            LateMatch::NotPositive => {
                self.counters.late_actions += 1;
                Outcome::LateAction
            }
            LateMatch::SeenBefore => {
                self.counters.duplicate_actions += 1;
                Outcome::DuplicateAction
            }
            LateMatch::FirstSeen => {
                self.counters.matched += 1;
                Outcome::Matched
            }
        }
    }
}
