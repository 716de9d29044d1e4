//! What the place in a slate is worth: learned beside each task's logit, and left out when scoring.
//!
//! A sample of position `p` is learned at another logit than the model's `z`, which alone is served and validated:
//!
//! - additive (Ling et al. 2017, section 3, with the bias in log-odds): at `z + b_p - m`. The level `m` solves
//!   `sum_p s_p sigmoid(l + b_p - m) = sigmoid(l)` for the log-odds `l` of the task's labels;
//! - PAL (Guo et al. 2019): at the log-odds of `e^(b_p - m) sigmoid(z)`, the relative probability of a place to be examined
//!   times that of an item to be acted on at an average place, see [`examination`]. The level `m` solves
//!   `sum_p s_p e^(b_p - m) = 1`.
//!
//! `s_p` is the share of position `p` among the shown items: an item of the average rate, with PAL any item, then has its rate
//! on average over the positions, so `z` stays calibrated. A sample without a position is learned at `z`. `b` learns by Adagrad
//! from the same gradients as `z`, so both backends learn the same bits.

mod examination;

use ouzel_model::{Output, PositionKind};
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

/// How a position enters the logit that a sample is learned at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Link {
    /// As a bias in log-odds.
    #[default]
    Additive,
    /// As the logarithm of a factor of the probability.
    Pal,
}

/// What each position is worth to each task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PositionBias {
    #[serde(default, skip_serializing_if = "is_additive")]
    link: Link,
    n_tasks: usize,
    /// `[n_positions, n_tasks]`
    bias: Vec<f64>,
    /// Sums of squared gradients, `[n_positions, n_tasks]`.
    squares: Vec<f64>,
    /// Shown items by position, older ones faded.
    shown: Vec<f64>,
}

impl PositionBias {
    /// All positions alike, or none if a model of this kind has no positions.
    pub(crate) fn new(kind: PositionKind, n_tasks: usize) -> Option<Self> {
        let link = match kind {
            PositionKind::None => return None,
            PositionKind::Additive => Link::Additive,
            PositionKind::Pal => Link::Pal,
        };
        Some(Self {
            link,
            n_tasks,
            bias: vec![0.0; N_POSITIONS * n_tasks],
            squares: vec![1.0; N_POSITIONS * n_tasks],
            shown: vec![0.0; N_POSITIONS],
        })
    }

