//! One pair of partitions, joined: records in, what the learner is told out.
//!
//! Pure, as the joiner is: what a unit tells is a function of the records and their order, so that another process
//! that runs it from early enough tells the same. Its order is the merge of its two partitions, on which the wall
//! clock has a say where one of them is silent; that can matter only to events that are late for their own
//! partition, and then the first event counts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ouzel_sample::{
    Action, AttributedAction, Candidate, DecodedRecord, Dense, Event, EventTime, Id, Impression, JoinEvent,
    JoinRecord, LabeledItem, N_DENSE, PartitionId, Position, Positions, Request, Sample, ShownLogit, Stream,
    VectorId,
};

use crate::join::{
    Captured, Clock, IdentityViolation, JoinConfig, JoinError, Joiner, MemStore, Outcome,
    ResolvedEarlyAction, Slot,
};
use crate::order::{OrderError, Orderer};
use crate::tier::{Begin, Progress};

/// A unit cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PartitionJoinerError {
    /// The join.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The order.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The counters.
    #[error(transparent)]
    Identity(#[from] IdentityViolation),
}

/// Something to be told, and the timestamp of its record.
#[derive(Clone, Debug, PartialEq)]
pub struct Tell {
    /// What.
    pub told: JoinRecord,
    /// Timestamp of the source record that made the unit say it, ms; of the last one where time did.
    pub timestamp_ms: Option<i64>,
}

/// The join of one impressions partition with the actions partition of the same number.
#[derive(Debug)]
pub struct PartitionJoiner {
    partition: i32,
    longest_ms: i64,
    joiner: Joiner<MemStore>,
    orderer: Orderer,
    /// Next offset to be read of each of the two.
    read: Positions,
    /// Up to here everything was told and delivered by whoever ran the unit before.
    told_until: Option<Progress>,
    /// Records after that, read while some before it are still to be joined.
    beyond: VecDeque<DecodedRecord>,
    /// Partitions read to the end of the log while warming up.
    ended: BTreeSet<PartitionId>,
    timestamp_ms: Option<i64>,
    /// Next offset to be joined of its actions.
    acted: i64,
    /// Actions that came before their impression, with the watermark at which they are given up, in order of their
    /// offsets. Some of them were joined since.
    early: VecDeque<(i64, EventTime)>,
}

/// The two partitions of unit `partition`.
pub(crate) fn pair(partition: i32) -> [PartitionId; 2] {
    [Stream::Impressions, Stream::Actions].map(|stream| PartitionId { stream, partition })
}

impl PartitionJoiner {
    /// The unit of `partition`, to be given the records from where it begins.
    pub fn new(config: JoinConfig, partition: i32, begin: &Begin) -> Result<Self, PartitionJoinerError> {
        let longest_ms = config.tasks.iter().map(|task| task.window_ms).max().unwrap_or(0);
        // Every run of a unit must tell alike, wherever it began: that a log starts is the learner's to know.
        let clock = Clock::new(config.lateness_ms, pair(partition));
        let joiner = Joiner::warm_up(config, clock, MemStore::default())?.keeping_closed();
        let read: Positions = pair(partition).into_iter().zip(begin.from).collect();
        Ok(Self {
            partition,
            longest_ms,
            joiner,
            orderer: Orderer::new(&read, false),
            read,
            told_until: begin.told_until,
            beyond: VecDeque::new(),
            ended: BTreeSet::new(),
            timestamp_ms: None,
            acted: begin.from[1],
            early: VecDeque::new(),
        })
    }

    /// Takes in a record of one of its partitions. Those read before are passed over.
    pub fn push(&mut self, recorded: DecodedRecord) -> Result<(), PartitionJoinerError> {
        if !self.read.advance(recorded.position) {
            return Ok(());
        }
        self.ended.remove(&recorded.position.partition);
        if self.is_warming_up() && !self.is_told(recorded.position) {
            self.beyond.push_back(recorded);
        } else {
            self.orderer.push(recorded)?;
        }
        Ok(())
    }

    /// Everything written to `partition` so far was pushed.
    pub fn at_end(&mut self, partition: PartitionId) {
        if self.is_warming_up() {
            self.ended.insert(partition);
        }
        self.orderer.at_end(partition);
    }

