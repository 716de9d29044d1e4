//! One event or one due time applied to one slot: the logic of the join, without store, clock or caps.
//!
//! This file takes impressions; `actions.rs` matches actions and `closing.rs` lets time pass.

mod actions;
mod closing;

use ouzel_sample::{Action, EventTime, Impression, KnownAction, Position, Sample};

use crate::join::clock::passed;
use crate::join::config::JoinConfig;
use crate::join::counters::Counters;
use crate::join::effects::{Captured, FeatureSource, JoinEffects, Outcome};
use crate::join::error::JoinError;
use crate::join::open_items::OpenItems;
use crate::join::planted_bug::PlantedBug;
use crate::join::policy;
use crate::join::remembered::RememberedImpression;
use crate::join::slot::{EarlyAction, OpenImpression, OpenItem, RequestSlot, append};

/// Items that a request may have shown and still take a further impression; more than any person scrolls through.
const MAX_ITEMS_PER_REQUEST: usize = 16_384;

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
    /// Actions without a request that wait for the impression that arrives.
    pub(crate) without_request: Vec<EarlyAction>,
    /// The items with an open window, where actions without a request are joined.
    pub(crate) open_items: Option<&'a mut OpenItems>,
    /// The samples made by this change.
    pub(crate) group: Vec<Sample>,
    pub(crate) effects: &'a mut JoinEffects,
}

impl SlotChange<'_> {
    /// An impression arrives.
    pub(crate) fn impression(
        &mut self,
        slot: &mut RequestSlot,
        position: Position,
        impression: &Impression,
        features: &mut dyn FeatureSource,
    ) -> Result<Outcome, JoinError> {
        let n_shown = impression.items.len() as u64;
        let part = match self.has(PlantedBug::ForgetImpressionDedup) {
            true => None,
            false => slot.new_part(impression),
        };
        let n_new = part.as_ref().map_or(n_shown, |part| part.items.len() as u64);
        if n_new == 0 {
            self.counters.add_duplicate_impression(n_shown);
            return Ok(Outcome::Duplicate);
        }
        if slot.n_items() >= MAX_ITEMS_PER_REQUEST {
            self.counters.add_excess_impression(n_shown);
            return Ok(Outcome::Excess);
        }
        let part = part.filter(|_| !self.has(PlantedBug::TakeItemTwice));
        let shown = part.as_ref().unwrap_or(impression);
        let expires = passed(shown.ts, self.config.dedup_ms());
        let is_forgotten = expires <= self.watermark.max(self.floor);
        let late = match shown.known_actions {
            _ if is_forgotten => self.config.all_tasks(),
            Some(_) => 0,
            None => self.tasks_over(shown.ts),
        };
        let is_late = late == self.config.all_tasks();
        // Checked before anything changes.
        let captured = match is_late {
            true => None,
            false => Some(capture(features, shown)?),
        };
        self.counters
            .add_impression(n_shown, n_shown - shown.items.len() as u64, late);
        let mut waiting = self.take_waiting(slot, &shown.items);
        // They go on waiting for an impression that is in time.
        self.without_request
            .retain(|action| !is_late && shown.items.iter().any(|shown| shown.item == action.item));
        waiting.extend_from_slice(&self.without_request);
        match captured {
            None => {
                self.counters.late_actions += waiting.len() as u64;
                if !is_forgotten {
                    let items = shown.items.iter().map(|shown| (shown.item, 0, 0));
                    self.remember(slot, RememberedImpression::new(expires, items));
                }
            }
            Some(captured) => self.take(slot, open(position, captured, late), shown, &waiting),
        }
        self.effects.new_part = part;
        Ok(if is_late { Outcome::Late } else { Outcome::Accepted })
    }

    /// Takes an accepted impression into its slot.
    fn take(
        &mut self,
        slot: &mut RequestSlot,
        mut open: OpenImpression,
        shown: &Impression,
        waiting: &[EarlyAction],
    ) {
        open.held = self.tasks_starting_up(shown.ts);
        match &shown.known_actions {
            Some(known_actions) => {
                let expires = passed(shown.ts, self.config.dedup_ms());
                let mut closed = self.reveal(&mut open, known_actions, expires);
                for action in waiting {
                    self.act_closed(&mut closed, action.item, action.task);
                }
                self.remember(slot, closed);
            }
            None => {
                self.accept(&mut open, waiting);
                if let Some(open_items) = &mut self.open_items {
                    open_items.insert(&open);
                }
                append(&mut slot.open, open);
            }
        }
    }

    fn remember(&mut self, slot: &mut RequestSlot, closed: RememberedImpression) {
        append(&mut slot.closed, closed);
        self.counters.remembered += 1;
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
                request: Some(open.request.id),
                item: action.item,
                user: open.request.user,
                ts: action.ts,
                task: action.task,
                value: action.value,
            };
            self.count_action(outcome, counted, action.offset, Some(open));
        }
        self.effects.actions.sort_by_key(|action| action.is_late);
        self.counters.pending_items += open.items.len() as u64;
        open.next = next_due(self.config, open);
    }

    /// Decides every task of every item by the labels that came with the impression.
    fn reveal(
        &mut self,
        open: &mut OpenImpression,
        known_actions: &[KnownAction],
        expires: EventTime,
    ) -> RememberedImpression {
        let all = self.config.all_tasks();
        for index in 0..open.items.len() {
            let item = open.items[index].candidate.item;
            for (task, _) in self.config.tasks() {
                let same = |known: &&KnownAction| (known.item, known.task) == (item, task);
                let known = known_actions.iter().find(same);
                self.counters.decide(task, known.is_some());
                if let Some(known) = known {
                    open.items[index].positive |= 1 << task;
                    self.keep_value(open, item, task, known.value);
                }
            }
        }
        policy::fully_labeled(open, all, &mut self.group);
        let items = open.items.iter();
        RememberedImpression::new(expires, items.map(|item| (item.candidate.item, item.positive, 0)))
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

    fn has(&self, bug: PlantedBug) -> bool {
        self.planted_bug == Some(bug)
    }
}

/// The next end of a wait or a window.
pub(super) fn next_due(config: &JoinConfig, open: &OpenImpression) -> EventTime {
    let shown = open.request.ts;
    config
        .tasks()
        .filter(|(task, _)| open.closed & (1 << task) == 0)
        .map(|(task, task_config)| match config.wait_ms(task_config) {
            Some(wait) if open.sampled & (1 << task) == 0 => passed(shown, wait),
            _ => passed(shown, task_config.window.ms()),
        })
        .min()
        .unwrap_or(EventTime::MAX)
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
        values: Box::default(),
        next: EventTime::MAX,
        closed: late,
        sampled: 0,
        held: 0,
    }
}
