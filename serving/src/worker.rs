//! The loop of a worker thread: takes jobs from the queue and scores them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use tokio::sync::oneshot;

use crate::metrics::{ABANDONED_TOTAL, CANDIDATES_TOTAL, RETRIEVE_SECONDS, SCORE_SECONDS};
use crate::queue::{NextJob, Work};
use crate::{CheckedRequest, Queue, RankError, Ranked, Ranker};

/// Longest wait for a request before the ranker may drop an old version, which must be freed within a second.
const IDLE: Duration = Duration::from_millis(100);

/// Scores jobs until the queue is closed and empty.
///
/// A job is dropped unscored when its deadline has passed or its client has gone, so a burst costs little. A panic in the
/// ranker is not caught: its client gets an error, and the supervisor decides what the end of the thread means.
pub fn run_worker<R: Ranker + ?Sized>(queue: &Queue, ranker: &mut R) {
    let _registered = queue.register_worker();
    loop {
        let job = match queue.next(IDLE) {
            NextJob::Job(job) => job,
            NextJob::Idle => {
                ranker.refresh();
                continue;
            }
            NextJob::Closed => return,
        };
        let started = Instant::now();
        if job.work.is_abandoned() || started >= job.deadline {
            counter!(ABANDONED_TOTAL).increment(1);
            continue;
        }
        match job.work {
            Work::Rank { request, reply } => rank(ranker, &request, reply, started),
            Work::Retrieve { request, reply } => {
                let found = ranker.retrieve(&request);
                if let Ok(found) = &found {
                    histogram!(RETRIEVE_SECONDS).record(started.elapsed());
                    let n_ranked = found
                        .ranked
                        .as_ref()
                        .map_or(0, |(request, _)| request.items.len());
                    counter!(CANDIDATES_TOTAL).increment(n_ranked as u64);
                }
                if reply.send(found).is_err() {
                    tracing::trace!("the client left before its items were found");
                }
            }
        }
    }
}

fn rank<R: Ranker + ?Sized>(
    ranker: &mut R,
    request: &Arc<CheckedRequest>,
    reply: oneshot::Sender<Result<Ranked, RankError>>,
    started: Instant,
) {
    let n_items = request.items.len();
    let scored = ranker.rank(request).and_then(|ranked| ranked.checked(n_items));
    if scored.is_ok() {
        histogram!(SCORE_SECONDS).record(started.elapsed());
        counter!(CANDIDATES_TOTAL).increment(u64::try_from(n_items).unwrap_or(u64::MAX));
    }
    if reply.send(scored).is_err() {
        tracing::trace!("the client left before its scores were ready");
    }
    ranker.replied(request);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::metrics::QUEUE_REQUESTS;
    use crate::{Job, NamedValues, PushError};

    struct CountingRanker(usize);

    impl Ranker for CountingRanker {
        fn rank(&mut self, request: &CheckedRequest) -> Result<Ranked, RankError> {
            self.0 += 1;
            Ok(Ranked {
                version: 1,
                snapshot: "s".into(),
                scores: vec![0.5; request.items.len()],
                ..Ranked::default()
            })
        }
    }

    fn job(deadline: Instant) -> (Job, oneshot::Receiver<Result<Ranked, RankError>>) {
        let (reply, receiver) = oneshot::channel();
        let request = CheckedRequest {
            user_id: "u".to_owned(),
            items: vec!["a".to_owned()],
            features: vec![NamedValues::default()],
            context: NamedValues::default(),
            top_k: None,
        };
        (
            Job {
                work: Work::Rank {
                    request: Arc::new(request),
                    reply,
                },
                deadline,
            },
            receiver,
        )
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_full_or_closed_queue_refuses() {
        let queue = Queue::new(1);
        let (first, _receiver) = job(later());
        assert_eq!(queue.push(first), Ok(()));
        assert_eq!(queue.push(job(later()).0), Err(PushError::Full));
        assert_eq!(queue.len(), 1);
        queue.close();
        assert_eq!(queue.push(job(later()).0), Err(PushError::Closed));
    }

    #[test]
    fn jobs_waiting_when_the_queue_closes_are_still_scored() {
        let queue = Queue::new(8);
        let mut receivers: Vec<_> = (0..3)
            .map(|_| {
                let (job, receiver) = job(later());
                queue.push(job).unwrap();
                receiver
            })
            .collect();
        queue.close();
        let mut ranker = CountingRanker(0);
        run_worker(&queue, &mut ranker);
        assert_eq!(ranker.0, 3);
        assert!(
            receivers
                .iter_mut()
                .all(|receiver| receiver.try_recv().unwrap().is_ok())
        );
        assert_eq!(queue.n_workers(), 0);
    }

    #[test]
    fn a_job_that_nobody_waits_for_is_not_scored() {
        let queue = Queue::new(8);
        let (gone, receiver) = job(later());
        drop(receiver);
        let (expired, _receiver) = job(Instant::now());
        queue.push(gone).unwrap();
        queue.push(expired).unwrap();
        queue.close();
        let mut ranker = CountingRanker(0);
        run_worker(&queue, &mut ranker);
        assert_eq!(ranker.0, 0);
    }

    #[test]
    fn an_idle_worker_refreshes_its_ranker() {
        struct IdleRanker(Arc<AtomicUsize>);
        impl Ranker for IdleRanker {
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
            scope.spawn(|| run_worker(&queue, &mut IdleRanker(Arc::clone(&n_refreshed))));
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
        let (scored, _receiver) = job(later());
        let (gone, receiver) = job(later());
        drop(receiver);
        metrics::with_local_recorder(&recorder, || {
            queue.push(scored).unwrap();
            queue.push(gone).unwrap();
            queue.close();
            run_worker(&queue, &mut CountingRanker(0));
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
