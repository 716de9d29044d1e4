//! The sequencer: decoded records in, one recorded order of batches out.
//!
//! A pure state machine over the [`Orderer`] and the [`Stage`]. It reads no clock and does no IO: it returns
//! [`Effects`] for the caller to execute. Decisions that depend on a clock or another thread (how long to wait for a
//! silent partition, when to close an open batch, when a vector is ready) are inputs.
//!
//! Each decision is recorded in a [`PlanEntry`]. While the plan has recorded entries, the sequencer follows them and
//! ignores new decisions; after them it records. An entry is appended before the batches that it explains are handed
//! over, so a run that follows the plan makes the same batches as the run that recorded it, wherever that run stopped.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use ouzel_sample::{
    Batch, DecodedRecord, Event, Id, Item, ItemVectors, PartitionId, Positions, Vector, VectorOrigin,
};

use crate::join::{Mark, Outcome, TimeJump};
use crate::order::{OrderError, Orderer, is_bootstrapping};
use crate::plan::{Encoded, PlanEntry};
use crate::stage::{Stage, StageError};

/// What the caller must do before the next input, in the order of the fields.
#[derive(Debug, Default)]
#[must_use = "a batch may only be handed over after its plan entry was appended"]
pub struct Effects {
    /// Append this entry to the plan log.
    pub append: Option<PlanEntry>,
    /// Hand these batches to the learner.
    pub batches: Vec<Batch>,
    /// Take a checkpoint: one is due, and the plan position names this point.
    pub is_checkpoint_due: bool,
    /// Encode the contents of this item, which is new or has changed.
    pub encode: Option<Arc<Item>>,
    /// What became of the record.
    pub outcome: Outcome,
    /// The last recorded entry is complete: from here on the order is new.
    pub is_caught_up: bool,
}

/// The next input in the order.
#[derive(Debug)]
pub enum NextInput {
    /// A record, for [`Sequencer::take`].
    Record(DecodedRecord),
    /// Every record of the recorded entry was taken: [`Sequencer::end_entry`] completes it with the vectors of
    /// these items.
    EndOfEntry(Vec<Encoded>),
}

/// The state machine.
#[derive(Debug)]
pub struct Sequencer {
    stage: Stage,
    orderer: Orderer,
    /// Recorded entries that are not complete yet.
    recorded: VecDeque<PlanEntry>,
    /// Some records of the first recorded entry were taken: the plan has no name for this point.
    is_inside_entry: bool,
    /// Number of the next entry: the plan position of a checkpoint taken now.
    plan_position: u64,
    /// Batches from one checkpoint to the next.
    checkpoint_every: u64,
    is_checkpoint_due: bool,
    /// Partitions that the log has gained and the plan does not name yet.
    added: Vec<PartitionId>,
    /// A bounded log was pushed to its end.
    is_log_over: bool,
    /// Another process decides: beyond the recorded entries this one waits for more of them.
    is_standby: bool,
    /// Partitions at their end, while another process decides what that means.
    ended: BTreeSet<PartitionId>,
}

impl Sequencer {
    /// A sequencer that continues where `stage` stopped.
    ///
    /// `start` has the next offset of each assigned partition, `recorded` the entries of the plan log from
    /// `plan_position` on, which are followed first.
    pub fn new(
        stage: Stage,
        start: &Positions,
        plan_position: u64,
        recorded: VecDeque<PlanEntry>,
        checkpoint_every: u64,
    ) -> Self {
        let mut orderer = Orderer::new(start, is_bootstrapping(stage.positions()));
        if let Some(entry) = recorded.front() {
            orderer.follow(entry.runs.iter().copied());
        }
        Self {
            stage,
            orderer,
            recorded,
            is_inside_entry: false,
            plan_position,
            checkpoint_every,
            is_checkpoint_due: false,
            added: Vec::new(),
            is_log_over: false,
            is_standby: false,
            ended: BTreeSet::new(),
        }
    }

    /// Decides nothing until [`Sequencer::lead`]: follows the entries that another process records, whenever they come.
    #[must_use]
    pub fn as_standby(mut self) -> Self {
        self.is_standby = true;
        self
    }

    /// Adds an entry that the other process has recorded.
    pub fn extend(&mut self, entry: PlanEntry) {
        if self.recorded.is_empty() {
            self.orderer.follow(entry.runs.iter().copied());
        }
        self.recorded.push_back(entry);
    }

    /// Decides from here on, as after a restart at this point. Every recorded entry must be complete.
    pub fn lead(&mut self) {
        self.is_standby = false;
        self.orderer.restart(is_bootstrapping(self.stage.positions()));
        for partition in std::mem::take(&mut self.ended) {
            self.orderer.at_end(partition);
        }
    }

