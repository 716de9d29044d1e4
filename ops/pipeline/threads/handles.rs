//! What the rest of the process reads of a run: its handles, and the answer of `GET /v1/status`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

use ouzel_serving::CandidateSlot;
use ouzel_snapshot::Store;

use crate::pipeline::admin_handler::role_name;
use crate::pipeline::control::Control;
use crate::pipeline::remote::RemoteStatus;
use crate::pipeline::run::{Restart, RunHandles};
use crate::pipeline::spec::Parts;
use crate::pipeline::stages::learn::PendingRequest;
use crate::pipeline::standby::RunRole;

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

/// The handles of a run that is about to start.
pub(super) fn handles(
    parts: &Parts,
    control: &Control,
    learner: Sender<PendingRequest>,
    restarts: &Sender<Restart>,
) -> RunHandles {
    let is_standby = parts.plan.is_none();
    RunHandles {
        status: Arc::clone(&parts.status),
        control: control.state.clone(),
        requests: control.requests.clone(),
        features: Arc::clone(parts.sequencer.stage().features()),
        learner,
        no_log: None,
        role: Some(RunRole::new(is_standby, parts.operator.clone(), restarts.clone())),
    }
}
