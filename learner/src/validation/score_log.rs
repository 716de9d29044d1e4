//! Scores of each task with their outcomes: all of a bounded run, or the newest of an endless one.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use ouzel_sample::{Batch, EventTime, Id, IdHasher, Sample, SampleKind, dense_index};

use crate::prior::{is_late, label};
use crate::validation::figures::Sums;
use crate::validation::{Buckets, Figures, Known, auc, gauc};

/// One scored sample of one task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Time of the impression.
    pub ts: EventTime,
    /// Id of its request.
    pub request: u64,
    /// The logit at the impression or, if unknown, before learning from the sample.
    pub logit: f32,
    /// Score of the popularity baseline: the item's smoothed click-through rate at the impression.
    pub popularity: f32,
    /// The outcome.
    pub label: bool,
    /// Buckets of its item and user.
    pub known: Known,
}

/// How a sample changes the score of its item for one task.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ScoreChange {
    /// Adds the item with its certain label.
    Certain(Scored),
    /// Adds the item as a presumed negative.
    Presumed(Scored),
    /// Turns an item that was added as a negative into a positive.
    Late(Scored),
}

/// Number of tasks of a batch with logits `[n_samples, n_tasks]`.
pub(crate) fn n_tasks(batch: &Batch, logits: &[f32]) -> usize {
    logits.len().checked_div(batch.samples.len()).unwrap_or(1).max(1)
}

/// Score changes of a task by a batch with its logits from before it was learned from, `[n_samples, n_tasks]`. The
/// prediction made at the impression takes precedence.
pub(crate) fn score_changes(
    batch: &Batch,
    logits: &[f32],
    task: usize,
) -> impl Iterator<Item = (Id, ScoreChange)> {
    let n_tasks = n_tasks(batch, logits);
    let samples = batch.samples.iter().zip(logits.chunks_exact(n_tasks));
    samples.filter_map(move |(sample, logits)| {
        let change = score_change(sample, logits, task)?;
        Some((sample.request.id.pair(sample.candidate.item), change))
    })
}

/// The score change of a task by a sample with its logits, `[n_tasks]`; `None` if it changes none.
pub(crate) fn score_change(sample: &Sample, logits: &[f32], task: usize) -> Option<ScoreChange> {
    let item_ctr = dense_index("item_ctr").expect("item_ctr is a live feature");
    let Sample {
        request, candidate, ..
    } = sample;
    let scored = Scored {
        ts: request.ts,
        request: request.id.0,
        logit: candidate.predicted.get(task).unwrap_or(logits[task]),
        popularity: candidate.dense[item_ctr],
        label: label(sample, task)?,
        known: Known::of(candidate),
    };
    match sample.kind {
        SampleKind::Final => Some(ScoreChange::Certain(scored)),
        SampleKind::EarlyNegative => Some(ScoreChange::Presumed(scored)),
        SampleKind::Correction => Some(ScoreChange::Late(scored)),
        SampleKind::LatePositive | SampleKind::RealCopy if is_late(sample, scored.label) => {
            Some(ScoreChange::Late(scored))
        }
        SampleKind::LatePositive | SampleKind::RealCopy => None,
    }
}

/// Scores of a whole replay, 32 bytes per item and task, or of the newest items of a live learner.
///
/// Methods that name no task are about the primary one.
#[derive(Clone, Debug)]
pub struct ScoreLog {
    primary: TaskLog,
    /// The other tasks, once a batch had them.
    others: Vec<TaskLog>,
}

/// The scores of one task.
#[derive(Clone, Debug)]
struct TaskLog {
    scored: VecDeque<Scored>,
    most: usize,
    /// Number of scores dropped from the front.
    n_dropped: usize,
    /// Running numbers of presumed negatives by item; dropped scores may be among them.
    presumed: HashMap<Id, usize, BuildHasherDefault<IdHasher>>,
}

impl Default for ScoreLog {
    fn default() -> Self {
        Self::of_newest(usize::MAX)
    }
}

impl ScoreLog {
    /// A log of the newest `most` scores.
    #[must_use]
    pub fn of_newest(most: usize) -> Self {
        Self {
            primary: TaskLog::of_newest(most),
            others: Vec::new(),
        }
    }

