//! The model's configuration: its shape, not how it learns.

use serde::{Deserialize, Serialize};

/// Shape of the ranker. Part of the schema: another value means other weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of an embedding row, floats.
    pub dim: usize,
    /// Standard deviation of a new row's values.
    pub row_init_std: f32,
    /// Newest actions of the user that feed the history field, count.
    pub history_len: usize,
    /// Widths of the hidden layers of the MLP.
    pub hidden: Vec<usize>,
    /// Seed of every initial value.
    pub seed: u64,
    /// Names of the tasks, the primary one first. Set from the join's tasks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            dim: 8,
            row_init_std: 0.02,
            history_len: 100,
            hidden: vec![128],
            seed: 1,
            tasks: vec!["click".into()],
        }
    }
}

impl ModelConfig {
    /// How many tasks the model scores.
    #[must_use]
    pub fn n_tasks(&self) -> usize {
        self.tasks.len().max(1)
    }
}
