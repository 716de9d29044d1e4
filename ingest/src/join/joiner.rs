//! The joiner: events in merged order in, samples and outcomes out.
//!
//! For each event, in this order: it is applied to its request's slot, event time advances, everything that is
//! now due closes by (due time, request), and the caps are enforced on the oldest first. So the samples depend
//! on the order of events alone; how far time jumps at once changes nothing.

use std::sync::Arc;

use ouzel_sample::{
    Action, Candidate, DecodedRecord, Event, EventTime, Id, Impression, PartitionId, Position, Request,
    Sample, Stream, TaskId,
};

use crate::join::clock::{Clock, Mark};
use crate::join::config::JoinConfig;
use crate::join::counters::Counters;
use crate::join::error::JoinError;
use crate::join::fault::Fault;
use crate::join::slot::{Class, Slot, Waiting};
use crate::join::step::{Step, passed};
use crate::join::store::JoinStore;

/// The features of an impression as of its event time, in slate order.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The user side.
    pub request: Arc<Request>,
    /// The item sides, one per shown item.
    pub candidates: Vec<Arc<Candidate>>,
}

impl From<(Request, Vec<Candidate>)> for Captured {
    fn from((request, candidates): (Request, Vec<Candidate>)) -> Self {
        Self {
            request: Arc::new(request),
            candidates: candidates.into_iter().map(Arc::new).collect(),
        }
    }
}

/// An action that had come before its impression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedEarlyAction {
    /// On which item.
    pub item: Id,
    /// Which task's action it was.
    pub task: TaskId,
    /// When.
    pub ts: EventTime,
    /// Where its record is in its partition.
    pub offset: i64,
    /// It was after its window, and made no positive.
    pub is_late: bool,
}

/// What became of one record on arrival.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// An impression was joined; some of its windows may have been over already.
    Accepted,
    /// An impression whose request is known.
    Duplicate,
    /// An impression whose every window is over; no sample will be made of it.
    Late,
    /// An action made a positive, of this request where its windows are still open.
    Matched(Option<Arc<Request>>),
    /// An action on what is positive already, or that waits already.
    DuplicateAction,
    /// An action after its window.
    LateAction,
    /// An action dated before its impression by more than the allowed skew.
    BeforeShown,
    /// An action waits for its impression.
    Early,
    /// An action that no impression can be expected for any more, or on an item its slate did not show.
    Orphan,
    /// A record that could not be decoded.
    Rejected,
    /// An item: not the join's business.
    Passed,
}

/// The state machine.
#[derive(Debug)]
pub struct Joiner<S> {
    pub(crate) config: JoinConfig,
    pub(crate) clock: Clock,
    pub(crate) counters: Counters,
    /// What would be forgotten by then is taken as late: see [`JoinConfig::max_remembered`].
    pub(crate) floor: EventTime,
    /// When the first impression was shown; the distant past once every task has closed a window.
    pub(crate) first_shown: Option<EventTime>,
    pub(crate) store: S,
    /// See [`Joiner::take_resolved`]; of the last step alone.
    resolved: Vec<ResolvedEarlyAction>,
    /// See [`Joiner::take_closed`]; nothing unless it was asked for.
    closed: Option<Vec<(Position, Id)>>,
    pub(crate) fault: Option<Fault>,
}

impl<S: JoinStore> Joiner<S> {
    /// A joiner that has seen nothing, over an empty `store`. `partitions` are all that hold the watermark.
    pub fn new(
        config: JoinConfig,
        partitions: impl IntoIterator<Item = PartitionId>,
        mut store: S,
    ) -> Result<Self, JoinError> {
        config.validate()?;
        store.clear()?;
        Ok(Self {
            clock: Clock::new(config.lateness_ms, partitions),
            counters: Counters::new(config.n_tasks()),
            floor: EventTime::MIN,
            first_shown: None,
            resolved: Vec::new(),
            closed: None,
            store,
            fault: None,
            config,
        })
    }

