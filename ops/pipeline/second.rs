//! A second learner in this process: a candidate whose model learns the batches of the serving learner, on a thread of its
//! own.
//!
//! The serving learner hands each batch over after it has learned it and never waits: a second learner that is
//! `MAX_BEHIND` batches behind is withdrawn. `stage` is its thread, `settings` says in what its configuration may differ,
//! `states` keeps its state on disk, `promotion` makes it the serving model.

pub(crate) mod promotion;
pub(crate) mod settings;
mod stage;
pub(crate) mod states;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};

use ouzel_learner::validation::TaskComparison;
use ouzel_learner::{MemoryUse, SecondLearner};
use ouzel_sample::Batch;
use ouzel_serving::CandidateVersions;
use serde::{Deserialize, Serialize};

use super::lock;
use crate::config::Config;

pub(crate) use stage::SecondStage;
pub(crate) use states::{CheckpointPoint, SecondStates};

/// Most batches that wait for the second learner. They share their samples with the joiner and the serving learner, so that
/// 1,024 of 64 samples hold a few 10 MB at most.
pub(crate) const MAX_BEHIND: usize = 1024;

/// What a learner needs to run a second one beside itself.
pub(crate) struct SecondPlace {
    /// The configuration in use.
    pub(crate) config: Arc<Config>,
    /// The directory of what belongs to this daemon.
    pub(crate) local_dir: PathBuf,
    to: SyncSender<ToSecond>,
}

/// A message to the thread of the second learner.
enum ToSecond {
    /// Go on with this learner, in place of the one before.
    Start(Box<SecondRun>),
    Learned(LearnedBatch),
    /// The serving learner is saved at this point.
    Checkpoint(CheckpointPoint),
    /// The present learner was stopped.
    Stopped,
}

/// A batch that the serving learner has learned.
struct LearnedBatch {
    batch: Arc<Batch>,
    taught: Arc<Batch>,
    logits: Vec<f32>,
}

/// A second learner with what its thread needs.
struct SecondRun {
    learner: SecondLearner,
    states: SecondStates,
    shared: Arc<SharedState>,
    /// Publishes its versions to the scorers.
    versions: CandidateVersions,
}

/// What the serving learner and the thread of the second one share.
#[derive(Debug, Default)]
struct SharedState {
    is_stopped: AtomicBool,
    n_sent: AtomicU64,
    n_done: AtomicU64,
    inner: Mutex<SecondFigures>,
}

/// What a second learner has found.
#[derive(Clone, Debug, Default)]
pub(crate) struct SecondFigures {
    /// By task.
    pub(crate) tasks: Vec<TaskComparison>,
    pub(crate) n_requests: u64,
    pub(crate) n_not_finite: u64,
    /// Batches whose loss or gradient was not finite.
    pub(crate) n_skipped: u64,
    pub(crate) memory: MemoryUse,
    /// The batch after the last one that was learned.
    pub(crate) next_batch: u64,
    /// Why it cannot go on.
    pub(crate) fault: Option<String>,
    /// Grows with every change.
    pub(crate) version: u64,
}

/// How a second learner stands, for reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecondReport {
    /// The settings in which it differs from the serving learner, as text.
    pub settings: String,
    /// Number of batches learned in this lineage, as the serving learner counts them.
    pub batches: u64,
    /// Batches that the serving learner has learned and it has not.
    pub behind: u64,
    /// Batches that it skipped because its loss or a gradient was not finite.
    pub skipped: u64,
    /// Memory of its weights and optimizer state.
    pub memory: MemoryUse,
}

/// The serving learner's side of a second learner.
pub(crate) struct SecondHandle {
    to: SyncSender<ToSecond>,
    shared: Arc<SharedState>,
}

impl SecondPlace {
    /// A place, and the input of the thread.
    pub(crate) fn new(config: Arc<Config>) -> (Self, SecondStage) {
        let (to, from) = sync_channel(MAX_BEHIND);
        let local_dir = config.local_dir().to_owned();
        let place = Self {
            config,
            local_dir,
            to,
        };
        (place, SecondStage::new(from))
    }

    /// Hands a learner to the thread.
    pub(crate) fn start(
        &self,
        learner: SecondLearner,
        states: SecondStates,
        versions: CandidateVersions,
    ) -> anyhow::Result<SecondHandle> {
        let shared = Arc::new(SharedState::default());
        shared.record(&learner, 0);
        let run = SecondRun {
            learner,
            states,
            shared: Arc::clone(&shared),
            versions,
        };
        self.to.try_send(ToSecond::Start(Box::new(run))).map_err(|_| {
            anyhow::anyhow!("the thread of the second learner is busy with the one before, or has ended")
        })?;
        Ok(SecondHandle {
            to: self.to.clone(),
            shared,
        })
    }
}

