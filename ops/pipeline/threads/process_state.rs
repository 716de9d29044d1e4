//! The answer of `GET /v1/status`.

use std::sync::atomic::Ordering;

use ouzel_serving::CandidateSlot;
use ouzel_snapshot::Store;

use crate::pipeline::admin_handler::role_name;
use crate::pipeline::remote::RemoteStatus;
use crate::pipeline::run::RunHandles;

/// The answer of `GET /v1/status`.
pub(super) fn process_state(
    run: &RunHandles,
    candidates: &CandidateSlot,
    store: &Store,
    remote: &RemoteStatus,
) -> serde_json::Value {
    let RunHandles { status, control, .. } = run;
    let learning = control.learning();
    serde_json::json!({
        "learning": learning.name(),
        "stopped_because": learning.reason(),
        "not_learning": run.not_learning(),
        "latest": control.latest(),
        "pinned": control.pinned(),
        "samples": status.samples.load(Ordering::Relaxed),
        "batches": status.batches.load(Ordering::Relaxed),
        "event_time_ms": status.event_time().0,
        "gates": status.gates(),
        "role": role_name(store),
        "epoch": store.epoch(),
        "behind": status.standby_lag(),
        "remote": remote.get(),
        "recall": status.recall(),
        "candidate": status.candidate().map(|report| report.with_counts(candidates)),
    })
}
