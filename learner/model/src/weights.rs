//! A version of the model as plain data: shareable between threads, cheap to clone, independent of libtorch.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::ModelConfig;
use crate::error::Error;
use crate::random::uniform;
use crate::table::Table;

/// One dense weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Arc<[f32]>,
}

/// The dense weights by name.
pub type Dense = BTreeMap<String, Array>;

/// All that scoring needs.
#[derive(Clone, Debug)]
pub struct Weights {
    /// The shape of the model.
    pub config: ModelConfig,
    /// Dense weights.
    pub dense: Dense,
    /// Embedding rows `[n_rows, dim]`.
    pub rows: Table,
    /// Weights of the wide part `[n_rows, 1]`.
    pub wide: Table,
    /// Offset of each task's logit: the running log-odds of its labels, `[n_tasks]`.
    pub prior: Vec<f32>,
}

impl Weights {
    /// New weights. `row_state` and `wide_state` are the floats of optimizer state behind each row, and
    /// `row_state_init` their initial value.
    #[must_use]
    pub fn new(config: ModelConfig, row_state: usize, row_state_init: f32, wide_state: usize) -> Self {
        let rows = Table::new(
            "rows",
            config.dim,
            row_state,
            config.row_init_std,
            row_state_init,
            config.seed,
        );
        let wide = Table::new("wide", 1, wide_state, 0.0, 0.0, config.seed);
        let dense = initial(&config);
        let prior = vec![0.0; config.n_tasks()];
        Self {
            config,
            dense,
            rows,
            wide,
            prior,
        }
    }

    /// The dense weight `name`, of exactly this shape.
    pub fn array(&self, name: &str, shape: &[usize]) -> Result<&Array, Error> {
        let array = self.dense.get(name).ok_or_else(|| Error::MissingWeight {
            name: name.into(),
            n_present: self.dense.len(),
        })?;
        if array.shape != shape {
            let (found, expected) = (array.shape.clone(), shape.to_vec());
            return Err(Error::WrongShape {
                name: name.into(),
                found,
                expected,
            });
        }
        Ok(array)
    }
}

/// Initial dense weights: Xavier-uniform, biases 0, and last layers of 0 so that a new network adds nothing
/// to the prior until it has learned something.
fn initial(config: &ModelConfig) -> Dense {
    crate::net::shapes(config)
        .into_iter()
        .zip(0u64..)
        .map(|((name, shape), stream)| {
            let n: usize = shape.iter().product();
            let is_last = name.starts_with("out.") || name.starts_with("aux.");
            let is_weight = shape.len() == 2 && !is_last;
            let fan: usize = shape.iter().sum();
            #[expect(clippy::cast_precision_loss, reason = "a layer's width")]
            let bound = if is_weight { (6.0 / fan as f32).sqrt() } else { 0.0 };
            let values = (0..n as u64)
                .map(|lane| bound * (2.0 * uniform(config.seed, stream, lane) - 1.0))
                .collect();
            (name, Array { shape, values })
        })
        .collect()
}
