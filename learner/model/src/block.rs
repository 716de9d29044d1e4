//! What a dense weight belongs to: a block of the model, and a parameter group of the learner.

use serde::Serialize;

/// A part of the model that has weights or a cost of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// Embedding rows of user and candidate, through the first layer.
    Fields,
    /// Live features, through the first layer.
    Features,
    /// Factorization machine: pairwise products of fields.
    Fm,
    /// Linear term over an item's frozen vectors.
    ContentLinear,
    /// Fusion-Q-Former: frozen vectors of an item to its content vector.
    Content,
    /// Content interest: attention over the content vectors of the history.
    Interest,
    /// DIN or HSTU over the history of items.
    Sequence,
    /// SIM's exact search unit over the user's long past.
    LongHistory,
    /// Content-ID contrast, in training only.
    Contrast,
    /// From the first layer to the task logits.
    Head,
    /// The two towers of retrieval, beside the ranker.
    Retrieval,
}

impl Block {
    /// All blocks in the order of the forward pass.
    pub const ALL: [Self; 11] = [
        Self::Fields,
        Self::Features,
        Self::Fm,
        Self::ContentLinear,
        Self::Content,
        Self::Interest,
        Self::Sequence,
        Self::LongHistory,
        Self::Contrast,
        Self::Head,
        Self::Retrieval,
    ];
}

/// A parameter group: it decides when a weight learns and at which rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightGroup {
    /// Weights of the content, interest and sequence blocks; they stop learning once the base is frozen.
    Base,
    /// Low-rank adapters of linear layers; they learn only while the base is frozen.
    Adapter,
    /// Weights by which the first layer and the factorization machine read the output of a block.
    Readout,
    /// Projections of the content-ID contrast; they learn in steps that have a contrast loss.
    Contrast,
    /// The towers of retrieval; they learn apart from the ranker.
    Retrieval,
    /// All others: fields, live features, hidden layers, task heads.
    Head,
}

impl WeightGroup {
    /// Whether the group learns while the base is frozen or not.
    #[must_use]
    pub fn learns(self, is_frozen: bool) -> bool {
        match self {
            Self::Base => !is_frozen,
            Self::Adapter => is_frozen,
            Self::Readout | Self::Contrast | Self::Head | Self::Retrieval => true,
        }
    }
}
