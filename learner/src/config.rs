//! How the model learns.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tch::Device;

use ouzel_model::ModelConfig;

use crate::error::Error;
use crate::loss::{Bound, Policy};
use crate::optim::DenseRule;
use crate::rules::RowRules;

/// Optimizers, losses and batch size. Changing a rate does not change the schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearnerConfig {
    /// A batch closes with the group that brings it to this many samples. Smaller batches, which only an idle
    /// stream makes, are learned from with their gradients divided as if they were full.
    pub batch_min_samples: usize,
    /// Learning rate of embedding rows (row-wise Adagrad).
    pub row_rate: f32,
    /// Initial accumulator of embedding rows.
    pub row_accumulator: f32,
    /// The rule by which dense weights move.
    pub dense: DenseRule,
    /// Learning rate of dense weights.
    pub dense_rate: f64,
    /// Learning rate of the blocks over content and history, of adapters, and of the contrast's projections.
    pub block_rate: f64,
    /// Weight of the contrast of ids and contents beside the log-loss; 0 for none.
    pub contrast_weight: f64,
    /// What the contrast's scores are divided by.
    pub contrast_temperature: f64,
    /// Samples learned from after which the base is frozen and adapters learn in its place; 0 for never.
    pub freeze_samples: u64,
    /// Samples learned from until the rates of rows and dense weights are as configured, growing from 0; 0 for none.
    pub warmup_samples: u64,
    /// Samples after the warm-up until these rates are at `sqrt(1/2)` of what is configured; 0 for never.
    pub decay_samples: u64,
    /// FTRL alpha of the wide part.
    pub wide_alpha: f32,
    /// FTRL beta of the wide part.
    pub wide_beta: f32,
    /// FTRL L2 of the wide part.
    pub wide_l2: f32,
    /// Weight of the softmax loss inside a slate, beside the log-loss.
    pub slate_loss: f32,
    /// Weight of a task's losses by its name, 1 where it is not named. The slate loss is the primary task's.
    pub task_weights: BTreeMap<String, f32>,
    /// Tasks that are drawn together.
    pub bounds: Vec<Bound>,
    /// Longest gradient of all dense weights together, by its norm; 0 for any. A gradient is the sum over a batch.
    pub clip_dense: f64,
    /// Longest gradient of all embedding rows of a batch together, likewise.
    pub clip_rows: f64,
    /// Samples that the running prior remembers, count: its log-odds are those of the last this many.
    pub prior_samples: f32,
    /// Which stream of samples it is given, and so which losses undo what that stream gets wrong.
    pub policy: Policy,
    /// Whether log-odds are calibrated on certain labels as they come.
    pub calibrate: bool,
    /// Share of negatives that are learned from, in `(0, 1]`; positives always are. Predictions stay calibrated
    /// to all samples, and counts, validation and the prior still see every one.
    pub negative_rate: f32,
    /// Rows of each embedding table, and weights of the wide part, count each. Beyond it those that have learned least are
    /// forgotten.
    pub max_rows: usize,
    /// Embedding rows that a device other than the CPU keeps in its memory, count: those that batches read last.
    pub device_rows: usize,
    /// The rules that rows live by.
    pub rows: RowRules,
    /// `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Threads of one libtorch operation. Recorded: another count may give other bits.
    pub threads: i32,
}

impl Default for LearnerConfig {
    fn default() -> Self {
        Self {
            batch_min_samples: 64,
            row_rate: 0.05,
            row_accumulator: 0.05,
            dense: DenseRule::default(),
            dense_rate: 0.03,
            block_rate: 0.001,
            contrast_weight: 0.0,
            contrast_temperature: 0.1,
            freeze_samples: 0,
            warmup_samples: 0,
            decay_samples: 0,
            wide_alpha: 0.02,
            wide_beta: 1.0,
            wide_l2: 1.0,
            slate_loss: 0.3,
            task_weights: BTreeMap::new(),
            bounds: Vec::new(),
            clip_dense: 0.0,
            clip_rows: 0.0,
            prior_samples: 1e6,
            policy: Policy::default(),
            calibrate: false,
            negative_rate: 1.0,
            max_rows: 20_000_000,
            device_rows: 1_000_000,
            rows: RowRules::default(),
            device: "cpu".into(),
            threads: 1,
        }
    }
}

impl LearnerConfig {
    /// Refuses a rate that cannot be, and a model that was not made for the policy.
    pub fn check(&self, model: &ModelConfig) -> Result<(), Error> {
        if !(self.negative_rate > 0.0 && self.negative_rate <= 1.0) {
            return Err(Error::NegativeRate(self.negative_rate));
        }
        if let Some((key, why)) = self.rows.fault() {
            return Err(Error::Rows { key, why });
        }
        if self.calibrate && !self.policy.is_certain_in_the_end() {
            return Err(Error::Calibrate(self.policy));
        }
        let (output, auxiliary) = (self.policy.output(), self.policy.auxiliary());
        if (model.output, model.auxiliary) != (output, auxiliary) {
            return Err(Error::Policy {
                policy: self.policy,
                needs: (output, auxiliary),
                found: (model.output, model.auxiliary),
            });
        }
        self.check_tasks(&model.tasks)
    }

    /// Refuses a task that there is not, and a bound that could not be met.
    fn check_tasks(&self, tasks: &[String]) -> Result<(), Error> {
        let mut named: Vec<(&str, &String)> = Vec::new();
        named.extend(
            self.task_weights
                .keys()
                .map(|name| ("optimizer.task_weights", name)),
        );
        for Bound {
            first, then, both, ..
        } in &self.bounds
        {
            named.extend([first, then, both].map(|name| ("learner.bounds", name)));
            if first == then || first == both || then == both {
                return Err(Error::Bound {
                    tasks: [first, then, both].map(String::clone),
                    why: "it must name three tasks, each once",
                });
            }
            if tasks.first() == Some(then) {
                return Err(Error::Bound {
                    tasks: [first, then, both].map(String::clone),
                    why: "the second must not be the primary task, whose own labels it would not learn from",
                });
            }
            // Its outputs are log-odds of something else than the outcome.
            if self.policy == Policy::Fnc {
                return Err(Error::Bound {
                    tasks: [first, then, both].map(String::clone),
                    why: "the label policy fnc learns no probabilities to bound; fnw has the same stream",
                });
            }
        }
        match named.into_iter().find(|(_, name)| !tasks.contains(name)) {
            None => Ok(()),
            Some((setting, name)) => Err(Error::UnknownTask {
                setting,
                name: name.clone(),
                tasks: tasks.to_vec(),
            }),
        }
    }

    /// The configured device.
    pub fn device(&self) -> Result<Device, Error> {
        match self.device.split_once(':') {
            None if self.device == "cpu" => Ok(Device::Cpu),
            None if self.device == "cuda" => Ok(Device::Cuda(0)),
            Some(("cuda", n)) if n.parse::<u8>().is_ok() => {
                Ok(Device::Cuda(n.parse::<u8>().map_or(0, usize::from)))
            }
            _ => Err(Error::UnknownDevice(self.device.clone())),
        }
    }
}
