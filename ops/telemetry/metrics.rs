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
/// Items whose content waits to be encoded.
pub const ITEMS_TO_ENCODE: &str = "ouzel_ops_items_to_encode";
/// Pictures that could not be read: missing, too large, or outside of their folder.
pub const CONTENTS_OUT_OF_REACH: &str = "ouzel_ops_contents_out_of_reach_total";
/// Content vectors that a snapshot or the plan log names and that could not be had again.
pub const VECTORS_LOST: &str = "ouzel_ops_vectors_lost_total";
/// Memory of this process.
pub const RESIDENT_BYTES: &str = "ouzel_ops_resident_bytes";

/// 1 while the plan log cannot be written and learning waits for it.
pub const PLAN_STALLED: &str = "ouzel_ops_plan_stalled";
/// How often that began.
pub const PLAN_STALLS_TOTAL: &str = "ouzel_ops_plan_stalls_total";
/// Pairs of partitions that this process joins.
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
        ITEMS_TO_ENCODE,
        Unit::Count,
        "items whose content waits to be encoded"
    );
    describe_counter!(
        CONTENTS_OUT_OF_REACH,
        Unit::Count,
        "pictures that are missing, too large, or outside of their folder"
    );
    describe_counter!(
        VECTORS_LOST,
        Unit::Count,
        "content vectors that are named but could not be had again"
    );
    describe_gauge!(
        PLAN_STALLED,
        "1 while the plan log cannot be written and learning waits"
    );
    describe_counter!(
        PLAN_STALLS_TOTAL,
        Unit::Count,
        "times that the plan log could not be written"
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
