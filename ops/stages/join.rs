//! Join: feeds records to the sequencer and carries out its effects.
//!
//! The rule that makes a crash harmless is the order of [`Effects`]: an entry is in the plan log before a batch
//! that it explains reaches the learner. While the plan log cannot be written, this thread waits in
//! [`PlanWriter`]: learning pauses, serving does not.

mod arrivals;
mod plan_writer;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use anyhow::Context;
use metrics::counter;

use ouzel_ingest::metrics::STORE_FAILURES;
use ouzel_ingest::plan::Encoded;
use ouzel_ingest::{Effects, Next, Sequencer, StageError};
use ouzel_sample::{DecodedRecord, Id, ItemVectors};

use crate::failpoint::{self, FailPoint};
use crate::live::PipelineStatus;
use crate::stages::backlog::Backlog;
use crate::stages::encode::Encoding;
use crate::stages::idle::Idleness;
use crate::stages::{JoinCheckpoint, Joined, Read};
use arrivals::Arrivals;
pub use plan_writer::PlanWriter;

/// How often the stage looks at its clocks when no record comes.
const TICK: Duration = Duration::from_millis(5);

/// Times that shape the stage without changing what a given order means.
#[derive(Clone, Copy, Debug)]
pub struct JoinSettings {
    /// How long a record may be held for earlier ones of other partitions.
    pub max_reorder_delay: Duration,
    /// How long a batch may stay open; zero is for ever.
    pub flush_after: Duration,
}

/// What connects the stage to the others.
pub struct JoinLinks {
    /// Records on the way from poll.
    pub backlog: Arc<Backlog>,
    /// The pipeline's figures, and the requests for checkpoints.
    pub status: Arc<PipelineStatus>,
    /// To the learner.
    pub out: SyncSender<Joined>,
    /// To the encoder and back, where contents are encoded.
    pub encoding: Option<Encoding>,
}

/// The learner has ended before its input did. Its own task says why.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("cannot hand over to the learner: it has ended")]
struct LearnerGone;

/// Why a checkpoint is taken.
#[derive(Clone, Copy, Default)]
struct Occasion {
    /// The newest request that it answers.
    answers: Option<u64>,
    is_last: bool,
}

/// The stage.
pub struct Join {
    sequencer: Sequencer,
    plan: PlanWriter,
    settings: JoinSettings,
    links: JoinLinks,
    arrivals: Arrivals,
    idleness: Idleness,
    /// When the open batch got its first sample.
    opened: Option<Instant>,
    is_log_over: bool,
}

impl Join {
    /// A stage that drives `sequencer` and writes its entries to `plan`.
    pub fn new(sequencer: Sequencer, plan: PlanWriter, settings: JoinSettings, links: JoinLinks) -> Self {
        let partitions = sequencer.positions().iter().map(|(id, _)| id);
        Self {
            idleness: Idleness::new(partitions, Instant::now()),
            sequencer,
            plan,
            settings,
            links,
            arrivals: Arrivals::default(),
            opened: None,
            is_log_over: false,
        }
    }

