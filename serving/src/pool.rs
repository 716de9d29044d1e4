//! The bounded queue between the sockets and the worker threads, and the loop a worker runs.
//!
//! The queue is the only place where requests wait, so its length bounds both memory and the time a late reply
//! can take. It refuses rather than blocks. Knows neither HTTP nor models.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::metrics::{ABANDONED_TOTAL, CANDIDATES_TOTAL, QUEUE_REQUESTS, SCORE_SECONDS};
use crate::{CheckedRequest, RankError, Ranked, Ranker};

/// How long a worker waits for a request before it lets its ranker drop an old version. Short against the
/// second within which a replaced version must be freed.
const IDLE: Duration = Duration::from_millis(100);

/// One request on its way to a worker.
#[derive(Debug)]
pub struct Job {
    /// What to score.
    pub ask: Arc<CheckedRequest>,
    /// After this nobody waits for the reply.
    pub deadline: Instant,
    /// Where the scores go.
    pub reply: oneshot::Sender<Result<Ranked, RankError>>,
}

/// Why a job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PushError {
    /// As many requests wait as may.
    #[error("the scoring queue is full")]
    Full,
    /// The process is shutting down.
    #[error("the scoring queue is closed")]
    Closed,
}

/// A bounded queue with many producers and many workers.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    capacity: usize,
    n_workers: AtomicUsize,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

enum Next {
    Job(Job),
    Idle,
    Closed,
}

