//! The ranker's sections: its shape, and how it learns.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ouzel_learner::loss::{Bound as LossBound, Policy as LossPolicy};
use ouzel_learner::model::{
    ContentConfig, FeatureSet, HeadConfig, InterestConfig, LoraConfig, ModelConfig, SequenceConfig,
};
use ouzel_learner::{DenseRule, LearnerConfig};

use super::{Config, Policy};

/// The shape of the ranker. Part of a snapshot's schema: other values make other weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default = "Model::plain", deny_unknown_fields)]
pub struct Model {
    /// The model that the other keys change: one of `em3-hstu`, `em3-din`, `hstu`, `din`, `deepfm`, `mmoe`, or the path
    /// of a TOML file with keys of this section.
    pub from: String,
    /// Width of an embedding row, floats.
    #[schemars(range(min = 1))]
    pub dim: usize,
    /// Standard deviation of a new row's values.
    pub row_init_std: f64,
    /// Newest actions of the user that feed the history field, count; at most `features.history_len`.
    pub history_len: usize,
    /// Widths of the hidden layers of the MLP, floats; at least one layer.
    pub hidden: Vec<usize>,
    /// Whether there is a wide part: a weight for each id, and for each pair of the user and an attribute.
    pub wide: bool,
    /// Whether the fields' products in pairs are added to the logits.
    pub fm: bool,
    /// Whether a live feature of which nothing is known reads as a value that is learned, not as 0.
    pub learned_missing: bool,
    /// Width of the space in which items' ids and contents are contrasted, floats; 0 for none. See
    /// `optimizer.contrast_weight`.
    pub contrast: usize,
    /// Which live features are read.
    pub features: FeatureSet,
    /// The Fusion-Q-Former, which makes an item's frozen vectors a content vector. It is left out where neither
    /// `[content]` names an encoder nor `widths` says that item events carry vectors.
    pub content: ContentConfig,
    /// Content interest: attention of the candidate's content over those of the user's history.
    pub interest: InterestConfig,
    /// The block over the user's history of items.
    pub sequence: SequenceConfig,
    /// What stands between the first layer and the tasks.
    pub head: HeadConfig,
    /// Low-rank adapters, which learn in place of the base once it is frozen.
    pub lora: LoraConfig,
}

impl Default for Model {
    fn default() -> Self {
        ready_made(DEFAULT_MODEL)
            .and_then(|text| toml::from_str(text).ok())
            .map_or_else(Self::plain, |model| Self {
                from: DEFAULT_MODEL.to_owned(),
                ..model
            })
    }
}

/// What a configuration starts from that names no model.
const DEFAULT_MODEL: &str = "em3-hstu";

/// The ready-made models by name.
pub(crate) const READY_MADE: [(&str, &str); 6] = [
    ("em3-hstu", include_str!("../models/em3-hstu.toml")),
    ("em3-din", include_str!("../models/em3-din.toml")),
    ("hstu", include_str!("../models/hstu.toml")),
    ("din", include_str!("../models/din.toml")),
    ("deepfm", include_str!("../models/deepfm.toml")),
    ("mmoe", include_str!("../models/mmoe.toml")),
];

fn ready_made(name: &str) -> Option<&'static str> {
    let (_, text) = READY_MADE.iter().find(|(known, _)| *known == name)?;
    Some(text)
}

impl Model {
    /// Fields, features and an MLP without further blocks: what a model file leaves out.
    fn plain() -> Self {
        let ModelConfig {
            dim,
            history_len,
            hidden,
            wide,
            fm,
            features,
            learned_missing,
            content,
            interest,
            contrast,
            sequence,
            head,
            lora,
            ..
        } = ModelConfig::default();
        Self {
            from: DEFAULT_MODEL.to_owned(),
            dim,
            row_init_std: 0.02,
            history_len,
            hidden,
            wide,
            fm,
            learned_missing,
            contrast,
            features,
            content,
            interest,
            sequence,
            head,
            lora,
        }
    }

