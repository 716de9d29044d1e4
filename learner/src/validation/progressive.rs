//! Running metrics of a live learner, over a window and since the start of the lineage.

use serde::{Deserialize, Serialize};

use ouzel_sample::{Batch, EventTime};

use crate::validation::figures::{Sums, float};
use crate::validation::score_log::{ScoreChange, n_tasks, score_changes};
use crate::validation::{Buckets, Figures, Recall, ScoreLog};

/// Progressive validation of each task.
///
/// Methods that name no task are about the primary one. The window holds the newest scores and has exact metrics. Totals
/// since the start of the lineage, and of the interval since the last snapshot, take their AUC from a histogram of logits
/// with bins of 1/64. Totals since the start are part of a snapshot, so they survive a restart; an interval ends with a
/// snapshot, so it is empty after a restart. A score that is not finite counts nowhere: it would make every later sum NaN.
#[derive(Clone, Debug)]
pub struct Progressive {
    window: ScoreLog,
    totals: Totals,
    /// The totals of the other tasks.
    others: Vec<Totals>,
    /// The totals of each task since the last snapshot.
    interval: Vec<Totals>,
    /// Recall of retrieval, part of a snapshot like the totals.
    pub recall: Recall,
}

/// Sums of one task, such as since the start of the lineage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Totals {
    #[serde(flatten)]
    sums: Sums,
    /// Negatives and positives by bin of the logit.
    bins: Vec<(u64, u64)>,
}

const BINS: usize = 2048;
const BINS_PER_LOGIT: f32 = 64.0;

impl Progressive {
    /// Empty metrics of `n_tasks` tasks, each with a window of `window_len` samples.
    #[must_use]
    pub fn new(window_len: usize, n_tasks: usize) -> Self {
        Self {
            window: ScoreLog::of_newest(window_len),
            totals: Totals::default(),
            others: vec![Totals::default(); n_tasks.saturating_sub(1)],
            interval: vec![Totals::default(); n_tasks.max(1)],
            recall: Recall::default(),
        }
    }

    /// Number of tasks.
    #[must_use]
    pub fn n_tasks(&self) -> usize {
        self.others.len() + 1
    }

    /// Adds a batch with its logits from before it was learned from, `[n_samples, n_tasks]`.
    pub fn add(&mut self, batch: &Batch, logits: &[f32]) {
        let totals = std::iter::once(&mut self.totals).chain(&mut self.others);
        let totals = totals.zip(&mut self.interval).enumerate();
        for (task, (totals, interval)) in totals.take(n_tasks(batch, logits)) {
            for (item, change) in score_changes(batch, logits, task) {
                let (ScoreChange::Certain(scored)
                | ScoreChange::Presumed(scored)
                | ScoreChange::Late(scored)) = &change;
                if !scored.logit.is_finite() {
                    continue;
                }
                for totals in [&mut *totals, &mut *interval] {
                    match &change {
                        ScoreChange::Certain(scored) | ScoreChange::Presumed(scored) => {
                            totals.count(scored.logit, scored.label);
                        }
                        ScoreChange::Late(scored) => totals.revise(scored.logit),
                    }
                }
                self.window.take(task, item, change);
            }
        }
    }

    /// Metrics of the window.
    #[must_use]
    pub fn window(&self) -> Figures {
        self.window.figures(EventTime::MIN)
    }

    /// Metrics of the window by task.
    #[must_use]
    pub fn window_by_task(&self) -> Vec<Figures> {
        self.window.task_figures(self.n_tasks(), EventTime::MIN)
    }

    /// Metrics of the window by bucket of item and user.
    #[must_use]
    pub fn window_buckets(&self) -> Buckets {
        self.window.buckets(EventTime::MIN)
    }

    /// Metrics since the start, without a per-request AUC, which would need every slate.
    #[must_use]
    pub fn total(&self) -> Figures {
        self.totals.figures()
    }

