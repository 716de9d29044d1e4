//! The joiner: events in merged order in, samples and outcomes out.
//!
//! Each event is applied to its request's slot; then event time advances, everything that is due closes in order of
//! (due time, request), and the caps are enforced on the oldest first. So the samples depend on the order of events
//! alone: how far time jumps at once changes nothing.

use std::collections::HashSet;

use ouzel_sample::{
    Action, DecodedRecord, Event, EventTime, Id, Impression, PartitionId, Position, RejectReason, ShownItem,
};

use crate::join::clock::{EventClock, Mark, passed};
use crate::join::config::{JoinBy, JoinConfig};
use crate::join::counters::Counters;
use crate::join::effects::{FeatureSource, JoinEffects, Outcome};
use crate::join::error::JoinError;
use crate::join::open_items::OpenItems;
use crate::join::planted_bug::PlantedBug;
use crate::join::slot::{EarlyAction, RequestSlot, SlotClass};
use crate::join::step::SlotChange;
use crate::join::store::JoinStore;

/// The state machine.
#[derive(Debug)]
pub struct Joiner<S> {
    pub(crate) config: JoinConfig,
    pub(crate) clock: EventClock,
    pub(crate) counters: Counters,
    /// An impression that would be forgotten by then is late: see [`JoinConfig::max_remembered`].
    pub(crate) floor: EventTime,
    /// When the first impression was shown; [`EventTime::MIN`] once every task has closed a window.
    pub(crate) first_shown: Option<EventTime>,
    pub(crate) store: S,
    /// The open items by user, where actions without a request are joined.
    pub(crate) open_items: Option<OpenItems>,
    pub(crate) planted_bug: Option<PlantedBug>,
    /// The effects of the last input; reused to avoid allocation.
    effects: JoinEffects,
}

impl<S: JoinStore> Joiner<S> {
    /// A joiner that has seen nothing, over an empty `store`. `partitions` are all that hold the watermark.
    pub fn new(
        config: JoinConfig,
        partitions: impl IntoIterator<Item = PartitionId>,
        mut store: S,
    ) -> Result<Self, JoinError> {
        if let Some(error) = config.validate().into_iter().next() {
            return Err(JoinError::Config(error));
        }
        store.clear()?;
        Ok(Self {
            clock: EventClock::new(
                config.allowed_lateness.ms(),
                config.max_time_jump.ms(),
                partitions,
            ),
            counters: Counters::new(config.n_tasks()),
            floor: EventTime::MIN,
            first_shown: None,
            store,
            open_items: (config.by == JoinBy::UserItem).then(OpenItems::default),
            planted_bug: None,
            effects: JoinEffects::default(),
            config,
        })
    }

    /// Takes the next record of the merged log.
    ///
    /// After an error the state is undefined: drop the joiner and restore it.
    pub fn step(
        &mut self,
        record: &DecodedRecord,
        features: &mut dyn FeatureSource,
    ) -> Result<&mut JoinEffects, JoinError> {
        let position = record.position;
        match &record.event {
            Ok(Event::Impression(impression)) => self.impression(position, impression, features),
            Ok(Event::Action(action)) => self.action(position, record.timestamp_ms, action),
            Ok(Event::Actions(actions)) => {
                self.effects.clear();
                let mut outcome = Outcome::Passed;
                for action in actions {
                    outcome = self.add_action(position, record.timestamp_ms, action)?;
                }
                Ok(self.finish_step(outcome))
            }
            Ok(
                Event::Item(_)
                | Event::ItemUpdate(_)
                | Event::Deletion(_)
                | Event::Profile(_)
                | Event::JoinRecord(_),
            ) => {
                self.effects.clear();
                Ok(self.finish_step(Outcome::Passed))
            }
            Err(reject) => {
                self.effects.clear();
                // A quarantined record counts as never written, so that the rates of what is left are those without it.
                if reject.reason != RejectReason::Quarantined {
                    self.counters.add_rejected(position.partition.stream);
                }
                Ok(self.finish_step(Outcome::Rejected))
            }
        }
    }

    /// Takes an impression recorded at `position`.
    pub fn impression(
        &mut self,
        position: Position,
        impression: &Impression,
        features: &mut dyn FeatureSource,
    ) -> Result<&mut JoinEffects, JoinError> {
        self.effects.clear();
        let waiting = self.waiting_without_request(impression)?;
        let (outcome, matched) = self.change(impression.request, |step, slot| {
            step.without_request = waiting;
            let outcome = step.impression(slot, position, impression, features);
            (outcome, std::mem::take(&mut step.without_request))
        })?;
        let outcome = outcome?;
        if outcome == Outcome::Accepted {
            self.first_shown.get_or_insert(impression.ts);
            for action in matched {
                let user_item = impression.user.pair(action.item);
                self.change(user_item, |step, slot| step.stop_waiting(slot, &action))?;
            }
        }
        self.observe(position.partition, impression.request, impression.ts)?;
        Ok(self.finish_step(outcome))
    }

