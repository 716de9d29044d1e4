//! The trainer's state in a snapshot: rows, dense weights and optimizer state, as named arrays.

mod migrate;
mod retrieval;
mod state;
mod tables;
mod verify;
mod weights;

use tch::Tensor;

use ouzel_model::{Feature, ModelConfig};
use ouzel_sample::N_DENSE;
use ouzel_snapshot::{Array, Arrays, Draft, Snapshot};

use crate::config::LearnerConfig;
use crate::error::Error;
use crate::position::PositionBias;
use crate::probe;
use crate::trainer::Trainer;

use state::{LAYOUT, TrainerState};
use tables::{
    add_table, admission_arrays, admission_counts, restore_shown_logits, shown_logits_arrays, table_prefix,
};
use weights::{RowSettings, SavedModel, check_hash, member_prefix, read_model};

pub use migrate::{TableMigration, WeightOutcome, WeightsMigration, saved_model};
pub use verify::{WeightsReport, verify_weights};
pub use weights::{check_draft, weights_hash};

const DENSE: &str = "dense.safetensors";
const DENSE_STATE: &str = "dense_state.safetensors";
const ROWS: &str = "rows.safetensors";
const WIDE: &str = "wide.safetensors";
/// Counts of ids that wait for a row, if any feature has an admission rule.
const ADMISSION: &str = "admission.safetensors";
/// Predictions by which the models of a mixture are compared, where labels come late.
const SHOWN_LOGITS: &str = "shown_logits.safetensors";
/// Rows of the towers of retrieval and the newest positives, if the model has towers.
const RETRIEVAL: &str = "retrieval.safetensors";
const TRAINER: &str = "trainer.json";
/// Scores of the probe, not part of the state.
const PROBE: &str = "probe.safetensors";
const PROBE_SCORES: &str = "scores";
/// Statistics of live features among the dense weights, `[N_DENSE]` each.
const NORM_MEAN: &str = "norm.mean";
const NORM_VARIANCE: &str = "norm.variance";

impl Trainer {
    /// Adds the whole state to a draft. Rows are shared, not copied, so the learner continues at once.
    pub fn save(&mut self, draft: &mut Draft) -> Result<(), Error> {
        self.save_alone(draft, "")?;
        for (member, n) in self.members.iter_mut().zip(1..) {
            if let Some(member) = member {
                member.save_alone(draft, &member_prefix(n))?;
            }
        }
        Ok(())
    }

    /// Adds the state of this model without its members, in files whose names start with `prefix`.
    fn save_alone(&mut self, draft: &mut Draft, prefix: &str) -> Result<(), Error> {
        let file = |name: &str| format!("{prefix}{name}");
        self.weights.dense = self.model.net().export()?;
        self.flush_device_rows()?;
        let weights = self.weights.clone();
        let mut dense = Arrays::new();
        let mut state = Arrays::new();
        let rule = self.dense.rule();
        for ((spec, _), kept) in self.model.net().weights().zip(&self.dense.states) {
            let name = &spec.name;
            let array = &weights.dense[name];
            dense.insert(name.as_str(), Array::new(&array.shape, array.values.to_vec())?)?;
            for (spec, tensor) in kept.specs.iter().zip(&kept.tensors) {
                let values = Vec::<f32>::try_from(tensor.flatten(0, -1)).map_err(ouzel_model::Error::from)?;
                state.insert(
                    state_name(name, spec.name),
                    Array::new(&extents(&spec.shape), values)?,
                )?;
            }
        }
        let norm = &weights.norm;
        for (name, values) in [(NORM_MEAN, &norm.mean), (NORM_VARIANCE, &norm.variance)] {
            dense.insert(name, Array::new(&[N_DENSE], values.clone())?)?;
        }
        let small = TrainerState {
            layout: LAYOUT,
            model: weights.config.clone(),
            next_batch: self.next_batch,
            frozen: weights.frozen,
            samples: self.n_samples,
            norm_samples: weights.norm.n_samples,
            dense: rule,
            dense_steps: self.dense.states.iter().map(|kept| kept.n_steps).collect(),
            seen: self.prior.seen.clone(),
            prior: weights.prior.clone(),
            delays: self.prior.delays.clone(),
            calibration: self.calibrator.lines.clone(),
            position: self.position.clone(),
            age: self.age,
            mixture: (self.mixture.len() > 1).then(|| self.mixture.clone()),
        };
        draft.add_arrays(&file(DENSE), dense)?;
        draft.add_arrays(&file(DENSE_STATE), state)?;
        let mut rows = Arrays::new();
        for (table, n) in weights.rows.tables().zip(0..) {
            add_table(&mut rows, &table_prefix(n, table), table)?;
        }
        let mut wide = Arrays::new();
        add_table(&mut wide, "", &weights.wide)?;
        draft.add_arrays(&file(ROWS), rows)?;
        draft.add_arrays(&file(WIDE), wide)?;
        if self.config.rows.waits() != [false; Feature::N] {
            draft.add_arrays(&file(ADMISSION), admission_arrays(self.admission.export())?)?;
        }
        if let Some(kept) = shown_logits_arrays(&self.shown_logits)? {
            draft.add_arrays(&file(SHOWN_LOGITS), kept)?;
        }
        if let Some(retrieval) = &self.retrieval {
            draft.add_arrays(&file(RETRIEVAL), retrieval::arrays(&weights, retrieval)?)?;
        }
        draft.add_blob(
            &file(TRAINER),
            serde_json::to_vec_pretty(&small).expect("numbers and names are JSON"),
        )?;
        let scores = probe::scores(&mut self.model, &self.weights)?;
        let n_tasks = self.weights.config.n_tasks();
        let mut recorded = Arrays::new();
        recorded.insert(
            PROBE_SCORES,
            Array::new(&[scores.len() / n_tasks, n_tasks], scores)?,
        )?;
        draft.add_arrays(&file(PROBE), recorded)?;
        Ok(())
    }

