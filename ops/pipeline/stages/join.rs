//! Join: feeds records to the sequencer and carries out its effects.
//!
//! The order of [`Effects`] makes a crash harmless: an entry is in the plan log before its batches reach the learner.
//! While the plan log cannot be written, this thread waits in [`PlanWriter`]: learning pauses, serving does not.

mod arrivals;
mod links;
mod plan_reader;
mod plan_writer;

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use metrics::counter;

use ouzel_ingest::join::Outcome;
use ouzel_ingest::metrics::STORE_FAILURES;
use ouzel_ingest::{Effects, NextInput, Sequencer, StageError};
use ouzel_sample::DecodedRecord;
use ouzel_verify::failpoint::{self, FailPoint};

use crate::pipeline::stages::idle::Idleness;
use crate::pipeline::stages::stream_log::MatchLog;
use crate::pipeline::stages::time_jumps::TimeJumpLog;
use crate::pipeline::stages::{JoinCheckpoint, Joined, Read};
use arrivals::Arrivals;
use links::LearnerGone;
use plan_reader::MAX_WAITING;

pub use links::{JoinLinks, JoinSettings};
pub(crate) use plan_reader::plan_lease;
pub use plan_reader::{Plan, PlanReader};
pub use plan_writer::PlanWriter;

/// Time between two checks of the clocks when no record arrives.
const TICK: Duration = Duration::from_millis(5);

/// Longest wait for the acknowledgement of copied late records at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The stage.
pub struct Join {
    sequencer: Sequencer,
    plan: Plan,
    settings: JoinSettings,
    links: JoinLinks,
    arrivals: Arrivals,
    idleness: Idleness,
    time_jumps: TimeJumpLog,
    matches: MatchLog,
    /// Time of the first sample in the open batch.
    opened: Option<Instant>,
    /// Time of the last checkpoint, or of the start.
    checkpointed: Instant,
    /// True if the state has changed since.
    is_changed: bool,
    /// The newest request that the next checkpoint answers.
    answers: Option<u64>,
    /// True if the next checkpoint is the last.
    is_last: bool,
    /// The writer of this process, while what the former writer has recorded is not joined yet.
    successor: Option<PlanWriter>,
}

impl Join {
    /// A stage that drives `sequencer` and writes its entries to `plan`, or follows those of another daemon.
    pub fn new(
        sequencer: Sequencer,
        plan: impl Into<Plan>,
        settings: JoinSettings,
        links: JoinLinks,
    ) -> Self {
        let partitions = sequencer.orderer().positions().iter().map(|(id, _)| id);
        Self {
            idleness: Idleness::new(partitions, Instant::now()),
            sequencer,
            plan: plan.into(),
            settings,
            links,
            arrivals: Arrivals::default(),
            time_jumps: TimeJumpLog::default(),
            matches: MatchLog::default(),
            opened: None,
            checkpointed: Instant::now(),
            is_changed: false,
            answers: None,
            is_last: false,
            successor: None,
        }
    }

    /// Joins until poll ends, then takes the last checkpoint.
    pub fn run(mut self, input: &Receiver<Read>) -> anyhow::Result<()> {
        let done = self.join(input);
        match &done {
            // The supervisor reports the error of the learner, which is the cause.
            Err(error) if error.is::<LearnerGone>() => {
                tracing::error!("{error}");
                return Ok(());
            }
            Err(error) if error.downcast_ref().is_some_and(StageError::is_store_failure) => {
                counter!(STORE_FAILURES).increment(1);
                tracing::error!("the join store failed; the next start rebuilds it from the newest snapshot");
            }
            _ => {}
        }
        done
    }

