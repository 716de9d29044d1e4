//! Embedding tables and the one `forward` that trains and serves.
//!
//! Owns what a model *is*: its configuration, its rows, its dense weights as plain arrays, how a list of
//! samples becomes input, and the forward pass. Knows nothing of losses, optimizers, files, threads, channels or
//! clocks: the learner moves the weights, the scorer only reads them.
//!
//! Reading order: [`ModelConfig`], [`Rows`] (tables of rows), [`Fields`] (which ids feed which field), [`Inputs`]
//! (a batch, user side once per request), [`Net`] (the forward pass), [`Weights`] (a version, shareable).

pub mod blocks;
mod config;
mod content_cache;
pub mod cost;
mod cpu;
mod device_rows;
mod error;
mod fields;
mod groups;
pub mod host_slice;
mod inputs;
mod leaves;
mod net;
mod params;
mod random;
mod rows;
mod shapes;
mod table;
mod weights;

pub use config::{
    ContentConfig, Dims, Fault, FeatureSet, HeadConfig, HeadKind, InterestConfig, LoraConfig,
    MatmulPrecision, ModelConfig, Output, SequenceConfig, SequenceKind, TOKEN_FIELDS,
};
pub use cpu::{ContentPass, CpuForward, CpuGradients, SequencePass, has_bf16_units};
pub use device_rows::DeviceRows;
pub use error::Error;
pub use fields::{CANDIDATE_FIELDS, Feature, Fields, Key, USER_FIELDS};
pub use groups::{Groups, Layout};
pub use inputs::{Bags, ContentInputs, HistoryInputs, Inputs, Pool};
pub use leaves::{BatchRows, BatchTensors, ContentLeaves, ContentSource};
pub use net::{Net, Outputs};
pub use params::Params;
pub use random::{normal, uniform};
pub use rows::Rows;
pub use shapes::{Shape, is_adapter, is_base, shapes};
pub use table::{PAGE_ROWS, Pages, Table};
pub use weights::{Array, Calibration, Dense, Weights};
