//! The status of a running pipeline: figures for the progress line, the admin socket and the metrics page.
//!
//! The stages write it and every thread may read it. No stage decides by it; see [`control`](super::control) for that.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use ouzel_ingest::join::Counters;
use ouzel_ingest::{CatalogCounts, Stage};
use ouzel_learner::validation::{Figures, RecallFigures};
use ouzel_sample::{EventTime, PartitionId, Positions};

use super::candidate::CandidateReport;
use super::gates::GateReport;
use crate::telemetry::float;

/// Most freshness measurements kept; enough for exact percentiles of a demo.
const MAX_FRESHNESS: usize = 1_000_000;

/// Shared figures of one pipeline.
#[derive(Debug, Default)]
pub struct PipelineStatus {
    /// Records that the join stage has taken.
    pub events: AtomicU64,
    /// Records that could not be decoded.
    pub rejected: AtomicU64,
    /// Valid records that nothing reads: of another event, of no task, or excluded by an operator.
    pub unneeded: AtomicU64,
    /// Samples learned in this lineage.
    pub samples: AtomicU64,
    /// Batches learned in this lineage.
    pub batches: AtomicU64,
    /// Batches joined in this lineage.
    pub joined_batches: AtomicU64,
    /// Entries of another daemon's plan log that were read and are not joined.
    pub entries_behind: AtomicU64,
    /// Samples of this run, and the time it took to learn from them, ns.
    learned: (AtomicU64, AtomicU64),
    event_time: AtomicI64,
    watermark: AtomicI64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    positions: Positions,
    /// The partition that holds the watermark, and its newest event time.
    holder: Option<(PartitionId, EventTime)>,
    counters: Counters,
    items: CatalogCounts,
    users: CatalogCounts,
    window: Figures,
    recall: Option<RecallFigures>,
    last_saved_ms: Option<i64>,
    freshness_ms: Vec<i64>,
    gates: GateReport,
    candidate: Option<CandidateReport>,
}

impl PipelineStatus {
    /// Copies the figures of the join stage.
    pub fn joined(&self, stage: &Stage) {
        self.event_time.store(stage.event_time().0, Ordering::Release);
        self.watermark.store(stage.watermark().0, Ordering::Release);
        let mut inner = self.lock();
        inner.positions.clone_from(stage.positions());
        inner.holder = stage.partition_times().into_iter().min_by_key(|(_, time)| *time);
        inner.counters.clone_from(stage.counters());
        inner.items = stage.item_counts();
        inner.users = stage.user_counts();
    }

    /// Counts a batch of `n_samples` that took `elapsed` to learn from.
    pub fn learned(&self, n_samples: u64, elapsed: Duration) {
        self.samples.fetch_add(n_samples, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.learned.0.fetch_add(n_samples, Ordering::Relaxed);
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.learned.1.fetch_add(ns, Ordering::Relaxed);
    }

    /// Samples that the learner takes per second of learning; 0 before the first.
    pub fn learning_rate(&self) -> f64 {
        let (n, ns) = &self.learned;
        let seconds = float(ns.load(Ordering::Relaxed)) / 1e9;
        float(n.load(Ordering::Relaxed)) / seconds.max(1e-9)
    }

    /// How far a standby is behind the plan log, in entries and batches.
    pub fn standby_lag(&self) -> u64 {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        load(&self.entries_behind) + load(&self.joined_batches).saturating_sub(load(&self.batches))
    }

    /// Newest event time joined. It is the present of a scorer, so that an old log is served in its own time.
    pub fn event_time(&self) -> EventTime {
        EventTime(self.event_time.load(Ordering::Acquire))
    }

    /// Watermark of the join: no on-time event is older.
    pub fn watermark(&self) -> EventTime {
        EventTime(self.watermark.load(Ordering::Acquire))
    }

    /// The partition that holds the watermark, and its newest event time; none before the first and behind a tier.
    pub fn watermark_holder(&self) -> Option<(PartitionId, EventTime)> {
        self.lock().holder
    }

    /// Next offset to join of each partition.
    pub fn positions(&self) -> Positions {
        self.lock().positions.clone()
    }

    /// Item events by what became of them.
    pub fn item_counts(&self) -> CatalogCounts {
        self.lock().items
    }

    /// Events of users' profiles by what became of them.
    pub fn user_counts(&self) -> CatalogCounts {
        self.lock().users
    }

    /// Outcome counters of the join.
    pub fn counters(&self) -> Counters {
        self.lock().counters.clone()
    }

    /// Sets the validation figures of the newest samples.
    pub fn set_window(&self, window: Figures) {
        self.lock().window = window;
    }

    /// Validation figures of the newest samples.
    pub fn window(&self) -> Figures {
        self.lock().window
    }

    /// Sets the recall of retrieval.
    pub fn set_recall(&self, recall: Option<RecallFigures>) {
        self.lock().recall = recall;
    }

    /// The recall of retrieval; none without towers or before the first positive.
    pub fn recall(&self) -> Option<RecallFigures> {
        self.lock().recall
    }

    /// Adds freshness measurements, ms.
    pub fn add_freshness(&self, ms: impl Iterator<Item = i64>) {
        let mut inner = self.lock();
        let room = MAX_FRESHNESS.saturating_sub(inner.freshness_ms.len());
        inner.freshness_ms.extend(ms.take(room));
    }

    /// All freshness measurements, ms.
    pub fn freshness_ms(&self) -> Vec<i64> {
        self.lock().freshness_ms.clone()
    }

    /// Sets when a snapshot was last written, ms since the epoch.
    pub fn set_last_saved(&self, now_ms: i64) {
        self.lock().last_saved_ms = Some(now_ms);
    }

    /// When this process last wrote a snapshot, ms since the epoch.
    pub fn last_saved_ms(&self) -> Option<i64> {
        self.lock().last_saved_ms
    }

    /// Sets the state of the gates.
    pub fn set_gates(&self, report: GateReport) {
        self.lock().gates = report;
    }

    /// The state of the gates.
    pub fn gates(&self) -> GateReport {
        self.lock().gates.clone()
    }

    /// Sets the report of the candidate.
    pub fn set_candidate(&self, report: Option<CandidateReport>) {
        self.lock().candidate = report;
    }

    /// The report of the candidate, if there is one, without the counts of its requests.
    pub fn candidate(&self) -> Option<CandidateReport> {
        self.lock().candidate.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        super::lock(&self.inner)
    }
}
