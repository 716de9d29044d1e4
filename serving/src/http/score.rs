//! The path through the queue that both scoring routes share.

use std::sync::Arc;
use std::time::Instant;

use metrics::{counter, histogram};
use tokio::sync::oneshot;

use super::app::App;
use super::refusal::{Code, Refusal};
use crate::metrics::{REQUEST_SECONDS, REQUESTS_TOTAL};
use crate::{CheckedRequest, Job, RankError, Ranked};

/// Sends a request to the workers and waits for its scores until the deadline.
pub(super) async fn score(app: &App, request: Arc<CheckedRequest>) -> Result<Ranked, Refusal> {
    let deadline = Instant::now() + app.config.deadline.duration();
    let (reply, scored) = oneshot::channel();
    app.queue.push(Job {
        request,
        deadline,
        reply,
    })?;
    match tokio::time::timeout_at(deadline.into(), scored).await {
        Ok(Ok(Ok(ranked))) => Ok(ranked),
        Ok(Ok(Err(error))) => {
            if error != RankError::NotReady {
                tracing::error!(%error, "a request could not be scored");
            }
            Err(error.into())
        }
        // The sender was dropped: the worker found the job late, or it panicked.
        Ok(Err(_)) if Instant::now() < deadline => {
            let message = "the worker that scored this request has stopped";
            Err(Refusal::new(Code::Internal, message))
        }
        Ok(Err(_)) | Err(_) => {
            let deadline_ms = app.config.deadline.ms();
            let message = format!("no scores within the deadline of {deadline_ms} ms");
            Err(Refusal::new(Code::DeadlineExceeded, message))
        }
    }
}

/// Counts one answered scoring request by its outcome.
pub(super) fn count_reply(started: Instant, refusal: Option<&Refusal>) {
    let outcome = refusal.map_or("ok", |refusal| refusal.code.name());
    counter!(REQUESTS_TOTAL, "outcome" => outcome).increment(1);
    histogram!(REQUEST_SECONDS).record(started.elapsed());
}
