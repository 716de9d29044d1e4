//! The thread of a shadow: scores copies of requests that were answered already.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::ActiveCandidate;
use crate::{CheckedRequest, Ranker, Scorer};

/// Most requests that wait for the shadow. One more is dropped and counted.
pub const MAX_SHADOW_JOBS: usize = 256;

/// Longest wait for a request before an old version is dropped.
const IDLE: Duration = Duration::from_millis(100);

/// A request that the served version has answered.
#[derive(Debug)]
pub struct ShadowJob {
    pub(crate) request: Arc<CheckedRequest>,
    pub(crate) candidate: Arc<ActiveCandidate>,
    /// The index of the item that the reply has first; `None` if the fallback ranked.
    pub(crate) first: Option<usize>,
}

/// Scores requests until every scorer that sends them is gone.
pub fn run_shadow(jobs: &Receiver<ShadowJob>, scorer: &mut Scorer) {
    loop {
        match jobs.recv_timeout(IDLE) {
            Ok(job) => scorer.shadow(&job),
            Err(RecvTimeoutError::Timeout) => scorer.refresh(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
