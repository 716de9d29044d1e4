//! The trainer's state in a snapshot: rows, dense weights and all optimizer state, as named arrays.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use ouzel_model::{Array as Plain, ModelConfig, Pages, Table, Weights};
use ouzel_snapshot::{ANY, Array, Arrays, Draft, Shared, Snapshot};

use crate::calibration::Line;
use crate::config::LearnerConfig;
use crate::error::Error;
use crate::optim::{DenseRule, ROW_STATE, WIDE_STATE};
use crate::prior::Delays;
use crate::trainer::Trainer;

const DENSE: &str = "dense.safetensors";
const DENSE_STATE: &str = "dense_state.safetensors";
const ROWS: &str = "rows.safetensors";
const WIDE: &str = "wide.safetensors";
const TRAINER: &str = "trainer.json";

/// The small part of the state, kept as JSON so that a person can read it.
#[derive(Serialize, Deserialize)]
struct Small {
    model: ModelConfig,
    next_batch: u64,
    /// What the base weights are, once they are frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frozen: Option<u64>,
    /// Samples learned from, which the learning rate may depend on.
    samples: u64,
    /// The rule that the state of the dense weights belongs to, and the steps that each of them has taken.
    dense: DenseRule,
    dense_steps: Vec<u64>,
    /// Per task: labels seen, positives among them.
    seen: Vec<(f32, f32)>,
    prior: Vec<f32>,
    /// Per task: how often labels came late, where the policy must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    delays: Vec<Delays>,
    /// Per task: its calibration, where there is any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    calibration: Vec<Line>,
}

impl Trainer {
    /// Puts the whole state into a draft. Rows are shared, not copied: the learner goes on at once.
    pub fn save(&mut self, draft: &mut Draft) -> Result<(), Error> {
        let weights = self.weights()?;
        let mut dense = Arrays::new();
        let mut state = Arrays::new();
        let rule = self.dense.rule();
        for ((name, _), kept) in self.net.params().zip(&self.dense.kept) {
            let plain = &weights.dense[name];
            dense.insert(name, Array::new(&plain.shape, plain.values.to_vec())?)?;
            for (what, tensor) in rule.kept().iter().zip(&kept.tensors) {
                let values = Vec::<f32>::try_from(tensor.flatten(0, -1)).map_err(ouzel_model::Error::from)?;
                state.insert(state_name(name, what), Array::new(&plain.shape, values)?)?;
            }
        }
        let small = Small {
            model: weights.config.clone(),
            next_batch: self.next_batch,
            frozen: weights.frozen,
            samples: self.n_samples,
            dense: rule,
            dense_steps: self.dense.kept.iter().map(|kept| kept.n_steps).collect(),
            seen: self.prior.seen.clone(),
            prior: weights.prior.clone(),
            delays: self.prior.delays.clone(),
            calibration: self.calibrator.lines.clone(),
        };
        draft.add_arrays(DENSE, dense)?;
        draft.add_arrays(DENSE_STATE, state)?;
        draft.add_arrays(ROWS, table_arrays(&weights.rows)?)?;
        draft.add_arrays(WIDE, table_arrays(&weights.wide)?)?;
        draft.add_blob(
            TRAINER,
            serde_json::to_vec_pretty(&small).expect("numbers and names are JSON"),
        )?;
        Ok(())
    }