    /// Joins until poll ends, then takes the last checkpoint.
    pub fn run(mut self, input: &Receiver<Read>) -> anyhow::Result<()> {
        let Err(error) = self.join(input) else {
            return Ok(());
        };
        if error.is::<LearnerGone>() {
            // The learner's error is the cause, and the supervisor stops the process for that one.
            tracing::error!("{error}");
            return Ok(());
        }
        if error
            .downcast_ref::<StageError>()
            .is_some_and(StageError::is_store_failure)
        {
            counter!(STORE_FAILURES).increment(1);
            tracing::error!("the join store failed; the next start rebuilds it from the newest snapshot");
        }
        Err(error)
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
            self.release()?;
            self.decide()?;
        }
        let last = Occasion {
            answers: None,
            is_last: true,
        };
        let effects = if self.is_log_over {
            self.sequencer.finish()?
        } else {
            self.sequencer.request_checkpoint()
        };
        match effects {
            Some(effects) => self.execute(effects, last),
            None => {
                tracing::info!("stopped while following the plan log: no last snapshot");
                Ok(())
            }
        }
    }

    fn accept(&mut self, read: Read) -> anyhow::Result<()> {
        let now = Instant::now();
        match read {
            Read::Records(records) => {
                if let Some(last) = records.last() {
                    self.arrivals.note(last.position, now);
                    self.idleness.saw(last.position.partition, now);
                }
                for recorded in records {
                    self.sequencer.push(recorded)?;
                }
            }
            Read::AtEnd(partition) => self.sequencer.at_end(partition),
            Read::Added(partition) => {
                self.sequencer.added(partition);
                self.idleness.saw(partition, now);
                tracing::info!(%partition, "the log has gained a partition: reading it from its start");
            }
            Read::Finished => {
                self.is_log_over = true;
                self.sequencer.finished();
            }
        }
        Ok(())
    }

    /// Takes every record that the order can release.
    fn release(&mut self) -> anyhow::Result<()> {
        let mut n_taken = 0u64;
        loop {
            let waited = self.sequencer.head().and_then(|head| self.arrivals.age(head));
            let is_due = waited.is_some_and(|waited| waited >= self.settings.max_reorder_delay);
            let effects = match self.sequencer.next(is_due)? {
                None => break,
                Some(Next::EndOfEntry(encoded)) => {
                    let vectors = self.load(encoded)?;
                    self.sequencer.end_entry(vectors)?
                }
                Some(Next::Record(recorded)) => {
                    n_taken += 1;
                    self.take(&recorded)?
                }
            };
            self.execute(effects, Occasion::default())?;
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
        if recorded.event.is_err() {
            self.links.status.rejected.fetch_add(1, Ordering::Relaxed);
        }
        let effects = self.sequencer.take(recorded);
        Ok(effects.with_context(|| format!("cannot join {position}"))?)
    }

    /// What only time decides: early batches, idle partitions, vectors, requested checkpoints.
    fn decide(&mut self) -> anyhow::Result<()> {
        if !self.sequencer.is_following() {
            let flush_after = self.settings.flush_after;
            let is_old = self.opened.is_some_and(|opened| opened.elapsed() >= flush_after);
            if is_old && !flush_after.is_zero() {
                let effects = self.sequencer.flush()?;
                self.execute(effects, Occasion::default())?;
            }
            self.mark()?;
            self.use_vectors()?;
            if let Some(answers) = self.links.status.take_cut_wanted()
                && let Some(effects) = self.sequencer.request_checkpoint()
            {
                let occasion = Occasion {
                    answers: Some(answers),
                    is_last: false,
                };
                self.execute(effects, occasion)?;
            }
        }
        self.plan.sync_if_due()
    }

    fn mark(&mut self) -> anyhow::Result<()> {
        let sequencer = &self.sequencer;
        let idle = self.idleness.take_idle(|id| sequencer.n_queued(id) == 0);
        for id in &idle {
            tracing::info!(partition = %id, "idle: it holds event time back no longer");
        }
        let effects = self.sequencer.mark(idle)?;
        self.execute(effects, Occasion::default())
    }

    fn use_vectors(&mut self) -> anyhow::Result<()> {
        let Some(encoding) = &self.links.encoding else {
            return Ok(());
        };
        let encoded = encoding.from.try_iter().flatten().collect();
        let effects = self.sequencer.use_vectors(encoded)?;
        self.execute(effects, Occasion::default())
    }

    /// The vectors that a recorded entry names; none without an encoder.
    fn load(&self, encoded: Vec<Encoded>) -> anyhow::Result<Vec<(Id, ItemVectors)>> {
        let Some(encoding) = &self.links.encoding else {
            return Ok(Vec::new());
        };
        let load = |(item, contents)| Ok((item, encoding.planned(contents)?));
        encoded.into_iter().map(load).collect()
    }

    /// Carries out effects in the order that [`Effects`] states.
    fn execute(&mut self, effects: Effects, occasion: Occasion) -> anyhow::Result<()> {
        if let Some(entry) = &effects.append {
            self.plan.append(entry)?;
            failpoint::reach(FailPoint::PlanAppended);
        }
        match (self.sequencer.stage().n_open(), effects.batches.is_empty()) {
            (0, _) => self.opened = None,
            (_, false) => self.opened = Some(Instant::now()),
            (_, true) => {
                self.opened.get_or_insert_with(Instant::now);
            }
        }
        for batch in effects.batches {
            self.send(Joined::Batch(batch))?;
            failpoint::reach(FailPoint::BatchHanded);
        }
        if effects.is_checkpoint_due {
            self.checkpoint(occasion)?;
        }
        if let Some(encoding) = &self.links.encoding {
            encoding.ask(effects.encode);
        }
        if effects.is_caught_up {
            tracing::info!(
                plan_position = self.sequencer.plan_position(),
                "caught up with the plan log"
            );
            failpoint::reach(FailPoint::CaughtUp);
        }
        Ok(())
    }

    /// Sends the state after everything taken so far, which the plan log names durably.
    fn checkpoint(&mut self, occasion: Occasion) -> anyhow::Result<()> {
        self.plan.sync()?;
        failpoint::reach(FailPoint::PlanSynced);
        let checkpoint = JoinCheckpoint {
            stage: self.sequencer.stage().checkpoint()?,
            plan_position: self.sequencer.plan_position(),
            answers: occasion.answers,
            is_last: occasion.is_last,
        };
        failpoint::reach(FailPoint::CutTaken);
        if !self.sequencer.is_following() {
            self.plan
                .roll(self.links.status.plan_keep_from.load(Ordering::Acquire))?;
        }
        self.links.status.joined(self.sequencer.stage());
        self.send(Joined::Checkpoint(Box::new(checkpoint)))
    }

    fn send(&self, joined: Joined) -> anyhow::Result<()> {
        Ok(self.links.out.send(joined).map_err(|_| LearnerGone)?)
    }
}
