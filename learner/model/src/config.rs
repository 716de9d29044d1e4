//! The model's configuration: its shape, not how it learns.

mod blocks;
mod check;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fields::Feature;

pub use blocks::{
    ContentConfig, HeadConfig, HeadKind, InterestConfig, LoraConfig, SequenceConfig, SequenceKind,
    TOKEN_FIELDS,
};
pub use check::Fault;

/// Shape of the ranker. Part of the schema: another value means other weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of an embedding row as the blocks read it, floats.
    pub dim: usize,
    /// Widths of the rows that are narrower, by feature.
    #[serde(skip_serializing_if = "is_default")]
    pub dims: Dims,
    /// Standard deviation of a new row's values.
    pub row_init_std: f32,
    /// Newest actions of the user that feed the history field, count.
    pub history_len: usize,
    /// Widths of the hidden layers of the MLP.
    pub hidden: Vec<usize>,
    /// Whether there is a wide part: one weight for each id, and for each pair of the user and an attribute.
    pub wide: bool,
    /// Whether the fields' products in pairs are added (Rendle 2010).
    pub fm: bool,
    /// Whether the live counters are read, and the likeness of the candidate's content to the user's past.
    pub features: FeatureSet,
    /// Whether a feature of which nothing is known reads as a value that is learned, not as 0.
    pub learned_missing: bool,
    /// How an item's content becomes a vector.
    pub content: ContentConfig,
    /// Attention over the contents of the user's history.
    pub interest: InterestConfig,
    /// Width of the space in which ids and content are contrasted, floats; 0 without that loss.
    pub contrast: usize,
    /// The block over the user's history.
    pub sequence: SequenceConfig,
    /// Between the first layer and the tasks.
    pub head: HeadConfig,
    /// Adapters of frozen layers.
    pub lora: LoraConfig,
    /// Seed of every initial value.
    pub seed: u64,
    /// Names of the tasks, the primary one first. Set from the join's tasks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
    /// In what precision matrices are multiplied.
    #[serde(skip_serializing_if = "is_default")]
    pub products: MatmulPrecision,
    /// What an output of the network stands for. Set from the label policy.
    #[serde(skip_serializing_if = "is_default")]
    pub output: Output,
    /// Auxiliary logits a task, which only training reads, count. Set from the label policy.
    #[serde(skip_serializing_if = "is_default")]
    pub auxiliary: usize,
}

/// Widths of embedding rows by feature, floats; 0 for the model's `dim`, which none may exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dims {
    /// Of users.
    pub user: usize,
    /// Of items, as candidates and in histories.
    pub item: usize,
    /// Of categorical values of items and of requests.
    pub attribute: usize,
}

/// Which live features the model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureSet {
    /// Counters of items, users, attributes and their pairs, slate and time.
    pub counters: bool,
    /// Likeness of the candidate's frozen vectors to those of the user's past.
    pub similarity: bool,
}

impl Default for FeatureSet {
    fn default() -> Self {
        Self {
            counters: true,
            similarity: true,
        }
    }
}

/// In what precision matrices are multiplied. Weights, sums and optimizers are in `f32` always. In plain loops the
/// products of DIN and of the layers behind the blocks are rounded, those of small matrices and all others are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MatmulPrecision {
    /// Single precision.
    #[default]
    F32,
    /// Factors of 8 bits of mantissa, for processors and devices with units for them.
    Bf16,
}

/// What an output of the network stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The log-odds of the outcome.
    #[default]
    LogOdds,
    /// The log-odds of a positive in a stream that tells every shown item as a negative, and each positive once
    /// more: of `b = p / (1 + p)`, `p` being the probability of the outcome (Ktena et al. 2019, fake negative calibration).
    FakeNegatives,
}

/// Log-odds from which on [`Output::FakeNegatives`] is continued by a straight line, `ln .99`.
const STRAIGHT_FROM: f32 = -0.010_050_336;

impl Output {
    /// The log-odds of the outcome from an output of the network.
    ///
    /// Of fake negatives it is `ln(b / (1 - 2b))`, which grows without bound as `b` nears 1/2. The network may
    /// well give more than that; from `p = .99` on the straight line of slope 1 keeps the order of items and
    /// every value finite.
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
            dim: 8,
            dims: Dims::default(),
            row_init_std: 0.02,
            history_len: 100,
            hidden: vec![128],
            wide: true,
            fm: true,
            features: FeatureSet::default(),
            learned_missing: false,
            content: ContentConfig::default(),
            interest: InterestConfig::default(),
            contrast: 0,
            sequence: SequenceConfig::default(),
            head: HeadConfig::default(),
            lora: LoraConfig::default(),
            seed: 1,
            tasks: vec!["click".into()],
            output: Output::default(),
            products: MatmulPrecision::F32,
            auxiliary: 0,
        }
    }
}

impl ModelConfig {
    /// How many tasks the model scores.
    #[must_use]
    pub fn n_tasks(&self) -> usize {
        self.tasks.len().max(1)
    }

    /// Floats of weight in a row of this feature. The blocks read it as if zeros stood behind it, up to `dim`.
    #[must_use]
    pub fn width(&self, feature: Feature) -> usize {
        let own = match feature {
            Feature::User => self.dims.user,
            Feature::Item => self.dims.item,
            Feature::Attribute => self.dims.attribute,
        };
        if own == 0 { self.dim } else { own }
    }

    /// Newest actions whose contents the model reads, count; at least 1 where it reads any content.
    #[must_use]
    pub fn history_contents(&self) -> usize {
        match (self.content.enabled, self.interest.enabled) {
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
