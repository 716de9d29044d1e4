//! Metric names of this room.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// Snapshots written.
pub const WRITTEN: &str = "ouzel_snapshot_written_total";
/// Snapshots given up, by reason: `full`, `io`, `invalid`.
pub const FAILED: &str = "ouzel_snapshot_failed_total";
/// Size of the snapshot written last.
pub const BYTES: &str = "ouzel_snapshot_bytes";
/// Snapshots passed over while looking for the newest valid one.
pub const SKIPPED: &str = "ouzel_snapshot_skipped_total";
/// Snapshots removed by collections.
pub const REMOVED: &str = "ouzel_snapshot_removed_total";
/// Content vectors kept, by encoder version.
pub const VECTORS: &str = "ouzel_snapshot_vectors";
/// Content vectors that were kept once, by reason: `damaged`, `evicted`, `collected`.
pub const VECTORS_DROPPED: &str = "ouzel_snapshot_vectors_dropped_total";

/// Registers the help text of every metric above.
pub fn describe() {
    describe_counter!(WRITTEN, Unit::Count, "Snapshots written and durable.");
    describe_counter!(
        FAILED,
        Unit::Count,
        "Snapshots given up before they were complete, by reason."
    );
    describe_gauge!(
        BYTES,
        Unit::Bytes,
        "Size of the snapshot written last, without its manifest."
    );
    describe_counter!(
        SKIPPED,
        Unit::Count,
        "Snapshots passed over while looking for the newest valid one."
    );
    describe_counter!(REMOVED, Unit::Count, "Snapshots removed by collections.");
    describe_gauge!(VECTORS, Unit::Count, "Content vectors kept, by encoder version.");
    describe_counter!(
        VECTORS_DROPPED,
        Unit::Count,
        "Content vectors kept no longer, by reason; they are made again when asked for."
    );
}

pub(crate) fn written(n_bytes: u64) {
    #[allow(
        clippy::cast_precision_loss,
        reason = "a gauge is a float; 2^53 bytes are 9 PB"
    )]
    gauge!(BYTES).set(n_bytes as f64);
    counter!(WRITTEN).increment(1);
}

pub(crate) fn failed(error: &crate::Error) {
    let reason = match error {
        crate::Error::Io { .. } if error.is_transient() => "full",
        crate::Error::Io { .. } => "io",
        _ => "invalid",
    };
    counter!(FAILED, "reason" => reason).increment(1);
}

pub(crate) fn skipped(n: usize) {
    counter!(SKIPPED).increment(n as u64);
}

pub(crate) fn removed(n: usize) {
    counter!(REMOVED).increment(n as u64);
}

pub(crate) fn vectors(version: &str, n: usize) {
    let n = u32::try_from(n).unwrap_or(u32::MAX);
    gauge!(VECTORS, "encoder" => version.to_owned()).set(n);
}

pub(crate) fn vectors_dropped(reason: &'static str, n: u64) {
    counter!(VECTORS_DROPPED, "reason" => reason).increment(n);
}
