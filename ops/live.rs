//! What a running pipeline tells about itself: figures for the progress line, the admin socket and the demo.
//!
//! Written by the stages, read by everyone else. Nothing that decides a weight is read from here.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ouzel_ingest::Stage;
use ouzel_ingest::join::Counters;
use ouzel_learner::validation::Figures;
use ouzel_sample::{EventTime, Positions};
use ouzel_snapshot::SnapshotId;

/// Most freshness measurements kept, count; enough for exact percentiles of a demo.
const MAX_FRESHNESS: usize = 1_000_000;

/// Shared figures of one pipeline.
#[derive(Debug, Default)]
pub struct PipelineStatus {
    /// Records taken by the join stage.
    pub events: AtomicU64,
    /// Records rejected.
    pub rejected: AtomicU64,
    /// Samples learned from in this lineage.
    pub samples: AtomicU64,
    /// Batches learned from in this lineage.
    pub batches: AtomicU64,
    /// Newest event time joined, ms.
    event_time: AtomicI64,
    /// Watermark of the join, ms.
    watermark: AtomicI64,
    /// Cuts asked for so far, and those of them that join has taken note of.
    n_wanted: AtomicU64,
    n_noted: AtomicU64,
    /// Plan entries before this one are needed by no snapshot kept.
    pub plan_keep_from: AtomicU64,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    positions: Positions,
    counters: Counters,
    window: Figures,
    total: Figures,
    snapshots: Vec<SnapshotId>,
    last_saved_ms: Option<i64>,
    /// How often a rollback has turned the lineage.
    lineage: u64,
    /// Requests answered so far, and the snapshot that answered the last of them.
    answered: (u64, Option<SnapshotId>),
    pinned: Option<SnapshotId>,
    /// From an action's record timestamp to the moment the served model contained it, ms.
    freshness_ms: Vec<i64>,
}

impl PipelineStatus {
    /// Newest event time joined: what "now" is for a scorer, so that an old log is served in its own time.
    #[must_use]
    pub fn event_time(&self) -> EventTime {
        EventTime(self.event_time.load(Ordering::Acquire))
    }

    /// The join stage has come this far.
    pub fn joined(&self, stage: &Stage) {
        self.event_time.store(stage.event_time().0, Ordering::Release);
        self.watermark.store(stage.watermark().0, Ordering::Release);
        let mut inner = self.lock();
        inner.positions.clone_from(stage.positions());
        inner.counters.clone_from(stage.counters());
    }

    /// Event time that no on-time event can be behind.
    #[must_use]
    pub fn watermark(&self) -> EventTime {
        EventTime(self.watermark.load(Ordering::Acquire))
    }

    /// The learner's figures after a batch.
    pub fn learned(&self, window: Figures, total: Figures) {
        let mut inner = self.lock();
        (inner.window, inner.total) = (window, total);
    }