    /// The model that a file's `[model]` asks for: the one it names, changed by its other keys.
    pub(super) fn resolve(stated: Option<&toml::Table>) -> Result<Self, String> {
        let none = toml::Table::new();
        let stated = stated.unwrap_or(&none);
        let from = stated
            .get("from")
            .and_then(toml::Value::as_str)
            .unwrap_or(DEFAULT_MODEL);
        let text = match ready_made(from) {
            Some(text) => text.to_owned(),
            None if Path::new(from)
                .extension()
                .is_some_and(|extension| extension == "toml") =>
            {
                fs::read_to_string(from)
                    .map_err(|error| format!("cannot read the model file {from}: {error}"))?
            }
            None => {
                let names = READY_MADE.map(|(name, _)| name).join(", ");
                return Err(format!(
                    "no model is called {from:?}; there are {names}, or name a .toml file"
                ));
            }
        };
        let mut table: toml::Table = text
            .parse()
            .map_err(|error| format!("cannot read the model file {from}: {error}"))?;
        overlay(&mut table, stated);
        let model: Self = table
            .try_into()
            .map_err(|error| format!("cannot use the model {from} with these changes: {error}"))?;
        Ok(Self {
            from: from.to_owned(),
            ..model
        })
    }
}

/// Puts the values of `over` in place of those of `under`, table by table.
fn overlay(under: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => overlay(under, over),
            _ => {
                under.insert(key.clone(), value.clone());
            }
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
    /// Learning rate of the blocks over content and history, of adapters and of the contrast's projections.
    pub block_rate: f64,
    /// Weight of the contrast of items' ids and contents beside the log-loss; 0 for none.
    pub contrast_weight: f64,
    /// What the contrast's scores are divided by.
    pub contrast_temperature: f64,
    /// Samples learned from after which the base, the blocks over content and history, is frozen, and adapters learn
    /// in its place, count; 0 for never.
    pub freeze_samples: u64,
    /// Learning rate of dense weights. `adam` wants a smaller one than `adagrad`, about .001.
    pub dense_rate: f64,
    /// Samples learned from until `row_rate`, `dense_rate` and `block_rate` are reached, growing from 0 in a straight
    /// line, count; 0 begins with them. The wide part is not on this schedule.
    pub warmup_samples: u64,
    /// After the warm-up these rates are divided by `sqrt(1 + samples / decay_samples)`, count; 0 never lowers them.
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
    /// Weight of each task's losses, by its name in `join.tasks`; 1 where it is not named here.
    pub task_weights: BTreeMap<String, f64>,
}

/// Three tasks that are drawn together: what is `both` is as likely as `first` and `then` one after the other. Each
/// is the name of a task in `join.tasks`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// The task that comes first, such as a click.
    pub first: String,
    /// What follows among those of which the first happened, such as a conversion.
    pub then: String,
    /// Both of them among all that was shown, such as an order.
    pub both: String,
    /// Weight of their divergence in the loss, beside the log-loss; .01 to .1 is usual.
    #[serde(default = "Bound::default_weight")]
    pub weight: f64,
}

