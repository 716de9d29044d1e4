//! The model's blocks: which there are, and their sizes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ouzel_sample::N_MODALITIES;

/// How an item's content becomes a vector that learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ContentConfig {
    /// Whether there is a Fusion-Q-Former.
    pub enabled: bool,
    /// Widths of the frozen vectors, floats, by modality; 0 for a modality that is not read.
    pub widths: [usize; N_MODALITIES],
    /// Width of a token, floats; a multiple of `heads`.
    pub width: usize,
    /// Queries, count: the content vector is `queries * width` floats.
    pub queries: usize,
    /// Layers of self-attention, count.
    pub layers: usize,
    /// Heads of a layer, count.
    pub heads: usize,
}

impl Default for ContentConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            widths: [0; N_MODALITIES],
            width: 64,
            queries: 2,
            layers: 1,
            heads: 4,
        }
    }
}

impl ContentConfig {
    /// Floats of a content vector, 0 without one.
    #[must_use]
    pub fn out(&self) -> usize {
        if self.enabled {
            self.queries * self.width
        } else {
            0
        }
    }
}

/// Attention of the candidate's content over the contents of the user's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InterestConfig {
    /// Whether it is there; it needs content.
    pub enabled: bool,
    /// Width of queries and keys, floats.
    pub width: usize,
    /// Newest actions whose contents are attended to, count.
    pub history_len: usize,
}

impl Default for InterestConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            width: 64,
            history_len: 50,
        }
    }
}

/// What is made of the user's history of items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SequenceKind {
    /// Its mean alone, which is always there as a field.
    #[default]
    Mean,
    /// Attention of the candidate by an MLP (Zhou et al. 2018).
    Din,
    /// Pointwise attention over layers (Zhai et al. 2024), in the form that is run in production.
    Hstu,
    /// The same in the form of the paper.
    HstuResearch,
}

/// The block over the user's history of items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SequenceConfig {
    /// Which block.
    pub kind: SequenceKind,
    /// Newest actions that it reads, count. For `hstu` also the constant that scores are divided by.
    pub history_len: usize,
    /// Width of a token of `hstu`, floats.
    pub width: usize,
    /// Layers of `hstu`, count.
    pub layers: usize,
    /// Heads of a layer of `hstu`, count.
    pub heads: usize,
    /// Width of a query and key of one head of `hstu`, floats.
    pub key: usize,
    /// Width of a value of one head of `hstu`, floats.
    pub value: usize,
    /// Widths of the two hidden layers of the attention unit of `din`, floats.
    pub unit: [usize; 2],
}

impl Default for SequenceConfig {
    fn default() -> Self {
        Self {
            kind: SequenceKind::default(),
            history_len: 50,
            width: 32,
            layers: 1,
            heads: 2,
            key: 16,
            value: 16,
            unit: [64, 16],
        }
    }
}

impl SequenceConfig {
    /// Floats that come out of it for a candidate, of rows of `dim` floats; 0 where there is only the mean.
    #[must_use]
    pub fn out(&self, dim: usize) -> usize {
        match self.kind {
            SequenceKind::Mean => 0,
            SequenceKind::Din => TOKEN_FIELDS * dim,
            SequenceKind::Hstu | SequenceKind::HstuResearch => self.width,
        }
    }
}

/// Rows of an entry of a history: its item, and what that is about.
pub const TOKEN_FIELDS: usize = 2;

/// What stands between the first layer and the tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// Hidden layers, and one linear layer with an output a task.
    #[default]
    Single,
    /// Hidden layers, and a tower a task.
    SharedBottom,
    /// Experts on the first layer, a gate and a tower a task (Ma et al. 2018).
    Mmoe,
}

/// The heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadConfig {
    /// Which.
    pub kind: HeadKind,
    /// Experts of `mmoe`, count.
    pub experts: usize,
    /// Width of an expert, floats.
    pub expert: usize,
    /// Width of a task's tower, floats.
    pub tower: usize,
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self {
            kind: HeadKind::default(),
            experts: 4,
            expert: 64,
            tower: 32,
        }
    }
}

/// Low-rank adapters (Hu et al. 2022): what goes on learning in a layer whose weight is frozen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank, count.
    pub rank: usize,
    /// What the product is scaled by, times the rank.
    pub alpha: f64,
    /// Names of the linear layers that have one.
    pub on: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 128.0,
            on: vec!["interest.query".into(), "interest.key".into()],
        }
    }
}

impl LoraConfig {
    /// What the product of the two matrices is multiplied by.
    #[must_use]
    pub fn scale(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rank")]
        let rank = self.rank.max(1) as f64;
        self.alpha / rank
    }
}