    /// Metrics since the start by task.
    #[must_use]
    pub fn total_by_task(&self) -> Vec<Figures> {
        let tasks = std::iter::once(&self.totals).chain(&self.others);
        tasks.map(Totals::figures).collect()
    }

    /// Metrics since the last [`Progressive::start_interval`] by task, without a per-request AUC.
    ///
    /// A late positive counts in the interval in which it arrived.
    #[must_use]
    pub fn interval_by_task(&self) -> Vec<Figures> {
        self.interval.iter().map(Totals::figures).collect()
    }

    /// Begins the next interval, after a snapshot.
    pub fn start_interval(&mut self) {
        self.interval.fill(Totals::default());
    }

    /// The totals as bytes, for a snapshot.
    #[must_use]
    pub fn dump(&self) -> Vec<u8> {
        let all = AllTotals {
            primary: self.totals.clone(),
            others: self.others.clone(),
            recall: self.recall.clone(),
        };
        serde_json::to_vec(&all).expect("totals are numbers and lists of numbers")
    }

    /// Restores totals from a snapshot; the window starts empty.
    ///
    /// A snapshot from before there were figures of every task has those of the primary one.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), serde_json::Error> {
        let AllTotals {
            primary,
            others,
            recall,
        } = serde_json::from_slice(bytes)?;
        self.recall = recall;
        if primary.bins.len() == BINS {
            self.totals = primary;
        }
        for (task, others) in self.others.iter_mut().zip(others) {
            if others.bins.len() == BINS {
                *task = others;
            }
        }
        Ok(())
    }
}

/// The totals of every task in a snapshot.
#[derive(Serialize, Deserialize)]
struct AllTotals {
    #[serde(flatten)]
    primary: Totals,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<Totals>,
    #[serde(default, skip_serializing_if = "Recall::is_empty")]
    recall: Recall,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            sums: Sums::default(),
            bins: vec![(0, 0); BINS],
        }
    }
}

impl Totals {
    fn figures(&self) -> Figures {
        let Totals { sums, bins } = self;
        let (mut below, mut wins) = (0.0f64, 0.0f64);
        for (negatives, positives) in bins {
            wins += float(*positives) * (below + 0.5 * float(*negatives));
            below += float(*negatives);
        }
        let pairs = below * float(sums.positives);
        sums.figures((pairs > 0.0).then(|| wins / pairs), None)
    }

    /// Counts an item.
    fn count(&mut self, z: f32, y: bool) {
        self.sums.count(z, y);
        let (negatives, positives) = &mut self.bins[bin(z)];
        *(if y { positives } else { negatives }) += 1;
    }

    /// Turns an item that was counted as a negative into a positive.
    fn revise(&mut self, z: f32) {
        self.sums.revise(z);
        let (negatives, positives) = &mut self.bins[bin(z)];
        // A restart loses predictions: the item may have been counted in a bin nearby.
        *negatives = negatives.saturating_sub(1);
        *positives += 1;
    }
}

fn bin(z: f32) -> usize {
    let middle = 1024.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the bins; NaN becomes 0"
    )]
    let bin = (z * BINS_PER_LOGIT + middle).clamp(0.0, 2047.0) as usize;
    bin
}

#[cfg(test)]
mod tests {
    use ouzel_sample::{Sample, SampleKind};

    use super::*;
    use crate::testing::{batch, sample};
    use crate::validation::auc;

    #[test]
    fn totals_survive_a_dump_and_agree_with_exact_figures() {
        let mut progressive = Progressive::new(10, 1);
        let mut exact = Vec::new();
        for i in 0..1000u16 {
            let (z, y) = (f32::from(i % 97) / 20.0 - 2.0, i % 3 == 0 || i % 97 > 80);
            progressive.totals.count(z, y);
            exact.push((z, y));
        }
        let expected = auc(&mut exact).unwrap();
        assert!((progressive.total().auc.unwrap() - expected).abs() < 1e-3);
        let mut copy = Progressive::new(10, 1);
        copy.restore(&progressive.dump()).unwrap();
        assert_eq!(copy.totals, progressive.totals);
    }

