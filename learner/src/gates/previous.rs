//! Scores a share of what is learned by the last good version too: a model that became worse than it was goes back.

use ouzel_model::Weights;
use ouzel_sample::{Batch, EventTime, SampleKind, UserShare};
use tch::Device;

use super::signal::Breach;
use crate::error::Error;
use crate::fixed_model::FixedModel;
use crate::validation::Comparison;

/// The users whose items the last good version scores too.
const SHARE: &str = "5%";
/// Verdicts in a row that it is worse after which the model goes back.
const GOES_BACK_AFTER: u32 = 2;
/// Positives, and negatives, from which a comparison is decided: with fewer, it takes in the next interval too.
const MIN_OUTCOMES: u64 = 10;

/// Compares the model that learns with a version of it from before the interval, on the same items, before learning.
///
/// It is bounded: one version, and the sums of a comparison. A restart begins with the next interval.
#[derive(Debug)]
pub struct PreviousVersion {
    share: UserShare,
    device: Device,
    n_tasks: usize,
    model: Option<FixedModel>,
    comparison: Comparison,
    /// Newest event time of a presumed negative. A comparison has only impressions after it: the late positive of an earlier
    /// one would revise a negative that it does not have.
    newest_presumed: EventTime,
    /// Verdicts in a row that it is worse.
    n_worse: u32,
}

/// How an interval compares with the previous version.
#[derive(Clone, Debug, PartialEq)]
pub enum IntervalVerdict {
    /// Too few outcomes or users so far to say.
    Undecided,
    /// Not worse: the present version is the next one to compare with.
    NotWorse,
    /// Worse for the first time: the next verdict decides.
    Worse(Breach),
    /// Worse twice in a row.
    GoBack(Breach),
}

impl PreviousVersion {
    /// A comparison without a version yet, for a model of `n_tasks` tasks.
    #[must_use]
    pub fn new(device: Device, n_tasks: usize) -> Self {
        let share: UserShare = SHARE.parse().expect("it is a share");
        Self {
            share,
            device,
            n_tasks,
            model: None,
            comparison: Comparison::new(share, EventTime::MIN, n_tasks),
            newest_presumed: EventTime::MIN,
            n_worse: 0,
        }
    }

    /// Scores the samples of the share by the previous version; `logits` are the learner's, from before it learned the batch.
    ///
    /// # Errors
    /// When the previous version cannot compute.
    pub fn observe(&mut self, batch: &Batch, logits: &[f32]) -> Result<(), Error> {
        let presumed = batch
            .samples
            .iter()
            .filter(|sample| sample.kind == SampleKind::EarlyNegative);
        let newest = presumed.map(|sample| sample.request.ts).max();
        self.newest_presumed = newest.map_or(self.newest_presumed, |ts| ts.max(self.newest_presumed));
        let Some(model) = &mut self.model else {
            return Ok(());
        };
        if let Some(compared) = self.comparison.select(batch, logits) {
            let logits = model.score(compared.batch())?;
            self.comparison.add(compared, logits);
        }
        Ok(())
    }

    /// Closes an interval: is the log-loss of the model that learns more than `max_increase` above that of the previous
    /// version, as a share of that, and certainly above it? If not, `good` becomes the previous version.
    ///
    /// # Errors
    /// When no model can be made of `good`.
    pub fn close(&mut self, max_increase: f64, good: Option<&Weights>) -> Result<IntervalVerdict, Error> {
        if self.model.is_some() && !self.is_decided() {
            return Ok(IntervalVerdict::Undecided);
        }
        let breach = self.breach(max_increase);
        self.comparison = Comparison::new(self.share, self.newest_presumed, self.n_tasks);
        let Some(breach) = breach else {
            self.n_worse = 0;
            if let Some(good) = good {
                self.model = Some(FixedModel::new(good.clone(), self.device)?);
            }
            return Ok(IntervalVerdict::NotWorse);
        };
        self.n_worse += 1;
        if self.n_worse < GOES_BACK_AFTER {
            return Ok(IntervalVerdict::Worse(breach));
        }
        self.n_worse = 0;
        Ok(IntervalVerdict::GoBack(breach))
    }

    /// Forgets the previous version, as after the weights were replaced.
    pub fn forget(&mut self) {
        let newest_presumed = self.newest_presumed;
        *self = Self::new(self.device, self.n_tasks);
        self.newest_presumed = newest_presumed;
        self.comparison = Comparison::new(self.share, newest_presumed, self.n_tasks);
    }

    fn is_decided(&self) -> bool {
        let tasks = self.comparison.tasks();
        tasks.first().is_some_and(|task| {
            let (n, positives) = (task.candidate.judged, task.candidate.positives);
            task.difference.is_some() && positives.min(n.saturating_sub(positives)) >= MIN_OUTCOMES
        })
    }

