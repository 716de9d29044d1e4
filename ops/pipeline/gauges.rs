//! Sets the metrics of the whole pipeline from its status.

use std::sync::atomic::Ordering;

use metrics::{counter, gauge};

use ouzel_ingest::join::Counters;

use super::control::LearningState;
use super::run::RunHandles;
use crate::telemetry::clock::Clock;
use crate::telemetry::metrics::{
    ACTION_COVERAGE, EVENT_LAG_SECONDS, EVENTS_TOTAL, LEARNING, OUTCOMES_TOTAL, PENDING, RESIDENT_BYTES,
    SNAPSHOT_AGE_SECONDS, WATERMARK_SECONDS,
};
use crate::telemetry::{float, seconds};

/// Sets every gauge and total.
pub(crate) fn set(run: &RunHandles, clock: &dyn Clock) {
    let status = &run.status;
    let is_learning = run.not_learning().is_none() && run.control.learning() == LearningState::Running;
    gauge!(LEARNING).set(f64::from(u8::from(is_learning)));
    counter!(EVENTS_TOTAL).absolute(status.events.load(Ordering::Relaxed));
    let counters = status.counters();
    gauge!(PENDING).set(float(counters.pending_items));
    for (outcome, n) in outcomes(&counters) {
        counter!(OUTCOMES_TOTAL, "outcome" => outcome).absolute(n);
    }
    if let Some(coverage) = counters.action_coverage() {
        gauge!(ACTION_COVERAGE).set(coverage);
    }
    let now = clock.now_ms();
    if status.events.load(Ordering::Relaxed) > 0 {
        gauge!(EVENT_LAG_SECONDS).set(seconds(now.saturating_sub(status.event_time().0)));
        gauge!(WATERMARK_SECONDS).set(seconds(status.watermark().0.max(0)));
    }
    if let Some(saved) = status.last_saved_ms() {
        gauge!(SNAPSHOT_AGE_SECONDS).set(seconds(now - saved));
    }
    if let Some(bytes) = resident_bytes() {
        gauge!(RESIDENT_BYTES).set(float(bytes));
    }
}

/// Outcomes of records and shown items, by name.
fn outcomes(counters: &Counters) -> Vec<(&'static str, u64)> {
    let primary = counters.tasks.first().copied().unwrap_or_default();
    vec![
        ("shown", counters.items),
        ("shown_duplicate", counters.duplicate_items),
        ("shown_excess", counters.excess_items),
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
        ("action_unattributed", counters.unattributed),
        ("action_before_shown", counters.before_shown),
        ("action_rejected", counters.rejected_actions),
        ("time_jump_held", counters.time_jumps_held),
    ]
}

/// Resident memory of this process, if the system reports it.
fn resident_bytes() -> Option<u64> {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}
