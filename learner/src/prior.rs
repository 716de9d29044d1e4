//! Running label counts per task; their log-odds are the prior of the network's logits.
//!
//! Counts follow what a logit stands for: shown items and their known outcomes, or the samples of the stream under
//! [`Policy::Fnc`]. Down-sampling does not change them.
//!
//! The prior of a request in a batch is `p = (K + rate) / (N + 1)` from the `K` positives among the `N` labels of all
//! samples before the request's first one, in the order of the stream. Where labels come late, these are the labels that
//! have come by then: a presumed negative counts as a negative until its positive arrives.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use ouzel_model::Inputs;
use ouzel_sample::{Id, IdHasher, Sample, SampleKind, TaskId};
use serde::{Deserialize, Serialize};

use crate::loss::Policy;

/// The counts of all tasks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prior {
    policy: Policy,
    /// Rate of positives before any label, which counts as one label.
    rate: f32,
    /// Per task: labels and positives among them, with exponential forgetting beyond `prior_samples`.
    pub(crate) seen: Vec<(f32, f32)>,
    /// Per task: early and late positives, likewise; empty without auxiliary logits.
    pub(crate) delays: Vec<Delays>,
}

/// Positives of one task by delay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Delays {
    /// Positive in their first sample.
    early: f32,
    /// Negative in their first sample.
    late: f32,
}

impl Prior {
    /// Counts of 0, with this rate of positives.
    pub(crate) fn new(policy: Policy, rate: f32, n_tasks: usize) -> Self {
        let n_delays = if policy.auxiliary() > 0 { n_tasks } else { 0 };
        Self {
            policy,
            rate,
            seen: vec![(0.0, 0.0); n_tasks],
            delays: vec![Delays::default(); n_delays],
        }
    }

    /// Counts a batch and scales counts beyond `max` samples down to it. Returns the prior of each request.
    pub(crate) fn observe(&mut self, samples: &[Sample], max: f32) -> RequestPriors {
        let mut priors = RequestPriors::default();
        for sample in samples {
            let own = priors.log_odds.entry(sample.request.id);
            own.or_insert_with(|| self.log_odds().collect());
            for (task, (n, positive)) in self.seen.iter_mut().enumerate() {
                let Some(y) = label(sample, task) else { continue };
                let (shown, came) = counts(self.policy, sample, y);
                *n += shown;
                *positive += came;
            }
        }
        for (n, positive) in &mut self.seen {
            if *n > max {
                let keep = max / *n;
                *n *= keep;
                *positive *= keep;
            }
        }
        for (task, delays) in self.delays.iter_mut().enumerate() {
            for (sample, y) in samples.iter().filter_map(|s| label(s, task).map(|y| (s, y))) {
                match comes_late(sample, y) {
                    Some(true) => delays.late += 1.0,
                    Some(false) => delays.early += 1.0,
                    None => {}
                }
            }
            let n = delays.early + delays.late;
            if n > max {
                delays.early *= max / n;
                delays.late *= max / n;
            }
        }
        priors
    }

    /// Log-odds of each task's labels, the prior.
    pub(crate) fn log_odds(&self) -> impl Iterator<Item = f32> {
        // After a rollback a late positive may arrive whose first sample is no longer counted.
        self.seen.iter().map(|(n, positive)| {
            let negative = (n - positive).max(0.0);
            ((positive + self.rate) / (negative + 1.0 - self.rate)).ln()
        })
    }

    /// Adds the log-odds of a late positive to the auxiliary logits `[n_samples, n_tasks]`, which start from them.
    pub(crate) fn add_delay_prior(&self, auxiliary: &mut [f32]) {
        for (output, Delays { early, late }) in auxiliary.iter_mut().zip(self.delays.iter().cycle()) {
            *output += ((late + 0.5) / (early + 0.5)).ln();
        }
    }
}

/// Priors of the requests of a batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestPriors {
    /// By request id, `[n_tasks]`.
    log_odds: HashMap<Id, Vec<f32>, BuildHasherDefault<IdHasher>>,
}

impl RequestPriors {
    /// Priors of requests of the batch, `[n_requests, n_tasks]`.
    pub(crate) fn of(&self, inputs: &Inputs) -> Vec<f32> {
        let priors = inputs.requests.iter().filter_map(|id| self.log_odds.get(id));
        priors.flatten().copied().collect()
    }
}

/// Items or samples that a label adds to the counts, and positives among them.
fn counts(policy: Policy, sample: &Sample, y: bool) -> (f32, f32) {
    match (policy, sample.kind) {
        (_, SampleKind::Correction) => (0.0, 1.0),
        // Counts for both samples of its item, see `Objective`.
        (Policy::Fnc, SampleKind::Final) if y => (2.0, 1.0),
        (Policy::Plain | Policy::Fnc, _) | (_, SampleKind::Final | SampleKind::EarlyNegative) => {
            (1.0, one(y))
        }
        (_, SampleKind::LatePositive | SampleKind::RealCopy) => (0.0, one(is_late(sample, y))),
    }
}

/// Whether a sample turns a presumed negative into a positive. The second copy of an early positive, emitted when its
/// window closes, does not: it has no action time.
pub(crate) fn is_late(sample: &Sample, y: bool) -> bool {
    let came = match sample.kind {
        SampleKind::LatePositive => true,
        SampleKind::RealCopy => sample.action_record_ms.is_some(),
        SampleKind::Final | SampleKind::EarlyNegative | SampleKind::Correction => false,
    };
    y && came
}

/// Whether a sample is the first of its item; the others correct or repeat it.
pub(crate) fn is_first(sample: &Sample) -> bool {
    matches!(sample.kind, SampleKind::Final | SampleKind::EarlyNegative)
}

