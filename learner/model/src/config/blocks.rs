//! The model's blocks in the `[model]` section: which of them a model has, and their sizes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ouzel_sample::N_MODALITIES;

/// The Fusion-Q-Former: how an item's frozen vectors become a content vector that learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ContentConfig {
    /// Whether the model has a Fusion-Q-Former.
    ///
    /// Turn it off to ignore content.
    pub enabled: bool,
    /// Widths of the frozen vectors of text and image, of the Fusion-Q-Former and of `content_linear`; 0 takes the width of
    /// the encoder in `[content]`, or leaves the modality out.
    ///
    /// Unit: floats. Set it when item events carry vectors.
    #[serde(alias = "widths")]
    pub vector_widths: [usize; N_MODALITIES],
    /// Width of a token; a multiple of `heads`.
    ///
    /// Unit: floats. Widen it for large logs.
    #[schemars(range(min = 1))]
    pub width: usize,
    /// Learned queries; the content vector has `queries * width` floats.
    ///
    /// Unit: queries. Rarely changed.
    #[schemars(range(min = 1))]
    pub queries: usize,
    /// Layers of self-attention.
    ///
    /// Unit: layers. More layers are run by libtorch instead of the `cpu` backend.
    #[schemars(range(min = 1))]
    pub layers: usize,
    /// Attention heads of a layer.
    ///
    /// Unit: heads. Rarely changed.
    #[schemars(range(min = 1))]
    pub heads: usize,
}

impl Default for ContentConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            vector_widths: [0; N_MODALITIES],
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
    /// Whether the model has content interest; needs `content.enabled`.
    ///
    /// Turn it off together with content.
    pub enabled: bool,
    /// Width of queries and keys.
    ///
    /// Unit: floats. Widen it for large logs.
    #[schemars(range(min = 1))]
    pub width: usize,
    /// Newest actions whose contents are attended to; at most `features.history_len`.
    ///
    /// Unit: actions. Lower it to make requests cheaper.
    #[schemars(range(min = 1))]
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

/// The block over the user's history of items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SequenceKind {
    /// No block: only the mean of the history, which every model has as a field.
    #[default]
    Mean,
    /// DIN: attention of the candidate by an MLP (Zhou et al. 2018).
    Din,
    /// A GRU over the history: its last state, the same for all candidates (Hidasi et al. 2016).
    Gru,
    /// DIEN: a GRU, and a second one for each candidate whose updates follow its attention (Zhou et al. 2019).
    Dien,
    /// SASRec: a causal transformer, whose newest state is compared with the candidate (Kang and McAuley 2018).
    Sasrec,
    /// BST: a causal transformer with the candidate as one more row at its end (Chen et al. 2019).
    Bst,
    /// HSTU: layers of pointwise attention (Zhai et al. 2024), in its production form.
    Hstu,
    /// HSTU in the form of the paper.
    HstuResearch,
}

/// The block over the user's history of items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SequenceConfig {
    /// Which block reads the history.
    ///
    /// Change `model.from` instead, unless only this block should differ.
    pub kind: SequenceKind,
    /// Newest actions that the block reads; at most `features.history_len`. `hstu` also divides scores by it.
    ///
    /// Unit: actions. Lower it to make requests cheaper.
    #[schemars(range(min = 1))]
    pub history_len: usize,
    /// Width of a token of `hstu`, `sasrec` and `bst`, and of the state of `gru` and `dien`.
    ///
    /// Unit: floats. Widen it for large logs.
    #[schemars(range(min = 1))]
    pub width: usize,
    /// Layers of `hstu`, `sasrec` and `bst`.
    ///
    /// Unit: layers. More layers of `hstu` are run by libtorch instead of the `cpu` backend.
    #[schemars(range(min = 1))]
    pub layers: usize,
    /// Attention heads of a layer of `hstu`, `sasrec` and `bst`.
    ///
    /// Unit: heads. Rarely changed.
    #[schemars(range(min = 1))]
    pub heads: usize,
    /// Width of a query and key of one head of `hstu`, `sasrec` and `bst`.
    ///
    /// Unit: floats. Rarely changed.
    #[serde(alias = "key")]
    #[schemars(range(min = 1))]
    pub key_width: usize,
    /// Width of a value of one head of `hstu`, `sasrec` and `bst`.
    ///
    /// Unit: floats. Rarely changed.
    #[serde(alias = "value")]
    #[schemars(range(min = 1))]
    pub value_width: usize,
    /// Widths of the two hidden layers of the attention MLP of `din`.
    ///
    /// Unit: floats. Rarely changed.
    #[serde(alias = "unit")]
    #[schemars(inner(range(min = 1)))]
    pub attention_hidden: [usize; 2],
    /// Scores that the attention MLP of `din` gives each entry; each of them sums the history of its own.
    ///
    /// Unit: heads. Raise it where candidates look for several things in a history.
    #[serde(skip_serializing_if = "is_one")]
    #[schemars(range(min = 1))]
    pub attention_heads: usize,
    /// Whether entries that `din` reads carry the time from each to the request, in 129 buckets by its logarithm.
    ///
    /// Turn it on where interests change within a history.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub time_buckets: bool,
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

impl Default for SequenceConfig {
    fn default() -> Self {
        Self {
            kind: SequenceKind::default(),
            history_len: 50,
            width: 32,
            layers: 1,
            heads: 2,
            key_width: 16,
            value_width: 16,
            attention_hidden: [64, 16],
            attention_heads: 1,
            time_buckets: false,
        }
    }
}

