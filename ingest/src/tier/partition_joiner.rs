//! The join of one impressions partition with the actions partition of the same number: records in, join records out.
//!
//! Pure, as the joiner is: the join records are a function of the records and their order, so another process that
//! starts early enough writes the same ones. The order is the merge of the two partitions, which depends on the wall
//! clock where one of them is silent; that can matter only to events that are late for their own partition, and then
//! the first report counts.

mod records;

use std::collections::{BTreeSet, VecDeque};

use ouzel_sample::{
    Action, Candidate, DecodedRecord, Dense, Event, EventTime, Impression, JoinEvent, JoinRecord, N_DENSE,
    PartitionId, Position, Positions, Request, ShownLogits, Stream, VectorId,
};

use crate::join::{Captured, EventClock, JoinConfig, JoinError, Joiner, MemStore, Outcome, TimeJump, passed};
use crate::order::{OrderError, Orderer};
use crate::tier::ledger::{UnresolvedActions, action_key};
use crate::tier::start::{ReportProgress, StartPoint};
use records::{EventDraft, of_effects};

/// An error that stops a partition joiner.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages describe the variants")]
pub enum PartitionJoinerError {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Order(#[from] OrderError),
}

/// A join record to write, and the timestamp of its Kafka record.
#[derive(Clone, Debug, PartialEq)]
pub struct OutgoingRecord {
    /// The join record.
    pub record: JoinRecord,
    /// Timestamp of the source record that caused it, ms; of the last source record where only time passed.
    pub timestamp_ms: Option<i64>,
}

/// The joiner of one pair of partitions.
#[derive(Debug)]
pub struct PartitionJoiner {
    partition: i32,
    config: JoinConfig,
    joiner: Joiner<MemStore>,
    orderer: Orderer,
    /// Next offset to read of each partition.
    read: Positions,
    /// While warming up: everything up to here was reported by an earlier owner.
    reported: Option<ReportProgress>,
    /// Records after that, read before the warm-up is over.
    after_warm_up: VecDeque<DecodedRecord>,
    /// Partitions read to the end of the log while warming up.
    ended: BTreeSet<PartitionId>,
    timestamp_ms: Option<i64>,
    unresolved: UnresolvedActions,
    /// The first event far ahead of its time since the last message about one.
    time_jump: Option<TimeJump>,
}

/// The impressions and the actions partition with this number.
pub(crate) fn pair(partition: i32) -> [PartitionId; 2] {
    [Stream::Impressions, Stream::Actions].map(|stream| PartitionId { stream, partition })
}

impl PartitionJoiner {
    /// The joiner of `partition`, to be given the records from `start` on.
    pub fn new(config: JoinConfig, partition: i32, start: &StartPoint) -> Result<Self, PartitionJoinerError> {
        // Every owner must report alike, wherever it starts: only the learner knows that a log begins.
        let clock = EventClock::new(
            config.allowed_lateness.ms(),
            config.max_time_jump.ms(),
            pair(partition),
        );
        let read: Positions = pair(partition).into_iter().zip(start.offsets).collect();
        Ok(Self {
            partition,
            joiner: Joiner::warm_up(config.clone(), clock, MemStore::default())?,
            config,
            orderer: Orderer::new(&read, false),
            read,
            reported: start.reported,
            after_warm_up: VecDeque::new(),
            ended: BTreeSet::new(),
            timestamp_ms: None,
            unresolved: UnresolvedActions::new(start.offsets[1]),
            time_jump: None,
        })
    }

