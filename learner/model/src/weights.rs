//! A version of the model as plain data: shared between threads, cheap to clone, independent of libtorch.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::block::WeightGroup;
use crate::config::ModelConfig;
use crate::error::Error;
use crate::feature_norm::FeatureNorm;
use crate::fields::Key;
use crate::rows::Rows;
use crate::shapes::weight_specs;
use crate::table::Table;

/// One dense weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// Values, row-major.
    pub values: Arc<[f32]>,
}

/// The dense weights by name.
pub type Dense = BTreeMap<String, Array>;

/// A version of the model: everything that scoring reads.
#[derive(Clone, Debug)]
pub struct Weights {
    /// The model's configuration.
    pub config: ModelConfig,
    /// Dense weights.
    pub dense: Dense,
    /// Embedding rows.
    pub rows: Rows,
    /// Weights of the wide part `[n_rows, 1]`.
    pub wide: Table,
    /// Rows of the towers of retrieval, where they have their own.
    pub retrieval: Option<Table>,
    /// Offset of each task's logit: the running log-odds of its labels, `[n_tasks]`.
    pub prior: Vec<f32>,
    /// Statistics that live features are normalized by, and that tell what to expect of those centred over an unknown slate.
    pub norm: FeatureNorm,
    /// Fingerprint of the base weights once they are frozen, see [`Weights::base`].
    pub frozen: Option<u64>,
    /// Maps each task's log-odds to served log-odds, `[n_tasks]`.
    pub calibration: Vec<Calibration>,
    /// The versions of `config.members`, in order; empty in a model of one.
    pub members: Vec<Weights>,
    /// Share of this model and of each member in the served log-odds, sums to 1; empty in a model of one. A model with a
    /// share of 0 sleeps and is not computed.
    pub shares: Vec<f32>,
}

/// A line from log-odds to served log-odds, `scale * z + shift`. A positive `scale` keeps the order of items.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// Slope.
    pub scale: f32,
    /// Value at 0.
    pub shift: f32,
}

/// The identity.
impl Default for Calibration {
    fn default() -> Self {
        Self {
            scale: 1.0,
            shift: 0.0,
        }
    }
}

impl Calibration {
    /// The value at `z`.
    #[must_use]
    pub fn apply(self, z: f32) -> f32 {
        self.scale * z + self.shift
    }
}

/// Initial sum of squared gradients of a row of retrieval: small, since gradients of a softmax over items are.
const TOWER_ROW_STATE: f32 = 1e-4;
/// Sets the random numbers of the rows of retrieval apart.
const TOWER_STREAM: u64 = 0x544f_5745;

impl Weights {
    /// Initial weights. Embedding rows have `row_state` floats of optimizer state, initially `row_state_init`; wide weights
    /// have `wide_state` floats, initially 0.
    #[must_use]
    pub fn new(config: ModelConfig, row_state: usize, row_state_init: f32, wide_state: usize) -> Self {
        let rows = Rows::new(&config, row_state, row_state_init);
        let wide = Table::new("wide", 1, wide_state, 0.0, 0.0, config.seed);
        let own_rows = config.retrieval.is_on() && config.retrieval.own_rows;
        let retrieval = own_rows.then(|| {
            let (width, std) = (config.retrieval.width, config.row_init_std);
            // Their own stream of random numbers: the ranker's rows have the same keys.
            Table::new(
                "retrieval",
                width,
                row_state,
                std,
                TOWER_ROW_STATE,
                config.seed ^ TOWER_STREAM,
            )
        });
        let dense = initial(&config);
        let prior = vec![0.0; config.n_tasks()];
        let calibration = vec![Calibration::default(); config.n_tasks()];
        Self {
            config,
            dense,
            rows,
            wide,
            retrieval,
            prior,
            norm: FeatureNorm::default(),
            frozen: None,
            calibration,
            members: Vec::new(),
            shares: Vec::new(),
        }
    }

    /// All tables, that of the wide part behind those of the ranker's rows, then that of retrieval.
    pub fn tables_mut(&mut self) -> impl Iterator<Item = &mut Table> {
        let others = std::iter::once(&mut self.wide).chain(&mut self.retrieval);
        self.rows.tables_mut().chain(others)
    }

    /// The rows that the towers of retrieval read, `[n_keys, width]`: their own, 0 where an id has none, or the ranker's.
    #[must_use]
    pub fn read_tower_rows(&self, keys: &[Key]) -> Vec<f32> {
        let Some(table) = &self.retrieval else {
            return self.rows.read_all(keys);
        };
        let mut out = vec![0.0; keys.len() * table.dim()];
        for (key, out) in keys.iter().zip(out.chunks_exact_mut(table.dim())) {
            if let Some(row) = table.find(key.id) {
                out.copy_from_slice(&table.row(row)[..table.dim()]);
            }
        }
        out
    }

    /// Fingerprint of the base weights. Frozen versions with equal fingerprints share whatever is computed from the base
    /// alone.
    #[must_use]
    pub fn base(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        let specs = weight_specs(&self.config).into_iter();
        let base: HashSet<String> = specs
            .filter(|spec| spec.group == WeightGroup::Base)
            .map(|spec| spec.name)
            .collect();
        for (name, array) in self.dense.iter().filter(|(name, _)| base.contains(*name)) {
            hasher.update(name.as_bytes());
            for value in array.values.iter() {
                hasher.update(&value.to_le_bytes());
            }
        }
        let hash = hasher.finalize();
        hash.as_bytes()
            .iter()
            .take(8)
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Checks that the dense weights are those of the configuration, without making a network.
    pub fn check(&self) -> Result<(), Error> {
        for spec in weight_specs(&self.config) {
            self.array(&spec.name, &spec.shape)?;
        }
        self.members.iter().try_for_each(Weights::check)
    }

    /// The dense weight `name` of this shape.
    ///
    /// # Errors
    /// When it is missing or has another shape.
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

/// Initial dense weights.
///
/// The keys of content interest start as its queries, so that it first finds contents similar to the candidate. From two
/// different starts it would have to learn that first.
fn initial(config: &ModelConfig) -> Dense {
    let mut dense: Dense = weight_specs(config)
        .into_iter()
        .zip(0u64..)
        .map(|(spec, stream)| {
            let values = spec.initial(config.seed, stream).into();
            let array = Array {
                shape: spec.shape,
                values,
            };
            (spec.name, array)
        })
        .collect();
    if let Some(query) = dense.get("interest.query.weight").cloned() {
        dense.insert("interest.key.weight".to_owned(), query);
    }
    dense
}
