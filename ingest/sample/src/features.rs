//! The feature state: user histories and profiles, live counters, the item catalog and content vectors.
//!
//! The join stage is its only writer and updates it in log order. Training reads it as of the impression, before
//! that impression is counted; the scorer reads it as of now, whichever version of the weights it uses. Both call
//! [`FeatureState::read`], so each feature has one definition.

mod bounded_counts;
mod clicks;
mod config;
mod counter;
mod dense;
mod dump;
mod limits;
mod long_past;
mod migrate;
mod numbers;
#[cfg(test)]
mod oracle;
mod outcomes;
#[cfg(test)]
mod past_tests;
mod popularity;
mod profiles;
#[cfg(test)]
mod properties;
mod query;
mod request;
mod seeds;
mod seen;
mod similarity;
mod slate_sizes;
mod smoothing;
mod state;
#[cfg(test)]
mod testing;
mod titles;
mod usage;
mod user;
mod vector_map;
mod vectors;

pub use config::FeatureConfig;
pub use dense::{DENSE_NAMES, Dense, N_DENSE, dense_index};
pub use dump::FeatureStateError;
pub use migrate::FeatureMigration;
pub use query::{FeatureQuery, centred_pairs};
pub use state::FeatureState;
pub use vector_map::VectorMap;
pub use vectors::{
    ItemVectors, MODALITIES, N_MODALITIES, Vector, VectorId, VectorOrigin, VectorReadGuard, VectorTable,
};
