//! Join: puts records in order, writes the order down, joins them and hands batches to the learner.
//!
//! The rule that makes a crash harmless is in `Join::commit`: the order in which records were taken is in the
//! plan log before a batch made of them can reach the learner. Where the log cannot be written, for a disk that
//! is full or does not work, the stage waits: learning pauses, serving does not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use anyhow::Context;
use metrics::{counter, gauge};

use ouzel_ingest::join::Mark;
use ouzel_ingest::metrics::STORE_FAILURES;
use ouzel_ingest::order::Orderer;
use ouzel_ingest::plan::{PlanEntry, PlanError, PlanLog};
use ouzel_ingest::{Stage, StageError};
use ouzel_sample::{Batch, Event, Id, ItemVectors, Origin, PartitionId, Vector};

use crate::failpoint::{self, FailPoint};
use crate::live::PipelineStatus;
use crate::metrics::{PLAN_STALLED, PLAN_STALLS_TOTAL};
use crate::stages::backlog::Backlog;
use crate::stages::encode::Encoding;
use crate::stages::idle::Idleness;
use crate::stages::{JoinCheckpoint, Joined, Read};

/// How often the stage looks at its clocks when nothing comes.
const TICK: Duration = Duration::from_millis(5);
/// How often the plan log is made durable between snapshots.
const SYNC_EVERY: Duration = Duration::from_millis(200);

/// How often a plan log that cannot be written is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// How long it is tried after poll has ended.
const RETRY_AT_END: Duration = Duration::from_secs(5);

/// Times and counts that shape the stage without changing what a given order means.
#[derive(Clone, Copy, Debug)]
pub struct JoinSettings {
    /// How long a record may be held for earlier ones of other partitions.
    pub hold: Duration,
    /// How long a batch may stay open; zero is for ever.
    pub flush_after: Duration,
    /// Batches from one cut to the next.
    pub every_batches: u64,
}

/// The stage.
pub struct Join {
    stage: Stage,
    orderer: Orderer,
    plan: PlanLog,
    /// Entries of the plan that were read before a crash and are followed now.
    replay: VecDeque<PlanEntry>,
    /// Something of the first of them was taken.
    is_in_entry: bool,
    plan_position: u64,
    settings: JoinSettings,
    backlog: Arc<Backlog>,
    live: Arc<PipelineStatus>,
    out: SyncSender<Joined>,
    /// When records of each partition came: offset after the last one of a piece, and when.
    arrivals: BTreeMap<PartitionId, VecDeque<(i64, Instant)>>,
    idleness: Idleness,
    /// Partitions that the log has gained and the plan log does not name yet.
    added: Vec<PartitionId>,
    encoding: Option<Encoding>,
    opened: Option<Instant>,
    synced: Instant,
    is_finished: bool,
}

