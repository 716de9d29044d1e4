//! Online calibration: per task a line from the model's logit to the log-odds that are served.
//!
//! `logit p = a z + b` is learned by stochastic gradient descent on the log-loss of certain labels. It is independent of the
//! network, whose logits also follow sample weights and the slate loss. A step in `a` rotates the line about the running mean
//! of `z`: about 0, where samples are rare, a wrong slope would compensate for a wrong level. As `a` is positive, the order
//! of items does not change.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use ouzel_model::{Calibration, Weights};
use ouzel_sample::{EventTime, Sample, SampleKind};

use crate::loss::Policy;
use crate::objective::Objective;
use crate::trainer::Trainer;

/// Step size per label. The line forgets within about `1e3 / (p (1 - p))` samples; its noise is about `sqrt(1e-3 / 2)`, two
/// per cent of the odds.
const RATE: f64 = 1e-3;
/// Bounds of `a`: beyond them the model is broken, not uncalibrated.
const SCALE: (f64, f64) = (0.5, 2.0);
/// Largest distance of a logit from the mean that a step counts.
const FARTHEST: f64 = 10.0;
/// Samples that the running mean of logits covers.
const MEAN_OF: f64 = 1000.0;
/// Shift of a mean logit within an hour that is reported as a jump. Preferences do not cause it; missing labels do.
const JUMP: f64 = 0.5;
const HOUR_MS: i64 = 3_600_000;
/// Event time between two recorded lifts.
const MARK_EVERY_MS: i64 = 300_000;

/// The lines of all tasks; none without calibration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Calibrator {
    pub(crate) lines: Vec<Line>,
}

/// The line of one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    a: f64,
    b: f64,
    /// Running mean of the logits, and the number of logits in it.
    mean: f64,
    n: f64,
    /// Lifts of a mean logit within the last hour of event time, oldest first.
    marks: VecDeque<(EventTime, f64)>,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            a: 1.0,
            b: 0.0,
            mean: 0.0,
            n: 0.0,
            marks: VecDeque::new(),
        }
    }
}

impl Calibrator {
    /// Identity lines of `n_tasks` tasks.
    pub(crate) fn new(n_tasks: usize) -> Self {
        Self {
            lines: vec![Line::default(); n_tasks],
        }
    }

    /// The lines to serve, `[n_tasks]`.
    pub(crate) fn served(&self, n_tasks: usize) -> Vec<Calibration> {
        let mut served: Vec<Calibration> = self.lines.iter().map(Line::served).collect();
        served.resize(n_tasks, Calibration::default());
        served
    }

    /// Learns from a batch with log-odds before calibration, `logits [n_samples, n_tasks]`. Returns the tasks whose line has
    /// jumped, and by how much.
    pub(crate) fn observe(
        &mut self,
        samples: &[Sample],
        objective: &Objective,
        logits: &[f32],
    ) -> Vec<(usize, f64)> {
        let n_tasks = self.lines.len().max(1);
        for (sample, logits) in samples.iter().zip(logits.chunks_exact(n_tasks)) {
            for (task, y) in objective
                .labels(sample)
                .filter(|(task, _)| !objective.learns_value(*task))
            {
                let (Some(line), Some(counted)) = (
                    self.lines.get_mut(task),
                    counted(objective.policy(), sample.kind, y),
                ) else {
                    continue;
                };
                // Each negative that is kept stands for those that were dropped.
                let weight = if y { 1.0 } else { 1.0 / objective.negative_rate() };
                line.step(logits[task], counted, weight);
            }
        }
        let Some(now) = samples.iter().map(|sample| sample.request.ts).max() else {
            return Vec::new();
        };
        let jumps = self.lines.iter_mut().enumerate();
        jumps
            .filter_map(|(task, line)| Some((task, line.jump(now)?)))
            .collect()
    }
}

impl Line {
    fn served(&self) -> Calibration {
        #[expect(clippy::cast_possible_truncation, reason = "log-odds are served as f32")]
        let [scale, shift] = [self.a, self.b].map(|x| x as f32);
        Calibration { scale, shift }
    }