    /// Adds a batch with its logits from before it was learned from, `[n_samples, n_tasks]`.
    pub fn add(&mut self, batch: &Batch, logits: &[f32]) {
        for task in 0..n_tasks(batch, logits) {
            for (item, change) in score_changes(batch, logits, task) {
                self.take(task, item, change);
            }
        }
    }

    pub(crate) fn take(&mut self, task: usize, item: Id, change: ScoreChange) {
        let Some(other) = task.checked_sub(1) else {
            return self.primary.take(item, change);
        };
        if self.others.len() <= other {
            let most = self.primary.most;
            self.others.resize_with(task, || TaskLog::of_newest(most));
        }
        self.others[other].take(item, change);
    }

    /// Adds one score.
    pub fn push(&mut self, scored: Scored) {
        self.primary.push(scored);
    }

    /// The scores in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Scored> {
        self.primary.scored.iter()
    }

    /// Number of scores.
    #[must_use]
    pub fn len(&self) -> usize {
        self.primary.scored.len()
    }

    /// Whether there is no score.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.primary.scored.is_empty()
    }

    /// The middle of the span of event time.
    #[must_use]
    pub fn middle(&self) -> EventTime {
        let first = self.iter().map(|s| s.ts.0).min().unwrap_or(0);
        let last = self.iter().map(|s| s.ts.0).max().unwrap_or(0);
        EventTime(first + (last - first) / 2)
    }

    /// Metrics of the samples shown at or after `from`.
    #[must_use]
    pub fn figures(&self, from: EventTime) -> Figures {
        self.primary.figures(from)
    }

    /// Metrics of each of `n_tasks` tasks, of the samples shown at or after `from`.
    #[must_use]
    pub fn task_figures(&self, n_tasks: usize, from: EventTime) -> Vec<Figures> {
        let known = std::iter::once(&self.primary).chain(&self.others);
        let mut figures: Vec<Figures> = known.map(|task| task.figures(from)).collect();
        figures.resize(n_tasks, Figures::default());
        figures
    }

    /// Metrics of the samples shown at or after `from`, by bucket of item and user.
    #[must_use]
    pub fn buckets(&self, from: EventTime) -> Buckets {
        Buckets::of(self.primary.scored.iter().filter(|s| s.ts >= from))
    }

    /// Metrics of the first `n` samples; the log must have dropped none.
    #[must_use]
    pub fn start(&self, n: usize) -> Figures {
        Figures::of(self.iter().take(n))
    }

    /// AUC and per-request AUC of the popularity baseline at or after `from`.
    #[must_use]
    pub fn popularity(&self, from: EventTime) -> (Option<f64>, Option<f64>) {
        let chosen = || self.iter().filter(|s| s.ts >= from);
        let mut pairs: Vec<_> = chosen().map(|s| (s.popularity, s.label)).collect();
        let mut slates: Vec<_> = chosen().map(|s| (s.request, s.popularity, s.label)).collect();
        (auc(&mut pairs), gauc(&mut slates))
    }
}

impl TaskLog {
    fn of_newest(most: usize) -> Self {
        Self {
            scored: VecDeque::new(),
            most,
            n_dropped: 0,
            presumed: HashMap::default(),
        }
    }

    fn figures(&self, from: EventTime) -> Figures {
        Figures::of(self.scored.iter().filter(|s| s.ts >= from))
    }

    fn take(&mut self, item: Id, change: ScoreChange) {
        match change {
            ScoreChange::Certain(scored) => self.push(scored),
            ScoreChange::Presumed(scored) => {
                self.presumed.insert(item, self.n_dropped + self.scored.len());
                self.push(scored);
            }
            ScoreChange::Late(_) => {
                let number = self.presumed.remove(&item);
                let index = number.and_then(|number| number.checked_sub(self.n_dropped));
                if let Some(scored) = index.and_then(|index| self.scored.get_mut(index)) {
                    scored.label = true;
                }
            }
        }
    }