    /// Number of recorded entries that are not complete yet.
    pub fn n_recorded(&self) -> usize {
        self.recorded.len()
    }

    /// True between two entries of the plan, where a checkpoint can be taken.
    pub fn is_between_entries(&self) -> bool {
        !self.is_inside_entry
    }

    /// Queues a record that was read.
    pub fn push(&mut self, record: DecodedRecord) -> Result<(), OrderError> {
        self.ended.remove(&record.position.partition);
        self.orderer.push(record)
    }

    /// Everything written to `partition` so far was pushed.
    pub fn at_end(&mut self, partition: PartitionId) {
        if self.is_standby {
            // The other process may have read records that were written since.
            self.ended.insert(partition);
        } else {
            self.orderer.at_end(partition);
        }
    }

    /// Adds a partition that the log has gained, to be read from offset 0.
    pub fn add_partition(&mut self, partition: PartitionId) {
        self.orderer.add(partition);
        self.added.push(partition);
    }

    /// Notes that a bounded log was pushed to its end.
    pub fn end_log(&mut self) {
        self.is_log_over = true;
        let partitions: Vec<_> = self.orderer.positions().iter().map(|(id, _)| id).collect();
        for partition in partitions {
            self.orderer.finish(partition);
        }
    }

    /// The next input in the order, or `None` until more records are pushed.
    ///
    /// `is_due` says that the record at [`Orderer::head`] has waited long enough for partitions at their end.
    pub fn next(&mut self, is_due: bool) -> Result<Option<NextInput>, OrderError> {
        if let Some(entry) = self.recorded.front()
            && !self.orderer.is_following()
        {
            return Ok(Some(NextInput::EndOfEntry(entry.encoded.clone())));
        }
        let is_known = |entry: &PlanEntry| entry.runs.iter().all(|run| self.orderer.has(run.partition));
        if self.is_standby && !self.recorded.front().is_some_and(is_known) {
            return Ok(None);
        }
        Ok(self.orderer.next(is_due)?.map(NextInput::Record))
    }

    /// Joins the record that [`Sequencer::next`] returned.
    pub fn take(&mut self, record: &DecodedRecord) -> Result<Effects, StageError> {
        let mut batches = Vec::new();
        let outcome = self.stage.take(record, &mut batches)?;
        self.is_inside_entry = !self.recorded.is_empty();
        let encode = match &record.event {
            Ok(Event::Item(item)) => self.stage.features().item(item.id),
            Ok(Event::ItemUpdate(update)) => self.stage.features().item(update.id),
            _ => None,
        };
        let decisions = PlanEntry::default();
        Ok(Effects {
            encode,
            outcome,
            ..self.hand_over(decisions, batches)
        })
    }

    /// Completes the recorded entry with the content vectors that it names.
    pub fn end_entry(&mut self, vectors: Vec<(Id, ItemVectors)>) -> Result<Effects, StageError> {
        let Some(entry) = self.recorded.pop_front() else {
            return Ok(Effects::default());
        };
        let mut batches = Vec::new();
        self.decide(&entry.marks, vectors, entry.flush, &mut batches)?;
        self.plan_position = entry.seq + 1;
        self.is_inside_entry = false;
        if let Some(next) = self.recorded.front() {
            self.orderer.follow(next.runs.iter().copied());
        }
        self.note_due(&batches);
        Ok(Effects {
            batches,
            is_checkpoint_due: std::mem::take(&mut self.is_checkpoint_due),
            is_caught_up: !self.is_following(),
            ..Effects::default()
        })
    }

    /// Closes the open batch before it is full. Changes nothing while the plan is followed, or without a sample.
    pub fn flush(&mut self) -> Result<Effects, StageError> {
        let decisions = PlanEntry {
            flush: self.stage.n_open() > 0,
            ..PlanEntry::default()
        };
        self.record(decisions, Vec::new())
    }

    /// Lets partitions that became idle hold event time no longer, and those that the log has gained hold it from
    /// now on, even before their first record. Changes nothing while the plan is followed.
    pub fn mark(&mut self, idle: Vec<PartitionId>) -> Result<Effects, StageError> {
        if self.is_following() {
            return Ok(Effects::default());
        }
        let added = std::mem::take(&mut self.added).into_iter();
        let marks = added.map(|id| (id, Mark::Active));
        let decisions = PlanEntry {
            marks: marks.chain(idle.into_iter().map(|id| (id, Mark::Idle))).collect(),
            ..PlanEntry::default()
        };
        self.record(decisions, Vec::new())
    }

