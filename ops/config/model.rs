//! The ranker's sections: its shape, and how it learns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ouzel_learner::loss::Policy as LossPolicy;
use ouzel_learner::model::ModelConfig;
use ouzel_learner::{DenseRule, LearnerConfig};

use super::{Config, Policy};

/// The shape of the ranker. Part of a snapshot's schema: other values make other weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// Width of an embedding row, floats.
    #[schemars(range(min = 1))]
    pub dim: usize,
    /// Standard deviation of a new row's values.
    pub row_init_std: f64,
    /// Newest actions of the user that feed the history field, count; at most `features.history_len`.
    pub history_len: usize,
    /// Widths of the hidden layers of the MLP, floats; at least one layer.
    pub hidden: Vec<usize>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            dim: 8,
            row_init_std: 0.02,
            history_len: 100,
            hidden: vec![128],
        }
    }
}

/// How the ranker learns. May be changed between two starts: it is not part of the schema.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Optimizer {
    /// Learning rate of embedding rows, row-wise Adagrad.
    pub row_rate: f64,
    /// Initial accumulator of embedding rows.
    pub row_accumulator: f64,
    /// The rule by which dense weights move: `adagrad`, its accumulator from 0, or `adam`, with betas .95 and .999.
    /// Under another rule than a snapshot's, its state starts anew.
    pub dense: Dense,
    /// Learning rate of dense weights. `adam` wants a smaller one than `adagrad`, about .001.
    pub dense_rate: f64,
    /// Samples learned from until `row_rate` and `dense_rate` are reached, growing from 0 in a straight line, count;
    /// 0 begins with them. The wide part is not on this schedule.
    pub warmup_samples: u64,
    /// After the warm-up both rates are divided by `sqrt(1 + samples / decay_samples)`, count; 0 never lowers them.
    /// A model that should follow a changing stream for ever wants no decay, or a long one.
    pub decay_samples: u64,
    /// Alpha of the wide part's FTRL.
    pub wide_alpha: f64,
    /// Beta of the wide part's FTRL.
    pub wide_beta: f64,
    /// L2 of the wide part's FTRL.
    pub wide_l2: f64,
    /// Weight of the softmax loss inside a slate, beside the log-loss.
    pub slate_loss: f64,
    /// Longest gradient of all dense weights together, by its norm; a longer one is shortened to it, and counted in
    /// `ouzel_learner_steps_clipped_total`. A gradient is the sum over a batch's samples. 0 never shortens.
    pub clip_dense: f64,
    /// The same for all embedding rows of a batch together.
    pub clip_rows: f64,
    /// Samples that the running prior remembers, count.
    pub prior_samples: f64,
}

/// The rule by which dense weights move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Dense {
    /// Adagrad.
    Adagrad,
    /// Adam.
    Adam,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            row_rate: 0.05,
            row_accumulator: 0.1,
            dense: Dense::Adagrad,
            dense_rate: 0.03,
            warmup_samples: 0,
            decay_samples: 0,
            wide_alpha: 0.02,
            wide_beta: 1.0,
            wide_l2: 1.0,
            slate_loss: 0.3,
            clip_dense: 0.0,
            clip_rows: 0.0,
            prior_samples: 1e6,
        }
    }
}

impl Config {
    /// The losses that go with the samples that the join's policy makes.
    #[must_use]
    pub fn loss_policy(&self) -> LossPolicy {
        match self.join.policy {
            Policy::Eager | Policy::Wait => LossPolicy::Plain,
            Policy::Fnw => LossPolicy::Fnw,
            Policy::Fnc => LossPolicy::Fnc,
            Policy::EsDfm => LossPolicy::EsDfm,
            Policy::Defer => LossPolicy::Defer,
        }
    }

    /// The shape of the ranker.
    #[must_use]
    pub fn model_config(&self) -> ModelConfig {
        let policy = self.loss_policy();
        ModelConfig {
            dim: self.model.dim,
            row_init_std: single(self.model.row_init_std),
            history_len: self.model.history_len,
            hidden: self.model.hidden.clone(),
            seed: self.learner.seed,
            tasks: self.task_names(),
            output: policy.output(),
            auxiliary: policy.auxiliary(),
        }
    }

    /// How it learns.
    #[must_use]
    pub fn learner_config(&self) -> LearnerConfig {
        let optimizer = &self.optimizer;
        LearnerConfig {
            batch_min_samples: self.learner.batch_min_samples,
            row_rate: single(optimizer.row_rate),
            row_accumulator: single(optimizer.row_accumulator),
            dense: match optimizer.dense {
                Dense::Adagrad => DenseRule::Adagrad,
                Dense::Adam => DenseRule::Adam,
            },
            dense_rate: optimizer.dense_rate,
            warmup_samples: optimizer.warmup_samples,
            decay_samples: optimizer.decay_samples,
            wide_alpha: single(optimizer.wide_alpha),
            wide_beta: single(optimizer.wide_beta),
            wide_l2: single(optimizer.wide_l2),
            slate_loss: single(optimizer.slate_loss),
            clip_dense: optimizer.clip_dense,
            clip_rows: optimizer.clip_rows,
            prior_samples: single(optimizer.prior_samples),
            policy: self.loss_policy(),
            negative_rate: single(self.learner.negative_rate),
            max_rows: self.learner.max_rows,
            device: self.learner.device.clone(),
            threads: i32::try_from(self.learner.threads).unwrap_or(i32::MAX),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a rate needs no more digits than an f32 has"
)]
fn single(rate: f64) -> f32 {
    rate as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_here_are_those_of_the_rooms() {
        let config = Config::default();
        assert_eq!(config.learner_config(), LearnerConfig::default());
        assert_eq!(
            config.model_config(),
            ModelConfig {
                seed: 0,
                ..ModelConfig::default()
            }
        );
    }
    #[test]
    fn each_policy_of_the_join_gets_a_model_and_a_learner_that_fit() {
        for (name, expected) in [
            ("eager", LossPolicy::Plain),
            ("wait", LossPolicy::Plain),
            ("fnw", LossPolicy::Fnw),
            ("fnc", LossPolicy::Fnc),
            ("es_dfm", LossPolicy::EsDfm),
            ("defer", LossPolicy::Defer),
        ] {
            let config = Config::parse(&format!("join.policy = \"{name}\""), "x").unwrap();
            let learner = config.learner_config();
            assert_eq!(learner.policy, expected, "{name}");
            learner.check(&config.model_config()).unwrap();
        }
    }

    #[test]
    fn the_optimizer_of_dense_weights_is_chosen_by_name() {
        for (name, expected) in [("adagrad", Some(DenseRule::Adagrad)), ("adam", Some(DenseRule::Adam)), ("sgd", None)] {
            let parsed = Config::parse(&format!("optimizer.dense = \"{name}\""), "x");
            assert_eq!(parsed.ok().map(|config| config.learner_config().dense), expected, "{name}");
        }
    }

    #[test]
    fn a_rate_of_negatives_is_a_share_of_them() {
        for (rate, is_fine) in [
            ("1.0", true),
            ("0.01", true),
            ("0.0", false),
            ("1.5", false),
            ("-1.0", false),
        ] {
            let parsed = Config::parse(&format!("learner.negative_rate = {rate}"), "x");
            assert_eq!(parsed.is_ok(), is_fine, "{rate}");
        }
    }
}
