//! The state by which the stages of a running pipeline decide: requested checkpoints, the lineage, the pinned snapshot.
//!
//! Every thread may read [`ControlState`]. Each part of it has one owner, which holds the handle that changes it:
//! [`JoinControl`] for the join stage, [`LearnerControl`] for the learner, [`SaverControl`] for the snapshot writer.
//! [`CheckpointRequests`] requests checkpoints.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ouzel_snapshot::SnapshotId;

/// The control state, for readers.
#[derive(Clone, Debug, Default)]
pub struct ControlState(Arc<Shared>);

/// Whether the learner takes batches. Serving goes on in every state, and Kafka keeps what is not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LearningState {
    /// It does.
    #[default]
    Running,
    /// An operator paused it.
    Paused,
    /// A gate stopped it, for this reason.
    Stopped(String),
}

impl LearningState {
    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped(_) => "stopped",
        }
    }

    /// Why a gate stopped it.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Stopped(why) => Some(why),
            Self::Running | Self::Paused => None,
        }
    }
}

/// A rollback that keeps the position of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// The snapshot whose weights are learned on.
    pub to: SnapshotId,
    /// The operator's reason.
    pub reason: String,
    /// The snapshot that it replaces, if it promotes a candidate.
    pub promoted_over: Option<SnapshotId>,
}

impl Rollback {
    /// A rollback that promotes nothing.
    pub fn new(to: SnapshotId, reason: String) -> Self {
        Self {
            to,
            reason,
            promoted_over: None,
        }
    }
}

/// Requests checkpoints and waits for their snapshots.
#[derive(Clone, Debug)]
pub struct CheckpointRequests(ControlState);

/// The join stage's handle: takes requested checkpoints.
#[derive(Debug)]
pub struct JoinControl(ControlState);

/// The learner's handle: changes the lineage and the pinned snapshot.
#[derive(Debug)]
pub struct LearnerControl(ControlState);

/// The snapshot writer's handle: records written snapshots.
#[derive(Debug)]
pub struct SaverControl(ControlState);

/// The control state of one pipeline with its handles, one of each.
#[derive(Debug)]
pub struct Control {
    /// For readers.
    pub state: ControlState,
    /// For threads that need a checkpoint.
    pub requests: CheckpointRequests,
    /// For the join stage.
    pub join: JoinControl,
    /// For the learner.
    pub learner: LearnerControl,
    /// For the snapshot writer.
    pub saver: SaverControl,
}

#[derive(Debug, Default)]
struct Shared {
    /// Checkpoints requested so far.
    n_requested: AtomicU64,
    /// Requests that the join stage has taken.
    n_taken: AtomicU64,
    /// No snapshot needs entries of the plan log before this one.
    plan_keep_from: AtomicU64,
    inner: Mutex<Inner>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// The snapshot resumed from, then every one written or rolled back to.
    snapshots: Vec<SnapshotId>,
    /// Rollbacks so far.
    lineage: u64,
    pinned: Option<SnapshotId>,
    /// A rollback that no snapshot on disk contains yet.
    unsaved_rollback: Option<Rollback>,
    learning: LearningState,
    /// Requests answered so far, and the snapshot that answered the last of them.
    answer: (u64, Option<SnapshotId>),
}

impl Control {
    /// The state of a pipeline that starts from `snapshot`.
    pub fn new(snapshot: Option<SnapshotId>) -> Self {
        let state = ControlState::default();
        state.lock().snapshots.extend(snapshot);
        Self {
            requests: CheckpointRequests(state.clone()),
            join: JoinControl(state.clone()),
            learner: LearnerControl(state.clone()),
            saver: SaverControl(state.clone()),
            state,
        }
    }
}

impl ControlState {
    /// The newest snapshot of this lineage: resumed from, rolled back to or written last.
    pub fn latest(&self) -> Option<SnapshotId> {
        self.lock().snapshots.last().copied()
    }

    /// The snapshot resumed from and every later one, in order.
    pub fn snapshots(&self) -> Vec<SnapshotId> {
        self.lock().snapshots.clone()
    }

    /// The snapshot that is served until it is unpinned.
    pub fn pinned(&self) -> Option<SnapshotId> {
        self.lock().pinned
    }

    /// Whether the learner takes batches.
    pub fn learning(&self) -> LearningState {
        self.lock().learning.clone()
    }

    /// Number of the lineage: the rollbacks so far.
    pub fn lineage(&self) -> u64 {
        self.lock().lineage
    }

    /// Answers every request up to `request` with this snapshot, or with failure.
    fn answer(&self, request: Option<u64>, snapshot: Option<SnapshotId>) {
        if let Some(request) = request {
            self.lock().answer = (request, snapshot);
            self.0.answered.notify_all();
        }
    }

    fn request(&self) -> u64 {
        self.0.n_requested.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        super::lock(&self.0.inner)
    }
}

