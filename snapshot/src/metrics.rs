//! The metrics of this crate.

use metrics::{counter, gauge};

ouzel_sample::metric_names! {
    counter WRITTEN = "ouzel_snapshot_written_total", Count, "Snapshots written and durable.";
    counter FAILED = "ouzel_snapshot_failed_total", Count,
        "Snapshots given up before they were complete, by reason: `full`, `io`, `invalid`, `weights` (not finite).";
    gauge BYTES = "ouzel_snapshot_bytes", Bytes, "Size of the snapshot written last, without its manifest.";
    counter SKIPPED = "ouzel_snapshot_skipped_total", Count,
        "Snapshots passed over while looking for the newest valid one.";
    counter REMOVED = "ouzel_snapshot_removed_total", Count, "Snapshots removed by garbage collections.";
    counter REMOTE_SENT = "ouzel_snapshot_remote_sent_total", Count, "Snapshots sent to the remote copy.";
    gauge REMOTE_NEWEST = "ouzel_snapshot_remote_newest", Count, "Id of the newest snapshot of the remote copy.";
    counter REMOTE_BYTES = "ouzel_snapshot_remote_bytes_total", Bytes, "Bytes sent to the remote copy.";
    counter REMOTE_SKIPPED = "ouzel_snapshot_remote_skipped_total", Count,
        "Snapshots that were removed from the state directory before they could be sent to the remote copy.";
    gauge VECTORS = "ouzel_snapshot_vectors", Count, "Content vectors stored, by encoder version.";
    counter VECTORS_DROPPED = "ouzel_snapshot_vectors_dropped_total", Count,
        "Content vectors dropped from the store, by reason: `damaged`, `evicted`, `collected`; they are encoded again on demand.";
}

pub(crate) fn written(n_bytes: u64) {
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

pub(crate) fn remote_snapshot() {
    counter!(REMOTE_SENT).increment(1);
}

pub(crate) fn remote_newest(id: crate::SnapshotId) {
    gauge!(REMOTE_NEWEST).set(id.number() as f64);
}

pub(crate) fn remote_sent(n_bytes: u64) {
    counter!(REMOTE_BYTES).increment(n_bytes);
}

pub(crate) fn remote_skipped(n: u64) {
    counter!(REMOTE_SKIPPED).increment(n);
}

pub(crate) fn vectors(version: &str, n: usize) {
    let n = u32::try_from(n).unwrap_or(u32::MAX);
    gauge!(VECTORS, "encoder" => version.to_owned()).set(n);
}

pub(crate) fn vectors_dropped(reason: &'static str, n: u64) {
    counter!(VECTORS_DROPPED, "reason" => reason).increment(n);
}
