//! The `[model.retrieval]` section: two towers that find candidates in the whole catalog.

use ouzel_sample::N_MODALITIES;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;

/// Fields that the tower of users reads: user, context, history, and the newest `RECENT` actions.
pub const RETRIEVAL_USER_FIELDS: usize = 4;
/// Newest actions of the field of recent ones: a session rather than a taste.
pub(crate) const RECENT: usize = 5;

/// Two towers, one for users and one for items, whose vectors are close where a user acts on an item. They find candidates
/// in the whole catalog, for `POST /v1/recommend` and `/v1/similar`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetrievalConfig {
    /// Width of the vectors of users and items; 0 for no retrieval.
    ///
    /// Unit: floats. Set it to 32 or more to recommend items from the catalog.
    pub width: usize,
    /// Width of the hidden layer of each tower; 0 for linear towers.
    ///
    /// Unit: floats. Widen it for large logs.
    pub hidden: usize,
    /// Divisor of the similarities in the softmax over items.
    ///
    /// Lower it to separate close items more strongly.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f32,
    /// Whether the towers have embedding rows of their own, `width` wide. Otherwise they read those of the ranker and do not
    /// change them. The ranker learns the same weights, bit for bit, in both cases.
    ///
    /// Turn it off to save the memory of the rows, or where recall is better without them.
    pub own_rows: bool,
}

impl Default for RetrievalConfig {
    fn default() -> Self {
        Self {
            width: 0,
            hidden: 64,
            temperature: 0.05,
            own_rows: true,
        }
    }
}

impl RetrievalConfig {
    /// Whether the model has towers.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.width > 0
    }
}

impl ModelConfig {
    /// Width of a row, and so of a field, that the towers read.
    #[must_use]
    pub fn retrieval_row_width(&self) -> usize {
        match self.retrieval.own_rows {
            true => self.retrieval.width,
            false => self.dim,
        }
    }

    /// Widths of the frozen vectors that the tower of items reads; 0 for those that it does not read.
    #[must_use]
    pub fn retrieval_vector_widths(&self) -> [usize; N_MODALITIES] {
        match self.retrieval.is_on() {
            true => self.content.vector_widths,
            false => [0; N_MODALITIES],
        }
    }
}
