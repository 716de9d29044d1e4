//! Runs a pipeline over a bounded log in the calling thread, without serving or saving: a replay.
//!
//! The steps are those of the threads: [`Intake::next`](super::intake::Intake::next), the sequencer, and
//! [`Learner::take`](super::learner::Learner::take). Time decides nothing.

mod first_use;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use ouzel_ingest::join::Outcome;
use ouzel_ingest::{Effects, ImmediateLabels, NextInput, Stage};
use ouzel_sample::{Batch, DecodedRecord, EventTime, Item};

use first_use::FirstUse;

use super::learner::Learner;
use super::messages::{Joined, Read};
use super::spec::Parts;
use crate::telemetry::progress::{Figures, Progress, Style};

/// Longest wait for a record.
const WAIT: Duration = Duration::from_millis(100);

/// Callbacks of a run.
pub(crate) trait Observer {
    /// A record is about to be joined.
    fn reading(&mut self, recorded: &DecodedRecord, parts: &mut Parts) -> anyhow::Result<()>;

    /// Whether the run ends here, as if the log did.
    fn is_done(&self) -> bool;

    /// Whether items are scored that no impression shows.
    fn scores_catalog(&self) -> bool;

    /// A record was joined.
    fn joined(&mut self, recorded: &DecodedRecord, outcome: &Outcome);

    /// A batch is about to be learned, at this event time.
    fn learning(&mut self, batch: &Batch, now: EventTime);

    /// All records read so far are learned.
    fn progress(&mut self, learner: &Learner);
}

/// Runs `parts` to the end of their log and returns them. `reveal` joins actions with their impressions at once.
pub(crate) fn run(
    parts: Parts,
    reveal: Option<&mut ImmediateLabels>,
    style: Style,
    observer: &mut dyn Observer,
) -> anyhow::Result<Parts> {
    let mut run = InPlace {
        parts,
        reveal,
        style,
        first_use: FirstUse::new(observer.scores_catalog()),
        n_encoded: 0,
        observer,
    };
    while !run.parts.sequencer.orderer().is_exhausted() && !run.observer.is_done() {
        if let Some(read) = run.parts.intake.next(WAIT)? {
            run.accept(read)?;
        }
        run.release()?;
        run.observer.progress(&run.parts.learner);
    }
    if let Some(effects) = run.parts.sequencer.stop()? {
        run.learn(effects)?;
    }
    if run.n_encoded > 0 {
        tracing::info!(
            encoded = run.n_encoded,
            not_needed = run.first_use.n_unencoded(),
            "contents of items that no impression needs are not encoded"
        );
    }
    run.stage()
        .counters()
        .check()
        .context("the join counters do not add up")?;
    Ok(run.parts)
}

struct InPlace<'a> {
    parts: Parts,
    reveal: Option<&'a mut ImmediateLabels>,
    style: Style,
    first_use: FirstUse,
    /// Number of items whose contents have been encoded or looked up.
    n_encoded: usize,
    observer: &'a mut dyn Observer,
}

impl InPlace<'_> {
    fn stage(&self) -> &Stage {
        self.parts.sequencer.stage()
    }

    fn accept(&mut self, read: Read) -> anyhow::Result<()> {
        let sequencer = &mut self.parts.sequencer;
        match read {
            Read::Records(records) => {
                self.first_use.look_ahead(&records);
                for recorded in records {
                    sequencer.push(recorded)?;
                }
            }
            Read::AtEnd(partition) => sequencer.at_end(partition),
            // A bounded range keeps the partitions of its start.
            Read::Added(_) => {}
            Read::Finished => sequencer.end_log(),
        }
        Ok(())
    }

    /// Joins and learns everything that the order can release.
    fn release(&mut self) -> anyhow::Result<()> {
        while let Some(next) = self.parts.sequencer.next(false)? {
            let recorded = match next {
                NextInput::Record(recorded) => recorded,
                NextInput::EndOfEntry(_) => {
                    let effects = self.parts.sequencer.end_entry(Vec::new())?;
                    self.learn(effects)?;
                    continue;
                }
            };
            let position = recorded.position;
            let recorded = match &mut self.reveal {
                Some(reveal) => reveal.apply(recorded),
                None => Some(recorded),
            };
            let Some(recorded) = recorded else { continue };
            if let Ok(event) = &recorded.event {
                let features = self.parts.sequencer.stage().features();
                let items = self.first_use.before(event, features);
                self.encode(&items)?;
            }
            self.observer.reading(&recorded, &mut self.parts)?;
            let effects = self.parts.sequencer.take(&recorded);
            let mut effects = effects.with_context(|| format!("cannot join {position}"))?;
            self.observer.joined(&recorded, &effects.outcome);
            if self.parts.contents.is_some()
                && let Some(item) = effects.encode.take()
            {
                self.first_use.add(item);
            }
            self.learn(effects)?;
            if self.observer.is_done() {
                break;
            }
        }
        Ok(())
    }

    /// Encodes items before the next record, so that the result does not depend on the speed of the encoders.
    fn encode(&mut self, items: &[Arc<Item>]) -> anyhow::Result<()> {
        let (Some(contents), false) = (&self.parts.contents, items.is_empty()) else {
            return Ok(());
        };
        let total = u64::try_from(items.len()).ok();
        let takes_long = items.len() > first_use::CHUNK;
        let mut progress = takes_long.then(|| Progress::new("contents", total, self.style));
        let mut n_new = 0;
        let vectors = contents.vectors(items, |n| {
            n_new = n as u64;
            if let Some(progress) = &mut progress {
                progress.update(n_new, &Figures::default());
            }
        })?;
        if let Some(progress) = progress {
            progress.finish(n_new, &Figures::default());
        }
        self.n_encoded += items.len();
        let vectors = items.iter().map(|item| item.id).zip(vectors).collect();
        let effects = self.parts.sequencer.use_vectors(vectors)?;
        self.learn(effects)
    }

    /// Passes the batches to the learner. Without a state directory there is no plan log and no checkpoint.
    fn learn(&mut self, effects: Effects) -> anyhow::Result<()> {
        for batch in effects.batches {
            self.observer
                .learning(&batch, self.parts.sequencer.stage().event_time());
            self.parts.learner.take(Joined::Batch(batch))?;
        }
        Ok(())
    }
}