    fn join(&mut self, input: &Receiver<Read>) -> anyhow::Result<()> {
        loop {
            match input.recv_timeout(TICK) {
                Ok(read) => {
                    self.accept(read)?;
                    while let Ok(read) = input.try_recv() {
                        self.accept(read)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.follow()?;
            self.release()?;
            self.decide()?;
        }
        self.is_last = true;
        if let Some(late) = &self.links.late
            && let Err(error) = late.flush(FLUSH_TIMEOUT)
        {
            tracing::warn!(%error, "some late records may not have been copied");
        }
        match self.sequencer.stop()? {
            Some(effects) => self.execute(effects)?,
            None => tracing::info!("stopped while following the plan log: no last snapshot"),
        }
        Ok(())
    }

    /// True while another daemon decides, or what it decided last is not joined yet.
    fn is_standby(&self) -> bool {
        matches!(self.plan, Plan::Follow(_))
    }

    /// Reads what another daemon has added to the plan, and goes on in its place once this process is the writer.
    fn follow(&mut self) -> anyhow::Result<()> {
        let Plan::Follow(plan) = &mut self.plan else {
            return Ok(());
        };
        let mut entries = Vec::new();
        if self.successor.is_none() && plan.may_lead() {
            if let Some((writer, left)) = plan.take_over()? {
                tracing::info!(
                    entries = left.len(),
                    "the plan log of the former writer has ended"
                );
                (self.successor, entries) = (Some(writer), left);
            }
        } else if self.successor.is_none() && self.sequencer.n_recorded() < MAX_WAITING {
            entries = plan.entries()?;
        }
        for entry in entries {
            self.sequencer.extend(entry);
        }
        self.checkpoint_if_followed()?;
        let n_behind = self.sequencer.n_recorded();
        let status = &self.links.status;
        status.entries_behind.store(n_behind as u64, Ordering::Relaxed);
        match self.successor.take_if(|_| n_behind == 0) {
            Some(writer) => self.lead(writer),
            None => Ok(()),
        }
    }

    /// Decides from here on, and takes the first checkpoint.
    fn lead(&mut self, writer: PlanWriter) -> anyhow::Result<()> {
        self.plan = Plan::Write(writer);
        self.sequencer.lead();
        if let Some(encoding) = &self.links.encoding {
            // What was encoded meanwhile came into use when the other daemon said so; the rest comes again.
            encoding.discard();
            encoding.send(self.sequencer.stage().features().items());
        }
        tracing::info!(
            plan_position = self.sequencer.plan_position(),
            "learning goes on in place of the former writer"
        );
        match self.sequencer.request_checkpoint() {
            Some(effects) => self.execute(effects),
            None => Ok(()),
        }
    }

    /// Takes the checkpoint that another daemon took at this point, to be compared with its snapshot.
    fn checkpoint_if_followed(&mut self) -> anyhow::Result<()> {
        let (position, is_between) = (
            self.sequencer.plan_position(),
            self.sequencer.is_between_entries(),
        );
        if let Plan::Follow(plan) = &mut self.plan
            && is_between
            && plan.take_checkpoint(position)
        {
            self.checkpoint()?;
        }
        Ok(())
    }

    fn accept(&mut self, read: Read) -> anyhow::Result<()> {
        let now = Instant::now();
        match read {
            Read::Records(records) => {
                if let Some(last) = records.last() {
                    self.arrivals.record(last.position, now);
                    self.idleness.record(last.position.partition, now);
                }
                for recorded in records {
                    self.sequencer.push(recorded)?;
                }
            }
            Read::AtEnd(partition) => self.sequencer.at_end(partition),
            Read::Added(partition) => {
                self.sequencer.add_partition(partition);
                self.idleness.record(partition, now);
                tracing::info!(%partition, "the log has gained a partition: reading it from its start");
            }
            Read::Finished => self.sequencer.end_log(),
        }
        Ok(())
    }

    /// Joins every record that the order can release.
    fn release(&mut self) -> anyhow::Result<()> {
        let mut n_taken = 0u64;
        loop {
            let waited = self
                .sequencer
                .orderer()
                .head()
                .and_then(|head| self.arrivals.age(head));
            let is_due = waited >= Some(self.settings.max_reorder_delay);
            let effects = match self.sequencer.next(is_due)? {
                None => break,
                Some(NextInput::EndOfEntry(encoded)) => {
                    let encoding = self.links.encoding.as_ref();
                    if let (Some(encoding), Plan::Follow(plan)) = (encoding, &mut self.plan)
                        && plan.waits_for(encoding, &encoded)?
                    {
                        break;
                    }
                    let vectors = encoding.map(|encoding| encoding.load(encoded)).transpose()?;
                    self.sequencer.end_entry(vectors.unwrap_or_default())?
                }
                Some(NextInput::Record(recorded)) => {
                    n_taken += 1;
                    self.is_changed = true;
                    self.take(&recorded)?
                }
            };
            self.execute(effects)?;
            self.checkpoint_if_old()?;
            self.checkpoint_if_followed()?;
        }
        if n_taken > 0 {
            self.links.status.events.fetch_add(n_taken, Ordering::Relaxed);
            self.links.status.joined(self.sequencer.stage());
        }
        Ok(())
    }

    fn take(&mut self, recorded: &DecodedRecord) -> anyhow::Result<Effects> {
        let position = recorded.position;
        self.links.backlog.released(position.partition, 1);
        self.arrivals.forget(position);
        if let Err(reject) = &recorded.event {
            let status = &self.links.status;
            let count = match reject.reason.is_unneeded() {
                true => &status.unneeded,
                false => &status.rejected,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        let effects = self.sequencer.take(recorded);
        let effects = effects.with_context(|| format!("cannot join {position}"))?;
        if let Some(late) = &self.links.late {
            // While another daemon decides, that one copies late records.
            let is_ours = matches!(self.plan, Plan::Write(_));
            late.joined(position, if is_ours { effects.outcome } else { Outcome::Passed });
        }
        Ok(effects)
    }

    /// Makes the decisions that depend on time: early batches, idle partitions, vectors, requested checkpoints.
    fn decide(&mut self) -> anyhow::Result<()> {
        self.time_jumps.log(|| self.sequencer.take_time_jump());
        self.matches.watch(self.sequencer.stage().counters());
        if let Some(late) = &self.links.late {
            late.poll();
        }
        if self.is_standby()
            && let Some(encoding) = &self.links.encoding
        {
            encoding.discard();
        }
        if !self.sequencer.is_following() {
            let flush_after = self.settings.flush_after;
            let is_old = self.opened.is_some_and(|opened| opened.elapsed() >= flush_after);
            if is_old && !flush_after.is_zero() {
                let effects = self.sequencer.flush()?;
                self.execute(effects)?;
            }
            let orderer = self.sequencer.orderer();
            let stage = self.sequencer.stage();
            let idle = self.idleness.take_idle(
                Instant::now(),
                |id| orderer.is_drained(id),
                || stage.partition_times(),
            );
            let effects = self.sequencer.mark(idle)?;
            self.execute(effects)?;
            if let Some(encoding) = &self.links.encoding {
                let encoded = encoding.from.try_iter().flatten().collect();
                let effects = self.sequencer.use_vectors(encoded)?;
                self.execute(effects)?;
            }
            self.answers = self.links.control.take_request().or(self.answers);
            if self.answers.is_some()
                && let Some(effects) = self.sequencer.request_checkpoint()
            {
                self.execute(effects)?;
            }
        }
        self.checkpoint_if_old()?;
        match &mut self.plan {
            Plan::Write(plan) => plan.sync_if_due(),
            Plan::Follow(_) => Ok(()),
        }
    }

    /// Takes a checkpoint if the last one is old and something has changed since.
    ///
    /// The clock decides when, and the plan log names the point, as with a request: nothing learned depends on it.
    fn checkpoint_if_old(&mut self) -> anyhow::Result<()> {
        let limit = self.settings.checkpoint_after;
        if limit.is_zero() || !self.is_changed || self.is_standby() || self.checkpointed.elapsed() < limit {
            return Ok(());
        }
        match self.sequencer.request_checkpoint() {
            Some(effects) => self.execute(effects),
            None => Ok(()),
        }
    }

    /// Carries out effects in the order of [`Effects`].
    fn execute(&mut self, effects: Effects) -> anyhow::Result<()> {
        if let Some(entry) = &effects.append {
            self.is_changed = true;
            match &mut self.plan {
                Plan::Write(plan) => plan.append(entry)?,
                Plan::Follow(_) => bail!("a standby has recorded entry {} of the plan log", entry.seq),
            }
        }
        match (self.sequencer.stage().n_open(), effects.batches.is_empty()) {
            (0, _) => self.opened = None,
            (_, false) => self.opened = Some(Instant::now()),
            (_, true) => {
                self.opened.get_or_insert_with(Instant::now);
            }
        }
        for batch in effects.batches {
            self.links.status.joined_batches.fetch_add(1, Ordering::Relaxed);
            self.links.send(Joined::Batch(batch))?;
            failpoint::reach(FailPoint::BatchSent);
        }
        if effects.is_checkpoint_due && !self.is_standby() {
            self.checkpoint()?;
        }
        if let Some(encoding) = &self.links.encoding {
            encoding.send(effects.encode);
        }
        if effects.is_caught_up {
            tracing::info!(
                plan_position = self.sequencer.plan_position(),
                "caught up with the plan log"
            );
            failpoint::reach(FailPoint::PlanFollowed);
        }
        Ok(())
    }

    /// Sends the state after all records joined so far, which are durable in the plan log.
    fn checkpoint(&mut self) -> anyhow::Result<()> {
        if let Plan::Write(plan) = &mut self.plan {
            plan.sync()?;
        }
        failpoint::reach(FailPoint::PlanSynced);
        let checkpoint = JoinCheckpoint {
            stage: self.sequencer.stage().checkpoint()?,
            plan_position: self.sequencer.plan_position(),
            answers: self.answers.take(),
            is_last: self.is_last,
            is_followed: self.is_standby(),
        };
        failpoint::reach(FailPoint::CheckpointTaken);
        if let (false, Plan::Write(plan)) = (self.sequencer.is_following(), &mut self.plan) {
            plan.roll(self.links.control.plan_keep_from())?;
        }
        self.links.status.joined(self.sequencer.stage());
        (self.checkpointed, self.is_changed) = (Instant::now(), false);
        Ok(self.links.send(Joined::Checkpoint(Box::new(checkpoint)))?)
    }
}