    /// Next offset to be joined of each partition.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.lock().positions.clone()
    }

    /// The join's outcomes.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.lock().counters.clone()
    }

    /// Progressive figures: of the newest samples, and since the start of the lineage.
    #[must_use]
    pub fn figures(&self) -> (Figures, Figures) {
        let inner = self.lock();
        (inner.window, inner.total)
    }

    /// Notes how fresh the served model is: milliseconds since the record of each action it now contains.
    pub fn freshened(&self, ms: impl Iterator<Item = i64>) {
        let mut inner = self.lock();
        let room = MAX_FRESHNESS.saturating_sub(inner.freshness_ms.len());
        inner.freshness_ms.extend(ms.take(room));
    }

    /// All freshness measurements, ms.
    #[must_use]
    pub fn freshness_ms(&self) -> Vec<i64> {
        self.lock().freshness_ms.clone()
    }

    /// Asks the join stage for a cut at the next record boundary. Returns the request's number, from 1.
    pub fn want_cut(&self) -> u64 {
        self.n_wanted.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// For the join stage: the number of the newest request for a cut, if it is a new one.
    #[must_use]
    pub fn take_cut_wanted(&self) -> Option<u64> {
        let wanted = self.n_wanted.load(Ordering::Acquire);
        (self.n_noted.swap(wanted, Ordering::AcqRel) < wanted).then_some(wanted)
    }

    /// The requests up to `number`, if there are any, are answered by this snapshot, or have failed.
    pub fn answer(&self, number: Option<u64>, snapshot: Option<SnapshotId>) {
        if let Some(number) = number {
            self.lock().answered = (number, snapshot);
            self.changed.notify_all();
        }
    }

    /// A snapshot of this lineage is on disk. One of a lineage left behind meanwhile changes nothing.
    pub fn saved(&self, id: SnapshotId, lineage: u64) {
        let mut inner = self.lock();
        if inner.lineage == lineage {
            inner.snapshots.push(id);
        }
    }

    /// The lineage begins anew at `id`: from here on that is the latest snapshot.
    pub fn rolled_back(&self, id: SnapshotId) {
        let mut inner = self.lock();
        inner.lineage += 1;
        inner.snapshots.push(id);
    }

    /// Number of the lineage being learned.
    #[must_use]
    pub fn lineage(&self) -> u64 {
        self.lock().lineage
    }

    /// A snapshot was written just now, by the caller's clock.
    pub fn saved_at(&self, now_ms: i64) {
        self.lock().last_saved_ms = Some(now_ms);
    }

    /// When a snapshot was last written by this process, ms since the epoch.
    #[must_use]
    pub fn last_saved_ms(&self) -> Option<i64> {
        self.lock().last_saved_ms
    }

    /// The snapshot resumed from, rolled back to or written last.
    #[must_use]
    pub fn latest(&self) -> Option<SnapshotId> {
        self.lock().snapshots.last().copied()
    }

    /// Every snapshot of this process, the one resumed from first.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SnapshotId> {
        self.lock().snapshots.clone()
    }

    /// The pinned snapshot.
    #[must_use]
    pub fn pinned(&self) -> Option<SnapshotId> {
        self.lock().pinned
    }

    /// Sets the pinned snapshot.
    pub fn set_pinned(&self, id: Option<SnapshotId>) {
        self.lock().pinned = id;
    }

    /// Asks for a snapshot and waits until it is written, with everything joined before the call in it; `None`
    /// when writing failed or took longer than `limit`.
    #[must_use]
    pub fn snapshot_now(&self, limit: Duration) -> Option<SnapshotId> {
        let deadline = Instant::now() + limit;
        let number = self.want_cut();
        let mut inner = self.lock();
        while inner.answered.0 < number {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            inner = self
                .changed
                .wait_timeout(inner, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        inner.answered.1
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every update leaves the figures whole, so a panic elsewhere does not spoil them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_snapshot_asked_for_is_the_one_cut_after_the_question() {
        let live = PipelineStatus::default();
        assert_eq!(live.take_cut_wanted(), None);
        thread::scope(|scope| {
            let asked = scope.spawn(|| live.snapshot_now(LONG));
            let number = loop {
                if let Some(number) = live.take_cut_wanted() {
                    break number;
                }
                thread::yield_now();
            };
            // One that was being written already is not the answer.
            live.saved(SnapshotId::new(1), live.lineage());
            live.answer(None, Some(SnapshotId::new(1)));
            live.answer(Some(number), Some(SnapshotId::new(2)));
            assert_eq!(asked.join().unwrap(), Some(SnapshotId::new(2)));
        });
        assert_eq!(live.take_cut_wanted(), None, "a question is taken once");
        live.answer(Some(live.want_cut()), None);
        assert_eq!(live.take_cut_wanted(), Some(2));
        assert_eq!(live.snapshot_now(Duration::ZERO), None, "nobody answers");
    }

    #[test]
    fn a_snapshot_of_a_lineage_left_behind_is_not_the_latest() {
        let live = PipelineStatus::default();
        let before = live.lineage();
        live.saved(SnapshotId::new(4), before);
        live.rolled_back(SnapshotId::new(2));
        live.saved(SnapshotId::new(5), before);
        assert_eq!(live.latest(), Some(SnapshotId::new(2)));
        live.saved(SnapshotId::new(6), live.lineage());
        assert_eq!(live.latest(), Some(SnapshotId::new(6)));
    }
}