/// Whether a positive is late; none for samples that are not the first to report it.
pub(crate) fn comes_late(sample: &Sample, y: bool) -> Option<bool> {
    match sample.kind {
        SampleKind::Final if y => Some(false),
        _ => is_late(sample, y).then_some(true),
    }
}

/// The label of a task, if the sample has one.
pub(crate) fn label(sample: &Sample, task: usize) -> Option<bool> {
    TaskId::try_from(task)
        .ok()
        .and_then(|task| sample.labels.get(task))
}

fn one(is_counted: bool) -> f32 {
    f32::from(u8::from(is_counted))
}

#[cfg(test)]
mod tests {
    use ouzel_model::ModelConfig;
    use ouzel_sample::VectorMap;

    use super::*;
    use crate::testing::{again, sample, streams};

    #[test]
    fn the_prior_is_the_rate_of_what_an_output_stands_for() {
        for (policy, samples) in streams() {
            let mut prior = Prior::new(policy, 0.5, 1);
            prior.observe(&samples, 1e6);
            // Two of four items; in the stream of `fnc` two of six samples.
            let expected = if policy == Policy::Fnc {
                (6.0, 2.0)
            } else {
                (4.0, 2.0)
            };
            assert_eq!(prior.seen, [expected], "{policy:?}");
            let delays = Delays {
                early: 1.0,
                late: 1.0,
            };
            match policy.auxiliary() {
                0 => assert!(prior.delays.is_empty(), "{policy:?}"),
                _ => assert_eq!(prior.delays, [delays], "{policy:?}"),
            }
        }
    }

    #[test]
    fn the_prior_of_a_request_counts_the_labels_before_it() {
        let shown = |request: u64, labels: &[bool]| -> Vec<Sample> {
            let items = (0u64..).zip(labels);
            items
                .map(|(item, y)| sample(request, item, SampleKind::Final, *y))
                .collect()
        };
        let slates = [shown(7, &[false, true]), shown(3, &[true; 3]), shown(9, &[false])];
        let samples = slates.concat();
        let inputs =
            |samples: &[Sample]| Inputs::of_samples(&ModelConfig::default(), samples, &VectorMap::default());
        let mut prior = Prior::new(Policy::Plain, 0.05, 1);
        let priors = prior.observe(&samples, 1e6);
        let odds = |k: f32, n: f32| {
            let p = (k + 0.05) / (n + 1.0);
            (p / (1.0 - p)).ln()
        };
        let close = |found: &[f32], expected: &[f32]| {
            assert_eq!(found.len(), expected.len());
            let mut pairs = found.iter().zip(expected);
            assert!(pairs.all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
        };
        close(
            &priors.of(&inputs(&samples)),
            &[odds(0.0, 0.0), odds(1.0, 2.0), odds(4.0, 5.0)],
        );
        // Of samples in another order, and of some of them; a request that comes back keeps its prior.
        let some = [&slates[2][..], &slates[0][1..], &slates[2][..]].concat();
        close(&priors.of(&inputs(&some)), &[odds(4.0, 5.0), odds(0.0, 0.0)]);
        close(&prior.log_odds().collect::<Vec<_>>(), &[odds(4.0, 6.0)]);
        // Later batches go on from there.
        let next = prior.observe(&shown(1, &[true]), 1e6);
        close(&next.of(&inputs(&shown(1, &[true]))), &[odds(4.0, 6.0)]);
    }

    #[test]
    fn labels_known_at_once_give_the_same_prior_as_the_stream_they_stand_for() {
        for (policy, _) in streams() {
            let mut prior = Prior::new(policy, 0.5, 1);
            let samples: Vec<Sample> = (0..4).map(|i| sample(1, i, SampleKind::Final, i < 2)).collect();
            prior.observe(&samples, 1e6);
            let expected = if policy == Policy::Fnc {
                (6.0, 2.0)
            } else {
                (4.0, 2.0)
            };
            assert_eq!(prior.seen, [expected], "{policy:?}");
        }
    }

    #[test]
    fn auxiliary_logits_start_from_the_share_of_late_positives() {
        let mut prior = Prior::new(Policy::EsDfm, 0.5, 2);
        let start_from = |mut outputs: Vec<f32>, prior: &Prior| {
            prior.add_delay_prior(&mut outputs);
            outputs
        };
        let found = start_from(vec![0.25; 2], &prior);
        assert_eq!(found, [0.25; 2], "one half before any was seen");
        let first = sample(1, 1, SampleKind::EarlyNegative, false);
        let early = |_| again(&first, SampleKind::Final, true, false);
        let late = |_| again(&first, SampleKind::LatePositive, true, true);
        prior.observe(&vec![first.clone(); 1000], 1e6);
        prior.observe(&(0..99).map(late).collect::<Vec<_>>(), 1e6);
        prior.observe(&(0..199).map(early).collect::<Vec<_>>(), 1e6);
        // Labels are of task 0 only; two samples.
        let found = start_from(vec![1.0, 2.0, 3.0, 4.0], &prior);
        let share = (99.5f32 / 199.5).ln();
        for (found, expected) in found.iter().zip([1.0 + share, 2.0, 3.0 + share, 4.0]) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn a_late_positive_whose_first_sample_is_not_counted_leaves_the_prior_finite() {
        let mut prior = Prior::new(Policy::Fnw, 0.5, 1);
        prior.observe(&[sample(1, 1, SampleKind::LatePositive, true)], 1e6);
        assert!(prior.log_odds().all(f32::is_finite));
    }
}