    /// Replaces new biases by saved ones. False where only one has biases, or their shapes differ.
    pub(crate) fn restore(new: &mut Option<Self>, saved: Option<Self>) -> bool {
        let shape = |bias: &Self| {
            (
                bias.link,
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

    /// Takes what `known` has learned of the tasks that it has, if it is of the same kind, and its counts of shown items.
    pub(crate) fn keep(&mut self, known: &Self, tasks: &TaskMap) {
        let n = self.shown.len() * known.n_tasks;
        let lengths = [known.bias.len(), known.squares.len()];
        if known.shown.len() != self.shown.len() || lengths != [n; 2] {
            return;
        }
        self.shown.clone_from(&known.shown);
        if known.link != self.link {
            return;
        }
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

    /// Replaces each logit of the model by the one that its sample is learned at, `logits [n_samples, n_tasks]`.
    /// `prior [n_tasks]` is the log-odds of the tasks' labels, and `output` what a logit stands for.
    pub(crate) fn place(
        &self,
        logits: &mut [f32],
        samples: &[Sample],
        prior: &[f32],
        output: Output,
    ) -> PositionSlopes {
        let (levels, by_level) = self.levels(prior);
        let mut slopes = PositionSlopes {
            by_level,
            ..PositionSlopes::default()
        };
        for (sample, logits) in samples.iter().zip(logits.chunks_exact_mut(self.n_tasks)) {
            let bias = place_of(sample).map(|at| &self.bias[at * self.n_tasks..]);
            for (task, (logit, level)) in logits.iter_mut().zip(&levels).enumerate() {
                let bias = bias.map(|bias| bias[task]);
                let (placed, by_logit, by_bias) = match (self.link, bias) {
                    (_, None) => (*logit, 1.0, 0.0),
                    (Link::Additive, Some(bias)) => (*logit + single(bias - level), 1.0, 1.0),
                    (Link::Pal, Some(bias)) => {
                        let placed = examination::place(f64::from(*logit), bias - level, output);
                        (single(placed.logit), placed.by_item, placed.by_place)
                    }
                };
                *logit = placed;
                slopes.by_logit.push(single(by_logit));
                slopes.by_bias.push(by_bias);
            }
        }
        slopes
    }

    /// Learns from the gradients of a batch, and counts its shown items.
    pub(crate) fn learn(&mut self, samples: &[Sample], gradients: &PositionGradients) {
        let mut sums = vec![0.0; self.bias.len()];
        for (sum, gradient) in sums.iter_mut().zip(&gradients.by_level) {
            *sum = *gradient;
        }
        let mut n_shown = 0.0;
        let of_samples = gradients.by_bias.chunks_exact(self.n_tasks);
        for (sample, gradients) in samples.iter().zip(of_samples) {
            let Some(at) = place_of(sample) else { continue };
            for (sum, gradient) in sums[at * self.n_tasks..].iter_mut().zip(gradients) {
                *sum += gradient;
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

    /// The level of each task, at which the shown positions have the task's rate on average, and its derivatives by the
    /// biases, `[n_positions, n_tasks]`; empty where a bias learns as if the level were constant.
    ///
    /// With the derivatives the gradient by a common factor of all places is 0. It would drift otherwise.
    fn levels(&self, prior: &[f32]) -> (Vec<f64>, Vec<f64>) {
        if self.link == Link::Additive {
            let priors = prior.iter().map(|prior| f64::from(*prior)).enumerate();
            let levels = priors.map(|(task, prior)| self.additive_level(task, prior));
            return (levels.collect(), Vec::new());
        }
        let levels: Vec<f64> = (0..self.n_tasks)
            .map(|task| self.mean_examination(task).ln())
            .collect();
        let n: f64 = self.shown.iter().sum();
        let of_position = self.bias.chunks_exact(self.n_tasks).zip(&self.shown);
        let by_level = of_position.flat_map(|(biases, shown)| {
            let share = if n > 0.0 { shown / n } else { 0.0 };
            biases
                .iter()
                .zip(&levels)
                .map(move |(bias, level)| share * (bias - level).exp())
        });
        let by_level = by_level.collect();
        (levels, by_level)
    }

    /// The positions that were shown: how often, and their biases for a task.
    fn shown(&self, task: usize) -> impl Iterator<Item = (f64, f64)> + Clone + '_ {
        let biases = self.bias.iter().skip(task).step_by(self.n_tasks);
        let all = self.shown.iter().copied().zip(biases.copied());
        all.filter(|(shown, _)| *shown > 0.0)
    }

    fn additive_level(&self, task: usize, prior: f64) -> f64 {
        let n: f64 = self.shown.iter().sum();
        let spread = |(low, high): (f64, f64), (_, bias): (f64, f64)| (low.min(bias), high.max(bias));
        let (mut low, mut high) = self.shown(task).fold((0.0, 0.0), spread);
        for _ in 0..HALVINGS {
            let level = 0.5 * (low + high);
            let rates = self.shown(task);
            let rates = rates.map(|(shown, bias)| shown / n * sigmoid(prior + bias - level));
            match rates.sum::<f64>() > sigmoid(prior) {
                true => low = level,
                false => high = level,
            }
        }
        0.5 * (low + high)
    }

    /// The mean examination of the shown positions for a task.
    fn mean_examination(&self, task: usize) -> f64 {
        let n: f64 = self.shown.iter().sum();
        match n > 0.0 {
            true => self.shown(task).map(|(shown, bias)| shown / n * bias.exp()).sum(),
            false => 1.0,
        }
    }
}

/// Derivatives of the logits that samples are learned at.
#[derive(Debug, Default)]
pub(crate) struct PositionSlopes {
    /// By the logits of the model, `[n_samples, n_tasks]`.
    by_logit: Vec<f32>,
    /// By the biases of the samples' positions, likewise; 0 without a position.
    by_bias: Vec<f64>,
    /// Of the level by the biases, `[n_positions, n_tasks]`; empty where it is taken as constant.
    by_level: Vec<f64>,
}

/// Gradients by what is learned of positions.
#[derive(Clone, Debug, Default)]
pub(crate) struct PositionGradients {
    /// By the biases of the samples' positions, `[n_samples, n_tasks]`.
    by_bias: Vec<f64>,
    /// Through the level, `[n_positions, n_tasks]` or empty.
    by_level: Vec<f64>,
}

impl PositionSlopes {
    /// Turns gradients by the logits that samples are learned at into those by the logits of the model, and returns those by
    /// the biases.
    pub(crate) fn split(self, n_tasks: usize, gradients: &mut [f32]) -> PositionGradients {
        let by_bias = gradients.iter().zip(&self.by_bias);
        let by_bias: Vec<f64> = by_bias
            .map(|(gradient, slope)| f64::from(*gradient) * slope)
            .collect();
        for (gradient, slope) in gradients.iter_mut().zip(&self.by_logit) {
            *gradient *= slope;
        }
        // The level is subtracted from the bias.
        let mut of_level = vec![0.0; n_tasks];
        for (at, gradient) in by_bias.iter().enumerate() {
            of_level[at % n_tasks] -= gradient;
        }
        let mut by_level = self.by_level;
        for (at, slope) in by_level.iter_mut().enumerate() {
            *slope *= of_level[at % n_tasks];
        }
        PositionGradients { by_bias, by_level }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_additive(link: &Link) -> bool {
    *link == Link::Additive
}

/// The index of a sample's position.
fn place_of(sample: &Sample) -> Option<usize> {
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
mod tests;