    /// One step on the log-loss of `came` positives among `shown` items of logit `z`.
    fn step(&mut self, z: f32, (shown, came): (f64, f64), weight: f64) {
        if !z.is_finite() {
            return;
        }
        let z = f64::from(z);
        self.n = (self.n + 1.0).min(MEAN_OF);
        self.mean += (z - self.mean) / self.n;
        let gradient = RATE * weight * (shown * sigmoid(self.a * z + self.b) - came);
        let before = self.a;
        self.a -= gradient * (z - self.mean).clamp(-FARTHEST, FARTHEST);
        self.a = self.a.clamp(SCALE.0, SCALE.1);
        self.b -= gradient + (self.a - before) * self.mean;
    }

    /// The shift of a mean logit by the line.
    fn lift(&self) -> f64 {
        (self.a - 1.0) * self.mean + self.b
    }

    /// The change of the lift within the last hour, if it is a jump. Each jump is returned once.
    fn jump(&mut self, now: EventTime) -> Option<f64> {
        // Late samples make no time run backwards.
        let now = self.marks.back().map_or(now, |(last, _)| now.max(*last));
        while self
            .marks
            .front()
            .is_some_and(|(at, _)| now.since_ms(*at) > HOUR_MS)
        {
            self.marks.pop_front();
        }
        let lift = self.lift();
        let mut moved = self.marks.iter().map(|(_, was)| lift - was);
        let moved = moved.find(|by| by.abs() > JUMP);
        if moved.is_some() {
            self.marks.clear();
        }
        let is_due = |(last, _): &(EventTime, f64)| now.since_ms(*last) >= MARK_EVERY_MS;
        if self.marks.back().is_none_or(is_due) {
            self.marks.push_back((now, lift));
        }
        moved
    }
}

impl Trainer {
    /// Converts a batch's logits to served log-odds, and lets the calibration learn from the batch afterwards.
    pub(crate) fn calibrate(
        &mut self,
        samples: &[Sample],
        objective: &Objective,
        outputs: Vec<f32>,
    ) -> (Vec<f32>, Vec<usize>) {
        let Weights {
            config, calibration, ..
        } = &self.weights;
        let mut logits = outputs;
        for logit in &mut logits {
            *logit = config.output.log_odds(*logit);
        }
        let jumps = self.calibrator.observe(samples, objective, &logits);
        for (task, by) in &jumps {
            tracing::warn!(
                task = config.tasks.get(*task),
                by,
                "calibration has moved by more than half a unit of log-odds within an hour of event time: labels may \
                 be missing"
            );
        }
        for (logit, line) in logits.iter_mut().zip(calibration.iter().cycle()) {
            *logit = line.apply(*logit);
        }
        (logits, jumps.into_iter().map(|(task, _)| task).collect())
    }
}

/// Items shown and positives among them that a label stands for; none if it is not certain.
fn counted(policy: Policy, kind: SampleKind, y: bool) -> Option<(f64, f64)> {
    let came = f64::from(u8::from(y));
    match (policy, kind) {
        // It was shown, and counted as a negative, before.
        (Policy::Plain, SampleKind::Correction) => Some((0.0, 1.0)),
        (Policy::Plain, _) | (Policy::Defer, SampleKind::RealCopy) => Some((1.0, came)),
        _ => None,
    }
}

impl Policy {
    /// Whether the stream has one certain sample of every shown item. Certain positives alone would only raise
    /// predictions.
    #[must_use]
    pub fn is_certain_in_the_end(self) -> bool {
        matches!(self, Policy::Plain | Policy::Defer)
    }
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

#[cfg(test)]
mod tests {
    use ouzel_model::{ModelConfig, normal, uniform};

    use super::*;
    use crate::LearnerConfig;
    use crate::testing::sample;

    fn objective(policy: Policy, negative_rate: f32) -> Objective {
        let config = LearnerConfig {
            policy,
            negative_sample_rate: negative_rate,
            ..LearnerConfig::default()
        };
        Objective::new(&config, &ModelConfig::default())
    }

    /// Samples whose model is off by `by` and too steep by `steep`: calibration of their second half, and the line.
    fn calibrated(by: f32, steep: f32, negative_rate: f32) -> (f64, Line) {
        let objective = objective(Policy::Plain, negative_rate);
        let (mut calibrator, n) = (Calibrator::new(1), 300_000u64);
        let (mut predicted, mut came) = (0.0, 0.0);
        for i in 0..n {
            let apart = 1.2 * normal(1, i, 0);
            let y = uniform(2, i, 0) < crate::loss::sigmoid(-2.5 + apart);
            let z = -2.5 + by + steep * apart;
            if i >= n / 2 {
                let served = calibrator.served(1)[0].apply(z);
                predicted += f64::from(crate::loss::sigmoid(served));
                came += f64::from(u8::from(y));
            }
            let told = [sample(i, i, SampleKind::Final, y)];
            if objective.takes(&told[0]) {
                calibrator.observe(&told, &objective, &[z]);
            }
        }
        (predicted / came, calibrator.lines.remove(0))
    }