    /// Next offset to be read of each of its partitions.
    #[must_use]
    pub fn wanted(&self) -> &Positions {
        &self.read
    }

    /// Records of `partition` taken in and not joined yet.
    #[must_use]
    pub fn n_queued(&self, partition: PartitionId) -> usize {
        let is_of = |recorded: &&DecodedRecord| recorded.position.partition == partition;
        self.orderer.n_queued(partition) + self.beyond.iter().filter(is_of).count()
    }

    /// True when a record waits only for a silent partition: see [`Orderer::is_holding`].
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.orderer.is_holding()
    }

    /// True for a record whose part was told before this process ran the unit.
    #[must_use]
    pub fn is_told(&self, position: Position) -> bool {
        self.told_until.is_some_and(|told| told.covers(position))
    }

    /// True while what it says was said before.
    #[must_use]
    pub fn is_warming_up(&self) -> bool {
        self.told_until.is_some()
    }

    /// The join.
    #[must_use]
    pub fn joiner(&self) -> &Joiner<MemStore> {
        &self.joiner
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let [impressions, actions] =
            pair(self.partition).map(|id| self.orderer.positions().next(id).unwrap_or(0));
        Progress {
            impressions,
            actions,
            watermark: self.joiner.clock().watermark(),
        }
    }

    /// Joins the next record and appends what is to be told. Returns the record's partition, or `None` when it
    /// cannot be known yet which one is next; `release_all` is that of [`Orderer::next`].
    pub fn step(
        &mut self,
        release_all: bool,
        out: &mut Vec<Tell>,
    ) -> Result<Option<PartitionId>, PartitionJoinerError> {
        let mut next = None;
        if let Some(told) = self.told_until {
            next = self.warm_up(told)?;
        }
        // The warm-up may just have ended.
        if next.is_none() && !self.is_warming_up() {
            next = self.orderer.next(release_all)?;
        }
        // Whoever runs the unit next merges anew.
        self.orderer.forget_runs();
        let Some(recorded) = next else { return Ok(None) };
        let now = self.joiner.clock().watermark();
        self.timestamp_ms = recorded.timestamp_ms.or(self.timestamp_ms);
        // Looked up first: the action's own time may close its impression.
        let shown_at = match &recorded.event {
            Ok(Event::Action(action)) => self.shown_at(action.request),
            _ => None,
        };
        let mut groups = Vec::new();
        let outcome = self.joiner.step(&recorded, bare, &mut groups)?;
        let settled = self.settle(&recorded, &outcome);
        let mut tellings = Tellings::new(groups);
        let at = recorded.position;
        let tell = |at: Position, user: Id, event| (at, user, event);
        match (recorded.event, outcome) {
            (Ok(Event::Impression(impression)), Outcome::Accepted) => {
                for resolved in self.joiner.take_resolved() {
                    tellings.catch_up(at, &impression, resolved, settled);
                }
                tellings.first = Some(tell(at, impression.user, self.shown(impression, now)));
            }
            (Ok(Event::Impression(impression)), Outcome::Late) => {
                let n_items = impression.items.len() as u64;
                tellings.first = Some(tell(at, impression.user, JoinEvent::Late { n_items }));
            }
            (Ok(Event::Action(action)), Outcome::Matched(Some(request))) => {
                let acted = ResolvedEarlyAction {
                    item: action.item,
                    task: action.task,
                    ts: action.ts,
                    offset: at.offset,
                    is_late: false,
                };
                if let Some(shown_at) = shown_at {
                    tellings.act(shown_at, request.user, acted, settled);
                }
            }
            (Ok(Event::Action(action)), Outcome::LateAction) => {
                tellings.first = Some(tell(at, action.user, JoinEvent::LateAction { action, settled }));
            }
            _ => {}
        }
        self.tell(now, tellings, out)?;
        Ok(Some(at.partition))
    }

    /// Lets time go on without `partition`, which is silent while others of its stream are not: it takes the other
    /// partition's time. To be called again and again while that lasts; which partitions are silent is the
    /// caller's to say.
    pub fn pass_over(
        &mut self,
        partition: PartitionId,
        out: &mut Vec<Tell>,
    ) -> Result<(), PartitionJoinerError> {
        let clock = self.joiner.clock();
        let others = clock.partitions().filter(|(id, _, _)| *id != partition);
        let Some(newest) = others.map(|(_, newest, _)| newest).max() else {
            return Ok(());
        };
        if self.is_warming_up() {
            return Ok(());
        }
        let now = clock.watermark();
        let mut groups = Vec::new();
        self.joiner.advance(partition, newest, &mut groups)?;
        self.tell(now, Tellings::new(groups), out)
    }

    /// The next record of the warm-up, which ends when all were joined that had been joined before: what comes
    /// after them is kept until then.
    fn warm_up(&mut self, told: Progress) -> Result<Option<DecodedRecord>, PartitionJoinerError> {
        let mut is_read = true;
        for id in pair(self.partition) {
            let next = self.read.next(id).unwrap_or(0);
            if next >= told.next(id.stream) || self.ended.contains(&id) {
                self.orderer.at_end(id);
            } else {
                is_read = false;
            }
        }
        let next = self.orderer.next(true)?;
        if next.is_none() && is_read {
            self.arrive(told)?;
        }
        Ok(next)
    }

    /// Ends the warm-up: from here on nothing was told before. Time is what it was for whoever was here then,
    /// who may have known more of it than the log says, and told of everything due by it.
    fn arrive(&mut self, told: Progress) -> Result<(), PartitionJoinerError> {
        let lateness_ms = self.joiner.config().lateness_ms;
        let mut groups = Vec::new();
        if told.watermark != EventTime::MIN {
            for partition in pair(self.partition) {
                let newest = told.watermark.plus_ms(lateness_ms);
                self.joiner.advance(partition, newest, &mut groups)?;
            }
        }
        self.joiner.take_closed();
        self.told_until = None;
        for recorded in std::mem::take(&mut self.beyond) {
            self.orderer.push(recorded)?;
        }
        for partition in std::mem::take(&mut self.ended) {
            self.orderer.at_end(partition);
        }
        Ok(())
    }

    /// Appends what is to be told, unless it was told before.
    fn tell(
        &mut self,
        now: EventTime,
        tellings: Tellings,
        out: &mut Vec<Tell>,
    ) -> Result<(), PartitionJoinerError> {
        let closed = self.joiner.take_closed();
        let is_told = self.is_warming_up();
        let timestamp_ms = self.timestamp_ms;
        let tellings = tellings.close(closed).into_iter().filter(|(_, _, event)| {
            // Whoever was here before may have taken it as being in time, and nobody else would end that.
            !is_told || matches!(event, JoinEvent::Late { .. })
        });
        out.extend(tellings.map(|(at, user, event)| Tell {
            told: JoinRecord { at, now, user, event },
            timestamp_ms,
        }));
        self.joiner.counters().check()?;
        Ok(())
    }

    fn shown(&self, impression: Impression, now: EventTime) -> JoinEvent {
        let config = self.joiner.config();
        let over = |window_ms: i64| impression.ts.plus_ms(window_ms.saturating_add(1));
        let late = config
            .tasks()
            .filter(|(_, task)| over(task.window_ms) <= now)
            .fold(0, |mask, (task, _)| mask | 1 << task);
        JoinEvent::Shown {
            late,
            until: over(self.longest_ms),
            impression,
        }
    }

    /// Notes an action that waits for its impression. Returns the offset before which none does any more.
    fn settle(&mut self, recorded: &DecodedRecord, outcome: &Outcome) -> i64 {
        if recorded.position.partition.stream == Stream::Actions {
            self.acted = recorded.position.offset + 1;
        }
        if let (Ok(Event::Action(action)), Outcome::Early) = (&recorded.event, outcome) {
            let expires = self.joiner.config().gives_up(action.ts);
            self.early.push_back((recorded.position.offset, expires));
        }
        let now = self.joiner.clock().watermark();
        while self.early.front().is_some_and(|(_, expires)| *expires <= now) {
            self.early.pop_front();
        }
        self.early.front().map_or(self.acted, |(offset, _)| *offset)
    }

    /// Where the impression of `request` stands, while a window of it is open.
    fn shown_at(&self, request: Id) -> Option<Position> {
        match self.joiner.store().get(request) {
            Some(Slot::Open(open)) => Some(open.shown_at),
            _ => None,
        }
    }
}