    /// Uses content vectors from here on. Changes nothing while the plan is followed.
    pub fn use_vectors(&mut self, vectors: Vec<(Id, ItemVectors)>) -> Result<Effects, StageError> {
        let content = |vector: &Option<Vector>| match vector.as_ref()?.origin {
            VectorOrigin::Encoded(content) => Some(content),
            VectorOrigin::Provided(_) => None,
        };
        let decisions = PlanEntry {
            encoded: vectors
                .iter()
                .map(|(item, vectors)| (*item, vectors.each_ref().map(content)))
                .collect(),
            ..PlanEntry::default()
        };
        self.record(decisions, vectors)
    }

    /// Names this point in the plan, so that a checkpoint can be taken. `None` inside a recorded entry: a restart
    /// follows that entry from an earlier checkpoint.
    pub fn request_checkpoint(&mut self) -> Option<Effects> {
        self.close(Vec::new())
    }

    /// Ends the run with a checkpoint, as [`Sequencer::request_checkpoint`]. When a bounded log is over, closes every
    /// window and the open batch first.
    pub fn stop(&mut self) -> Result<Option<Effects>, StageError> {
        let mut batches = Vec::new();
        if self.is_log_over && !self.is_inside_entry {
            self.stage.finish(&mut batches)?;
        }
        Ok(self.close(batches))
    }

    /// True until every recorded entry is complete, and while another process decides.
    pub fn is_following(&self) -> bool {
        self.is_standby || !self.recorded.is_empty()
    }

    /// The joined state.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// The first event far ahead of its time since the last call: see [`Stage::take_time_jump`].
    pub fn take_time_jump(&mut self) -> Option<TimeJump> {
        self.stage.take_time_jump()
    }

    /// Number of the next plan entry, which names a checkpoint taken now.
    pub fn plan_position(&self) -> u64 {
        self.plan_position
    }

    /// The order.
    pub fn orderer(&self) -> &Orderer {
        &self.orderer
    }

    fn close(&mut self, batches: Vec<Batch>) -> Option<Effects> {
        if self.is_inside_entry {
            return None;
        }
        self.is_checkpoint_due = false;
        Some(Effects {
            append: self.next_entry(PlanEntry::default()),
            batches,
            is_checkpoint_due: true,
            ..Effects::default()
        })
    }

    /// Carries out new decisions and records them.
    fn record(
        &mut self,
        decisions: PlanEntry,
        vectors: Vec<(Id, ItemVectors)>,
    ) -> Result<Effects, StageError> {
        if self.is_following() || decisions.is_empty() {
            return Ok(Effects::default());
        }
        let mut batches = Vec::new();
        self.decide(&decisions.marks, vectors, decisions.flush, &mut batches)?;
        Ok(self.hand_over(decisions, batches))
    }

    /// Carries out the decisions of one entry, in the order in which an entry lists them.
    fn decide(
        &mut self,
        marks: &[(PartitionId, Mark)],
        vectors: Vec<(Id, ItemVectors)>,
        is_flush: bool,
        batches: &mut Vec<Batch>,
    ) -> Result<(), StageError> {
        for (partition, mark) in marks {
            self.stage.mark(*partition, *mark, batches)?;
        }
        for (item, vectors) in vectors {
            self.stage.use_vectors(item, vectors);
        }
        if is_flush {
            batches.extend(self.stage.flush());
        }
        Ok(())
    }

    /// The effects of new batches and decisions, with an entry where the plan needs one.
    fn hand_over(&mut self, decisions: PlanEntry, batches: Vec<Batch>) -> Effects {
        self.note_due(&batches);
        if self.is_following() || (batches.is_empty() && decisions.is_empty()) {
            return Effects {
                batches,
                ..Effects::default()
            };
        }
        Effects {
            append: self.next_entry(decisions),
            batches,
            is_checkpoint_due: std::mem::take(&mut self.is_checkpoint_due),
            ..Effects::default()
        }
    }

    /// The entry for these decisions and what was released since the last one. `None` without either, and while
    /// the plan is followed.
    fn next_entry(&mut self, decisions: PlanEntry) -> Option<PlanEntry> {
        let entry = PlanEntry {
            seq: self.plan_position,
            runs: self.orderer.take_runs(),
            ..decisions
        };
        if self.is_following() || entry.is_empty() {
            return None;
        }
        self.plan_position += 1;
        Some(entry)
    }

    /// The first batch of a lineage is due too, so that whatever is served belongs to a snapshot.
    fn note_due(&mut self, batches: &[Batch]) {
        self.is_checkpoint_due |= batches
            .iter()
            .any(|batch| batch.seq == 0 || (batch.seq + 1).is_multiple_of(self.checkpoint_every));
    }
}
