//! The `[learner]` and `[optimizer]` sections: how the model learns.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Device;

use ouzel_model::ModelConfig;
use ouzel_sample::settings::{KeyError, Period, out_of_range};

use crate::error::Error;
use crate::loss::{Policy, TaskChain, ValueRole};
use crate::optim::DenseRule;
use crate::rules::RowRules;

/// How samples become training steps. May change between two starts; it is not part of a snapshot's schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LearnerConfig {
    /// Samples that close a batch. Requests are never split, so a batch may be larger. A smaller batch, which only an idle
    /// stream makes, is learned with its gradients divided as if it were full.
    ///
    /// Unit: samples. Raise it for throughput, lower it for fresher scores on a slow stream.
    #[schemars(range(min = 1))]
    pub batch_min_samples: usize,
    /// Share of negatives that are learned from; positives always are. Scores stay calibrated to all that was shown, and
    /// counts, validation and the prior see every sample.
    ///
    /// Lower it on logs with few positives to make learning cheaper.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub negative_sample_rate: f32,
    /// Whether each task's scores are calibrated online on certain labels, by a line in log-odds that keeps the order of
    /// items. Needs `join.label_policy` `eager`, `wait` or `defer`. A jump of more than .5 within an hour of event time is
    /// logged and counted in `ouzel_learner_calibration_jumps_total`.
    ///
    /// Set it when scores are used as probabilities and are too high or too low.
    pub calibrate: bool,
    /// Rows of each embedding table, and weights of the wide part. Above it the rows that learned least are forgotten.
    ///
    /// Unit: rows, about 30 bytes each beside their floats, twice while a version of them is served. Raise it to the number
    /// of ids, or lower it to save memory.
    #[schemars(range(min = 1))]
    pub max_rows: usize,
    /// Embedding rows that a GPU caches in its memory, those that batches read last. Any number gives the same bits.
    ///
    /// Unit: rows of `4 * (model.dim + 1)` bytes. Raise it while GPU memory is free.
    #[schemars(range(min = 1))]
    pub device_rows: usize,
    /// Seed of every random number. The same log and seed give the same model.
    ///
    /// Change it to measure how much results vary.
    #[schemars(range(max = 9_223_372_036_854_775_807_u64))]
    pub seed: u64,
    /// How long a live stream may be silent before its open batch is learned as it is, in wall time; `0s` for never. Written
    /// to the plan log, so a replay does the same.
    ///
    /// Lower it for fresher scores on a slow stream.
    pub flush_after_idle: Period,
    /// Threads of one libtorch operation. The `cpu` backend, which runs most models, has one. Part of the determinism
    /// fingerprint: another number may give other low bits.
    ///
    /// Unit: threads. Raise it for large models that libtorch runs on the CPU.
    #[schemars(range(min = 1))]
    pub threads: i32,
    /// Device of the learner: `cpu`, or `cuda:N`.
    ///
    /// Change it to use a GPU.
    pub device: String,
    /// Triples of tasks tied by the chain rule, such as click, conversion after a click, order: the symmetric divergence
    /// between the product of the first two predictions and the third is added to the loss.
    ///
    /// Add one when a task is another one that happened after a first.
    pub task_chains: Vec<TaskChain>,
    /// Set from the section `[optimizer]`.
    #[serde(skip)]
    pub optimizer: OptimizerConfig,
    /// Set from the section `[rows]`.
    #[serde(skip)]
    pub rows: RowRules,
    /// Which stream of samples the learner gets, and so which losses correct it. Set from `join.label_policy`.
    #[serde(skip)]
    pub policy: Policy,
    /// How the values of each task's actions are learned; a task beyond it ignores them. Set from `join.tasks`.
    #[serde(skip)]
    pub values: Vec<ValueRole>,
}

