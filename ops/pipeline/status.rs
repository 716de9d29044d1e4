//! What a running pipeline reports about itself: figures for the progress line, the admin socket and the metrics page.
//!
//! Written by the stages, read by anyone. No stage decides anything by it; see [`control`](super::control) for that.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ouzel_ingest::Stage;
use ouzel_ingest::join::Counters;
use ouzel_learner::validation::Figures;
use ouzel_sample::{EventTime, Positions};

/// Most freshness measurements kept, count; enough for exact percentiles of a demo.
const MAX_FRESHNESS: usize = 1_000_000;

/// Shared figures of one pipeline.
#[derive(Debug, Default)]
pub struct PipelineStatus {
    /// Records that the join stage has taken.
    pub events: AtomicU64,
    /// Records that could not be decoded.
    pub rejected: AtomicU64,
    /// Samples learned in this lineage.
    pub samples: AtomicU64,
    /// Batches learned in this lineage.
    pub batches: AtomicU64,
    event_time: AtomicI64,
    watermark: AtomicI64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    positions: Positions,
    counters: Counters,
    window: Figures,
    total: Figures,
    last_saved_ms: Option<i64>,
    freshness_ms: Vec<i64>,
}

impl PipelineStatus {
    /// Copies the figures of the join stage.
    pub fn joined(&self, stage: &Stage) {
        self.event_time.store(stage.event_time().0, Ordering::Release);
        self.watermark.store(stage.watermark().0, Ordering::Release);
        let mut inner = self.lock();
        inner.positions.clone_from(stage.positions());
        inner.counters.clone_from(stage.counters());
    }

    /// Newest event time joined: the "now" of a scorer, so that an old log is served in its own time.
    #[must_use]
    pub fn event_time(&self) -> EventTime {
        EventTime(self.event_time.load(Ordering::Acquire))
    }

    /// Watermark of the join: no on-time event is older.
    #[must_use]
    pub fn watermark(&self) -> EventTime {
        EventTime(self.watermark.load(Ordering::Acquire))
    }

    /// Next offset to join of each partition.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.lock().positions.clone()
    }

    /// Outcome counters of the join.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.lock().counters.clone()
    }

    /// Sets the validation figures: of the newest samples, and since the start of the lineage.
    pub fn set_figures(&self, window: Figures, total: Figures) {
        let mut inner = self.lock();
        (inner.window, inner.total) = (window, total);
    }

    /// Validation figures: of the newest samples, and since the start of the lineage.
    #[must_use]
    pub fn figures(&self) -> (Figures, Figures) {
        let inner = self.lock();
        (inner.window, inner.total)
    }

    /// Adds freshness measurements: from an action's record timestamp to the served model that contains it, ms.
    pub fn add_freshness(&self, ms: impl Iterator<Item = i64>) {
        let mut inner = self.lock();
        let room = MAX_FRESHNESS.saturating_sub(inner.freshness_ms.len());
        inner.freshness_ms.extend(ms.take(room));
    }

    /// All freshness measurements, ms.
    #[must_use]
    pub fn freshness_ms(&self) -> Vec<i64> {
        self.lock().freshness_ms.clone()
    }

    /// Sets when a snapshot was last written, ms since the epoch.
    pub fn set_last_saved(&self, now_ms: i64) {
        self.lock().last_saved_ms = Some(now_ms);
    }

    /// When this process last wrote a snapshot, ms since the epoch.
    #[must_use]
    pub fn last_saved_ms(&self) -> Option<i64> {
        self.lock().last_saved_ms
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every update leaves the figures whole, so a panic elsewhere does not spoil them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