impl Queue {
    /// A queue in which at most `capacity` requests wait, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            waiting: Mutex::new(Waiting::default()),
            changed: Condvar::new(),
            capacity: capacity.max(1),
            n_workers: AtomicUsize::new(0),
        }
    }

    /// Hands a job to the workers, or says at once why not.
    ///
    /// # Errors
    /// [`PushError`]; the job and its reply channel are dropped.
    pub fn push(&self, job: Job) -> Result<(), PushError> {
        let n_waiting = {
            let mut waiting = self.lock();
            if waiting.is_closed {
                return Err(PushError::Closed);
            }
            if waiting.jobs.len() >= self.capacity {
                return Err(PushError::Full);
            }
            waiting.jobs.push_back(job);
            waiting.jobs.len()
        };
        self.changed.notify_one();
        set_depth(n_waiting);
        Ok(())
    }

    /// Refuses every later job. What waits is still scored; then the workers end.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// True after [`Queue::close`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Requests waiting now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// True when no request waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Workers inside [`work`] now. None means that nobody will answer.
    #[must_use]
    pub fn n_workers(&self) -> usize {
        self.n_workers.load(Ordering::Acquire)
    }

    fn next(&self) -> Next {
        let waiting = self.lock();
        let (mut waiting, _) = self
            .changed
            .wait_timeout_while(waiting, IDLE, |waiting| {
                waiting.jobs.is_empty() && !waiting.is_closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        match waiting.jobs.pop_front() {
            Some(job) => {
                let n_waiting = waiting.jobs.len();
                drop(waiting);
                set_depth(n_waiting);
                Next::Job(job)
            }
            None if waiting.is_closed => Next::Closed,
            None => Next::Idle,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing under this lock can leave the queue half changed, so a panic elsewhere does not spoil it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker: scores jobs until the queue is closed and empty.
///
/// A job whose deadline has passed, or whose client has gone, is dropped unscored, so a burst is worked off at
/// the speed of looking at it. A panic in the ranker is not caught here: the job's client is told, and what the
/// end of the thread means is the supervisor's business.
pub fn work<R: Ranker + ?Sized>(queue: &Queue, ranker: &mut R) {
    let _counted = Counted::new(&queue.n_workers);
    loop {
        let job = match queue.next() {
            Next::Job(job) => job,
            Next::Idle => {
                ranker.refresh();
                continue;
            }
            Next::Closed => return,
        };
        let started = Instant::now();
        if job.reply.is_closed() || started >= job.deadline {
            counter!(ABANDONED_TOTAL).increment(1);
            continue;
        }
        let n_items = job.ask.items.len();
        let scored = ranker.rank(&job.ask).and_then(|ranked| ranked.checked(n_items));
        if scored.is_ok() {
            histogram!(SCORE_SECONDS).record(started.elapsed());
            counter!(CANDIDATES_TOTAL).increment(u64::try_from(n_items).unwrap_or(u64::MAX));
        }
        if job.reply.send(scored).is_err() {
            tracing::trace!("the client left before its scores were ready");
        }
    }
}

/// Counts a worker for as long as it lives, also when it ends by a panic.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn set_depth(n_waiting: usize) {
    gauge!(QUEUE_REQUESTS).set(u32::try_from(n_waiting).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use super::*;

    struct Count(usize);

    impl Ranker for Count {
        fn rank(&mut self, ask: &CheckedRequest) -> Result<Ranked, RankError> {
            self.0 += 1;
            Ok(Ranked {
                version: 1,
                snapshot: "s".into(),
                tasks: Arc::from([]),
                scores: vec![0.5; ask.items.len()],
                probabilities: Vec::new(),
            })
        }
    }

    fn job(deadline: Instant) -> (Job, oneshot::Receiver<Result<Ranked, RankError>>) {
        let (reply, receiver) = oneshot::channel();
        let ask = CheckedRequest {
            user_id: "u".to_owned(),
            items: vec!["a".to_owned()],
            context: Vec::new(),
            top_k: None,
        };
        (
            Job {
                ask: Arc::new(ask),
                deadline,
                reply,
            },
            receiver,
        )
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_full_queue_refuses_and_a_closed_one_too() {
        let queue = Queue::new(1);
        let (first, _keep) = job(later());
        assert_eq!(queue.push(first), Ok(()));
        assert_eq!(queue.push(job(later()).0), Err(PushError::Full));
        assert_eq!(queue.len(), 1);
        queue.close();
        assert_eq!(queue.push(job(later()).0), Err(PushError::Closed));
    }

    #[test]
    fn what_waits_when_the_queue_closes_is_still_scored() {
        let queue = Queue::new(8);
        let mut receivers: Vec<_> = (0..3)
            .map(|_| {
                let (job, receiver) = job(later());
                queue.push(job).unwrap();
                receiver
            })
            .collect();
        queue.close();
        let mut ranker = Count(0);
        work(&queue, &mut ranker);
        assert_eq!(ranker.0, 3);
        assert!(
            receivers
                .iter_mut()
                .all(|receiver| receiver.try_recv().unwrap().is_ok())
        );
        assert_eq!(queue.n_workers(), 0);
    }

    #[test]
    fn a_job_nobody_waits_for_costs_no_scoring() {
        let queue = Queue::new(8);
        let (gone, receiver) = job(later());
        drop(receiver);
        let (expired, _waits) = job(Instant::now());
        queue.push(gone).unwrap();
        queue.push(expired).unwrap();
        queue.close();
        let mut ranker = Count(0);
        work(&queue, &mut ranker);
        assert_eq!(ranker.0, 0);
    }

    #[test]
    fn an_idle_worker_is_told_to_let_go_of_old_versions() {
        struct Idle(Arc<AtomicUsize>);
        impl Ranker for Idle {
            fn rank(&mut self, _: &CheckedRequest) -> Result<Ranked, RankError> {
                Err(RankError::NotReady)
            }
            fn refresh(&mut self) {
                self.0.fetch_add(1, Ordering::AcqRel);
            }
        }
        let queue = Queue::new(8);
        let n_refreshed = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| work(&queue, &mut Idle(Arc::clone(&n_refreshed))));
            let give_up = Instant::now() + Duration::from_secs(30);
            while n_refreshed.load(Ordering::Acquire) == 0 && Instant::now() < give_up {
                std::thread::sleep(Duration::from_millis(1));
            }
            queue.close();
        });
        assert!(n_refreshed.load(Ordering::Acquire) > 0);
    }

    #[test]
    fn scored_and_abandoned_requests_are_counted() {
        let recorder = DebuggingRecorder::new();
        let queue = Queue::new(8);
        let (scored, _waits) = job(later());
        let (gone, receiver) = job(later());
        drop(receiver);
        metrics::with_local_recorder(&recorder, || {
            queue.push(scored).unwrap();
            queue.push(gone).unwrap();
            queue.close();
            work(&queue, &mut Count(0));
        });
        let seen: BTreeMap<String, DebugValue> = recorder
            .snapshotter()
            .snapshot()
            .into_vec()
            .into_iter()
            .map(|(key, _, _, value)| (key.key().name().to_owned(), value))
            .collect();
        assert_eq!(seen[CANDIDATES_TOTAL], DebugValue::Counter(1));
        assert_eq!(seen[ABANDONED_TOTAL], DebugValue::Counter(1));
        assert_eq!(seen[QUEUE_REQUESTS], DebugValue::Gauge(0.0.into()));
        assert!(matches!(&seen[SCORE_SECONDS], DebugValue::Histogram(values) if values.len() == 1));
    }
}
