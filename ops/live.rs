//! What a running pipeline tells about itself: figures for the progress line, the admin socket and the demo.
//!
//! Written by the stages, read by everyone else. Nothing that decides a weight is read from here.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
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
pub struct Live {
    /// Records taken by the join stage.
    pub events: AtomicU64,
    /// Records rejected.
    pub rejected: AtomicU64,
    /// Samples learned from.
    pub samples: AtomicU64,
    /// Batches learned from.
    pub batches: AtomicU64,
    /// Newest event time joined, ms.
    event_time: AtomicI64,
    /// Watermark of the join, ms.
    watermark: AtomicI64,
    is_cut_wanted: AtomicBool,
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
    n_failed: u64,
    pinned: Option<SnapshotId>,
    /// From an action's record timestamp to the moment the served model contained it, ms.
    freshness_ms: Vec<i64>,
}

impl Live {
    /// Newest event time joined: what "now" is for a scorer, so that an old log is served in its own time.
    #[must_use]
    pub fn event_time(&self) -> EventTime {
        EventTime(self.event_time.load(Ordering::Acquire))
    }

    /// The join stage has come this far.
    pub fn joined(&self, stage: &Stage) {
        self.event_time.store(stage.event_time().0, Ordering::Release);
        self.watermark
            .store(stage.joiner().clock().watermark().0, Ordering::Release);
        let mut inner = self.lock();
        inner.positions.clone_from(stage.positions());
        inner.counters.clone_from(stage.joiner().counters());
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

    /// Asks the join stage for a cut at the next record boundary.
    pub fn want_cut(&self) {
        self.is_cut_wanted.store(true, Ordering::Release);
    }

    /// Takes a request for a cut.
    #[must_use]
    pub fn take_cut_wanted(&self) -> bool {
        self.is_cut_wanted.swap(false, Ordering::AcqRel)
    }

    /// A snapshot is on disk.
    pub fn saved(&self, id: SnapshotId) {
        self.lock().snapshots.push(id);
        self.changed.notify_all();
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

    /// A snapshot could not be written.
    pub fn save_failed(&self) {
        self.lock().n_failed += 1;
        self.changed.notify_all();
    }

    /// The snapshot resumed from or written last.
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

    /// Asks for a snapshot and waits until one is written; `None` when writing failed or took longer than
    /// `limit`.
    #[must_use]
    pub fn snapshot_now(&self, limit: Duration) -> Option<SnapshotId> {
        let deadline = Instant::now() + limit;
        let mut inner = self.lock();
        let (n_before, failed_before) = (inner.snapshots.len(), inner.n_failed);
        self.want_cut();
        while inner.snapshots.len() == n_before {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || inner.n_failed > failed_before {
                return None;
            }
            inner = self
                .changed
                .wait_timeout(inner, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        inner.snapshots.last().copied()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every update leaves the figures whole, so a panic elsewhere does not spoil them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