    /// Takes the next record of the merged log. `capture` is asked for the features of an impression only if it
    /// is joined; groups of samples are appended to `out`.
    ///
    /// After an error the state is undefined: drop the joiner and restore it.
    pub fn step(
        &mut self,
        recorded: &DecodedRecord,
        capture: impl FnOnce(&Impression) -> Captured,
        out: &mut Vec<Vec<Sample>>,
    ) -> Result<Outcome, JoinError> {
        self.resolved.clear();
        match &recorded.event {
            Ok(Event::Impression(impression)) => self.impression(recorded.position, impression, capture, out),
            Ok(Event::Action(action)) => self.action(recorded.position, recorded.timestamp_ms, action, out),
            Ok(Event::Item(_) | Event::Deletion(_) | Event::JoinRecord(_)) => Ok(Outcome::Passed),
            Err(_) => {
                match recorded.position.partition.stream {
                    Stream::Items | Stream::Samples => {}
                    Stream::Impressions => {
                        self.counters.impressions += 1;
                        self.counters.rejected_impressions += 1;
                    }
                    Stream::Actions => {
                        self.counters.actions += 1;
                        self.counters.rejected_actions += 1;
                    }
                }
                Ok(Outcome::Rejected)
            }
        }
    }

    /// An impression recorded at `position`.
    pub fn impression(
        &mut self,
        position: Position,
        impression: &Impression,
        capture: impl FnOnce(&Impression) -> Captured,
        out: &mut Vec<Vec<Sample>>,
    ) -> Result<Outcome, JoinError> {
        let outcome = self.change(impression.request, out, |step, slot| {
            step.impression(slot, position, impression, capture)
        })??;
        if outcome == Outcome::Accepted {
            self.first_shown.get_or_insert(impression.ts);
        }
        self.advance(position.partition, impression.ts, out)?;
        Ok(outcome)
    }

    /// An action recorded at `position`, whose record says `record_ms`.
    pub fn action(
        &mut self,
        position: Position,
        record_ms: Option<i64>,
        action: &Action,
        out: &mut Vec<Vec<Sample>>,
    ) -> Result<Outcome, JoinError> {
        let waiting = Waiting {
            item: action.item,
            ts: action.ts,
            expires: self.config.gives_up(action.ts),
            record_ms: record_ms.unwrap_or(action.ts.0),
            offset: position.offset,
            task: action.task,
        };
        let outcome = self.change(action.request, out, |step, slot| step.action(slot, waiting))?;
        self.advance(position.partition, action.ts, out)?;
        Ok(outcome)
    }

    /// Event time of `partition` is at least `ts`, though no event says so: a heartbeat, or in a merge by
    /// event time, that its next event is later.
    pub fn advance(
        &mut self,
        partition: PartitionId,
        ts: EventTime,
        out: &mut Vec<Vec<Sample>>,
    ) -> Result<(), JoinError> {
        self.clock.observe(partition, ts, self.fault);
        self.settle(out)
    }

    /// Applies a journaled mark. Returns false, and changes nothing, where it would leave its stream without a
    /// partition that holds time.
    pub fn mark(
        &mut self,
        partition: PartitionId,
        mark: Mark,
        out: &mut Vec<Vec<Sample>>,
    ) -> Result<bool, JoinError> {
        let is_applied = self.clock.mark(partition, mark);
        self.settle(out)?;
        Ok(is_applied)
    }

    /// The log is over: closes everything, in order. For a bounded replay; a daemon that stops must not.
    pub fn finish(&mut self, out: &mut Vec<Vec<Sample>>) -> Result<(), JoinError> {
        self.clock.finish();
        self.settle(out)
    }

    /// A joiner that starts in the middle: at the `clock` of an earlier cut, knowing no request.
    ///
    /// Fed with the log from there on, its slots become those of a joiner that saw everything, once the
    /// watermark has passed the newest event time of the cut by [`JoinConfig::warm_up_ms`]. Samples made
    /// meanwhile are to be dropped, and the counters replaced by those of the cut it arrives at.
    pub fn warm_up(config: JoinConfig, clock: Clock, store: S) -> Result<Self, JoinError> {
        let mut joiner = Self::new(config, [], store)?;
        joiner.clock = clock.with_lateness(joiner.config.lateness_ms);
        // Whether the log was starting at the cut is not known: nothing is held back for it.
        joiner.first_shown = Some(EventTime::MIN);
        Ok(joiner)
    }

