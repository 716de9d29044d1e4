//! The feature state: user histories, live counters and the item catalog, one structure for both sides.
//!
//! The join stage is its only writer and updates it in log order. Training reads it as of the impression,
//! before that impression is counted; the scorer reads it as of now, whatever the version of the weights.
//! Both go through [`FeatureState::read`], so there is one definition of every feature.

mod bound;
mod config;
mod counter;
mod dense;
mod dump;
mod similarity;
mod smooth;
mod state;
mod user;
mod vector_map;
mod vectors;

pub use config::FeatureConfig;
pub use dense::{DENSE_NAMES, Dense, N_DENSE, dense_index};
pub use dump::FeatureStateError;
pub use state::{FeatureQuery, FeatureState};
pub use vector_map::VectorMap;
pub use vectors::{ItemVectors, MODALITIES, N_MODALITIES, Origin, Vector, VectorId, VectorList, VectorTable};
