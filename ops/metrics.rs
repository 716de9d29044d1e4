//! Metric names of the pipeline as a whole.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// The headline: from an action's Kafka record timestamp to the moment the served model contains it.
pub const FRESHNESS_SECONDS: &str = "ouzel_freshness_seconds";
/// Snapshots not taken because the one before was still being written.
pub const SNAPSHOTS_SKIPPED_TOTAL: &str = "ouzel_ops_snapshots_skipped_total";
/// Records joined.
pub const EVENTS_TOTAL: &str = "ouzel_ops_events_total";
/// Shown items waiting for their windows.
pub const PENDING: &str = "ouzel_ops_pending_items";
/// Event time that no on-time event can be behind, seconds since the epoch.
pub const WATERMARK_SECONDS: &str = "ouzel_ops_watermark_timestamp_seconds";
/// How far the newest event joined is behind the clock.
pub const EVENT_LAG_SECONDS: &str = "ouzel_ops_event_lag_seconds";
/// What became of records and shown items.
pub const OUTCOMES_TOTAL: &str = "ouzel_ops_join_outcomes_total";
/// Share of matched actions among those that came in time or too late.
pub const ACTION_COVERAGE: &str = "ouzel_ops_action_coverage_ratio";
/// Time since the last snapshot was written.
pub const SNAPSHOT_AGE_SECONDS: &str = "ouzel_ops_snapshot_age_seconds";
/// Memory of this process.
pub const RESIDENT_BYTES: &str = "ouzel_ops_resident_bytes";

/// Units of the join tier that this process runs.
pub const TIER_UNITS: &str = "ouzel_ops_tier_units";
/// Records joined by this process of the join tier, those of warm-ups included.
pub const TIER_RELEASED_TOTAL: &str = "ouzel_ops_tier_joined_records_total";

/// Tells the recorder what each name means.
pub fn describe() {
    describe_histogram!(
        FRESHNESS_SECONDS,
        Unit::Seconds,
        "from an action's record timestamp to the moment the served model contains it"
    );
    describe_counter!(
        SNAPSHOTS_SKIPPED_TOTAL,
        Unit::Count,
        "snapshots skipped while one was being written"
    );
    describe_counter!(EVENTS_TOTAL, Unit::Count, "records joined, items included");
    describe_gauge!(
        PENDING,
        Unit::Count,
        "shown items waiting for their attribution windows"
    );
    describe_gauge!(
        WATERMARK_SECONDS,
        Unit::Seconds,
        "event time that no on-time event can be behind"
    );
    describe_gauge!(
        EVENT_LAG_SECONDS,
        Unit::Seconds,
        "how far the newest event joined is behind the clock"
    );
    describe_counter!(
        OUTCOMES_TOTAL,
        Unit::Count,
        "what became of records and shown items of the primary task"
    );
    describe_gauge!(
        ACTION_COVERAGE,
        "share of matched actions among those that came in time or too late"
    );
    describe_gauge!(
        SNAPSHOT_AGE_SECONDS,
        Unit::Seconds,
        "time since the last snapshot was written"
    );
    describe_gauge!(
        TIER_UNITS,
        Unit::Count,
        "units of the join tier that this process runs"
    );
    describe_counter!(
        TIER_RELEASED_TOTAL,
        Unit::Count,
        "records joined by this process of the join tier, warm-ups included"
    );
    describe_gauge!(RESIDENT_BYTES, Unit::Bytes, "memory of this process");
}