    /// Queues a record of one of its partitions. A record that was read before is dropped.
    pub fn push(&mut self, record: DecodedRecord) -> Result<(), PartitionJoinerError> {
        if !self.read.advance(record.position) {
            return Ok(());
        }
        self.ended.remove(&record.position.partition);
        if self.is_warming_up() && !self.was_reported(record.position) {
            self.after_warm_up.push_back(record);
        } else {
            self.orderer.push(record)?;
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

    /// Next offset to read of each of its partitions.
    pub fn wanted(&self) -> &Positions {
        &self.read
    }

    /// Records of `partition` that were pushed and not joined yet.
    pub fn n_queued(&self, partition: PartitionId) -> usize {
        let is_of = |record: &&DecodedRecord| record.position.partition == partition;
        self.orderer.n_queued(partition) + self.after_warm_up.iter().filter(is_of).count()
    }

    /// True when a record waits only for a silent partition: see [`Orderer::is_holding`].
    pub fn is_holding(&self) -> bool {
        self.orderer.is_holding()
    }

    /// True for a record whose outcome an earlier owner reported.
    pub fn was_reported(&self, position: Position) -> bool {
        self.reported.is_some_and(|reported| reported.covers(position))
    }

    /// True while everything that it joins was reported before.
    pub fn is_warming_up(&self) -> bool {
        self.reported.is_some()
    }

    /// The join.
    pub fn joiner(&self) -> &Joiner<MemStore> {
        &self.joiner
    }

    /// The first event far ahead of its time since the last call, for a message.
    pub fn take_time_jump(&mut self) -> Option<TimeJump> {
        self.time_jump.take()
    }

    /// The point up to which it has reported everything.
    pub fn progress(&self) -> ReportProgress {
        let [impressions, actions] =
            pair(self.partition).map(|id| self.orderer.positions().next(id).unwrap_or(0));
        ReportProgress {
            impressions,
            actions,
            watermark: self.joiner.clock().watermark(),
        }
    }

    /// Joins the next record and appends its join records to `out`. Returns the record's partition, or `None` until
    /// more was pushed; `release_all` is that of [`Orderer::next`].
    pub fn step(
        &mut self,
        release_all: bool,
        out: &mut Vec<OutgoingRecord>,
    ) -> Result<Option<PartitionId>, PartitionJoinerError> {
        let mut next = None;
        if let Some(reported) = self.reported {
            next = self.next_of_warm_up(reported)?;
        }
        // The warm-up may just have ended.
        if next.is_none() && !self.is_warming_up() {
            next = self.orderer.next(release_all)?;
        }
        // No plan log records this order: the next owner merges again.
        self.orderer.forget_runs();
        let Some(record) = next else { return Ok(None) };
        let partition = record.position.partition;
        self.join(record, out)?;
        Ok(Some(partition))
    }

    /// Advances time without `partition`, which is silent while others of its stream are not: it takes the time of the
    /// other partition. The caller decides which partitions are silent, and calls this repeatedly while that lasts.
    pub fn skip_silent(
        &mut self,
        partition: PartitionId,
        out: &mut Vec<OutgoingRecord>,
    ) -> Result<(), PartitionJoinerError> {
        let clock = self.joiner.clock();
        let others = clock.partitions().filter(|(id, _, _)| *id != partition);
        let Some(newest) = others.map(|(_, newest, _)| newest).max() else {
            return Ok(());
        };
        if self.is_warming_up() {
            return Ok(());
        }
        let watermark = clock.watermark();
        let effects = self.joiner.advance(partition, newest)?;
        let [_, actions] = pair(self.partition);
        let drafts = of_effects(None, effects, actions, i64::MIN);
        self.report(watermark, drafts, out)
    }

    fn join(
        &mut self,
        record: DecodedRecord,
        out: &mut Vec<OutgoingRecord>,
    ) -> Result<(), PartitionJoinerError> {
        self.timestamp_ms = record.timestamp_ms.or(self.timestamp_ms);
        match &record.event {
            Ok(Event::Action(action)) => {
                self.unresolved.read(record.position.offset);
                return self.join_action(&record, (action, 0), out);
            }
            Ok(Event::Actions(actions)) => {
                for (action, part) in actions.iter().zip(0..=u16::MAX) {
                    // The record counts as read with its last action.
                    if usize::from(part) + 1 == actions.len() {
                        self.unresolved.read(record.position.offset);
                    }
                    self.join_action(&record, (action, part), out)?;
                }
                return Ok(());
            }
            _ => {}
        }
        let (at, watermark) = (record.position, self.joiner.clock().watermark());
        let effects = self.joiner.step(&record, &mut without_features)?;
        let (outcome, new_part) = (effects.outcome, effects.new_part.take());
        let ahead_ms = effects.ahead_ms;
        self.note_time_jump(at, ahead_ms);
        if at.partition.stream == Stream::Actions {
            self.unresolved.read(at.offset);
        }
        let first = match (record.event, outcome) {
            (Ok(Event::Impression(impression)), Outcome::Accepted) => {
                let impression = new_part.unwrap_or(impression);
                Some((at, impression.user, shown(&self.config, impression, watermark)))
            }
            (Ok(Event::Impression(impression)), Outcome::Late) => {
                let items = &new_part.as_ref().unwrap_or(&impression).items;
                let n_items = items.len() as u64;
                Some((at, impression.user, JoinEvent::Late { n_items }))
            }
            _ => None,
        };
        self.report_effects(first, watermark, out)
    }

    /// Joins one action of a record, the `part`th.
    fn join_action(
        &mut self,
        record: &DecodedRecord,
        (action, part): (&Action, u16),
        out: &mut Vec<OutgoingRecord>,
    ) -> Result<(), PartitionJoinerError> {
        let watermark = self.joiner.clock().watermark();
        let Position { partition, offset } = record.position;
        let key = partition.at(action_key(offset, part));
        let effects = self.joiner.action(key, record.timestamp_ms, action)?;
        let (outcome, ahead_ms) = (effects.outcome, effects.ahead_ms);
        self.note_time_jump(record.position, ahead_ms);
        if outcome == Outcome::Early {
            self.unresolved.wait(offset, self.config.early_expiry(action.ts));
        }
        self.report_effects(None, watermark, out)
    }

    fn note_time_jump(&mut self, position: Position, ahead_ms: Option<i64>) {
        if let Some(ahead_ms) = ahead_ms {
            self.time_jump.get_or_insert(TimeJump { position, ahead_ms });
        }
    }

    /// Reports `first` and the effects of the last input; `watermark` is that before it.
    fn report_effects(
        &mut self,
        first: Option<EventDraft>,
        watermark: EventTime,
        out: &mut Vec<OutgoingRecord>,
    ) -> Result<(), PartitionJoinerError> {
        // An action that is given up with this record is reported with it, and resolved only after.
        let resolved_before = self.unresolved.resolved_before(watermark);
        let [_, actions] = pair(self.partition);
        let drafts = of_effects(first, self.joiner.effects(), actions, resolved_before);
        self.report(watermark, drafts, out)
    }

    /// The next record of the warm-up, which ends when every record that was reported is joined. Later records are
    /// kept until then.
    fn next_of_warm_up(
        &mut self,
        reported: ReportProgress,
    ) -> Result<Option<DecodedRecord>, PartitionJoinerError> {
        let mut is_read = true;
        for id in pair(self.partition) {
            let next = self.read.next(id).unwrap_or(0);
            if next >= reported.next(id.stream) || self.ended.contains(&id) {
                self.orderer.at_end(id);
            } else {
                is_read = false;
            }
        }
        let next = self.orderer.next(true)?;
        if next.is_none() && is_read {
            self.end_warm_up(reported)?;
        }
        Ok(next)
    }

    /// Restores the previous owner's watermark. It may have been ahead of what the log says, and that owner reported
    /// every outcome due by it.
    fn end_warm_up(&mut self, reported: ReportProgress) -> Result<(), PartitionJoinerError> {
        if reported.watermark != EventTime::MIN {
            let newest = reported.watermark.plus_ms(self.config.allowed_lateness.ms());
            for partition in pair(self.partition) {
                self.joiner.advance(partition, newest)?;
            }
        }
        self.reported = None;
        for record in std::mem::take(&mut self.after_warm_up) {
            self.orderer.push(record)?;
        }
        for partition in std::mem::take(&mut self.ended) {
            self.orderer.at_end(partition);
        }
        Ok(())
    }

    /// Appends the records that were not reported before. `watermark` is that before their cause.
    fn report(
        &mut self,
        watermark: EventTime,
        drafts: impl Iterator<Item = EventDraft>,
        out: &mut Vec<OutgoingRecord>,
    ) -> Result<(), PartitionJoinerError> {
        let is_reported = self.is_warming_up();
        // An earlier owner may have taken a late impression as being in time, and no other record would end it.
        let drafts = drafts.filter(|(_, _, event)| !is_reported || matches!(event, JoinEvent::Late { .. }));
        let timestamp_ms = self.timestamp_ms;
        out.extend(drafts.map(|(at, user, event)| OutgoingRecord {
            record: JoinRecord {
                at,
                watermark,
                user,
                event,
            },
            timestamp_ms,
        }));
        self.joiner.counters().check().map_err(JoinError::from)?;
        Ok(())
    }
}

/// The record of an accepted impression.
fn shown(config: &JoinConfig, impression: Impression, watermark: EventTime) -> JoinEvent {
    let late = config
        .tasks()
        .filter(|(_, task)| passed(impression.ts, task.window.ms()) <= watermark)
        .fold(0, |mask, (task, _)| mask | 1 << task);
    JoinEvent::Shown {
        late,
        deadline: passed(impression.ts, config.longest_window_ms()),
        impression,
    }
}

/// An impression without features: the learner captures those.
fn without_features(impression: &Impression) -> Captured {
    let request = Request {
        past: Vec::new(),
        id: impression.request,
        user: impression.user,
        ts: impression.ts,
        context: Vec::new(),
        history: Vec::new(),
        contents: Vec::new(),
        n_items: u16::try_from(impression.items.len()).unwrap_or(u16::MAX),
    };
    let candidates = impression.items.iter().map(|shown| Candidate {
        past: None,
        item: shown.item,
        attributes: Vec::new(),
        position: shown.position,
        dense: Dense::new([0.0; N_DENSE]),
        content: VectorId::NONE,
        predicted: ShownLogits::default(),
    });
    Captured::from((request, candidates.collect()))
}