    #[test]
    fn each_task_has_figures_of_its_own_which_survive_a_dump() {
        let mut progressive = Progressive::new(100, 2);
        let samples: Vec<Sample> = (0..8u64)
            .map(|i| {
                let mut sample = sample(1, i, SampleKind::Final, i % 2 == 0);
                // The second task is known for half of the items, and predicted the wrong way round.
                if i < 4 {
                    sample.labels = sample.labels.with(1, i < 2);
                }
                let (z, wrong) = (
                    if i % 2 == 0 { 1.0 } else { -1.0 },
                    if i < 2 { -1.0 } else { 1.0 },
                );
                sample.candidate.predicted.set(&[z, wrong]);
                sample
            })
            .collect();
        progressive.add(&batch(samples), &[9.0; 16]);
        let by_task = |figures: Vec<Figures>| -> Vec<_> {
            let short = figures.iter().map(|of| (of.judged, of.positives, of.auc));
            short.collect()
        };
        let expected = [(8, 4, Some(1.0)), (4, 2, Some(0.0))];
        assert_eq!(by_task(progressive.window_by_task()), expected);
        assert_eq!(by_task(progressive.total_by_task()), expected);
        assert_eq!(progressive.window_by_task()[1].gauc, Some(0.0));
        assert_eq!(progressive.window(), progressive.window_by_task()[0]);

        let mut copy = Progressive::new(100, 2);
        copy.restore(&progressive.dump()).unwrap();
        assert_eq!(copy.total_by_task(), progressive.total_by_task());
        assert_eq!(copy.dump(), progressive.dump());
    }

    #[test]
    fn an_interval_is_judged_by_its_own_samples() {
        let mut progressive = Progressive::new(100, 1);
        // The first 40 items are predicted well, the last 20 the wrong way round.
        for (items, sign) in [(0..40u64, 1.0f32), (40..60, -1.0)] {
            progressive.start_interval();
            let samples: Vec<Sample> = items
                .map(|i| sample(i, i, SampleKind::Final, i % 2 == 0))
                .collect();
            let logits = samples
                .iter()
                .zip(0u32..)
                .map(|(_, i)| if i % 2 == 0 { sign } else { -sign });
            let logits: Vec<f32> = logits.collect();
            progressive.add(&batch(samples), &logits);
        }
        let interval = progressive.interval_by_task()[0];
        assert_eq!(
            (interval.judged, interval.positives, interval.auc),
            (20, 10, Some(0.0))
        );
        assert!(progressive.total().auc.unwrap() > 0.5);
        progressive.start_interval();
        assert_eq!(progressive.interval_by_task(), [Figures::default()]);
    }

    #[test]
    fn a_score_that_is_not_finite_spoils_no_figure() {
        let mut progressive = Progressive::new(10, 1);
        let samples: Vec<Sample> = (0..4u64)
            .map(|i| sample(i, i, SampleKind::Final, i % 2 == 0))
            .collect();
        progressive.add(&batch(samples), &[1.0, f32::NAN, f32::INFINITY, -1.0]);
        for figures in [
            progressive.total(),
            progressive.window(),
            progressive.interval_by_task()[0],
        ] {
            assert_eq!((figures.judged, figures.auc), (2, Some(1.0)));
            assert!(figures.log_loss.is_some_and(f64::is_finite));
        }
        let mut copy = Progressive::new(10, 1);
        copy.restore(&progressive.dump()).unwrap();
        assert_eq!(copy.totals, progressive.totals);
    }

    #[test]
    fn totals_from_before_there_were_those_of_every_task_are_those_of_the_first() {
        let mut before = Progressive::new(10, 1);
        before.totals.count(0.5, true);
        let mut now = Progressive::new(10, 3);
        now.restore(&before.dump()).unwrap();
        assert_eq!(now.total(), before.total());
        assert_eq!(now.total_by_task()[2], Figures::default());
    }
}
