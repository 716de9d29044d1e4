//! The thread of the second learner: learns what the serving learner has learned, and publishes versions of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use ouzel_learner::ServedBatch;
use ouzel_learner::model::Weights;
use ouzel_serving::{CANDIDATE_NAME, Version};

use super::{LearnedBatch, SecondRun, ToSecond};
use crate::telemetry::metrics::{SECOND_BATCHES, SECOND_BEHIND, SECOND_STATES_FAILED};

/// Shortest time between two versions, as of the serving learner.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

/// Batches between two updates of the figures, which take as long as a step.
const REPORT_EVERY: u64 = 50;

/// The stage. One learner at a time.
pub(crate) struct SecondStage {
    input: Receiver<ToSecond>,
    current: Option<Current>,
}

struct Current {
    run: SecondRun,
    n_skipped: u64,
    n_unreported: u64,
    has_new_weights: bool,
    published: Instant,
}

impl SecondStage {
    pub(super) fn new(input: Receiver<ToSecond>) -> Self {
        Self { input, current: None }
    }

    /// Learns until the serving learner ends. A learner that fails says why in its figures; the thread goes on.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        loop {
            let received = match self.current.as_ref().is_some_and(Current::has_news) {
                true => self.input.recv_timeout(PUBLISH_EVERY),
                false => self.input.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            // Weights of a learner that has ended are freed before the next message is waited for.
            self.current.take_if(|current| current.run.shared.is_over());
            match received {
                Ok(ToSecond::Start(run)) => self.current = Some(Current::new(*run)),
                Ok(message) => {
                    if let Some(current) = &mut self.current {
                        current.take(message);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(current) = &mut self.current {
                        current.on_idle();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.current.take_if(|current| current.run.shared.is_over());
        }
    }
}

impl Current {
    fn new(run: SecondRun) -> Self {
        Self {
            run,
            n_skipped: 0,
            n_unreported: 0,
            has_new_weights: false,
            published: Instant::now(),
        }
    }

    /// Whether there is something to report or to publish.
    fn has_news(&self) -> bool {
        self.n_unreported > 0 || self.has_new_weights
    }

    fn take(&mut self, message: ToSecond) {
        let done = match message {
            ToSecond::Learned(learned) => self.learn(&learned),
            ToSecond::Checkpoint(point) => {
                if let Err(error) = self.run.states.save(&mut self.run.learner, &point) {
                    counter!(SECOND_STATES_FAILED).increment(1);
                    tracing::warn!(
                        error = format!("{error:#}"),
                        batch = point.batch_seq,
                        "the state of the second learner was not written; a restart from here withdraws it"
                    );
                }
                Ok(())
            }
            ToSecond::Start(_) | ToSecond::Stopped => Ok(()),
        };
        if let Err(why) = done {
            self.run.shared.record(&self.run.learner, self.n_skipped);
            self.run.shared.fail(why);
        }
    }

    fn learn(&mut self, learned: &LearnedBatch) -> Result<(), String> {
        let LearnedBatch {
            batch,
            taught,
            logits,
        } = learned;
        let served = ServedBatch {
            batch,
            taught,
            logits,
        };
        let learned = self.run.learner.learn(served);
        let (report, _) = learned.map_err(|error| format!("it cannot learn batch {}: {error}", batch.seq))?;
        self.n_skipped += u64::from(!report.is_learned);
        let n_done = self.run.shared.n_done.fetch_add(1, Ordering::AcqRel) + 1;
        counter!(SECOND_BATCHES).increment(1);
        let n_behind = self
            .run
            .shared
            .n_sent
            .load(Ordering::Acquire)
            .saturating_sub(n_done);
        gauge!(SECOND_BEHIND).set(crate::telemetry::float(n_behind));
        self.n_unreported += 1;
        self.has_new_weights = true;
        if self.n_unreported >= REPORT_EVERY {
            self.report();
        }
        self.publish_if_due()
    }

    fn on_idle(&mut self) {
        if self.n_unreported > 0 {
            self.report();
        }
        if let Err(why) = self.publish_if_due() {
            self.run.shared.fail(why);
        }
    }

    fn report(&mut self) {
        self.n_unreported = 0;
        self.run.shared.record(&self.run.learner, self.n_skipped);
    }

    fn publish_if_due(&mut self) -> Result<(), String> {
        if !self.has_new_weights || self.published.elapsed() < PUBLISH_EVERY {
            return Ok(());
        }
        let failed =
            |error: &dyn std::fmt::Display| format!("no version can be made of its weights: {error}");
        let weights: Weights = self
            .run
            .learner
            .trainer()
            .weights()
            .map_err(|error| failed(&error))?;
        let version = Version::new(CANDIDATE_NAME, weights).map_err(|error| failed(&error))?;
        // False once another candidate has its place: the serving learner is about to stop this one.
        let _is_candidate = self.run.versions.publish(Arc::new(version));
        (self.published, self.has_new_weights) = (Instant::now(), false);
        Ok(())
    }
}