/// Everything that one record makes a unit say, in order.
#[derive(Default)]
struct Tellings {
    first: Option<(Position, Id, JoinEvent)>,
    outcomes: Vec<(Position, Id, JoinEvent)>,
    /// Late actions that had come before their impression.
    late: Vec<(Position, Id, JoinEvent)>,
}

impl Tellings {
    fn new(groups: Vec<Vec<Sample>>) -> Self {
        let outcome = |group: Vec<Sample>| {
            let first = group.first()?;
            let (at, user) = (first.shown_at, first.request.user);
            let made = group
                .iter()
                .map(|sample| LabeledItem {
                    item: sample.candidate.item,
                    labels: sample.labels,
                    kind: sample.kind,
                    action_record_ms: sample.action_record_ms,
                })
                .collect();
            Some((at, user, outcome(made, false)))
        };
        Self {
            first: None,
            outcomes: groups.into_iter().filter_map(outcome).collect(),
            late: Vec::new(),
        }
    }

    /// Adds an action that had come before `impression`. One that is too late is told as if it came now.
    fn catch_up(
        &mut self,
        at: Position,
        impression: &Impression,
        resolved: ResolvedEarlyAction,
        settled: i64,
    ) {
        if !resolved.is_late {
            return self.act(at, impression.user, resolved, settled);
        }
        let [_, actions] = pair(at.partition.partition);
        let at = Position {
            partition: actions,
            offset: resolved.offset,
        };
        let action = Action {
            request: impression.request,
            item: resolved.item,
            user: impression.user,
            ts: resolved.ts,
            task: resolved.task,
            value: None,
        };
        self.late
            .push((at, action.user, JoinEvent::LateAction { action, settled }));
    }

