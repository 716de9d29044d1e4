//! Gauges and totals of the whole pipeline, set from its shared figures every half second.

use std::sync::atomic::Ordering;

use metrics::{counter, gauge};

use ouzel_ingest::join::Counters;

use crate::clock::Clock;
use crate::live::PipelineStatus;
use crate::metrics::{
    ACTION_COVERAGE, EVENT_LAG_SECONDS, EVENTS_TOTAL, OUTCOMES_TOTAL, PENDING, RESIDENT_BYTES,
    SNAPSHOT_AGE_SECONDS, WATERMARK_SECONDS,
};

/// Brings every gauge up to date.
pub fn set(live: &PipelineStatus, clock: &dyn Clock) {
    counter!(EVENTS_TOTAL).absolute(live.events.load(Ordering::Relaxed));
    let counters = live.counters();
    gauge!(PENDING).set(float(counters.pending_items));
    for (outcome, n) in outcomes(&counters) {
        counter!(OUTCOMES_TOTAL, "outcome" => outcome).absolute(n);
    }
    if let Some(coverage) = counters.action_coverage() {
        gauge!(ACTION_COVERAGE).set(coverage);
    }
    let now = clock.now_ms();
    if live.events.load(Ordering::Relaxed) > 0 {
        gauge!(EVENT_LAG_SECONDS).set(seconds(now.saturating_sub(live.event_time().0)));
        gauge!(WATERMARK_SECONDS).set(seconds(live.watermark().0.max(0)));
    }
    if let Some(saved) = live.last_saved_ms() {
        gauge!(SNAPSHOT_AGE_SECONDS).set(seconds(now - saved));
    }
    if let Some(bytes) = resident_bytes() {
        gauge!(RESIDENT_BYTES).set(float(bytes));
    }
}

/// What became of records and shown items, by closed set of names.
fn outcomes(counters: &Counters) -> Vec<(&'static str, u64)> {
    let primary = counters.tasks.first().copied().unwrap_or_default();
    vec![
        ("shown", counters.items),
        ("shown_duplicate", counters.duplicate_items),
        ("shown_late", primary.late),
        ("positive", primary.positive),
        ("negative", primary.negative),
        ("impression_rejected", counters.rejected_impressions),
        ("closed_early", counters.closed_early),
        ("action", counters.actions),
        ("action_matched", counters.matched),
        ("action_duplicate", counters.duplicate_actions),
        ("action_late", counters.late_actions),
        ("action_orphan", counters.orphans),
        ("action_before_shown", counters.before_shown),
        ("action_rejected", counters.rejected_actions),
    ]
}

/// Memory of this process, where the system tells.
fn resident_bytes() -> Option<u64> {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

fn seconds(ms: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is an f64")]
    let ms = ms as f64;
    ms / 1000.0
}

fn float(n: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is an f64")]
    let n = n as f64;
    n
}
