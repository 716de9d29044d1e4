//! Runs a pipeline over a bounded log in the calling thread, without serving or saving: a replay.
//!
//! The steps are those of the threads: [`Intake::next`](super::intake::Intake::next), the sequencer, and
//! [`Learner::take`](super::learner::Learner::take). Time decides nothing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use ouzel_ingest::join::Outcome;
use ouzel_ingest::{Effects, ImmediateLabels, NextInput, Stage};
use ouzel_sample::{Batch, DecodedRecord, Event, EventTime, Item};

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
        unencoded: Vec::new(),
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
    /// Items to encode before the next record that is neither an item nor a profile.
    unencoded: Vec<Arc<Item>>,
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
            if !matches!(
                recorded.event,
                Ok(Event::Item(_) | Event::ItemUpdate(_) | Event::Profile(_))
            ) {
                self.encode()?;
            }
            self.observer.reading(&recorded, &mut self.parts)?;
            let effects = self.parts.sequencer.take(&recorded);
            let mut effects = effects.with_context(|| format!("cannot join {position}"))?;
            self.observer.joined(&recorded, &effects.outcome);
            if self.parts.contents.is_some() {
                self.unencoded.extend(effects.encode.take());
            }
            self.learn(effects)?;
            if self.observer.is_done() {
                break;
            }
        }
        Ok(())
    }

    /// Encodes the waiting items, so that the result does not depend on the speed of the encoders.
    fn encode(&mut self) -> anyhow::Result<()> {
        let items = std::mem::take(&mut self.unencoded);
        let (Some(contents), false) = (&self.parts.contents, items.is_empty()) else {
            return Ok(());
        };
        let mut progress = Progress::new("contents", u64::try_from(items.len()).ok(), self.style);
        let mut n_encoded = 0;
        let vectors = contents.vectors(&items, |n| {
            n_encoded = n as u64;
            progress.update(n_encoded, &Figures::default());
        })?;
        if n_encoded > 0 {
            progress.finish(n_encoded, &Figures::default());
        }
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
