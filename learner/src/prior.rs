//! Running label counts per task; their log-odds are the prior of the network's logits.
//!
//! Counts follow what a logit stands for: shown items and their known outcomes, or the samples of the stream under
//! [`Policy::Fnc`]. Down-sampling does not change them.

use ouzel_sample::{Sample, SampleKind, TaskId};
use serde::{Deserialize, Serialize};

use crate::loss::Policy;

/// The counts of all tasks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prior {
    policy: Policy,
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
    /// Counts of 0.
    pub(crate) fn new(policy: Policy, n_tasks: usize) -> Self {
        let n_delays = if policy.auxiliary() > 0 { n_tasks } else { 0 };
        Self {
            policy,
            seen: vec![(0.0, 0.0); n_tasks],
            delays: vec![Delays::default(); n_delays],
        }
    }

    /// Counts a batch and scales counts beyond `max` samples down to it.
    pub(crate) fn observe(&mut self, samples: &[Sample], max: f32) {
        for (task, (n, positive)) in self.seen.iter_mut().enumerate() {
            for (sample, y) in samples.iter().filter_map(|s| label(s, task).map(|y| (s, y))) {
                let (shown, came) = counts(self.policy, sample, y);
                *n += shown;
                *positive += came;
            }
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
    }

    /// Log-odds of each task's labels, the prior.
    pub(crate) fn log_odds(&self) -> impl Iterator<Item = f32> {
        // After a rollback a late positive may arrive whose first sample is no longer counted.
        self.seen
            .iter()
            .map(|(n, positive)| ((positive + 0.5) / ((n - positive).max(0.0) + 0.5)).ln())
    }

    /// Adds the log-odds of a late positive to the auxiliary logits `[n_samples, n_tasks]`, which start from them.
    pub(crate) fn add_delay_prior(&self, auxiliary: &mut [f32]) {
        for (output, Delays { early, late }) in auxiliary.iter_mut().zip(self.delays.iter().cycle()) {
            *output += ((late + 0.5) / (early + 0.5)).ln();
        }
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
    use super::*;
    use crate::testing::{again, sample, streams};

    #[test]
    fn the_prior_is_the_rate_of_what_an_output_stands_for() {
        for (policy, samples) in streams() {
            let mut prior = Prior::new(policy, 1);
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
    fn labels_known_at_once_give_the_same_prior_as_the_stream_they_stand_for() {
        for (policy, _) in streams() {
            let mut prior = Prior::new(policy, 1);
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
        let mut prior = Prior::new(Policy::EsDfm, 2);
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
        let mut prior = Prior::new(Policy::Fnw, 1);
        prior.observe(&[sample(1, 1, SampleKind::LatePositive, true)], 1e6);
        assert!(prior.log_odds().all(f32::is_finite));
    }
}