    #[test]
    fn a_stream_that_was_thinned_without_saying_so_is_calibrated() {
        for (by, steep, negative_rate) in [
            (0.0, 1.0, 1.0),
            (10.0f32.ln(), 1.0, 1.0),
            (-1.0, 1.4, 1.0),
            (0.7, 0.8, 0.2),
        ] {
            let (calibration, line) = calibrated(by, steep, negative_rate);
            println!("{by} {steep} {negative_rate}: {calibration} {line:?}");
            assert!((calibration - 1.0).abs() < 0.02, "{by} {steep}: {calibration}");
            let truth = -2.5 - line.a * f64::from(by - 2.5);
            assert!((line.b - truth).abs() < 0.1, "{by} {steep}: {line:?}");
            assert!(
                (line.a * f64::from(steep) - 1.0).abs() < 0.1,
                "{by} {steep}: {line:?}"
            );
        }
    }

    #[test]
    fn the_scale_stays_in_its_bounds_and_what_is_not_finite_teaches_nothing() {
        let objective = objective(Policy::Plain, 1.0);
        for (z, y, bound) in [(9.0, false, 0.5), (9.0, true, 2.0), (-1e30, true, 0.5)] {
            let mut calibrator = Calibrator::new(1);
            for i in 0..200_000 {
                // Both outcomes, so that b alone cannot do it.
                let (z, y) = if i % 2 == 0 { (z, y) } else { (-z, !y) };
                calibrator.observe(&[sample(i, i, SampleKind::Final, y)], &objective, &[z]);
            }
            let line = &calibrator.lines[0];
            assert!(line.a.is_finite() && line.b.is_finite(), "{z} {y} {line:?}");
            assert!(
                (line.a - bound).abs() < 1e-9 || (bound > 1.0 && line.a > 1.0),
                "{z} {y} {line:?}"
            );
        }
        let mut calibrator = Calibrator::new(1);
        let told = [sample(1, 1, SampleKind::Final, true)];
        calibrator.observe(&told, &objective, &[f32::NAN]);
        calibrator.observe(&told, &objective, &[f32::INFINITY]);
        assert_eq!((calibrator.lines[0].a, calibrator.lines[0].b), (1.0, 0.0));
    }

    #[test]
    fn only_certain_labels_are_learned_from() {
        use SampleKind::{Correction, EarlyNegative, Final, LatePositive, RealCopy};
        for (policy, kind, y, expected) in [
            (Policy::Plain, Final, true, Some((1.0, 1.0))),
            (Policy::Plain, Final, false, Some((1.0, 0.0))),
            (Policy::Plain, Correction, true, Some((0.0, 1.0))),
            (Policy::Defer, Final, true, None),
            (Policy::Defer, EarlyNegative, false, None),
            (Policy::Defer, RealCopy, true, Some((1.0, 1.0))),
            (Policy::Defer, RealCopy, false, Some((1.0, 0.0))),
            (Policy::EsDfm, LatePositive, true, None),
            (Policy::Fnw, Final, true, None),
        ] {
            assert_eq!(counted(policy, kind, y), expected, "{policy:?} {kind:?}");
        }
    }

    #[test]
    fn a_jump_within_an_hour_is_told_once_and_a_slow_drift_never() {
        let minutes = |n: i64| EventTime(n * 60_000);
        let mut line = Line::default();
        for minute in 0..50 {
            assert_eq!(line.jump(minutes(minute)), None);
        }
        line.b = 0.49;
        assert_eq!(line.jump(minutes(51)), None);
        line.b = 0.51;
        assert_eq!(line.jump(minutes(52)), Some(0.51));
        assert_eq!(line.jump(minutes(53)), None, "told once");
        line.b = -0.1;
        assert!(line.jump(minutes(50)).is_some_and(|by| (by + 0.61).abs() < 1e-9));

        // .45 an hour for two days.
        let mut line = Line::default();
        for minute in 0..2880 {
            line.b += 0.45 / 60.0;
            assert_eq!(line.jump(minutes(minute)), None, "{minute}");
            assert!(line.marks.len() <= 13, "{}", line.marks.len());
        }
    }
}