impl CheckpointRequests {
    /// Requests a checkpoint and waits for its snapshot, which holds everything joined before the call.
    ///
    /// `None` when writing failed or took longer than `limit`.
    pub fn snapshot_now(&self, limit: Duration) -> Option<SnapshotId> {
        let deadline = Instant::now() + limit;
        let request = self.0.request();
        let mut inner = self.0.lock();
        while inner.answer.0 < request {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.0.0.answered.wait_timeout(inner, left);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.answer.1
    }
}

impl CheckpointRequests {
    /// Requests a checkpoint without waiting for its snapshot.
    pub fn request_snapshot(&self) {
        self.0.request();
    }
}

impl JoinControl {
    /// Takes the newest request. Returns its number, or `None` if it was taken before.
    pub fn take_request(&self) -> Option<u64> {
        let shared = &self.0.0;
        let newest = shared.n_requested.load(Ordering::Acquire);
        (shared.n_taken.swap(newest, Ordering::AcqRel) < newest).then_some(newest)
    }

    /// The first entry of the plan log that a snapshot needs.
    pub fn plan_keep_from(&self) -> u64 {
        self.0.0.plan_keep_from.load(Ordering::Acquire)
    }
}

impl LearnerControl {
    /// The state, to be read.
    pub fn state(&self) -> &ControlState {
        &self.0
    }

    /// Begins a new lineage at a snapshot, which becomes the latest. The next snapshot makes it durable.
    pub fn roll_back(&self, rollback: Rollback) {
        let mut inner = self.0.lock();
        inner.lineage += 1;
        inner.pinned = None;
        inner.snapshots.push(rollback.to);
        inner.unsaved_rollback = Some(rollback);
    }

    /// Sets the pinned snapshot.
    pub fn set_pinned(&self, id: Option<SnapshotId>) {
        self.0.lock().pinned = id;
    }

    /// Sets whether the learner takes batches.
    pub fn set_learning(&self, state: LearningState) {
        self.0.lock().learning = state;
    }

    /// Answers a request whose snapshot cannot be written.
    pub fn fail(&self, request: Option<u64>) {
        self.0.answer(request, None);
    }
}

impl SaverControl {
    /// The rollback that began `lineage`, if no snapshot on disk contains it yet.
    pub fn unsaved_rollback(&self, lineage: u64) -> Option<Rollback> {
        let inner = self.0.lock();
        let rollback = inner.unsaved_rollback.clone();
        rollback.filter(|_| inner.lineage == lineage)
    }

    /// Number of the lineage: the rollbacks so far.
    pub fn lineage(&self) -> u64 {
        self.0.lineage()
    }

    /// The newest snapshot of `lineage`, the parent of the next one; `None` without one or after a rollback.
    pub fn latest_of(&self, lineage: u64) -> Option<SnapshotId> {
        let inner = self.0.lock();
        let newest = inner.snapshots.last().copied();
        newest.filter(|_| inner.lineage == lineage)
    }

    /// Records a snapshot of `lineage`, written for `request`. A snapshot of an abandoned lineage is not the latest.
    pub fn saved(&self, id: SnapshotId, lineage: u64, request: Option<u64>) {
        let mut inner = self.0.lock();
        if inner.lineage == lineage {
            inner.unsaved_rollback = None;
            inner.snapshots.push(id);
        }
        drop(inner);
        self.0.answer(request, Some(id));
    }

    /// Answers a request whose snapshot was not written.
    pub fn fail(&self, request: Option<u64>) {
        self.0.answer(request, None);
    }

    /// Requests another checkpoint in place of one that could not be written.
    pub fn request_again(&self) {
        self.0.request();
    }

    /// Sets the first entry of the plan log that a snapshot needs.
    pub fn set_plan_keep_from(&self, position: u64) {
        self.0.0.plan_keep_from.store(position, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_request_is_answered_by_the_checkpoint_taken_after_it() {
        let Control {
            requests,
            join,
            saver,
            ..
        } = Control::new(None);
        assert_eq!(join.take_request(), None);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| requests.snapshot_now(LONG));
            let number = loop {
                if let Some(number) = join.take_request() {
                    break number;
                }
                thread::yield_now();
            };
            // A snapshot that was being written already does not answer it.
            saver.saved(SnapshotId::new(1), 0, None);
            saver.saved(SnapshotId::new(2), 0, Some(number));
            assert_eq!(waiting.join().unwrap(), Some(SnapshotId::new(2)));
        });
        assert_eq!(join.take_request(), None, "a request is taken once");
        saver.request_again();
        assert_eq!(join.take_request(), Some(2));
        saver.fail(Some(2));
        assert_eq!(requests.snapshot_now(Duration::ZERO), None, "no answer in time");
    }

    #[test]
    fn a_snapshot_of_an_abandoned_lineage_is_not_the_latest() {
        let Control {
            state,
            learner,
            saver,
            ..
        } = Control::new(None);
        let before = state.lineage();
        saver.saved(SnapshotId::new(4), before, None);
        assert_eq!(saver.latest_of(before), Some(SnapshotId::new(4)));
        let rollback = Rollback::new(SnapshotId::new(2), "worse".to_owned());
        learner.roll_back(rollback.clone());
        assert_eq!(saver.latest_of(before), None);
        saver.saved(SnapshotId::new(5), before, None);
        assert_eq!(saver.unsaved_rollback(before), None);
        assert_eq!(saver.unsaved_rollback(state.lineage()), Some(rollback));
        assert_eq!(state.latest(), Some(SnapshotId::new(2)));
        saver.saved(SnapshotId::new(6), state.lineage(), None);
        assert_eq!(state.latest(), Some(SnapshotId::new(6)));
        assert_eq!(saver.unsaved_rollback(state.lineage()), None);
    }
}