    fn breach(&self, max_increase: f64) -> Option<Breach> {
        let tasks = self.comparison.tasks();
        let task = tasks.first()?;
        // The difference is that of the previous version less the learner's.
        let (difference, loss) = (task.difference?, task.candidate.log_loss?);
        let increase = -difference.mean / loss;
        let is_worse = increase > max_increase && difference.high < 0.0;
        is_worse.then(|| Breach::above("previous_version", increase, max_increase))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ouzel_model::ModelConfig;
    use ouzel_sample::{Id, Request, Sample, SampleKind};

    use super::*;
    use crate::testing::{again, batch, sample};
    use crate::{LearnerConfig, Trainer};

    /// Items shown to many users of the share, one in four clicked, with the logits of a learner.
    fn items(n: u64, logit: f32) -> (Batch, Vec<f32>) {
        let share: UserShare = SHARE.parse().unwrap();
        let users = (0..).map(Id).filter(|user| share.contains(*user));
        let items = users
            .take(usize::try_from(n).unwrap())
            .enumerate()
            .map(|(at, user)| {
                let made = sample(at as u64, 1, SampleKind::Final, at % 4 == 0);
                let request = Request {
                    user,
                    ..Request::clone(&made.request)
                };
                Sample {
                    request: Arc::new(request),
                    ..made
                }
            });
        let samples: Vec<Sample> = items.collect();
        let logits = vec![logit; samples.len()];
        (batch(samples), logits)
    }

    #[test]
    fn a_model_that_is_worse_than_before_in_two_intervals_goes_back_and_any_other_does_not() {
        let mut trainer = Trainer::new(ModelConfig::default(), LearnerConfig::default()).unwrap();
        let weights = trainer.weights().unwrap();
        let mut previous = PreviousVersion::new(Device::Cpu, 1);
        let mut interval = |logit: f32, good: Option<&Weights>| {
            let (batch, logits) = items(200, logit);
            previous.observe(&batch, &logits).unwrap();
            previous.close(0.05, good).unwrap()
        };
        assert_eq!(
            interval(5.0, Some(&weights)),
            IntervalVerdict::NotWorse,
            "nothing to compare with"
        );
        // An untrained model predicts its prior; the right rate is better, and certainty of a click far worse.
        let right = -(3.0f32.ln());
        assert_eq!(interval(right, Some(&weights)), IntervalVerdict::NotWorse);
        assert!(matches!(interval(5.0, Some(&weights)), IntervalVerdict::Worse(_)));
        assert_eq!(
            interval(right, Some(&weights)),
            IntervalVerdict::NotWorse,
            "one alone is chance"
        );
        assert!(matches!(interval(5.0, Some(&weights)), IntervalVerdict::Worse(_)));
        let IntervalVerdict::GoBack(breach) = interval(5.0, Some(&weights)) else {
            panic!("two in a row")
        };
        assert_eq!(breach.gate, "previous_version");
        assert!(breach.value > 0.05, "{breach}");
    }

    #[test]
    fn few_users_decide_nothing_and_their_outcomes_add_up() {
        let mut trainer = Trainer::new(ModelConfig::default(), LearnerConfig::default()).unwrap();
        let weights = trainer.weights().unwrap();
        let mut previous = PreviousVersion::new(Device::Cpu, 1);
        previous.close(0.05, Some(&weights)).unwrap();
        for _ in 0..3 {
            let (batch, logits) = items(8, 5.0);
            previous.observe(&batch, &logits).unwrap();
            assert_eq!(
                previous.close(0.05, Some(&weights)).unwrap(),
                IntervalVerdict::Undecided
            );
        }
        let (batch, logits) = items(200, 5.0);
        previous.observe(&batch, &logits).unwrap();
        let verdict = previous.close(0.05, Some(&weights)).unwrap();
        assert!(matches!(verdict, IntervalVerdict::Worse(_)), "{verdict:?}");
    }

    #[test]
    fn late_positives_of_impressions_from_before_the_interval_decide_nothing() {
        let mut trainer = Trainer::new(ModelConfig::default(), LearnerConfig::default()).unwrap();
        let weights = trainer.weights().unwrap();
        let mut previous = PreviousVersion::new(Device::Cpu, 1);
        previous.close(0.05, Some(&weights)).unwrap();
        let at = |kind: SampleKind, is_late: bool, y: bool, ms: i64| {
            let (mut shown, logits) = items(200, 0.0);
            for sample in &mut shown.samples {
                let request = Request {
                    ts: EventTime(ms),
                    ..Request::clone(&sample.request)
                };
                *sample = again(sample, kind, y, is_late);
                sample.request = Arc::new(request);
            }
            (shown, logits)
        };
        let mut observe = |(batch, logits): (Batch, Vec<f32>)| {
            previous.observe(&batch, &logits).unwrap();
            previous.close(0.05, Some(&weights)).unwrap();
            let tasks = previous.comparison.tasks();
            (tasks[0].candidate.judged, tasks[0].candidate.positives)
        };
        // Without a positive the comparison goes on, so a late positive of the same impressions counts in it.
        assert_eq!(observe(at(SampleKind::EarlyNegative, false, false, 1)), (200, 0));
        observe(at(SampleKind::LatePositive, true, true, 1));
        previous.forget();
        previous.close(0.05, Some(&weights)).unwrap();
        let (late, logits) = at(SampleKind::LatePositive, true, true, 1);
        previous.observe(&late, &logits).unwrap();
        let task = previous.comparison.tasks()[0];
        assert_eq!((task.candidate.judged, task.candidate.positives), (0, 0));
        let (new, logits) = at(SampleKind::EarlyNegative, false, false, 2);
        previous.observe(&new, &logits).unwrap();
        assert_eq!(previous.comparison.tasks()[0].candidate.judged, 200);
    }
}
