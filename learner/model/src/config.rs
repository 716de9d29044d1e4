//! The `[model]` section: the shape of the ranker, not how it learns.

mod blocks;
mod check;
mod retrieval;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ouzel_sample::N_MODALITIES;

use crate::fields::Feature;

pub(crate) use blocks::DinShape;
pub use blocks::{
    ContentConfig, HeadConfig, HeadKind, InterestConfig, LongHistoryConfig, LoraConfig, SequenceConfig,
    SequenceKind, TOKEN_FIELDS,
};
pub(crate) use retrieval::RECENT;
pub use retrieval::{RETRIEVAL_USER_FIELDS, RetrievalConfig};

/// The shape of the ranker. Part of a snapshot's schema: other values make other weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// The model that the other keys change: one that `ouzel model list` names, or the path of a `.toml` file with
    /// keys of this section, relative to the working directory.
    ///
    /// Change it to choose another architecture; `ouzel model describe` shows each with its cost.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// Width of an embedding row.
    ///
    /// Unit: floats. Raise it for large logs; memory and cost grow with it.
    #[schemars(range(min = 1))]
    pub dim: usize,
    /// Widths of the rows of features that need fewer floats than `dim`; 0 for `dim`. Blocks read such a row padded with
    /// zeros. A feature with its own width has its own table.
    #[serde(skip_serializing_if = "is_default")]
    pub dims: Dims,
    /// Standard deviation of a new row's values.
    ///
    /// Rarely changed.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub row_init_std: f32,
    /// Newest actions of the user that feed the history field; at most `features.history_len`.
    ///
    /// Unit: actions. Raise it together with `features.history_len`.
    pub history_len: usize,
    /// Widths of the hidden layers of the MLP, the first layer first.
    ///
    /// Unit: floats. Widen it, or add a layer, for large logs.
    pub hidden: Vec<usize>,
    /// Whether there is a wide part: a weight for each id, and for each pair of the user and an attribute.
    ///
    /// Turn it off to save memory.
    pub wide: bool,
    /// Whether the products of all pairs of fields are added to the logits (Rendle 2010).
    ///
    /// Rarely changed.
    pub fm: bool,
    /// Whether gates, which follow the mean of each field, weigh the fields that the first layer reads (SENet, Huang et al. 2019).
    ///
    /// Turn it on where a field is worth much for some items or users and little for others.
    #[serde(skip_serializing_if = "is_default")]
    pub senet: bool,
    /// Whether gates, which follow the rows of user, item and attributes, scale the units of the hidden layers (PPNet, Chang et
    /// al. 2023).
    ///
    /// Turn it on where users weigh the same things differently.
    #[serde(skip_serializing_if = "is_default")]
    pub ppnet: bool,
    /// Which live features the model reads, and how.
    pub features: FeatureSet,
    /// Whether an unknown live feature reads as a learned value instead of 0.
    ///
    /// Set it when many features are missing.
    pub learned_missing: bool,
    /// Whether the logits have a linear term over the frozen vectors of the item, a weight for each float and task.
    /// Without vectors, see `content.vector_widths`, there is none.
    ///
    /// Turn it off to measure what it is worth.
    pub content_linear: bool,
    /// The Fusion-Q-Former, which turns an item's frozen vectors into a content vector. It is left out where neither
    /// `[content]` names an encoder nor `vector_widths` says that item events carry vectors.
    pub content: ContentConfig,
    /// Content interest: attention of the candidate's content over the contents of the user's history.
    pub interest: InterestConfig,
    /// Width of the space in which ids and contents are contrasted; 0 for no contrast. See `optimizer.contrast_weight`.
    ///
    /// Unit: floats. Set it to 0 to leave the projections out.
    #[serde(alias = "contrast")]
    pub contrast_width: usize,
    /// The block over the user's history of items.
    pub sequence: SequenceConfig,
    /// The block over the user's long past.
    #[serde(skip_serializing_if = "is_default")]
    pub long_history: LongHistoryConfig,
    /// The layers between the first layer and the tasks.
    pub head: HeadConfig,
    /// Whether the head also reads what a candidate's last hidden layer differs in from the mean and from the maximum of its
    /// slate, the candidates of one request. Scores then depend on the other candidates of the request.
    ///
    /// Set it when requests are scored with the items that are shown together.
    pub pool_slate: bool,
    /// Whether the place in the slate is learned, and left out when scoring, so that an item is not judged by where it was
    /// shown: `additive` learns a bias of each position and task, `pal` the relative probability that a position is
    /// examined.
    /// Positions come from `items[].position` of impressions.
    ///
    /// Set it where items are shown in a list whose first places are seen more: to `pal` where a place takes the same share of
    /// the clicks from all items, to `additive` where it shifts their log-odds.
    #[serde(skip_serializing_if = "is_default")]
    pub position: PositionKind,
    /// Low-rank adapters, which learn in place of the base once it is frozen.
    pub lora: LoraConfig,
    /// Plain models of other widths that learn beside this one. Their logits are mixed by how well each has predicted, see
    /// `optimizer.mixture_rate`.
    ///
    /// Clear it to learn one model at the least cost; add a wider one for a large log.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberConfig>,
    /// Two towers that find candidates in the whole catalog.
    #[serde(skip_serializing_if = "is_default")]
    pub retrieval: RetrievalConfig,
    /// Seed of every initial value. Set from `learner.seed`.
    #[schemars(skip)]
    pub seed: u64,
    /// Names of the tasks, the primary one first. Set from `join.tasks`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip)]
    pub tasks: Vec<String>,
    /// Precision of the factors of matrix products: `f32`, or `bf16`, which is faster where the processor or device
    /// supports it. Weights, sums and optimizer state are always `f32`.
    ///
    /// Change it to `bf16` for models with layers of 128 floats or more.
    #[serde(alias = "products", skip_serializing_if = "is_default")]
    pub matmul_precision: MatmulPrecision,
    /// The meaning of the network's output. Set from `join.label_policy`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(skip)]
    pub output: Output,
    /// Auxiliary logits a task, which only training reads. Set from `join.label_policy`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(skip)]
    pub auxiliary: usize,
}