    /// Adds an action in time to what is said of the impression first.
    fn act(&mut self, at: Position, user: Id, resolved: ResolvedEarlyAction, settled: i64) {
        let new = AttributedAction {
            item: resolved.item,
            task: resolved.task,
            ts: resolved.ts,
            offset: resolved.offset,
        };
        let of = self.outcomes.iter_mut().find(|(of, _, _)| *of == at);
        match of {
            Some((
                _,
                _,
                JoinEvent::Outcome {
                    acted, settled: of, ..
                },
            )) => {
                acted.push(new);
                *of = settled;
            }
            _ => {
                let event = JoinEvent::Outcome {
                    acted: vec![new],
                    made: Vec::new(),
                    is_closed: false,
                    settled,
                };
                self.outcomes.insert(0, (at, user, event));
            }
        }
    }

    /// Says of the impressions whose last window closed that this was all.
    fn close(self, closed: Vec<(Position, Id)>) -> Vec<(Position, Id, JoinEvent)> {
        let mut outcomes = self.outcomes;
        let mut last: BTreeMap<Position, usize> = BTreeMap::new();
        if !closed.is_empty() {
            last.extend(
                outcomes
                    .iter()
                    .enumerate()
                    .map(|(index, (at, _, _))| (*at, index)),
            );
        }
        for (at, user) in closed {
            match last.get(&at).map(|index| &mut outcomes[*index].2) {
                Some(JoinEvent::Outcome { is_closed, .. }) => *is_closed = true,
                _ => outcomes.push((at, user, outcome(Vec::new(), true))),
            }
        }
        self.first.into_iter().chain(outcomes).chain(self.late).collect()
    }
}

/// What becomes of an impression without an action.
fn outcome(made: Vec<LabeledItem>, is_closed: bool) -> JoinEvent {
    JoinEvent::Outcome {
        acted: Vec::new(),
        made,
        is_closed,
        settled: i64::MIN,
    }
}

/// An impression without features: those are the learner's business.
fn bare(impression: &Impression) -> Captured {
    let dense = Dense::new([0.0; N_DENSE]);
    let request = Request {
        id: impression.request,
        user: impression.user,
        ts: impression.ts,
        context: Vec::new(),
        history: Vec::new(),
        contents: Vec::new(),
        n_items: u16::try_from(impression.items.len()).unwrap_or(u16::MAX),
    };
    let candidates = impression.items.iter().map(|shown| {
        Arc::new(Candidate {
            item: shown.item,
            attributes: Vec::new(),
            position: shown.position,
            dense,
            content: VectorId::NONE,
            predicted: ShownLogit::default(),
        })
    });
    Captured {
        candidates: candidates.collect(),
        request: Arc::new(request),
    }
}
