//! Position bias: what the place in a slate adds to each task's log-odds while learning, and what scoring leaves out.
//!
//! A sample of position `p` is learned at the logit `z + b_p - m` (Ling et al. 2017, section 3, with the bias in log-odds).
//! `z` is the logit of the model, which alone is served and validated. The level `m` solves
//! `sum_p s_p sigmoid(l + b_p - m) = sigmoid(l)` for the share `s_p` of position `p` among the shown items and the log-odds
//! `l` of the task's labels: an item of the average rate then has that rate on average over the positions, so `z` stays
//! calibrated. A sample without a position is learned at `z`. `b` learns by Adagrad from the same gradients as `z`, so both
//! backends learn the same bits.

use ouzel_sample::{Sample, TaskMap};
use serde::{Deserialize, Serialize};

use crate::prior::is_first;

/// Positions with a bias of their own; those from the last one on share one.
const N_POSITIONS: usize = 64;
/// Length of Adagrad's first steps, log-odds. Biases must learn faster than what tells items apart, or the items take over
/// what is due to their positions.
const RATE: f64 = 1.0;
/// Halvings of the interval in which a level is searched: to a millionth of the spread of the biases.
const HALVINGS: usize = 20;
/// Shown items that the level covers: older ones fade.
const WINDOW: f64 = 20_000.0;

/// The biases of all positions and tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PositionBias {
    n_tasks: usize,
    /// `[n_positions, n_tasks]`
    bias: Vec<f64>,
    /// Sums of squared gradients, `[n_positions, n_tasks]`.
    squares: Vec<f64>,
    /// Shown items by position, older ones faded.
    shown: Vec<f64>,
}

impl PositionBias {
    /// Biases of 0.
    pub(crate) fn new(n_tasks: usize) -> Self {
        Self {
            n_tasks,
            bias: vec![0.0; N_POSITIONS * n_tasks],
            squares: vec![1.0; N_POSITIONS * n_tasks],
            shown: vec![0.0; N_POSITIONS],
        }
    }

    /// Replaces new biases by saved ones. False where only one has biases, or their shapes differ.
    pub(crate) fn restore(new: &mut Option<Self>, saved: Option<Self>) -> bool {
        let shape = |bias: &Self| {
            (
                bias.n_tasks,
                bias.bias.len(),
                bias.squares.len(),
                bias.shown.len(),
            )
        };
        let fits = new.as_ref().map(shape) == saved.as_ref().map(shape);
        if fits {
            *new = saved;
        }
        fits
    }

    /// Takes the biases of the tasks that `known` has, and its counts of shown items.
    pub(crate) fn keep(&mut self, known: &Self, tasks: &TaskMap) {
        let n = self.shown.len() * known.n_tasks;
        let lengths = [known.bias.len(), known.squares.len()];
        if known.shown.len() != self.shown.len() || lengths != [n; 2] {
            return;
        }
        self.shown.clone_from(&known.shown);
        for (task, former) in tasks.former().enumerate() {
            let Some(former) = former.map(usize::from).filter(|former| *former < known.n_tasks) else {
                continue;
            };
            for at in 0..self.shown.len() {
                self.bias[at * self.n_tasks + task] = known.bias[at * known.n_tasks + former];
                self.squares[at * self.n_tasks + task] = known.squares[at * known.n_tasks + former];
            }
        }
    }

    /// Adds to each logit the bias of its sample's position less the level of all, `logits [n_samples, n_tasks]`.
    /// `prior [n_tasks]` is the log-odds of the tasks' labels.
    pub(crate) fn add_to(&self, logits: &mut [f32], samples: &[Sample], prior: &[f32]) {
        let levels = self.levels(prior);
        for (sample, logits) in samples.iter().zip(logits.chunks_exact_mut(self.n_tasks)) {
            let Some(at) = place(sample) else { continue };
            let bias = self.bias[at * self.n_tasks..].iter().zip(&levels);
            for (logit, (bias, level)) in logits.iter_mut().zip(bias) {
                *logit += single(bias - level);
            }
        }
    }

    /// Learns from the gradients by the logits of a batch, `[n_samples, n_tasks]`, and counts its shown items.
    pub(crate) fn learn(&mut self, samples: &[Sample], gradients: &[f32]) {
        let mut sums = vec![0.0; self.bias.len()];
        let mut n_shown = 0.0;
        for (sample, gradients) in samples.iter().zip(gradients.chunks_exact(self.n_tasks)) {
            let Some(at) = place(sample) else { continue };
            for (sum, gradient) in sums[at * self.n_tasks..].iter_mut().zip(gradients) {
                *sum += f64::from(*gradient);
            }
            if is_first(sample) {
                self.shown[at] += 1.0;
                n_shown += 1.0;
            }
        }
        let keep = 1.0 - (n_shown / WINDOW).min(1.0);
        self.shown.iter_mut().for_each(|n| *n *= keep);
        for ((bias, square), sum) in self.bias.iter_mut().zip(&mut self.squares).zip(sums) {
            *square += sum * sum;
            *bias -= RATE * sum / square.sqrt();
        }
    }

