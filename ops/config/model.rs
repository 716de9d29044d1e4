//! The ranker's sections: its shape, and how it learns.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ouzel_learner::loss::{Bound as LossBound, Policy as LossPolicy};
use ouzel_learner::model::{
    ContentConfig, Dims, FeatureSet, HeadConfig, InterestConfig, LoraConfig, MatmulPrecision, ModelConfig,
    SequenceConfig,
};
use ouzel_learner::{DenseRule, LearnerConfig};

use super::{Config, ConfigError, Policy, Problem, validate};

/// The shape of the ranker. Part of a snapshot's schema: other values make other weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default = "Model::plain", deny_unknown_fields)]
pub struct Model {
    /// The model that the other keys change: one of `em3-hstu`, `em3-din`, `hstu`, `din`, `deepfm`, `mmoe`, or the path
    /// of a `.toml` file with keys of this section, from the working directory. `ouzel model describe` shows it.
    pub from: String,
    /// Width of an embedding row, floats.
    #[schemars(range(min = 1))]
    pub dim: usize,
    /// Widths of the rows of features that need fewer floats than `dim`; 0 for `dim`. Blocks read such a row with zeros
    /// behind it. A feature with a width of its own has a table of its own.
    pub dims: Dims,
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
    /// In what precision matrices are multiplied: `f32`, or `bf16`, which is faster where processor or device have units
    /// for it.
    pub products: MatmulPrecision,
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

/// The ready-made models by name, each as the text of its file.
pub const READY_MADE: [(&str, &str); 6] = [
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
            dims,
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
            products,
            ..
        } = ModelConfig::default();
        Self {
            from: DEFAULT_MODEL.to_owned(),
            dim,
            dims,
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
            products,
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
        let mut table = keys(from, MOST_FILES)?;
        overlay(&mut table, stated);
        let model: Self = serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|error| {
            let at = error.path().to_string();
            let message = error.inner().message().trim_end().replace('\n', ", ");
            format!("cannot use the model {from} with these changes: {at}: {message}")
        })?;
        Ok(Self {
            from: from.to_owned(),
            ..model
        })
    }
}

/// Model files that may start from each other; more of them go round in a circle.
const MOST_FILES: usize = 8;

/// The keys of a ready-made model, or of a file and of those it starts from.
fn keys(from: &str, n_left: usize) -> Result<toml::Table, String> {
    let text = match ready_made(from) {
        Some(text) => text.to_owned(),
        None if Path::new(from)
            .extension()
            .is_some_and(|extension| extension == "toml") =>
        {
            fs::read_to_string(from).map_err(|error| format!("cannot read the model file {from}: {error}"))?
        }
        None => {
            let names = READY_MADE.map(|(name, _)| name).join(", ");
            return Err(format!(
                "no model is called {from:?}; there are {names}, or name a .toml file"
            ));
        }
    };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let message = error.message().trim_end().replace('\n', ", ");
        format!("cannot read the model file {from}: {message}")
    })?;
    let Some(below) = table.get("from").and_then(toml::Value::as_str) else {
        return Ok(table);
    };
    if n_left == 0 {
        return Err(format!(
            "more than {MOST_FILES} model files start from each other, the last of them {from}"
        ));
    }
    let mut below = keys(below, n_left - 1)?;
    overlay(&mut below, &table);
    Ok(below)
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
    /// Weight of the contrast of items' ids and contents beside the log-loss; 0 for none. Small logs do not pay for it:
    /// on MovieLens .01 costs .002 AUC, on MIND .1 costs .008.
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
    /// `ouzel_learner_steps_clipped_total`. A gradient is the sum over a batch's samples. 0 never shortens. A guard
    /// against rare ones: shortening most steps counts batches with many positives for less, and scores come out low,
    /// by 2 to 4 per cent on two of four logs at 10.
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
    /// What follows among those of which the first happened, such as a conversion; not the primary task. Its own
    /// labels are not used: it learns what becomes of `both` where a sample tells that `first` happened, as it does
    /// under `join.policy = "wait"` with equal windows, and otherwise from this bound alone.
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
            row_accumulator: 0.05,
            dense: Dense::Adagrad,
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

    /// The shape of the ranker. Blocks that read content are left out where nothing brings any.
    #[must_use]
    pub fn model_config(&self) -> ModelConfig {
        let stated = self.stated_model();
        if stated.content.widths.iter().any(|width| *width > 0) {
            return stated;
        }
        ModelConfig {
            content: ContentConfig {
                enabled: false,
                ..stated.content
            },
            interest: InterestConfig {
                enabled: false,
                ..stated.interest
            },
            contrast: 0,
            ..stated
        }
    }

    /// The shape of the ranker as it is stated, whether or not anything brings content.
    #[must_use]
    pub fn stated_model(&self) -> ModelConfig {
        let policy = self.loss_policy();
        let model = &self.model;
        ModelConfig {
            dim: model.dim,
            dims: model.dims,
            row_init_std: single(model.row_init_std),
            history_len: model.history_len,
            hidden: model.hidden.clone(),
            wide: model.wide,
            fm: model.fm,
            features: model.features,
            learned_missing: model.learned_missing,
            content: model.content,
            interest: model.interest,
            contrast: model.contrast,
            sequence: model.sequence.clone(),
            head: model.head,
            lora: model.lora.clone(),
            products: model.products,
            seed: self.learner.seed,
            tasks: self.task_names(),
            output: policy.output(),
            auxiliary: policy.auxiliary(),
        }
    }

    /// This configuration with another model than its own: a ready-made one, or that of a file.
    pub fn with_model(mut self, from: &str) -> Result<Self, ConfigError> {
        let refuse = |problem| ConfigError::Invalid {
            problems: vec![problem],
        };
        let problem = |key: &str, message, hint| Problem {
            file: from.to_owned(),
            at: None,
            key: key.to_owned(),
            message,
            hint,
        };
        let mut stated = toml::Table::new();
        stated.insert("from".to_owned(), from.into());
        self.model = Model::resolve(Some(&stated)).map_err(|why| refuse(problem("", why, None)))?;
        let config = self.with_widths();
        let faults = validate::faults(&config).into_iter();
        let problems: Vec<Problem> = faults
            .map(|fault| problem(&fault.key, fault.message, fault.hint))
            .collect();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid { problems })
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
            device_rows: self.learner.device_rows,
            rows: self.rows.rules(),
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
mod tests;