    /// Ends a warm-up at a cut with these counters; refused where they and the slots disagree.
    pub fn arrive(&mut self, counters: Counters) -> Result<(), JoinError> {
        self.counters = counters;
        self.audit()
    }

    /// Actions that had come before their impression and were counted for it by the last step. What an action
    /// says of its user may be used only now, for the impression's own features must not contain it. In order of
    /// arrival, the late ones last.
    pub fn take_resolved(&mut self) -> Vec<ResolvedEarlyAction> {
        std::mem::take(&mut self.resolved)
    }

    /// The same joiner, which keeps what [`Joiner::take_closed`] tells.
    #[must_use]
    pub fn keeping_closed(self) -> Self {
        Self {
            closed: Some(Vec::new()),
            ..self
        }
    }

    /// Impressions whose last window closed since the last call, in order: where they were shown, and to whom.
    /// Only of a joiner that is [`keeping_closed`](Joiner::keeping_closed).
    pub fn take_closed(&mut self) -> Vec<(Position, Id)> {
        self.closed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &JoinConfig {
        &self.config
    }

    /// Its event time.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The outcomes so far. Call [`Counters::check`] on them after each batch, and stop when it fails.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Where its state is.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Closes and forgets what is due, then what is too much.
    fn settle(&mut self, out: &mut Vec<Vec<Sample>>) -> Result<(), JoinError> {
        let too_soon = i64::from(self.fault == Some(Fault::CloseTooSoon));
        let now = self.clock.watermark().plus_ms(too_soon);
        let longest = self
            .config
            .tasks
            .iter()
            .map(|task| task.window_ms)
            .max()
            .unwrap_or(0);
        if self
            .first_shown
            .is_some_and(|first| passed(first, longest) <= self.clock.watermark())
        {
            self.first_shown = Some(EventTime::MIN);
        }
        while let Some((at, id)) = self.store.first(Class::Open)?
            && at <= now
        {
            self.change(id, out, |step, slot| step.due(slot))?;
        }
        while let Some((at, id)) = self.store.first(Class::Early)?
            && at <= now
        {
            self.change(id, out, |step, slot| step.give_up(slot, at))?;
        }
        while let Some((at, id)) = self.store.first(Class::Closed)?
            && at <= now
        {
            self.store.update(id, |slot| *slot = None)?;
        }
        self.enforce_caps(out)
    }

    fn enforce_caps(&mut self, out: &mut Vec<Vec<Sample>>) -> Result<(), JoinError> {
        while self.counters.pending_items > self.config.max_pending as u64
            && let Some((_, id)) = self.store.first(Class::Open)?
        {
            self.change(id, out, |step, slot| step.overload(slot))?;
        }
        while self.counters.waiting > self.config.max_waiting as u64
            && let Some((at, id)) = self.store.first(Class::Early)?
        {
            let given_up = self.change(id, out, |step, slot| step.give_up(slot, at))?;
            self.counters.orphaned_early += given_up;
        }
        while self.store.len(Class::Closed) > self.config.max_remembered
            && let Some((at, id)) = self.store.first(Class::Closed)?
        {
            self.store.update(id, |slot| *slot = None)?;
            self.floor = self.floor.max(at);
            self.counters.forgotten_early += 1;
        }
        Ok(())
    }

    /// Applies `change` to one slot and hands over the group of samples it made.
    fn change<R>(
        &mut self,
        id: Id,
        out: &mut Vec<Vec<Sample>>,
        change: impl FnOnce(&mut Step<'_>, &mut Option<Slot>) -> R,
    ) -> Result<R, JoinError> {
        let mut step = Step {
            config: &self.config,
            counters: &mut self.counters,
            now: self.clock.watermark(),
            floor: self.floor,
            fault: self.fault,
            first_shown: self.first_shown,
            group: Vec::new(),
            resolved: Vec::new(),
            closed: None,
        };
        let result = self.store.update(id, |slot| change(&mut step, slot))?;
        let group = step.group;
        self.resolved.extend(step.resolved);
        if let Some(closed) = &mut self.closed {
            closed.extend(step.closed);
        }
        if !group.is_empty() {
            for sample in &group {
                self.counters.samples[sample.kind as usize] += 1;
            }
            out.push(group);
        }
        Ok(result)
    }
}