/// A plain model beside the first: ids, live features, pairwise products and hidden layers of its own, no other block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// Width of its embedding rows.
    ///
    /// Unit: floats. Larger logs want wider rows.
    #[schemars(range(min = 1))]
    pub dim: usize,
    /// Widths of its hidden layers, the first layer first.
    ///
    /// Unit: floats. Larger logs want wider layers.
    pub hidden: Vec<usize>,
}

/// Widths of embedding rows by feature; 0 for the model's `dim`, which none may exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dims {
    /// Width of the rows of users.
    ///
    /// Unit: floats. Lower it to save memory.
    pub user: usize,
    /// Width of the rows of items, as candidates and in histories.
    ///
    /// Unit: floats. Lower it to save memory.
    pub item: usize,
    /// Width of the rows of categorical values of items and requests.
    ///
    /// Unit: floats. Lower it to save memory.
    pub attribute: usize,
}

/// Which live features the model reads, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureSet {
    /// Whether the model reads the counters of items, users, attributes and their pairs, the slate and the time.
    ///
    /// Turn it off to measure what they are worth.
    pub counters: bool,
    /// Whether the model reads the similarity of the candidate's frozen vectors to those of the user's past.
    ///
    /// Turn it off to measure what it is worth.
    pub similarity: bool,
    /// Whether the model reads the shares of the user's actions by category, author and tag.
    ///
    /// Turn it off to measure what they are worth.
    pub shares: bool,
    /// Whether the model reads the newest outcomes, session and short-term rates of the user, and the recent global rate.
    ///
    /// Turn it off to measure what they are worth.
    pub user_scales: bool,
    /// Whether the model reads how the words of the candidate's title compare with those of titles the user acted on.
    ///
    /// Turn it off to measure what they are worth.
    pub titles: bool,
    /// Whether the model reads how a candidate compares with the mean of the slate: all `slate_*` features but those of its size.
    ///
    /// Turn it off to score a candidate without regard to the others.
    pub slate: bool,
    /// Whether each live feature is normalized by its running mean and variance, which are part of every version.
    ///
    /// Turn it off to read features in their own fixed scales.
    pub normalize: bool,
}

