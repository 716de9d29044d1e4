//! The bounded queue between the sockets and the worker threads.
//!
//! It is the only place where requests wait, so its length bounds both memory and waiting time. It refuses rather than
//! blocks. It knows neither HTTP nor models.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::gauge;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::metrics::QUEUE_REQUESTS;
use crate::retrieval::{CheckedRetrieval, RetrieveError, Retrieved};
use crate::{CheckedRequest, RankError, Ranked};

/// One request on its way to a worker.
#[derive(Debug)]
pub struct Job {
    /// What is wanted.
    pub work: Work,
    /// The time after which nobody waits for the reply.
    pub deadline: Instant,
}

/// A request with the channel for its answer.
#[derive(Debug)]
pub enum Work {
    /// Scores for given items.
    Rank {
        /// The request.
        request: Arc<CheckedRequest>,
        /// The channel for the scores.
        reply: oneshot::Sender<Result<Ranked, RankError>>,
    },
    /// Items of the catalog.
    Retrieve {
        /// The request.
        request: CheckedRetrieval,
        /// The channel for the items.
        reply: oneshot::Sender<Result<Retrieved, RetrieveError>>,
    },
}

impl Work {
    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Work::Rank { reply, .. } => reply.is_closed(),
            Work::Retrieve { reply, .. } => reply.is_closed(),
        }
    }
}

/// Why the queue refused a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages describe the variants")]
pub enum PushError {
    #[error("the scoring queue is full")]
    Full,
    #[error("the scoring queue is closed")]
    Closed,
}

/// A bounded queue with many producers and many workers.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
    capacity: usize,
    n_workers: AtomicUsize,
}

#[derive(Debug, Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

/// What a waiting worker gets.
pub(crate) enum NextJob {
    Job(Job),
    /// No job came in time.
    Idle,
    Closed,
}

impl Queue {
    /// Makes a queue in which at most `capacity` requests wait, at least one.
    pub fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            capacity: capacity.max(1),
            n_workers: AtomicUsize::new(0),
        }
    }

    /// Adds a job, or refuses it at once.
    ///
    /// # Errors
    /// [`PushError`]; the job and its reply channel are dropped.
    pub fn push(&self, job: Job) -> Result<(), PushError> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(PushError::Closed);
        }
        if state.jobs.len() >= self.capacity {
            return Err(PushError::Full);
        }
        state.jobs.push_back(job);
        let n_waiting = state.jobs.len();
        drop(state);
        self.changed.notify_one();
        set_depth(n_waiting);
        Ok(())
    }

    /// Waits up to `timeout` for a job and removes it.
    pub(crate) fn next(&self, timeout: Duration) -> NextJob {
        let is_waiting = |state: &mut QueueState| state.jobs.is_empty() && !state.is_closed;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(self.lock(), timeout, is_waiting)
            .unwrap_or_else(PoisonError::into_inner);
        let Some(job) = state.jobs.pop_front() else {
            return if state.is_closed {
                NextJob::Closed
            } else {
                NextJob::Idle
            };
        };
        let n_waiting = state.jobs.len();
        drop(state);
        set_depth(n_waiting);
        NextJob::Job(job)
    }

    /// Refuses every later job. Waiting jobs are still scored; then the workers end.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// True after [`Queue::close`].
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Number of waiting requests.
    pub fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// True when no request waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of running workers. At 0 no request is answered.
    pub fn n_workers(&self) -> usize {
        self.n_workers.load(Ordering::Acquire)
    }

    /// Counts a worker until the guard is dropped, which a panic also does.
    pub(crate) fn register_worker(&self) -> RegisteredWorker<'_> {
        self.n_workers.fetch_add(1, Ordering::AcqRel);
        RegisteredWorker(&self.n_workers)
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // No code under this lock can leave the queue half changed, so a poisoned lock is usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct RegisteredWorker<'a>(&'a AtomicUsize);

impl Drop for RegisteredWorker<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn set_depth(n_waiting: usize) {
    gauge!(QUEUE_REQUESTS).set(u32::try_from(n_waiting).unwrap_or(u32::MAX));
}