    /// Takes an action recorded at `position` with the record timestamp `record_ms`.
    pub fn action(
        &mut self,
        position: Position,
        record_ms: Option<i64>,
        action: &Action,
    ) -> Result<&mut JoinEffects, JoinError> {
        self.effects.clear();
        let outcome = self.add_action(position, record_ms, action)?;
        Ok(self.finish_step(outcome))
    }

    /// Takes one action, and adds its effects to those of the record's earlier ones.
    fn add_action(
        &mut self,
        position: Position,
        record_ms: Option<i64>,
        action: &Action,
    ) -> Result<Outcome, JoinError> {
        let waiting = EarlyAction {
            item: action.item,
            ts: action.ts,
            expires: self.config.early_expiry(action.ts),
            record_ms: record_ms.unwrap_or(action.ts.0),
            offset: position.offset,
            user: action.request.is_none().then_some(action.user),
            task: action.task,
            value: action.value,
        };
        let outcome = match action.request {
            Some(request) => self.change(request, |step, slot| step.action(slot, action, waiting))?,
            None => self.action_without_request(action, waiting)?,
        };
        self.observe(
            position.partition,
            action.request.unwrap_or(action.user),
            action.ts,
        )?;
        Ok(outcome)
    }

    /// Attributes an action to the impression that showed its item last, or has it wait in the slot of user and item.
    fn action_without_request(
        &mut self,
        action: &Action,
        waiting: EarlyAction,
    ) -> Result<Outcome, JoinError> {
        let user_item = action.user.pair(action.item);
        let Some(open_items) = &self.open_items else {
            return self.change(user_item, |step, _| {
                step.counters.actions += 1;
                step.unattributed(waiting)
            });
        };
        let window = self.config.tasks[usize::from(action.task)].window.ms();
        // A window that the watermark has passed is closed.
        let oldest_open = self.clock.watermark().plus_ms(-window);
        let from = action.ts.plus_ms(-window).max(oldest_open);
        let to = action.ts.plus_ms(self.config.max_clock_skew.ms());
        let newest = {
            let mut shown = open_items.shown(action.user, action.item, from, to);
            match self.planted_bug == Some(PlantedBug::FirstTouch) {
                true => shown.next(),
                false => shown.next_back(),
            }
        };
        match newest {
            Some((request, shown_at)) => self.change(request, |step, slot| {
                step.action_on(slot, shown_at, action, waiting)
            }),
            None => self.change(user_item, |step, slot| step.action(slot, action, waiting)),
        }
    }

    /// The actions without a request that wait for an item of `impression` and are in its windows, by item.
    fn waiting_without_request(&mut self, impression: &Impression) -> Result<Vec<EarlyAction>, JoinError> {
        let mut found = Vec::new();
        let is_joined = self.open_items.is_some() && impression.known_actions.is_none();
        if !is_joined || self.counters.waiting == 0 {
            return Ok(found);
        }
        let (shown, watermark) = (impression.ts, self.clock.watermark());
        let (config, earliest) = (&self.config, -self.config.max_clock_skew.ms());
        let is_in_window = |action: &&EarlyAction| {
            let window = config.tasks[usize::from(action.task)].window.ms();
            let since = action.ts.since_ms(shown);
            let is_open = passed(shown, window) > watermark;
            action.user.is_some() && is_open && (earliest..=window).contains(&since)
        };
        let mut items = HashSet::new();
        for ShownItem { item, .. } in &impression.items {
            if !items.insert(*item) {
                continue;
            }
            self.store.update(impression.user.pair(*item), |slot| {
                let waiting = slot.early.iter().flat_map(|early| &early.actions);
                found.extend(waiting.filter(is_in_window));
            })?;
        }
        Ok(found)
    }

    /// Event time of `partition` is at least `ts`, though no event says so: a heartbeat, or in a merge by
    /// event time, that its next event is later. It is taken as true, however far ahead it is.
    pub fn advance(&mut self, partition: PartitionId, ts: EventTime) -> Result<&mut JoinEffects, JoinError> {
        self.effects.clear();
        self.clock.advance(partition, ts, self.planted_bug);
        self.close_due_windows()?;
        Ok(self.finish_step(Outcome::Passed))
    }

    /// Applies a recorded mark, unless no active partition of the stream would remain.
    pub fn mark(&mut self, partition: PartitionId, mark: Mark) -> Result<&mut JoinEffects, JoinError> {
        self.effects.clear();
        self.clock.mark(partition, mark);
        self.close_due_windows()?;
        Ok(self.finish_step(Outcome::Passed))
    }

    /// The log is over: closes everything, in order. For a bounded replay; a daemon that stops must not.
    pub fn finish(&mut self) -> Result<&mut JoinEffects, JoinError> {
        self.effects.clear();
        self.clock.finish();
        self.close_due_windows()?;
        Ok(self.finish_step(Outcome::Passed))
    }

