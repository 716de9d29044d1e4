//! The loss of a batch and its gradient by every output of the network.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use ouzel_model::{ModelConfig, Outputs, uniform};
use ouzel_sample::{Id, IdHasher, Sample, SampleKind, TaskId};

use crate::config::LearnerConfig;
use crate::loss::{self, Late, Loss, Policy, ValueRole, binary, sigmoid};
use crate::prior::{comes_late, is_first, label};

/// Separates the draws of down-sampling from the initial values of rows, which use the same seed.
const NEGATIVES: u64 = 0x4e45_4741_5449_5645;

/// The loss function of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Objective {
    policy: Policy,
    slate_loss: f32,
    negative_rate: f32,
    seed: u64,
    n_tasks: usize,
    /// By task.
    task_weights: Vec<f32>,
    /// By task.
    values: Vec<ValueRole>,
    /// The tasks `first`, `then` and `both` of each chain, and its weight.
    chains: Vec<([TaskId; 3], f32)>,
}

/// A loss with its derivatives, shaped as [`Outputs`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BatchLoss {
    /// Sum over samples, nats, without the loss of auxiliary logits.
    pub(crate) value: f32,
    /// The same of the loss that models are compared by, see [`Objective::comparable`].
    pub(crate) comparable: f32,
    pub(crate) logits: Vec<f32>,
    pub(crate) auxiliary: Vec<f32>,
}

impl Objective {
    /// The objective of a configuration. A task that the model does not have is skipped; a checked configuration has none.
    pub(crate) fn new(config: &LearnerConfig, model: &ModelConfig) -> Self {
        let n_tasks = model.n_tasks();
        let place = |name: &str| model.tasks.iter().position(|task| task == name);
        let mut task_weights = vec![1.0; n_tasks];
        for (name, weight) in &config.optimizer.task_weights {
            if let Some(task) = place(name) {
                task_weights[task] = *weight;
            }
        }
        let chains = config.task_chains.iter().filter_map(|chain| {
            let task = |name| TaskId::try_from(place(name)?).ok();
            let tasks = [task(&chain.first)?, task(&chain.then)?, task(&chain.both)?];
            Some((tasks, chain.weight))
        });
        Self {
            policy: config.policy,
            slate_loss: config.optimizer.slate_loss_weight,
            negative_rate: config.negative_sample_rate,
            seed: model.seed,
            n_tasks,
            task_weights,
            values: (0..n_tasks)
                .map(|task| config.values.get(task).copied().unwrap_or_default())
                .collect(),
            chains: chains.collect(),
        }
    }