/// Learning rates, losses and gradient clipping. May change between two starts; it is not part of a snapshot's schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Learning rate of embedding rows, by row-wise Adagrad.
    ///
    /// Raise it to learn new ids faster, lower it when scores are noisy.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub row_rate: f32,
    /// Initial Adagrad accumulator of embedding rows.
    ///
    /// Raise it to damp the first steps of a new row.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub row_initial_accumulator: f32,
    /// Optimizer of the dense weights: `adagrad`; `shampoo` for matrices beside Adagrad for vectors; or `adam` with betas .95
    /// and .999. Under another one than a snapshot's, the optimizer state starts anew.
    ///
    /// Change it to `shampoo` where a step may cost more; with `adam` change `dense_rate` as well.
    pub dense: DenseRule,
    /// Learning rate of the dense weights.
    ///
    /// Lower it to about 0.001 with `adam`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub dense_rate: f64,
    /// Initial Adagrad accumulator of the weights that learn at `dense_rate`, in units of squared mean gradients of a batch.
    /// That of other dense weights is 0.
    ///
    /// Raise it to damp the first steps; from 0 each of them is as long as `dense_rate`.
    #[schemars(range(min = 0))]
    pub dense_initial_accumulator: f64,
    /// Learning rate of the blocks over content and history, of adapters and of the contrast projections.
    ///
    /// Lower it for small logs.
    pub block_rate: f64,
    /// Weight of the content-ID contrast loss beside the log-loss; 0 for none.
    ///
    /// Raise it on large logs with content. On MovieLens .01 costs .002 AUC, on MIND .1 costs .008.
    pub contrast_weight: f64,
    /// Temperature of the content-ID contrast: its scores are divided by it.
    ///
    /// Lower it to separate close items more strongly.
    pub contrast_temperature: f64,
    /// Weight of the auxiliary loss of `model.sequence.kind = "dien"`, which teaches the state after each entry of a history to
    /// tell the next entry from another item; 0 for none. Other models have none, and a frozen base learns none.
    ///
    /// Raise it where histories say what comes next; where interests drift, .2 costs .07 of AUC in a generated log.
    #[schemars(range(min = 0))]
    pub next_entry_weight: f64,
    /// Samples after which the base, the blocks over content and history, is frozen and adapters learn in its place; 0 for
    /// never.
    ///
    /// Unit: samples. Set it when the blocks have converged, to make learning cheaper.
    pub freeze_after_samples: u64,
    /// Samples over which `row_rate`, `dense_rate` and `block_rate` grow from 0 to their values; 0 for none. The wide part
    /// has no warm-up.
    ///
    /// Unit: samples. Set it when the first steps diverge.
    pub warmup_samples: u64,
    /// After the warm-up these rates are divided by `sqrt(1 + samples / decay_samples)`; 0 for no decay.
    ///
    /// Unit: samples. Leave it at 0, or large, for a model that follows a changing stream.
    pub decay_samples: u64,
    /// Alpha, the learning rate, of the wide part's FTRL.
    ///
    /// Raise it to let the wide part learn faster.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub wide_alpha: f32,
    /// Beta of the wide part's FTRL, which damps its first steps.
    ///
    /// Rarely changed.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub wide_beta: f32,
    /// L2 regularisation of the wide part's FTRL.
    ///
    /// Raise it when the wide part overfits.
    #[schemars(range(min = 0))]
    pub wide_l2: f32,
    /// Weight of the softmax loss within a slate, beside the log-loss.
    ///
    /// Raise it when the order within a request matters more than calibration.
    #[schemars(range(min = 0))]
    pub slate_loss_weight: f32,
    /// Largest norm of the gradient of all dense weights together, summed over a batch's samples; a longer one is scaled
    /// down and counted in `ouzel_learner_steps_clipped_total`. 0 for no clipping.
    ///
    /// Set it as a guard against rare spikes. Clipping most steps lowers scores, by 2 to 4 % on two of four logs at 10.
    #[schemars(range(min = 0))]
    pub clip_dense: f64,
    /// Largest norm of the gradient of all embedding rows of a batch together; 0 for no clipping.
    ///
    /// As `clip_dense`.
    #[schemars(range(min = 0))]
    pub clip_rows: f64,
    /// Samples that the running prior averages over: its log-odds are those of about so many newest labels.
    ///
    /// Unit: samples. Lower it when base rates change within hours.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub prior_samples: f32,
    /// Rate of positives that the running prior starts from; it counts as one label.
    ///
    /// Set it near the rate of the primary task, for better scores of the first requests.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub prior_rate: f32,
    /// Share of requests whose samples are learned as if their slate were unknown, as serving scores many candidates.
    ///
    /// Set it to 0 where every request is for exactly the items that are shown.
    #[schemars(range(min = 0, max = 1))]
    pub hidden_slate_rate: f32,
    /// Rate at which the shares of `model.members` follow their losses: a model that is a nat worse loses this part of the
    /// logarithm of its share.
    ///
    /// Rarely changed; raise it to settle on one member sooner.
    #[schemars(range(min = 0))]
    pub mixture_rate: f64,
    /// Newest presumed negatives of which each model of `model.members` keeps its prediction, by which the models are compared
    /// when the positive comes. A positive that comes after more shown items than this is judged by the prediction at its
    /// arrival, which tells less of what was served; with 0 every late positive is. Without members, or under a
    /// `join.label_policy` of certain labels or `fnc`, nothing is kept.
    ///
    /// Unit: items, about 40 bytes each for each model, 12 of them in every snapshot. Raise it where most actions come later.
    pub mixture_items: usize,
    /// Newest positives that are the negatives of retrieval: a step scores a user against the distinct items among them. Only
    /// with `model.retrieval`.
    ///
    /// Unit: positives. Raise it for catalogs of many thousand items; a step costs in proportion.
    #[schemars(range(min = 1))]
    pub retrieval_negatives: usize,
    /// Weight of each task's losses by its name in `join.tasks`; 1 for tasks not listed. The slate loss has the weight of
    /// the primary task.
    ///
    /// Raise the weight of a rare task that matters.
    pub task_weights: BTreeMap<String, f32>,
}