impl Join {
    /// A stage that goes on from where `stage` stands, following `replay` first.
    #[expect(
        clippy::too_many_arguments,
        reason = "the wiring names each part once, in topology.rs"
    )]
    pub fn new(
        stage: Stage,
        orderer: Orderer,
        plan: PlanLog,
        replay: VecDeque<PlanEntry>,
        settings: JoinSettings,
        backlog: Arc<Backlog>,
        live: Arc<PipelineStatus>,
        out: SyncSender<Joined>,
        encoding: Option<Encoding>,
    ) -> Self {
        let now = Instant::now();
        let idleness = Idleness::new(orderer.positions().iter().map(|(id, _)| id), now);
        let plan_position = replay.front().map_or(plan.position(), |entry| entry.seq);
        let mut join = Self {
            stage,
            orderer,
            plan,
            replay,
            is_in_entry: false,
            plan_position,
            settings,
            backlog,
            live,
            out,
            arrivals: BTreeMap::new(),
            idleness,
            added: Vec::new(),
            encoding,
            opened: None,
            synced: now,
            is_finished: false,
        };
        if let Some(entry) = join.replay.front() {
            join.orderer.follow(entry.runs.iter().copied());
        }
        join
    }

    /// Joins until poll ends, then takes the last cut.
    pub fn run(self, input: &Receiver<Read>) -> anyhow::Result<()> {
        let done = self.join(input);
        if let Err(error) = &done
            && let Some(error) = error.downcast_ref::<StageError>()
            && error.is_of_the_store()
        {
            // Whoever starts this process again has it emptied and filled from the snapshot.
            counter!(STORE_FAILURES).increment(1);
            tracing::error!("the join store failed; the next start rebuilds it from the newest snapshot");
        }
        done
    }

    fn join(mut self, input: &Receiver<Read>) -> anyhow::Result<()> {
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
            if !self.release()? || !self.on_tick()? {
                return Ok(());
            }
        }
        let mut batches = Vec::new();
        if self.is_finished {
            self.stage.finish(&mut batches)?;
        }
        if self.is_in_entry {
            // The plan has no name for this point; the next start follows it again from the last snapshot.
            tracing::info!("stopped while following the plan log: no last snapshot");
        } else if self.commit(batches, false)? {
            self.cut(true, None)?;
        }
        Ok(())
    }

    fn accept(&mut self, read: Read) -> anyhow::Result<()> {
        match read {
            Read::Records(records) => {
                if let Some(last) = records.last() {
                    let (partition, now) = (last.position.partition, Instant::now());
                    self.arrivals
                        .entry(partition)
                        .or_default()
                        .push_back((last.position.offset + 1, now));
                    self.idleness.saw(partition, now);
                }
                for recorded in records {
                    self.orderer.push(recorded)?;
                }
            }
            Read::AtEnd(partition) => self.orderer.at_end(partition),
            Read::Added(partition) => {
                self.orderer.add(partition);
                self.idleness.saw(partition, Instant::now());
                self.added.push(partition);
                tracing::info!(%partition, "the log has gained a partition: reading it from its start");
            }
            Read::Finished => {
                self.is_finished = true;
                let partitions: Vec<_> = self.orderer.positions().iter().map(|(id, _)| id).collect();
                for partition in partitions {
                    self.orderer.finish(partition);
                }
            }
        }
        Ok(())
    }

    /// Takes every record whose turn has come. False when the learner is gone.
    fn release(&mut self) -> anyhow::Result<bool> {
        let mut batches = Vec::new();
        let mut n_taken = 0u64;
        loop {
            while self.is_entry_over() {
                if !self.commit(std::mem::take(&mut batches), false)? {
                    return Ok(false);
                }
            }
            let is_held_long = self.head_age().is_some_and(|age| age >= self.settings.hold);
            let Some(recorded) = self.orderer.next(is_held_long)? else {
                break;
            };
            let position = recorded.position;
            self.backlog.released(position.partition, 1);
            if let Some(pieces) = self.arrivals.get_mut(&position.partition)
                && pieces.front().is_some_and(|(end, _)| *end <= position.offset + 1)
            {
                pieces.pop_front();
            }
            let n_open = self.stage.n_open();
            self.stage
                .take(&recorded, &mut batches)
                .with_context(|| format!("cannot join {position}"))?;
            self.is_in_entry = !self.replay.is_empty();
            n_taken += 1;
            if let (Some(encoding), Ok(Event::Item(item))) = (&self.encoding, &recorded.event) {
                encoding.ask(self.stage.features().item(item.id));
            }
            if recorded.event.is_err() {
                self.live.rejected.fetch_add(1, Ordering::Relaxed);
            }
            if n_open == 0 && self.stage.n_open() > 0 {
                self.opened = Some(Instant::now());
            }
            if !batches.is_empty() && !self.commit(std::mem::take(&mut batches), false)? {
                return Ok(false);
            }
        }
        if n_taken > 0 {
            self.live.events.fetch_add(n_taken, Ordering::Relaxed);
            self.live.joined(&self.stage);
        }
        Ok(true)
    }

    /// What only time decides: early batches, idle partitions, cuts asked for, durability of the plan.
    fn on_tick(&mut self) -> anyhow::Result<bool> {
        if self.replay.is_empty() {
            let is_due = self
                .opened
                .is_some_and(|opened| opened.elapsed() >= self.settings.flush_after);
            if is_due && !self.settings.flush_after.is_zero() && self.stage.n_open() > 0 {
                let batches = self.stage.flush().into_iter().collect();
                if !self.commit(batches, true)? {
                    return Ok(false);
                }
            }
            self.mark_added()?;
            self.mark_idle()?;
            self.use_vectors()?;
            let wanted = self.live.take_cut_wanted();
            if wanted.is_some() && !(self.commit(Vec::new(), false)? && self.cut(false, wanted)?) {
                return Ok(false);
            }
        }
        if self.synced.elapsed() >= SYNC_EVERY {
            self.write(PlanLog::sync)?;
            self.synced = Instant::now();
        }
        Ok(true)
    }

    /// Writes down what was taken since the last entry, then hands over the batches it made.
    fn commit(&mut self, batches: Vec<Batch>, is_flush: bool) -> anyhow::Result<bool> {
        let mut batches = batches;
        if let Some(entry) = self.replay.front() {
            if !self.is_entry_over() {
                return self.send(batches);
            }
            self.plan_position = entry.seq + 1;
            for (partition, mark) in entry.marks.clone() {
                self.stage.mark(partition, mark, &mut batches)?;
            }
            for (item, contents) in entry.encoded.clone() {
                if let Some(encoding) = &self.encoding {
                    let vectors = encoding.planned(contents)?;
                    self.stage.use_vectors(item, vectors);
                }
            }
            if entry.flush {
                batches.extend(self.stage.flush());
            }
            self.replay.pop_front();
            self.is_in_entry = false;
            // Before the next entry is begun: here a cut has a name.
            let is_sent = self.send(batches)?;
            if let Some(next) = self.replay.front() {
                self.orderer.follow(next.runs.iter().copied());
            } else {
                tracing::info!(plan_position = self.plan_position, "caught up with the plan log");
                failpoint::reach(FailPoint::CaughtUp);
            }
            return Ok(is_sent);
        }
        let runs = self.orderer.take_runs();
        if !runs.is_empty() || is_flush {
            self.write(|plan| plan.append(runs.clone(), Vec::new(), Vec::new(), is_flush))?;
            self.plan_position = self.plan.position();
            failpoint::reach(FailPoint::PlanAppended);
        }
        self.send(batches)
    }

    fn send(&mut self, batches: Vec<Batch>) -> anyhow::Result<bool> {
        if batches.is_empty() {
            return Ok(true);
        }
        self.opened = (self.stage.n_open() > 0).then(Instant::now);
        // The first batch of a lineage is cut too, so that whatever is served belongs to a snapshot.
        let every = self.settings.every_batches;
        let is_cut = batches
            .iter()
            .any(|batch| batch.seq == 0 || (batch.seq + 1).is_multiple_of(every));
        for batch in batches {
            if self.out.send(Joined::Batch(batch)).is_err() {
                return Ok(false);
            }
            failpoint::reach(FailPoint::BatchHanded);
        }
        // In the middle of a followed entry the plan has no name for this point.
        if is_cut && !self.is_in_entry {
            self.cut(false, None)
        } else {
            Ok(true)
        }
    }

    /// Sends the stage's state after everything taken so far. False when the learner is gone.
    fn cut(&mut self, is_last: bool, answers: Option<u64>) -> anyhow::Result<bool> {
        self.write(PlanLog::sync)?;
        failpoint::reach(FailPoint::PlanSynced);
        let cut = JoinCheckpoint {
            stage: self.stage.cut()?,
            plan_position: self.plan_position,
            answers,
            is_last,
        };
        failpoint::reach(FailPoint::CutTaken);
        if self.replay.is_empty() {
            self.write(PlanLog::roll)?;
            failpoint::reach(FailPoint::PlanRolled);
            let keep_from = self.live.plan_keep_from.load(Ordering::Acquire);
            if let Err(error) = self.plan.prune(keep_from) {
                tracing::warn!(error = %chain(&error), "old parts of the plan log not removed");
            }
            failpoint::reach(FailPoint::PlanPruned);
        }
        self.live.joined(&self.stage);
        Ok(self.out.send(Joined::Checkpoint(Box::new(cut))).is_ok())
    }

    /// Lets partitions that the log has gained hold event time from now on, even before their first record.
    fn mark_added(&mut self) -> anyhow::Result<()> {
        for id in std::mem::take(&mut self.added) {
            self.mark(id, Mark::Active)?;
        }
        Ok(())
    }

    /// Marks partitions that have become idle.
    fn mark_idle(&mut self) -> anyhow::Result<()> {
        let orderer = &self.orderer;
        for id in self.idleness.take_idle(|id| orderer.n_queued(id) == 0) {
            self.mark(id, Mark::Idle)?;
            tracing::info!(partition = %id, "idle: it holds event time back no longer");
        }
        Ok(())
    }

    /// Marks a partition. When that is depends on the wall clock, so the plan log says it.
    fn mark(&mut self, id: PartitionId, mark: Mark) -> anyhow::Result<()> {
        let mut batches = Vec::new();
        let runs = self.orderer.take_runs();
        self.write(|plan| plan.append(runs.clone(), vec![(id, mark)], Vec::new(), false))?;
        self.plan_position = self.plan.position();
        self.stage.mark(id, mark, &mut batches)?;
        self.send(batches)?;
        Ok(())
    }

    /// Uses the vectors that have been encoded since. When that is depends on the machine, so the plan log says it.
    fn use_vectors(&mut self) -> anyhow::Result<()> {
        let Some(encoding) = &self.encoding else {
            return Ok(());
        };
        let new: Vec<(Id, ItemVectors)> = encoding.from.try_iter().flatten().collect();
        if new.is_empty() {
            return Ok(());
        }
        let content = |vector: &Option<Vector>| match vector.as_ref()?.origin {
            Origin::Encoded(content) => Some(content),
            Origin::Given(_) => None,
        };
        let notes = new
            .iter()
            .map(|(item, [text, image])| (*item, [content(text), content(image)]));
        let notes: Vec<_> = notes.collect();
        let runs = self.orderer.take_runs();
        self.write(|plan| plan.append(runs.clone(), Vec::new(), notes.clone(), false))?;
        self.plan_position = self.plan.position();
        for (item, vectors) in new {
            self.stage.use_vectors(item, vectors);
        }
        Ok(())
    }

    /// Writes to the plan log, again and again while the file system refuses. Fails when there is nothing to wait
    /// for any more: what could not be written down was not learned either, and is read again.
    fn write<T>(&mut self, work: impl Fn(&mut PlanLog) -> Result<T, PlanError>) -> anyhow::Result<T> {
        let mut stalled = None;
        let mut ended = None;
        loop {
            let error = match work(&mut self.plan) {
                Ok(done) => {
                    if stalled.is_some() {
                        tracing::info!("the plan log can be written again: learning goes on");
                        gauge!(PLAN_STALLED).set(0.0);
                    }
                    return Ok(done);
                }
                Err(error) => error,
            };
            if stalled.is_none() {
                tracing::error!(
                    error = %chain(&error),
                    "the plan log cannot be written: learning pauses until it can, serving goes on"
                );
                counter!(PLAN_STALLS_TOTAL).increment(1);
                gauge!(PLAN_STALLED).set(1.0);
            }
            let since = *stalled.get_or_insert_with(Instant::now);
            if self.backlog.is_over() {
                ended.get_or_insert_with(Instant::now);
            }
            let is_hopeless = ended.is_some_and(|ended: Instant| ended.elapsed() >= RETRY_AT_END);
            if !error.is_transient() || is_hopeless {
                let waited = since.elapsed().as_secs();
                return Err(error).with_context(|| {
                    format!(
                        "stopped without a last snapshot, after {waited} s; the next start reads again what was \
                         not written down"
                    )
                });
            }
            std::thread::sleep(RETRY_EVERY);
        }
    }

    fn is_entry_over(&self) -> bool {
        !self.replay.is_empty() && !self.orderer.is_following()
    }

    /// How long ago the record that would come next arrived.
    fn head_age(&self) -> Option<Duration> {
        let head = self.orderer.head()?;
        let (_, came) = self.arrivals.get(&head.partition)?.front()?;
        Some(came.elapsed())
    }
}

/// An error with its causes.
fn chain(error: &PlanError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