    /// A joiner that starts in the middle: at the `clock` of an earlier checkpoint, knowing no request.
    ///
    /// Fed with the log from there on, its slots become those of a joiner that saw everything, once the
    /// watermark has passed the newest event time of the checkpoint by [`JoinConfig::warm_up_ms`]. The caller drops
    /// the samples made meanwhile, and replaces the counters by those of the checkpoint it reaches.
    pub fn warm_up(config: JoinConfig, clock: EventClock, store: S) -> Result<Self, JoinError> {
        let mut joiner = Self::new(config, [], store)?;
        joiner.clock = joiner.bounded(clock);
        // Whether the log was starting at the checkpoint is not known: no positive is held back for it.
        joiner.first_shown = Some(EventTime::MIN);
        Ok(joiner)
    }

    /// The effects of the last input.
    pub fn effects(&self) -> &JoinEffects {
        &self.effects
    }

    /// Its configuration.
    pub fn config(&self) -> &JoinConfig {
        &self.config
    }

    /// Its event time.
    pub fn clock(&self) -> &EventClock {
        &self.clock
    }

    /// The outcomes so far. Call [`Counters::check`] on them after each batch, and stop when it fails.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Where its state is.
    pub fn store(&self) -> &S {
        &self.store
    }

    fn finish_step(&mut self, outcome: Outcome) -> &mut JoinEffects {
        self.effects.outcome = outcome;
        &mut self.effects
    }

    /// `clock` under the bounds of the configuration.
    pub(crate) fn bounded(&self, clock: EventClock) -> EventClock {
        clock.with_bounds(self.config.allowed_lateness.ms(), self.config.max_time_jump.ms())
    }

    fn observe(&mut self, partition: PartitionId, request: Id, ts: EventTime) -> Result<(), JoinError> {
        let held = self.clock.observe(partition, request, ts, self.planted_bug);
        // At the beginning of time every event is ahead.
        if let Some(ahead_ms) = held.filter(|ahead_ms| *ahead_ms > 0) {
            self.counters.time_jumps_held += 1;
            self.effects.ahead_ms = Some(ahead_ms);
        }
        self.close_due_windows()
    }

    /// Closes and forgets what is due, then what exceeds a cap.
    fn close_due_windows(&mut self) -> Result<(), JoinError> {
        let too_soon = i64::from(self.planted_bug == Some(PlantedBug::CloseTooSoon));
        let due = self.clock.watermark().plus_ms(too_soon);
        if let Some(first) = self.first_shown
            && passed(first, self.config.longest_window_ms()) <= self.clock.watermark()
        {
            self.first_shown = Some(EventTime::MIN);
        }
        while let Some((at, id)) = self.store.first(SlotClass::Open)?
            && at <= due
        {
            self.change(id, |step, slot| step.close_due(slot))?;
        }
        while let Some((at, id)) = self.store.first(SlotClass::Early)?
            && at <= due
        {
            self.change(id, |step, slot| step.give_up(slot, at))?;
        }
        while let Some((at, id)) = self.store.first(SlotClass::Closed)?
            && at <= due
        {
            self.change(id, |step, slot| step.forget(slot, at))?;
        }
        self.enforce_caps()
    }

    fn enforce_caps(&mut self) -> Result<(), JoinError> {
        while self.counters.pending_items > self.config.max_pending_items as u64
            && let Some((_, id)) = self.store.first(SlotClass::Open)?
        {
            self.change(id, |step, slot| step.close_early(slot))?;
        }
        while self.counters.waiting > self.config.max_early_actions as u64
            && let Some((at, id)) = self.store.first(SlotClass::Early)?
        {
            let n_orphans = self.change(id, |step, slot| step.give_up(slot, at))?;
            self.counters.orphaned_early += n_orphans;
        }
        while self.counters.remembered > self.config.max_closed_requests as u64
            && let Some((at, id)) = self.store.first(SlotClass::Closed)?
        {
            let n_forgotten = self.change(id, |step, slot| step.forget(slot, at))?;
            self.floor = self.floor.max(at);
            self.counters.forgotten_early += n_forgotten;
        }
        Ok(())
    }

    /// Applies `change` to one slot and keeps the group of samples that it made.
    fn change<R>(
        &mut self,
        id: Id,
        change: impl FnOnce(&mut SlotChange<'_>, &mut RequestSlot) -> R,
    ) -> Result<R, JoinError> {
        let mut step = SlotChange {
            config: &self.config,
            counters: &mut self.counters,
            watermark: self.clock.watermark(),
            floor: self.floor,
            planted_bug: self.planted_bug,
            first_shown: self.first_shown,
            without_request: Vec::new(),
            open_items: self.open_items.as_mut(),
            group: Vec::new(),
            effects: &mut self.effects,
        };
        let result = self.store.update(id, |slot| change(&mut step, slot))?;
        let group = step.group;
        if !group.is_empty() {
            self.counters.add_samples(&group);
            self.effects.groups.push(group);
        }
        Ok(result)
    }
}