    /// The samples with the labels of bound tasks replaced, see [`conditioned`](loss::conditioned).
    pub(crate) fn conditioned<'a>(&self, samples: &'a [Sample]) -> Cow<'a, [Sample]> {
        if self.chains.is_empty() {
            return Cow::Borrowed(samples);
        }
        let conditioned = samples.iter().map(|sample| {
            let chains = self.chains.iter();
            let labels = chains.fold(sample.labels, |labels, (tasks, _)| {
                loss::conditioned(labels, *tasks)
            });
            Sample {
                labels,
                ..sample.clone()
            }
        });
        Cow::Owned(conditioned.collect())
    }

    /// Whether a sample has a label to learn from after down-sampling.
    pub(crate) fn takes(&self, sample: &Sample) -> bool {
        self.keeps_negatives(sample) || (0..self.n_tasks).any(|task| label(sample, task) == Some(true))
    }

    /// Whether negatives of this shown item are learned from.
    ///
    /// One draw per shown item, a pure function of seed, request and item: all its samples and every replay agree.
    fn keeps_negatives(&self, sample: &Sample) -> bool {
        let shown = sample.request.id.pair(sample.candidate.item);
        self.negative_rate >= 1.0 || uniform(self.seed ^ NEGATIVES, shown.0, 0) < self.negative_rate
    }

    /// Loss and gradients.
    ///
    /// Negatives are kept at the rate `w`, positives always. The loss is that of `z - ln w`, so that `z`, which is stored and
    /// served, stays the log-odds among all samples (He et al. 2014, section 6.3).
    ///
    /// A positive without a value has the value 1. `compared` are the logits that models are compared by, as `outputs.logits`.
    pub(crate) fn loss(&self, samples: &[Sample], outputs: &Outputs, compared: &[f32]) -> BatchLoss {
        let Outputs {
            logits, auxiliary, ..
        } = outputs;
        let mut out = BatchLoss {
            value: 0.0,
            comparable: 0.0,
            logits: vec![0.0; logits.len()],
            auxiliary: vec![0.0; auxiliary.len()],
        };
        for (index, sample) in samples.iter().enumerate() {
            for (task, y) in self.labels(sample) {
                let at = index * self.n_tasks + task;
                let late = auxiliary.get(at).copied();
                let value = if y { value_of(sample, task) } else { 0.0 };
                let loss = match self.values[task] {
                    ValueRole::Ignore => self.label(sample, y, logits[at], late),
                    ValueRole::Weight if y => self.label(sample, y, logits[at], late).times(value),
                    ValueRole::Weight => self.label(sample, y, logits[at], late),
                    ValueRole::Target => {
                        let thinned = (self.offset(), self.negative_rate);
                        loss::soft_label((self.policy, sample.kind), logits[at], thinned, value)
                    }
                };
                let weight = sample.weight * self.task_weights[task];
                out.value += weight * loss.value;
                out.comparable += weight * self.comparable((sample, task, y), compared[at], loss.value);
                out.logits[at] += weight * loss.gradient;
                if let (Some(logit), Some(is_late)) = (late, comes_late(sample, y)) {
                    out.auxiliary[at] = sample.weight * binary(logit, is_late).gradient;
                }
            }
        }
        self.slates(samples, logits, &mut out);
        self.bound(samples, logits, &mut out);
        out
    }

    /// Whether a task's label is its action's value, and its logit no log-odds of an outcome.
    pub(crate) fn learns_value(&self, task: usize) -> bool {
        self.values.get(task) == Some(&ValueRole::Target)
    }

    pub(crate) fn policy(&self) -> Policy {
        self.policy
    }

    /// Share of negatives that are learned from.
    pub(crate) fn negative_rate(&self) -> f64 {
        f64::from(self.negative_rate)
    }

    /// Labels of a sample that are learned from, by task.
    pub(crate) fn labels(&self, sample: &Sample) -> impl Iterator<Item = (usize, bool)> {
        let keeps_negatives = self.keeps_negatives(sample);
        (0..self.n_tasks)
            .filter_map(|task| Some((task, label(sample, task)?)))
            .filter(move |(_, y)| *y || keeps_negatives)
    }

    /// Offset of a logit in training that corrects for down-sampling, `-ln w`.
    fn offset(&self) -> f32 {
        -self.negative_rate.ln()
    }

    /// The loss of one label.
    fn label(&self, sample: &Sample, y: bool, z: f32, late: Option<f32>) -> Loss {
        let offset = self.offset();
        match (self.policy, sample.kind) {
            // Replaces the negative that was learned before by a positive.
            (_, SampleKind::Correction) => Loss {
                value: -z,
                gradient: -1.0,
            },
            // Certain at once: the item has no other sample to weigh it against.
            (Policy::Fnw, SampleKind::Final) => binary(z + offset, y),
            // The same where a logit stands for a stream in which each positive is also a negative.
            (Policy::Fnc, SampleKind::Final) if y => {
                let (one, zero) = (binary(z + offset, true), binary(z + offset, false));
                Loss {
                    value: one.value + self.negative_rate * zero.value,
                    gradient: one.gradient + self.negative_rate * zero.gradient,
                }
            }
            (policy, _) => {
                let late = late.map_or_else(Late::default, |logit| Late::of(logit, sigmoid(z)));
                policy.loss(z, offset, y, late)
            }
        }
    }

    /// Adds the softmax loss of each slate over certain labels of the primary task.
    ///
    /// A presumed negative is left out: inside a slate it would outweigh the late positive that it may become, which arrives
    /// alone and has nothing to be ranked above. Down-sampled negatives enter with `z - ln w`, as in a sampled softmax.
    ///
    /// A task whose label is a value has none: its positives differ in worth.
    fn slates(&self, samples: &[Sample], logits: &[f32], out: &mut BatchLoss) {
        if self.learns_value(0) {
            return;
        }
        let mut slates: Vec<Vec<usize>> = Vec::new();
        let mut slate_of: HashMap<Id, usize, BuildHasherDefault<IdHasher>> = HashMap::default();
        for (index, sample) in samples.iter().enumerate() {
            let slate = *slate_of.entry(sample.impression()).or_insert_with(|| {
                slates.push(Vec::new());
                slates.len() - 1
            });
            slates[slate].push(index);
        }
        for slate in slates.iter().filter(|slate| slate.len() > 1) {
            let (places, pairs): (Vec<usize>, Vec<(f32, bool)>) = slate
                .iter()
                .filter(|i| self.is_certain(&samples[**i]))
                .filter_map(|i| {
                    let (_, y) = self.labels(&samples[*i]).find(|(task, _)| *task == 0)?;
                    let at = i * self.n_tasks;
                    let offset = if y { 0.0 } else { self.offset() };
                    Some((at, (logits[at] + offset, y)))
                })
                .unzip();
            if let Some((value, gradient)) = loss::slate(&pairs) {
                let weight = self.slate_loss * self.task_weights[0];
                out.value += weight * value;
                out.comparable += weight * value;
                for (at, g) in places.into_iter().zip(gradient) {
                    out.logits[at] += weight * g;
                }
            }
        }
    }

    /// Adds the bounds between tasks. They need no label, so only the first sample of an item adds to them.
    fn bound(&self, samples: &[Sample], logits: &[f32], out: &mut BatchLoss) {
        for (index, sample) in samples.iter().enumerate() {
            if !is_first(sample) {
                continue;
            }
            for (tasks, weight) in &self.chains {
                let places = tasks.map(|task| index * self.n_tasks + usize::from(task));
                let [first, then, both] = places.map(|at| logits[at]);
                let found = loss::divergence(first, then, both);
                let weight = sample.weight * weight;
                out.value += weight * single(found.value);
                out.comparable += weight * single(found.value);
                for (at, gradient) in places.into_iter().zip(found.gradient) {
                    out.logits[at] += weight * single(gradient);
                }
            }
        }
    }

    fn is_certain(&self, sample: &Sample) -> bool {
        self.policy == Policy::Plain || matches!(sample.kind, SampleKind::Final | SampleKind::RealCopy)
    }
}

/// The value of a positive's action, in `[0, 1]`; 1 where it carried none.
fn value_of(sample: &Sample, task: usize) -> f32 {
    let mut values = sample.values.iter();
    let value = values.find(|(of, _)| usize::from(*of) == task);
    value.map_or(1.0, |(_, value)| *value)
}

#[expect(clippy::cast_possible_truncation, reason = "gradients are f32 from here on")]
fn single(x: f64) -> f32 {
    x as f32
}

mod comparable;
#[cfg(test)]
mod tests;
