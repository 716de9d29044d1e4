//! Losses, optimizers, the training step and progressive validation.
//!
//! [`Trainer`] is a state machine: the same weights and batches give the same weights, bit for bit on one machine. It knows
//! nothing of Kafka, threads or HTTP, reads no clock, and sees of the model's backend only gradients.

mod admission;
mod calibration;
mod clip;
mod config;
mod device_rows;
mod error;
mod fingerprint;
mod fixed_model;
mod freeze;
pub mod gates;
mod lifecycle;
pub mod loss;
mod memory;
pub mod metrics;
mod mixture;
mod objective;
mod optim;
mod persist;
mod position;
mod prior;
mod probe;
mod retrieval;
mod rules;
mod schedule;
mod second;
mod shown_logits;
mod step;
#[cfg(test)]
mod testing;
mod trainer;
mod trial;
mod update;
pub mod validation;

pub use clip::Clipped;
pub use config::{LearnerConfig, OptimizerConfig};
pub use error::Error;
pub use fingerprint::{LIBTORCH, cpu_capability};
pub use fixed_model::FixedModel;
pub use memory::MemoryUse;
pub use optim::{DenseRule, ROW_STATE, WIDE_STATE};
pub use ouzel_model as model;
pub use persist::{
    TableMigration, WeightOutcome, WeightsMigration, WeightsReport, check_draft, saved_model, verify_weights,
    weights_hash,
};
pub use retrieval::RetrievalReport;
pub use rules::{FeatureRules, RowRules, UserRules};
pub use second::{SecondLearner, ServedBatch};
pub use step::StepReport;
pub use trainer::{Trainer, set_intra_op_threads};