impl Default for FeatureSet {
    fn default() -> Self {
        Self {
            counters: true,
            similarity: true,
            shares: true,
            user_scales: true,
            titles: true,
            slate: true,
            normalize: true,
        }
    }
}

/// How the place of an item in its slate is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PositionKind {
    /// The place is not read.
    #[default]
    None,
    /// A bias of each position and task is added to the logit while learning, and left out when scoring.
    Additive,
    /// While learning, an outcome is as likely as that its position is examined, relative to the mean, times that the item is
    /// acted on at an average position. Scoring leaves the first out.
    Pal,
}

/// Precision of the factors of matrix products. Weights, sums and optimizer state are always `f32`. The `cpu` backend
/// rounds the products of DIN and of the layers behind the blocks, except those of small matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MatmulPrecision {
    /// Single precision.
    #[default]
    F32,
    /// 8 bits of mantissa, for processors and devices with units for it.
    Bf16,
}

/// The meaning of the network's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The log-odds of the outcome.
    #[default]
    LogOdds,
    /// The log-odds of a positive in a stream with every shown item as a negative and each positive once more: of
    /// `b = p / (1 + p)`, where `p` is the probability of the outcome (Ktena et al. 2019, fake negative calibration).
    FakeNegatives,
}

/// Log-odds above which [`Output::FakeNegatives`] continues as a straight line, `ln .99`.
const STRAIGHT_FROM: f32 = -0.010_050_336;

impl Output {
    /// The log-odds of the outcome from an output of the network.
    ///
    /// For fake negatives it is `ln(b / (1 - 2b))`, which grows without bound as `b` nears 1/2. The network may exceed
    /// that; above `p = .99` a straight line of slope 1 keeps the order of items and every value finite.
    #[must_use]
    pub fn log_odds(self, logit: f32) -> f32 {
        match self {
            Output::LogOdds => logit,
            Output::FakeNegatives => {
                // b / (1 - b) = p, so e^logit is p itself.
                let within = logit.min(STRAIGHT_FROM);
                logit - (-within.exp()).ln_1p()
            }
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            from: String::new(),
            dim: 8,
            dims: Dims::default(),
            row_init_std: 0.02,
            history_len: 100,
            hidden: vec![64],
            wide: true,
            fm: true,
            senet: false,
            ppnet: false,
            features: FeatureSet::default(),
            learned_missing: false,
            content_linear: true,
            content: ContentConfig::default(),
            interest: InterestConfig::default(),
            contrast_width: 0,
            sequence: SequenceConfig::default(),
            long_history: LongHistoryConfig::default(),
            head: HeadConfig::default(),
            pool_slate: false,
            position: PositionKind::None,
            lora: LoraConfig::default(),
            members: Vec::new(),
            retrieval: RetrievalConfig::default(),
            seed: 1,
            tasks: vec!["click".into()],
            output: Output::default(),
            matmul_precision: MatmulPrecision::F32,
            auxiliary: 0,
        }
    }
}

impl ModelConfig {
    /// The number of tasks that the model scores.
    #[must_use]
    pub fn n_tasks(&self) -> usize {
        self.tasks.len().max(1)
    }

    /// Floats of weight in a row of this feature. The blocks read it padded with zeros to `dim`.
    #[must_use]
    pub fn width(&self, feature: Feature) -> usize {
        let own = match feature {
            Feature::User => self.dims.user,
            Feature::Item => self.dims.item,
            Feature::Attribute => self.dims.attribute,
        };
        if own == 0 { self.dim } else { own }
    }

