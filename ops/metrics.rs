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
/// Event time up to which every window is closed, seconds since the epoch.
pub const WATERMARK_SECONDS: &str = "ouzel_ops_watermark_seconds";

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
        "event time up to which every window is closed"
    );
}