    fn push(&mut self, scored: Scored) {
        self.scored.push_back(scored);
        if self.scored.len() > self.most {
            self.scored.pop_front();
            self.n_dropped += 1;
            // Entries of dropped scores are removed in bulk, before they outnumber the others.
            if self.presumed.len() / 2 > self.most {
                self.presumed.retain(|_, number| *number >= self.n_dropped);
            }
        }
    }
}

impl Figures {
    /// Exact metrics of scored samples.
    pub fn of<'a>(scored: impl Iterator<Item = &'a Scored>) -> Self {
        let (mut pairs, mut slates, mut sums) = (Vec::new(), Vec::new(), Sums::default());
        for sample in scored {
            pairs.push((sample.logit, sample.label));
            slates.push((sample.request, sample.logit, sample.label));
            sums.count(sample.logit, sample.label);
        }
        sums.figures(auc(&mut pairs), gauc(&mut slates))
    }
}

#[cfg(test)]
mod tests {
    use ouzel_sample::SampleKind;

    use super::*;
    use crate::testing::{again, batch, sample, streams};
    use crate::validation::Progressive;

    /// Distinct predictions, as made when the items were shown.
    fn predict(samples: &[Sample]) {
        for (z, sample) in [-1.5f32, -0.2, 0.3, -2.0].iter().cycle().zip(samples) {
            if sample.candidate.predicted.get(0).is_none() {
                sample.candidate.predicted.set(&[*z]);
            }
        }
    }

    #[test]
    fn every_policy_counts_each_item_once_with_its_true_outcome() {
        let mut all = Vec::new();
        for (policy, samples) in streams() {
            predict(&samples);
            let (mut log, mut progressive) = (ScoreLog::default(), Progressive::new(10, 1));
            // The logits at learning are not those at the impression, and must not be used.
            for sample in samples {
                let batch = batch(vec![sample]);
                log.add(&batch, &[9.0]);
                progressive.add(&batch, &[9.0]);
            }
            let figures = log.figures(EventTime::MIN);
            assert_eq!((figures.judged, figures.positives), (4, 2), "{policy:?}");
            assert_eq!(progressive.window(), figures, "{policy:?}");
            let total = progressive.total();
            assert_eq!((total.judged, total.positives), (4, 2), "{policy:?}");
            for (found, expected) in [
                (total.log_loss, figures.log_loss),
                (total.calibration, figures.calibration),
                (total.auc, figures.auc),
            ] {
                assert!((found.unwrap() - expected.unwrap()).abs() < 1e-9, "{policy:?}");
            }
            all.push(figures);
        }
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{all:?}");
    }

    #[test]
    fn an_early_negative_counts_as_one_until_its_positive_comes() {
        let first = sample(1, 1, SampleKind::EarlyNegative, false);
        let mut log = ScoreLog::default();
        log.add(&batch(vec![first.clone()]), &[0.5]);
        assert_eq!(log.figures(EventTime::MIN).positives, 0);
        log.add(
            &batch(vec![again(&first, SampleKind::LatePositive, true, true)]),
            &[0.5],
        );
        assert_eq!((log.len(), log.figures(EventTime::MIN).positives), (1, 1));
    }

    #[test]
    fn a_positive_of_an_item_that_has_left_the_window_changes_none_in_it() {
        let mut log = ScoreLog::of_newest(3);
        let items: Vec<Sample> = (0..20)
            .map(|item| sample(item, item, SampleKind::EarlyNegative, false))
            .collect();
        for item in &items {
            log.add(&batch(vec![item.clone()]), &[0.0]);
        }
        assert!(log.primary.presumed.len() <= 8, "{}", log.primary.presumed.len());
        for (item, positives) in [(16, 0), (2, 0), (17, 1), (19, 2), (17, 2)] {
            log.add(
                &batch(vec![again(&items[item], SampleKind::LatePositive, true, true)]),
                &[0.0],
            );
            assert_eq!(log.figures(EventTime::MIN).positives, positives, "{item}");
        }
        let requests: Vec<u64> = log.iter().map(|scored| scored.request).collect();
        assert_eq!(requests, [17, 18, 19]);
    }
}