    /// Widths of the frozen vectors that the linear term reads, 0 for a modality that it does not read.
    #[must_use]
    pub fn linear_widths(&self) -> [usize; N_MODALITIES] {
        match self.content_linear {
            true => self.content.vector_widths,
            false => [0; N_MODALITIES],
        }
    }

    /// Whether there is a linear term over frozen vectors.
    #[must_use]
    pub fn has_content_linear(&self) -> bool {
        self.linear_widths() != [0; N_MODALITIES]
    }

    /// Whether any block reads the frozen vectors of an item.
    #[must_use]
    pub fn reads_vectors(&self) -> bool {
        self.content.enabled || self.has_content_linear()
    }

    /// The widths as a name: `16/128` for rows of 16 floats and one hidden layer of 128.
    #[must_use]
    pub fn width_name(&self) -> String {
        let hidden: Vec<String> = self.hidden.iter().map(ToString::to_string).collect();
        format!("{}/{}", self.dim, hidden.join("-"))
    }

    /// The models of `members`, each a model of its own.
    #[must_use]
    pub fn member_models(&self) -> Vec<ModelConfig> {
        let members = self.members.iter().zip(1u64..);
        members
            .map(|(member, n)| ModelConfig {
                dim: member.dim,
                dims: Dims::default(),
                hidden: member.hidden.clone(),
                content: ContentConfig {
                    enabled: false,
                    ..self.content
                },
                interest: InterestConfig {
                    enabled: false,
                    ..self.interest
                },
                contrast_width: 0,
                senet: false,
                ppnet: false,
                sequence: SequenceConfig {
                    kind: SequenceKind::Mean,
                    ..self.sequence.clone()
                },
                long_history: LongHistoryConfig::default(),
                lora: LoraConfig::default(),
                members: Vec::new(),
                retrieval: RetrievalConfig::default(),
                seed: self.seed.wrapping_add(n),
                ..self.clone()
            })
            .collect()
    }

    /// Number of newest actions of a list of the long past that the model reads; 0 where it reads none.
    #[must_use]
    pub fn long_len(&self) -> usize {
        match self.long_history.enabled {
            true => self.long_history.len,
            false => 0,
        }
    }

    /// Number of newest actions whose contents the model reads; at least 1 where it reads any content.
    #[must_use]
    pub fn history_contents(&self) -> usize {
        let retrieval_reads = self.retrieval_vector_widths() != [0; N_MODALITIES];
        match (self.reads_vectors() || retrieval_reads, self.interest.enabled) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => self.interest.history_len.max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fake_negatives_are_undone_in_closed_form() {
        let output = Output::FakeNegatives;
        for p in [1e-6f64, 1e-3, 0.05, 0.4, 0.8, 0.98] {
            let b = p / (1.0 + p);
            #[expect(clippy::cast_possible_truncation, reason = "the network's outputs are f32")]
            let found = f64::from(output.log_odds((b / (1.0 - b)).ln() as f32));
            assert!(
                (found - (b / (1.0 - 2.0 * b)).ln()).abs() < 1e-4 * found.abs().max(1.0),
                "{p}"
            );
            assert!((1.0 / (1.0 + (-found).exp()) - p).abs() < 1e-5, "{p}");
        }
    }

    #[test]
    fn the_transform_keeps_the_order_and_stays_finite_beyond_one_half() {
        let logits = [-80.0f32, -5.0, -0.02, -0.010_050_4, -0.01, 0.0, 0.3, 4.0, 1e4];
        let found = logits.map(|logit| Output::FakeNegatives.log_odds(logit));
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
        assert!(found.iter().all(|z| z.is_finite()), "{found:?}");
        assert_eq!(Output::LogOdds.log_odds(0.3).to_bits(), 0.3f32.to_bits());
    }

    #[test]
    fn a_model_without_them_is_written_as_before_there_were_any() {
        let text = serde_json::to_string(&ModelConfig::default()).unwrap();
        assert!(!text.contains("output") && !text.contains("auxiliary"), "{text}");
    }
}