    /// Restores the trainer of a snapshot. `model` is the configured model and must equal that of the snapshot; learning rates
    /// may differ.
    ///
    /// # Errors
    /// [`Error::Restore`] when the snapshot holds another model. When its weights cannot be used (recorded hash, shapes,
    /// distinct ids, finite values), [`Error::is_damage`] is true.
    pub fn load(snapshot: &Snapshot, model: &ModelConfig, config: LearnerConfig) -> Result<Self, Error> {
        check_hash(snapshot)?;
        let mut trainer = Self::load_alone(snapshot, "", model, config)?;
        for (member, n) in model.member_models().iter().zip(1..) {
            let restored = match trainer.mixture.is_asleep(n) {
                true => None,
                false => {
                    let config = trainer.member_config();
                    Some(Self::load_alone(snapshot, &member_prefix(n), member, config)?)
                }
            };
            trainer.members.push(restored);
        }
        trainer.restore_shown_logits(snapshot)?;
        let n_learned = trainer.n_learned();
        trainer.mixture.date_sleep(n_learned);
        Ok(trainer)
    }

    /// Restores the predictions by which the models of the mixture are compared. A snapshot from before there were any has
    /// none, and late positives of its items are judged by the predictions at their arrival.
    fn restore_shown_logits(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        self.keep_shown_logits();
        let members = self.members.iter_mut().zip(1..);
        let members =
            members.filter_map(|(member, n)| Some((&mut member.as_mut()?.shown_logits, member_prefix(n))));
        for (kept, prefix) in std::iter::once((&mut self.shown_logits, String::new())).chain(members) {
            let file = format!("{prefix}{SHOWN_LOGITS}");
            if snapshot.manifest().file(&file).is_some() {
                restore_shown_logits(kept, snapshot.arrays(&file)?)?;
            }
        }
        Ok(())
    }

    /// Restores the state that [`Trainer::save_alone`] wrote with this prefix.
    fn load_alone(
        snapshot: &Snapshot,
        prefix: &str,
        model: &ModelConfig,
        config: LearnerConfig,
    ) -> Result<Self, Error> {
        let file = |name: &str| format!("{prefix}{name}");
        let id = snapshot.id().to_string();
        let expires = config.rows.expire_after.ms() > 0;
        let settings = RowSettings {
            initial_accumulator: config.optimizer.row_initial_accumulator,
            expires,
        };
        let SavedModel {
            weights,
            small,
            dense_state: mut state,
            retrieval: of_retrieval,
        } = read_model(snapshot, prefix, Some(model), settings)?;
        let mut trainer = Trainer::with(weights, config)?;
        if trainer.dense.rule() == small.dense {
            trainer.restore_dense(&mut state)?;
            for (kept, n_steps) in trainer.dense.states.iter_mut().zip(small.dense_steps) {
                kept.n_steps = n_steps;
            }
        } else {
            tracing::warn!(
                snapshot = id,
                was = ?small.dense,
                is = ?trainer.dense.rule(),
                "the snapshot has the state of another dense optimizer than optimizer.dense; optimizer state of dense weights starts from 0"
            );
        }
        trainer.prior.seen = small.seen;
        if small.delays.len() == trainer.prior.delays.len() {
            trainer.prior.delays = small.delays;
        }
        if small.calibration.len() == trainer.calibrator.lines.len() {
            trainer.calibrator.lines = small.calibration;
        }
        trainer.weights.calibration = trainer.calibrator.served(trainer.weights.prior.len());
        if !PositionBias::restore(&mut trainer.position, small.position) {
            return Err(Error::Unsound {
                snapshot: id,
                why: "its biases of positions are not those of the model".to_owned(),
            });
        }
        let has = |name: &str| snapshot.manifest().file(&file(name)).is_some();
        if has(ADMISSION) && trainer.config.rows.waits() != [false; Feature::N] {
            trainer
                .admission
                .import(&admission_counts(snapshot.arrays(&file(ADMISSION))?)?);
        }
        if let Some(mixture) = small
            .mixture
            .filter(|mixture| mixture.len() == trainer.mixture.len())
        {
            trainer.mixture = mixture;
        }
        if let Some((retrieval, mut arrays)) = trainer.retrieval.as_mut().zip(of_retrieval) {
            retrieval::restore(retrieval, &mut arrays, &id)?;
        }
        trainer.age = small.age.filter(|_| expires);
        trainer.next_batch = small.next_batch;
        trainer.n_samples = small.samples;
        Ok(trainer)
    }

    /// Restores the optimizer state of the dense weights.
    fn restore_dense(&mut self, state: &mut Arrays) -> Result<(), Error> {
        for ((weight, _), kept) in self.model.net().weights().zip(&mut self.dense.states) {
            for (spec, tensor) in kept.specs.iter().zip(&mut kept.tensors) {
                let values =
                    state.take::<f32>(&state_name(&weight.name, spec.name), &extents(&spec.shape))?;
                *tensor = Tensor::from_slice(&values)
                    .view(spec.shape.as_slice())
                    .to_device(tensor.device());
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
            ouzel_snapshot::CheckpointMeta::default(),
        );
        self.save(&mut draft)?;
        Ok(weights_hash(&draft))
    }
}

/// A shape as arrays have it.
fn extents(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect()
}

/// The name of a state tensor of a dense weight.
fn state_name(weight: &str, what: &str) -> String {
    format!("{weight}.{what}")
}