impl SequenceConfig {
    /// Output width for a candidate, from rows of `dim` floats; 0 for `mean`.
    #[must_use]
    pub fn out(&self, dim: usize) -> usize {
        match self.kind {
            SequenceKind::Mean => 0,
            SequenceKind::Din => self.attention_heads * TOKEN_FIELDS * dim,
            // The state, and its product with the candidate.
            SequenceKind::Sasrec => 2 * self.width,
            SequenceKind::Gru
            | SequenceKind::Dien
            | SequenceKind::Bst
            | SequenceKind::Hstu
            | SequenceKind::HstuResearch => self.width,
        }
    }
}

/// The exact search unit of SIM (Pi et al. 2020): the attention of `din` over the user's past actions on items of the
/// candidate's primary attribute, each with the time from it to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LongHistoryConfig {
    /// Whether the model searches the user's long past; needs `features.long_capacity`.
    ///
    /// Turn it on where users come back to what they did hundreds of actions ago.
    pub enabled: bool,
    /// Newest actions of an attribute that a candidate reads; at most `features.long_capacity`.
    ///
    /// Unit: actions. Lower it to make requests cheaper.
    #[schemars(range(min = 1))]
    pub len: usize,
    /// Widths of the two hidden layers of the attention MLP.
    ///
    /// Unit: floats. Rarely changed.
    #[schemars(inner(range(min = 1)))]
    pub attention_hidden: [usize; 2],
    /// Scores that the attention MLP gives each entry; each of them sums the actions of its own.
    ///
    /// Unit: heads. Raise it where candidates look for several things in a past.
    #[schemars(range(min = 1))]
    pub heads: usize,
}

impl Default for LongHistoryConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            len: 50,
            attention_hidden: [64, 16],
            heads: 1,
        }
    }
}

/// The shape of one attention of DIN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DinShape {
    /// First part of the names of its weights.
    pub(crate) prefix: &'static str,
    /// Widths of the hidden layers.
    pub(crate) hidden: [usize; 2],
    pub(crate) heads: usize,
    /// Whether entries carry the time to the request.
    pub(crate) time_buckets: bool,
}

impl SequenceConfig {
    /// The attention of `din` over the history.
    pub(crate) fn din(&self) -> DinShape {
        DinShape {
            prefix: "sequence",
            hidden: self.attention_hidden,
            heads: self.attention_heads,
            time_buckets: self.time_buckets,
        }
    }
}

impl LongHistoryConfig {
    /// The attention over a list of the long past.
    pub(crate) fn din(&self) -> DinShape {
        DinShape {
            prefix: "long",
            hidden: self.attention_hidden,
            heads: self.heads,
            time_buckets: true,
        }
    }

    /// Output width for a candidate, from rows of `dim` floats; 0 without the block.
    #[must_use]
    pub fn out(&self, dim: usize) -> usize {
        match self.enabled {
            true => self.heads * TOKEN_FIELDS * dim,
            false => 0,
        }
    }
}

/// Rows of a history entry: its item, and what the item is about.
pub const TOKEN_FIELDS: usize = 2;

/// The layers between the first layer and the tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// Hidden layers, then one linear layer with an output for each task.
    #[default]
    Single,
    /// Hidden layers, then a tower for each task.
    SharedBottom,
    /// Experts on the last hidden layer, then one gate for all tasks and a tower for each (Ma et al. 2018, OMoE).
    Omoe,
    /// The same with a gate for each task (Ma et al. 2018).
    Mmoe,
}

/// The layers between the first layer and the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadConfig {
    /// Which layers the tasks share and which are their own.
    ///
    /// Change it to `mmoe` for several tasks that disagree.
    pub kind: HeadKind,
    /// Experts of `omoe` and `mmoe`.
    ///
    /// Unit: experts. Raise it with the number of tasks.
    #[schemars(range(min = 1))]
    pub experts: usize,
    /// Width of an expert of `omoe` and `mmoe`.
    ///
    /// Unit: floats. Widen it for large logs.
    #[serde(alias = "expert")]
    #[schemars(range(min = 1))]
    pub expert_width: usize,
    /// Width of a task's tower of `omoe`, `mmoe` and `shared_bottom`.
    ///
    /// Unit: floats. Widen it for large logs.
    #[serde(alias = "tower")]
    #[schemars(range(min = 1))]
    pub tower_width: usize,
}

impl HeadConfig {
    /// The layer that weighs the experts for a task; none without experts.
    pub(crate) fn gate(&self, task: usize) -> Option<String> {
        match self.kind {
            HeadKind::Single | HeadKind::SharedBottom => None,
            HeadKind::Omoe => Some("head.gate".to_owned()),
            HeadKind::Mmoe => Some(format!("head.gate{task}")),
        }
    }

    /// The layers that weigh the experts, each once.
    pub(crate) fn gates(&self, n_tasks: usize) -> Vec<String> {
        let mut gates: Vec<String> = (0..n_tasks).filter_map(|task| self.gate(task)).collect();
        gates.dedup();
        gates
    }
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self {
            kind: HeadKind::default(),
            experts: 4,
            expert_width: 64,
            tower_width: 32,
        }
    }
}

/// Low-rank adapters (Hu et al. 2022), which learn in layers whose weights are frozen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of the adapters; 0 for none.
    ///
    /// Unit: columns. Raise it when adapters learn too little.
    pub rank: usize,
    /// Scale of an adapter's product, which is multiplied by `alpha / rank`.
    ///
    /// Rarely changed.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub alpha: f64,
    /// Names of the linear layers that have an adapter; `ouzel model describe` lists them.
    ///
    /// Add layers that should adapt after the freeze.
    #[serde(alias = "on")]
    pub layers: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 128.0,
            layers: vec!["interest.query".into(), "interest.key".into()],
        }
    }
}

impl LoraConfig {
    /// The factor of the product of an adapter's two matrices.
    #[must_use]
    pub fn scale(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rank")]
        let rank = self.rank.max(1) as f64;
        self.alpha / rank
    }
}