impl Bound {
    fn default_weight() -> f64 {
        0.05
    }
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
            block_rate: 0.003,
            contrast_weight: 0.01,
            contrast_temperature: 0.1,
            freeze_samples: 0,
            warmup_samples: 0,
            decay_samples: 0,
            wide_alpha: 0.02,
            wide_beta: 1.0,
            wide_l2: 1.0,
            slate_loss: 0.3,
            clip_dense: 0.0,
            clip_rows: 0.0,
            prior_samples: 1e6,
            task_weights: BTreeMap::new(),
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
        let model = &self.model;
        // Without frozen vectors there is nothing to make content of.
        let has_content = model.content.enabled && model.content.widths.iter().any(|width| *width > 0);
        ModelConfig {
            dim: model.dim,
            row_init_std: single(model.row_init_std),
            history_len: model.history_len,
            hidden: model.hidden.clone(),
            wide: model.wide,
            fm: model.fm,
            features: model.features,
            learned_missing: model.learned_missing,
            content: ContentConfig {
                enabled: has_content,
                ..model.content
            },
            interest: InterestConfig {
                enabled: model.interest.enabled && has_content,
                ..model.interest
            },
            contrast: if has_content { model.contrast } else { 0 },
            sequence: model.sequence.clone(),
            head: model.head,
            lora: model.lora.clone(),
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
            block_rate: optimizer.block_rate,
            contrast_weight: optimizer.contrast_weight,
            contrast_temperature: optimizer.contrast_temperature,
            freeze_samples: optimizer.freeze_samples,
            warmup_samples: optimizer.warmup_samples,
            decay_samples: optimizer.decay_samples,
            wide_alpha: single(optimizer.wide_alpha),
            wide_beta: single(optimizer.wide_beta),
            wide_l2: single(optimizer.wide_l2),
            slate_loss: single(optimizer.slate_loss),
            task_weights: optimizer
                .task_weights
                .iter()
                .map(|(name, weight)| (name.clone(), single(*weight)))
                .collect(),
            bounds: self
                .learner
                .bounds
                .iter()
                .cloned()
                .map(|bound| LossBound {
                    first: bound.first,
                    then: bound.then,
                    both: bound.both,
                    weight: single(bound.weight),
                })
                .collect(),
            clip_dense: optimizer.clip_dense,
            clip_rows: optimizer.clip_rows,
            prior_samples: single(optimizer.prior_samples),
            policy: self.loss_policy(),
            calibrate: self.learner.calibrate,
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
        let config = Config {
            model: Model::plain(),
            ..Config::default()
        };
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
    fn calibration_wants_labels_that_are_certain_in_the_end() {
        for (policy, is_fine) in [
            ("eager", true),
            ("wait", true),
            ("defer", true),
            ("fnw", false),
            ("fnc", false),
            ("es_dfm", false),
        ] {
            let text = format!("join.policy = \"{policy}\"\nlearner.calibrate = true");
            let parsed = Config::parse(&text, "x");
            assert_eq!(parsed.is_ok(), is_fine, "{policy}");
            if let Ok(config) = parsed {
                config.learner_config().check(&config.model_config()).unwrap();
            }
        }
    }

    #[test]
    fn the_optimizer_of_dense_weights_is_chosen_by_name() {
        for (name, expected) in [
            ("adagrad", Some(DenseRule::Adagrad)),
            ("adam", Some(DenseRule::Adam)),
            ("sgd", None),
        ] {
            let parsed = Config::parse(&format!("optimizer.dense = \"{name}\""), "x");
            assert_eq!(
                parsed.ok().map(|config| config.learner_config().dense),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn tasks_in_weights_and_bounds_are_those_of_the_join() {
        const TASKS: &str = r#"
            join.tasks = [{ name = "click", window = "10m" }, { name = "buy", window = "1h" }, { name = "order", window = "1h" }]
        "#;
        let parse = |rest: &str| Config::parse(&format!("{TASKS}\n{rest}"), "x");
        let fine = r#"
            [optimizer.task_weights]
            order = 2.5
            [[learner.bounds]]
            first = "click"
            then = "buy"
            both = "order"
        "#;
        let config = parse(fine).unwrap();
        let learner = config.learner_config();
        learner.check(&config.model_config()).unwrap();
        assert_eq!(learner.task_weights.len(), 1);
        assert_eq!((learner.bounds.len(), learner.bounds[0].weight), (1, 0.05));
        assert_eq!(
            Config::parse(&config.show(), "shown").unwrap(),
            config,
            "{}",
            config.show()
        );
        for (wrong, at, why) in [
            (
                "optimizer.task_weights.like = 1.0",
                "optimizer.task_weights.like",
                "no task like",
            ),
            (
                "optimizer.task_weights.buy = -1.0",
                "optimizer.task_weights.buy",
                "0 or more",
            ),
            (
                &fine.replace("\"buy\"", "\"like\""),
                "learner.bounds[0].then",
                "no task like",
            ),
            (
                &fine.replace("\"buy\"", "\"order\""),
                "learner.bounds[0]",
                "each once",
            ),
            (
                &format!("{fine}\nweight = -0.1"),
                "learner.bounds[0].weight",
                "0 or more",
            ),
            (&format!("join.policy = \"fnc\"\n{fine}"), "learner.bounds", "fnc"),
        ] {
            let message = parse(wrong).unwrap_err().to_string();
            assert!(
                message.contains(at) && message.contains(why),
                "{wrong}: {message}"
            );
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
