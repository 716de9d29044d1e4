//! The age of actions when they are learned, in event time: the delay that a label policy adds.
//!
//! Measured from the actions, because the samples of a policy that waits do not have the time of the action.

use std::collections::HashMap;

use serde::Serialize;

use ouzel_sample::{Action, Batch, EventTime, Id, TaskId};

use crate::telemetry::seconds;

/// Time from actions of the primary task to the batches that first learn them as positives.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    /// Event time of each action that is not learned, by request and item.
    waiting: HashMap<(Id, Id), EventTime>,
    /// Ages of the learned actions, ms.
    ages_ms: Vec<i64>,
}

/// The distribution of the ages.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Ages {
    /// Number of learned actions.
    pub(super) actions: u64,
    pub(super) mean_seconds: f64,
    pub(super) median_seconds: f64,
    pub(super) p95_seconds: f64,
}

const PRIMARY: TaskId = 0;

impl Freshness {
    /// Records an action that is, or will be, joined. Those without a request are not measured.
    pub(super) fn add_action(&mut self, action: &Action) {
        if action.task == PRIMARY
            && let Some(request) = action.request
        {
            let key = (request, action.item);
            self.waiting.entry(key).or_insert(action.ts);
        }
    }

    /// Records that a batch is learned at event time `now`.
    pub(super) fn add_batch(&mut self, batch: &Batch, now: EventTime) {
        for sample in &batch.samples {
            if sample.labels.get(PRIMARY) == Some(true)
                && let Some(at) = self.waiting.remove(&(sample.request.id, sample.candidate.item))
            {
                self.ages_ms.push(now.since_ms(at).max(0));
            }
        }
    }

    /// The ages, if any action was learned.
    pub(super) fn ages(&self) -> Option<Ages> {
        let mut sorted = self.ages_ms.clone();
        sorted.sort_unstable();
        let at = |share: usize| {
            sorted
                .get((sorted.len() * share).div_ceil(100).checked_sub(1)?)
                .copied()
        };
        let sum: i64 = sorted.iter().sum();
        Some(Ages {
            actions: sorted.len() as u64,
            mean_seconds: seconds(sum) / seconds(1000 * i64::try_from(sorted.len()).ok()?),
            median_seconds: seconds(at(50)?),
            p95_seconds: seconds(at(95)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ouzel_sample::{
        Batcher, Candidate, Dense, Labels, N_DENSE, PartitionId, Position, Request, Sample, SampleKind,
        ShownLogits, Stream, VectorId,
    };

    use super::*;

    fn action(request: u64, ts: i64, task: TaskId) -> Action {
        Action {
            request: Some(Id(request)),
            item: Id(1),
            user: Id(9),
            ts: EventTime(ts),
            task,
            value: None,
        }
    }

    fn sample(request: u64, is_positive: bool) -> Sample {
        Sample {
            seq: 0,
            request: Arc::new(Request {
                past: Vec::new(),
                id: Id(request),
                user: Id(9),
                ts: EventTime(0),
                context: Vec::new(),
                history: Vec::new(),
                contents: Vec::new(),
                n_items: 1,
            }),
            candidate: Arc::new(Candidate {
                past: None,
                item: Id(1),
                attributes: Vec::new(),
                position: None,
                dense: Dense::new([0.0; N_DENSE]),
                content: VectorId::NONE,
                predicted: ShownLogits::default(),
            }),
            labels: Labels::UNKNOWN.with(PRIMARY, is_positive),
            values: Vec::new(),
            kind: SampleKind::Final,
            weight: 1.0,
            shown_at: Position {
                partition: PartitionId {
                    stream: Stream::Impressions,
                    partition: 0,
                },
                offset: 0,
            },
            action_record_ms: None,
        }
    }

    fn batch(samples: Vec<Sample>) -> Batch {
        Batcher::new(1).push(samples).unwrap()
    }

    #[test]
    fn an_action_is_as_old_as_when_it_is_first_learned() {
        let mut freshness = Freshness::default();
        assert_eq!(freshness.ages(), None);
        for action in [
            action(1, 1000, 0),
            action(1, 5000, 0),
            action(2, 2000, 0),
            action(3, 0, 1),
        ] {
            freshness.add_action(&action);
        }
        // A presumed negative, then the positive; a copy of it later counts no more.
        freshness.add_batch(&batch(vec![sample(1, false), sample(2, true)]), EventTime(4000));
        freshness.add_batch(&batch(vec![sample(1, true)]), EventTime(9000));
        freshness.add_batch(&batch(vec![sample(1, true), sample(3, true)]), EventTime(60_000));
        let ages = freshness.ages().unwrap();
        let expected = Ages {
            actions: 2,
            mean_seconds: 5.0,
            median_seconds: 2.0,
            p95_seconds: 8.0,
        };
        assert_eq!(ages, expected);
    }
}