    /// The level of the biases of each task, at which the shown positions have the task's rate on average.
    fn levels(&self, prior: &[f32]) -> Vec<f64> {
        let n: f64 = self.shown.iter().sum();
        let of_task = |(task, prior): (usize, &f32)| {
            let prior = f64::from(*prior);
            let bias = || self.bias.iter().skip(task).step_by(self.n_tasks);
            let shown = || self.shown.iter().zip(bias()).filter(|(shown, _)| **shown > 0.0);
            let (mut low, mut high) = shown().fold((0.0f64, 0.0f64), |(low, high), (_, b)| {
                (low.min(*b), high.max(*b))
            });
            for _ in 0..HALVINGS {
                let level = 0.5 * (low + high);
                let rates = shown().map(|(shown, bias)| shown / n * sigmoid(prior + bias - level));
                match rates.sum::<f64>() > sigmoid(prior) {
                    true => low = level,
                    false => high = level,
                }
            }
            0.5 * (low + high)
        };
        prior.iter().enumerate().map(of_task).collect()
    }
}

/// The index of a sample's position.
fn place(sample: &Sample) -> Option<usize> {
    let position = usize::from(sample.candidate.position?);
    Some(position.min(N_POSITIONS - 1))
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

#[expect(clippy::cast_possible_truncation, reason = "logits are f32")]
fn single(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ouzel_model::uniform;
    use ouzel_sample::{Candidate, SampleKind};

    use super::*;
    use crate::loss::{binary, sigmoid};
    use crate::testing::sample;

    fn at(position: Option<u16>, y: bool) -> Sample {
        let first = sample(1, 1, SampleKind::Final, y);
        Sample {
            candidate: Arc::new(Candidate {
                position,
                ..Candidate::clone(&first.candidate)
            }),
            ..first
        }
    }

    #[test]
    fn biases_become_those_of_the_positions_and_the_logit_that_of_the_average_rate() {
        let truth = [1.0f32, 0.0, -2.0];
        // The first position is shown as often as the two others together.
        let shown = [0u16, 0, 1, 2];
        let rates = shown.map(|position| sigmoid(truth[usize::from(position)]));
        let rate = rates.iter().sum::<f32>() / 4.0;
        let prior = [(rate / (1.0 - rate)).ln()];
        let (mut bias, mut level) = (PositionBias::new(1), 0.0f32);
        for batch in 0..400u64 {
            let samples: Vec<Sample> = (0..60u64)
                .map(|n| {
                    let lane = usize::try_from(n % 4).unwrap();
                    at(Some(shown[lane]), uniform(3, batch * 60 + n, 0) < rates[lane])
                })
                .collect();
            let mut logits = vec![level; samples.len()];
            bias.add_to(&mut logits, &samples, &prior);
            let gradients = samples.iter().zip(&logits);
            let gradients =
                gradients.map(|(sample, z)| binary(*z, sample.labels.get(0) == Some(true)).gradient);
            let gradients: Vec<f32> = gradients.collect();
            bias.learn(&samples, &gradients);
            level -= 0.01 * gradients.iter().sum::<f32>() / 6.0;
        }
        assert!((level - prior[0]).abs() < 0.1, "{level}, expected {prior:?}");
        let mut learned = vec![level; 4];
        let positions = [Some(0), Some(1), Some(2), None].map(|position| at(position, true));
        bias.add_to(&mut learned, &positions, &prior);
        for (found, expected) in learned.iter().zip([1.0, 0.0, -2.0, prior[0]]) {
            assert!((found - expected).abs() < 0.3, "{learned:?}");
        }
    }

    #[test]
    fn samples_without_a_position_change_nothing_and_far_positions_share_one() {
        let mut bias = PositionBias::new(2);
        let new = bias.clone();
        bias.learn(&[at(None, true)], &[0.5, 0.5]);
        assert_eq!(bias, new);
        let far = [at(Some(63), true), at(Some(u16::MAX), true)];
        bias.learn(&far[..1], &[-0.5, 0.5]);
        let mut logits = [0.0; 4];
        bias.add_to(&mut logits, &far, &[0.0, 0.0]);
        assert_eq!(logits[..2], logits[2..]);
        let text = serde_json::to_string(&bias).unwrap();
        assert_eq!(serde_json::from_str::<PositionBias>(&text).unwrap(), bias);
    }
}