    /// The trainer as it was at a snapshot. `model` is what the configuration asks for and must be what the
    /// snapshot holds; learning rates may differ.
    pub fn load(snapshot: &Snapshot, model: &ModelConfig, config: LearnerConfig) -> Result<Self, Error> {
        let id = snapshot.id().to_string();
        let refuse = |why: String| Error::Restore {
            snapshot: id.clone(),
            why,
        };
        let small: Small = serde_json::from_slice(&snapshot.blob(TRAINER)?)
            .map_err(|e| refuse(format!("{TRAINER}: {e}")))?;
        if small.model != *model {
            return Err(refuse(format!(
                "it holds the model {:?}, the configuration asks for {model:?}; roll back to a snapshot of this \
                 model, or start in an empty state directory",
                small.model
            )));
        }
        let mut weights = Weights::new(small.model.clone(), ROW_STATE, config.row_accumulator, WIDE_STATE);
        let mut dense = snapshot.arrays(DENSE)?;
        let mut state = snapshot.arrays(DENSE_STATE)?;
        let names: Vec<String> = weights.dense.keys().cloned().collect();
        for name in &names {
            let shape = weights.dense[name].shape.clone();
            let values: Arc<[f32]> = dense.take::<f32>(name, &shape)?.into();
            weights.dense.insert(name.clone(), Plain { shape, values });
        }
        fill(&mut weights.rows, snapshot.arrays(ROWS)?)?;
        fill(&mut weights.wide, snapshot.arrays(WIDE)?)?;
        if small.prior.len() != weights.prior.len() || small.seen.len() != weights.prior.len() {
            return Err(refuse(format!(
                "it has {} priors for {} tasks",
                small.prior.len(),
                weights.prior.len()
            )));
        }
        weights.prior = small.prior;
        weights.frozen = small.frozen;
        let mut trainer = Trainer::with(weights, config)?;
        if trainer.dense.rule() == small.dense {
            trainer.restore_dense(&mut state)?;
            for (kept, n_steps) in trainer.dense.kept.iter_mut().zip(small.dense_steps) {
                kept.n_steps = n_steps;
            }
        } else {
            tracing::warn!(
                snapshot = id,
                was = ?small.dense,
                is = ?trainer.dense.rule(),
                "another optimizer of dense weights than the snapshot's: its state starts anew"
            );
        }
        trainer.prior.seen = small.seen;
        if small.delays.len() == trainer.prior.delays.len() {
            trainer.prior.delays = small.delays;
        }
        if small.calibration.len() == trainer.calibrator.lines.len() {
            trainer.calibrator.lines = small.calibration;
            trainer.weights.calibration = trainer.calibrator.served(trainer.weights.prior.len());
        }
        trainer.next_batch = small.next_batch;
        trainer.n_samples = small.samples;
        Ok(trainer)
    }

    /// Takes the state of the dense weights' optimizer.
    fn restore_dense(&mut self, state: &mut Arrays) -> Result<(), Error> {
        let rule = self.dense.rule();
        for ((name, weight), kept) in self.net.params().zip(&mut self.dense.kept) {
            let shape: Vec<usize> = weight
                .size()
                .iter()
                .filter_map(|n| usize::try_from(*n).ok())
                .collect();
            for (what, tensor) in rule.kept().iter().zip(&mut kept.tensors) {
                let values = state.take::<f32>(&state_name(name, what), &shape)?;
                *tensor = Tensor::from_slice(&values)
                    .view_as(weight)
                    .to_device(weight.device());
            }
        }
        Ok(())
    }

    /// Hash of weights and optimizer state: equal hash, equal bits.
    pub fn hash(&mut self) -> Result<String, Error> {
        let mut draft = Draft::new(
            None,
            0,
            ouzel_snapshot::Fingerprint::default(),
            ouzel_snapshot::Cut::default(),
        );
        self.save(&mut draft)?;
        Ok(weights_hash(&draft))
    }
}

/// Hash over the trainer's part of a draft, names and shapes included.
#[must_use]
pub fn weights_hash(draft: &Draft) -> String {
    draft.hash_of(&[DENSE, DENSE_STATE, ROWS, WIDE, TRAINER])
}

/// The name of what an optimizer keeps of a dense weight.
fn state_name(weight: &str, what: &str) -> String {
    format!("{weight}.{what}")
}

fn table_arrays(table: &Table) -> Result<Arrays, Error> {
    let Pages { ids, values, free } = table.pages();
    let ids: Vec<u64> = ids.iter().flat_map(|page| page.iter().map(|id| id.0)).collect();
    let values = values.into_iter().map(|page| -> Shared<f32> { page }).collect();
    let mut arrays = Arrays::new();
    arrays.insert("ids", Array::new(&[table.len()], ids)?)?;
    arrays.insert("values", Array::shared(&[table.len(), table.stride()], values)?)?;
    if !free.is_empty() {
        arrays.insert("free", Array::new(&[free.len()], free)?)?;
    }
    Ok(arrays)
}

fn fill(table: &mut Table, mut arrays: Arrays) -> Result<(), Error> {
    let ids = arrays.take::<u64>("ids", &[ANY])?;
    let values = arrays.take::<f32>("values", &[ids.len(), table.stride()])?;
    let has_free = arrays.iter().any(|(name, _)| name == "free");
    let free = if has_free {
        arrays.take::<u32>("free", &[ANY])?
    } else {
        Vec::new()
    };
    Ok(table.import(&ids, &values, &free)?)
}