impl Default for LearnerConfig {
    fn default() -> Self {
        Self {
            batch_min_samples: 64,
            negative_sample_rate: 1.0,
            calibrate: false,
            max_rows: 20_000_000,
            device_rows: 1_000_000,
            seed: 0,
            flush_after_idle: Period::from_ms(200),
            threads: 1,
            device: "cpu".into(),
            task_chains: Vec::new(),
            optimizer: OptimizerConfig::default(),
            rows: RowRules::default(),
            policy: Policy::default(),
            values: Vec::new(),
        }
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            row_rate: 0.05,
            row_initial_accumulator: 0.1,
            dense: DenseRule::default(),
            dense_rate: 0.03,
            dense_initial_accumulator: 1e-5,
            block_rate: 0.001,
            contrast_weight: 0.0,
            contrast_temperature: 0.1,
            next_entry_weight: 0.0,
            freeze_after_samples: 0,
            warmup_samples: 0,
            decay_samples: 0,
            wide_alpha: 0.02,
            wide_beta: 1.0,
            wide_l2: 1.0,
            slate_loss_weight: 0.3,
            clip_dense: 0.0,
            clip_rows: 0.0,
            prior_samples: 1e6,
            prior_rate: 0.05,
            hidden_slate_rate: 0.05,
            mixture_rate: 0.01,
            mixture_items: 131_072,
            retrieval_negatives: 256,
            task_weights: BTreeMap::new(),
        }
    }
}

impl LearnerConfig {
    /// Every value that cannot be used, by its full key: those of `learner`, `optimizer` and `rows`. `tasks` are the names
    /// of the tasks, the primary one first.
    #[must_use]
    pub fn validate(&self, tasks: &[String]) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let mut section = |name: &str, found: Vec<KeyError>| {
            errors.extend(found.into_iter().map(|error| error.within(name)));
        };
        section("learner", out_of_range(self));
        section("optimizer", out_of_range(&self.optimizer));
        section("rows", self.rows.validate());
        let mut refuse = |key: String, message: String| errors.push(KeyError::new(key, message));
        if self.device().is_err() {
            refuse(
                "learner.device".to_owned(),
                format!("must be \"cpu\" or \"cuda:N\", not {:?}", self.device),
            );
        }
        if self.calibrate && !self.policy.is_certain_in_the_end() {
            refuse(
                "learner.calibrate".to_owned(),
                "needs certain labels: set join.label_policy to eager, wait or defer, or calibrate = false"
                    .to_owned(),
            );
        }
        if !self.task_chains.is_empty() && self.policy == Policy::Fnc {
            refuse(
                "learner.task_chains".to_owned(),
                "needs probabilities, which join.label_policy = \"fnc\" does not learn: use fnw, which has the same samples"
                    .to_owned(),
            );
        }
        let unknown = |name: &String| {
            (!tasks.contains(name)).then(|| format!("must name a task of join.tasks, not {name:?}"))
        };
        for (name, weight) in &self.optimizer.task_weights {
            let key = format!("optimizer.task_weights.{name}");
            if let Some(message) = unknown(name) {
                refuse(key, message);
            } else if !(weight.is_finite() && *weight >= 0.0) {
                refuse(key, format!("must be at least 0, not {weight}"));
            }
        }
        for (index, chain) in self.task_chains.iter().enumerate() {
            let key = format!("learner.task_chains[{index}]");
            let TaskChain {
                first, then, both, ..
            } = chain;
            for (name, task) in [("first", first), ("then", then), ("both", both)] {
                if let Some(message) = unknown(task) {
                    refuse(format!("{key}.{name}"), message);
                }
            }
            if first == then || first == both || then == both {
                refuse(key, "must name three tasks, each once".to_owned());
            } else if tasks.first() == Some(then) {
                let message = "must not be the primary task, because its own labels are not learned";
                refuse(format!("{key}.then"), message.to_owned());
            }
        }
        errors
    }

    /// Refuses values that cannot be used, and a model that was not made for the policy.
    pub fn check(&self, model: &ModelConfig) -> Result<(), Error> {
        let (output, auxiliary) = (self.policy.output(), self.policy.auxiliary());
        if (model.output, model.auxiliary) != (output, auxiliary) {
            return Err(Error::Policy {
                policy: self.policy,
                needs: (output, auxiliary),
                found: (model.output, model.auxiliary),
            });
        }
        let errors = self.validate(&model.tasks).into_iter();
        let first = errors.chain(self.pooling(model)).next();
        first.map_or(Ok(()), |error| Err(Error::Config(error)))
    }

    /// Refuses a pooled head where samples do not come as whole slates.
    #[must_use]
    pub fn pooling(&self, model: &ModelConfig) -> Option<KeyError> {
        let is_whole = self.policy == Policy::Plain && self.negative_sample_rate >= 1.0;
        (model.pool_slate && !is_whole).then(|| {
            KeyError::new(
                "model.pool_slate",
                "needs whole slates: set join.label_policy = \"wait\" and learner.negative_sample_rate = 1, or \
                 pool_slate = false"
                    .to_owned(),
            )
        })
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