impl SecondHandle {
    /// Hands a batch over that the serving learner has learned, with its logits from before.
    pub(crate) fn learned(&self, batch: Arc<Batch>, taught: Arc<Batch>, logits: Vec<f32>) {
        self.shared.n_sent.fetch_add(1, Ordering::AcqRel);
        self.send(ToSecond::Learned(LearnedBatch {
            batch,
            taught,
            logits,
        }));
    }

    /// Lets the second learner save its state where the serving learner is saved.
    pub(crate) fn checkpoint(&self, point: CheckpointPoint) {
        self.send(ToSecond::Checkpoint(point));
    }

    /// What it has found so far.
    pub(crate) fn figures(&self) -> SecondFigures {
        lock(&self.shared.inner).clone()
    }

    /// Why it cannot go on.
    pub(crate) fn fault(&self) -> Option<String> {
        lock(&self.shared.inner).fault.clone()
    }

    /// Number that grows with every change of the figures.
    pub(crate) fn version(&self) -> u64 {
        lock(&self.shared.inner).version
    }

    /// Batches that wait.
    pub(crate) fn n_behind(&self) -> u64 {
        let done = self.shared.n_done.load(Ordering::Acquire);
        self.shared.n_sent.load(Ordering::Acquire).saturating_sub(done)
    }

    fn send(&self, message: ToSecond) {
        match self.to.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.shared.fail(format!(
                "it is {MAX_BEHIND} batches behind the serving learner, which never waits for it"
            )),
            Err(TrySendError::Disconnected(_)) => {
                self.shared
                    .fail("its thread has ended; the log of the daemon says why".to_owned());
            }
        }
    }
}

impl Drop for SecondHandle {
    fn drop(&mut self) {
        self.shared.is_stopped.store(true, Ordering::Release);
        // A full channel wakes the thread by itself.
        let _is_woken = self.to.try_send(ToSecond::Stopped).is_ok();
    }
}

impl SharedState {
    /// Copies the figures of a learner that has skipped `n_skipped` batches.
    fn record(&self, learner: &SecondLearner, n_skipped: u64) {
        let comparison = learner.comparison();
        let mut inner = lock(&self.inner);
        *inner = SecondFigures {
            tasks: comparison.tasks(),
            n_requests: comparison.n_requests(),
            n_not_finite: comparison.n_not_finite(),
            n_skipped,
            memory: learner.memory(),
            next_batch: learner.next_batch(),
            fault: inner.fault.take(),
            version: inner.version + 1,
        };
    }

    /// Records why the learner cannot go on; the first reason counts.
    fn fail(&self, why: String) {
        let mut inner = lock(&self.inner);
        inner.fault.get_or_insert(why);
        inner.version += 1;
    }

    fn is_over(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire) || lock(&self.inner).fault.is_some()
    }
}

#[cfg(test)]
mod tests {
    use ouzel_learner::Trainer;
    use ouzel_sample::EventTime;
    use ouzel_serving::{CANDIDATE_NAME, CandidateRole, CandidateSlot, Variant, Version};

    use super::*;
    use crate::pipeline::provenance::fingerprint;

    #[test]
    fn a_learner_that_does_not_keep_up_is_stopped_and_the_serving_one_never_waits() {
        let config = Config::default();
        let dir = tempfile::tempdir().unwrap();
        let (place, stage) = SecondPlace::new(Arc::new(config.clone()));
        let share = "100%".parse().unwrap();
        let trainer = Trainer::new(config.model_config(), config.learner_config()).unwrap();
        let mut learner = SecondLearner::new(trainer, share, EventTime(0));
        let version = Version::new(CANDIDATE_NAME, learner.trainer().weights().unwrap()).unwrap();
        let states = SecondStates::open(dir.path(), true, fingerprint(&config), config.recorded()).unwrap();
        let slot = Arc::new(CandidateSlot::new());
        let role = CandidateRole {
            variant: Variant::Shadow,
            share,
        };
        let versions = slot.start(role, Arc::new(version));
        let handle = place.start(learner, states, versions).unwrap();
        let batch = Arc::new(Batch {
            seq: 0,
            shown: Vec::new(),
            samples: Vec::new(),
            vectors: Default::default(),
            deleted: Vec::new(),
            read: Default::default(),
        });
        // No thread takes the messages; the start is one of them.
        for n in 1..=MAX_BEHIND {
            assert_eq!(handle.fault(), None, "{n}");
            handle.learned(Arc::clone(&batch), Arc::clone(&batch), Vec::new());
        }
        assert!(handle.fault().unwrap().starts_with("it is 1024 batches behind"));
        assert_eq!(handle.n_behind(), 1024);
        // The thread drops what waits, and ends with the serving learner.
        drop((handle, place));
        stage.run().unwrap();
    }
}
