//! What a model is: embedding tables, blocks with named weights, and the two backends that compute them.
//!
//! Owns the model's configuration, its rows and dense weights, how samples become the input of a batch, and forward
//! and backward passes. Knows nothing of losses, optimizers, files, threads, channels or clocks: the learner moves the
//! weights, the scorer only reads them.
//!
//! Reading order: [`ModelConfig`], [`Rows`] (tables of embedding rows), [`Fields`] (which ids feed which field),
//! [`Inputs`] (a batch, its user side once per request), [`WeightSpec`] (which dense weights there are, and in which
//! group), [`Net`] (what is computed), [`backend`] (how), [`Model`] (both together), [`Weights`] (a version, shareable
//! between threads).

pub mod backend;
mod block;
pub mod blocks;
mod config;
mod content_cache;
pub mod cost;
#[allow(
    clippy::too_many_arguments,
    clippy::too_many_lines,
    reason = "kernels take their operands and shapes one by one"
)]
mod cpu;
mod error;
mod feature_mask;
mod feature_norm;
mod fields;
mod gradients;
mod groups;
mod growth;
pub mod host_slice;
mod inputs;
mod model;
mod net;
mod params;
mod random;
mod rows;
mod shapes;
mod table;
mod torch;
mod weights;

pub use backend::{BackendKind, ContrastLoss, OutputGradients, Outputs, Pass};
pub use block::{Block, WeightGroup};
pub use config::{
    ContentConfig, Dims, FeatureSet, HeadConfig, HeadKind, InterestConfig, LongHistoryConfig, LoraConfig,
    MatmulPrecision, MemberConfig, ModelConfig, Output, PositionKind, RETRIEVAL_USER_FIELDS, RetrievalConfig,
    SequenceConfig, SequenceKind, TOKEN_FIELDS,
};
pub use cpu::{SampledSoftmax, TowerGradients, Towers, has_bf16_units, linalg, similarities};
pub use error::Error;
pub use feature_norm::FeatureNorm;
pub use fields::{CANDIDATE_FIELDS, Feature, Fields, Key, USER_FIELDS};
pub use gradients::{Gradients, RowGradient};
pub use groups::{Groups, Layout};
pub use growth::Growth;
pub use inputs::{
    ContentInputs, ContentVectors, HistoryInputs, Inputs, LongInputs, Pool, TowerInputs, TowerItem, catalog,
};
pub use model::{Model, add_scaled};
pub use net::Net;
pub use params::Params;
pub use random::{normal, uniform};
pub use rows::Rows;
pub use shapes::{WeightSpec, weight_specs};
pub use table::{PAGE_ROWS, Pages, Table};
pub use torch::DeviceRows;
pub use weights::{Array, Calibration, Dense, Weights};
