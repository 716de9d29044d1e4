//! The path through the queue that all scoring routes share.

use std::sync::Arc;
use std::time::Instant;

use metrics::{counter, histogram};
use tokio::sync::oneshot;

use super::app::App;
use super::refusal::{Code, Refusal};
use crate::metrics::{REQUEST_SECONDS, REQUESTS_TOTAL};
use crate::retrieval::{CheckedRetrieval, RetrieveError, Retrieved};
use crate::{CheckedRequest, Job, RankError, Ranked, Work};

/// Sends a request to the workers and waits for its scores until the deadline.
pub(super) async fn score(app: &App, request: Arc<CheckedRequest>) -> Result<Ranked, Refusal> {
    let scored = answer(app, |reply| Work::Rank { request, reply }).await?;
    scored.map_err(|error| {
        if error != RankError::NotReady {
            tracing::error!(%error, "a request could not be scored");
        }
        error.into()
    })
}

/// Sends a request for items of the catalog to the workers and waits for them until the deadline.
pub(super) async fn retrieve(app: &App, request: CheckedRetrieval) -> Result<Retrieved, Refusal> {
    let found = answer(app, |reply| Work::Retrieve { request, reply }).await?;
    found.map_err(|error| {
        if let RetrieveError::Rank(error @ (RankError::Failed(_) | RankError::NotFinite(_))) = &error {
            tracing::error!(%error, "recommended items could not be ranked");
        }
        error.into()
    })
}

/// The answer of a worker, which also may be that it failed.
async fn answer<T>(app: &App, work: impl FnOnce(oneshot::Sender<T>) -> Work) -> Result<T, Refusal> {
    let deadline = Instant::now() + app.config.deadline.duration();
    let (reply, answered) = oneshot::channel();
    app.queue.push(Job {
        work: work(reply),
        deadline,
    })?;
    match tokio::time::timeout_at(deadline.into(), answered).await {
        Ok(Ok(answer)) => Ok(answer),
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
