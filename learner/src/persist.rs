//! The trainer's state in a snapshot: rows, dense weights and optimizer state, as named arrays.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tch::Tensor;

use ouzel_model::{Array as DenseArray, Feature, FeatureNorm, ModelConfig, Pages, Table, Weights};
use ouzel_sample::N_DENSE;
use ouzel_snapshot::{ANY, Array, Arrays, Draft, SharedChunk, Snapshot};

use crate::admission::AdmissionCounts;
use crate::calibration::Line;
use crate::config::LearnerConfig;
use crate::error::Error;
use crate::lifecycle::RowClock;
use crate::mixture::Mixture;
use crate::optim::{DenseRule, ROW_STATE, WIDE_STATE};
use crate::position::PositionBias;
use crate::prior::Delays;
use crate::trainer::Trainer;

const DENSE: &str = "dense.safetensors";
const DENSE_STATE: &str = "dense_state.safetensors";
const ROWS: &str = "rows.safetensors";
const WIDE: &str = "wide.safetensors";
/// Counts of ids that wait for a row, if any feature has an admission rule.
const ADMISSION: &str = "admission.safetensors";
const TRAINER: &str = "trainer.json";
/// Statistics of live features among the dense weights, `[N_DENSE]` each.
const NORM_MEAN: &str = "norm.mean";
const NORM_VARIANCE: &str = "norm.variance";
/// Largest number of models of a mixture.
const MAX_MODELS: usize = 9;
/// The layout that this version writes and reads. In 1, which had no number, dense optimizer state was of summed gradients,
/// and live features had no statistics.
const LAYOUT: u32 = 2;

/// The small part of the state, as JSON that a person can read.
#[derive(Serialize, Deserialize)]
struct TrainerState {
    layout: u32,
    model: ModelConfig,
    next_batch: u64,
    /// Fingerprint of the base weights, once they are frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frozen: Option<u64>,
    /// Number of samples learned from, which learning rates may depend on.
    samples: u64,
    /// Number of samples that the statistics of live features have observed.
    norm_samples: u64,
    /// The update rule of the dense optimizer state, and the steps of each weight.
    dense: DenseRule,
    dense_steps: Vec<u64>,
    /// Per task: labels and positives among them.
    seen: Vec<(f32, f32)>,
    prior: Vec<f32>,
    /// Per task: early and late positives, where the policy needs them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    delays: Vec<Delays>,
    /// Per task: its calibration line, if calibration is on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    calibration: Vec<Line>,
    /// Biases of positions, if the model has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<PositionBias>,
    /// Event time by which rows expire, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    age: Option<RowClock>,
    /// Standing of this model and of each member, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mixture: Option<Mixture>,
}

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
        draft.add_blob(
            &file(TRAINER),
            serde_json::to_vec_pretty(&small).expect("numbers and names are JSON"),
        )?;
        Ok(())
    }

    /// Restores the trainer of a snapshot. `model` is the configured model and must equal that of the snapshot; learning rates
    /// may differ.
    ///
    /// # Errors
    /// When the snapshot lacks a part or holds another model.
    pub fn load(snapshot: &Snapshot, model: &ModelConfig, config: LearnerConfig) -> Result<Self, Error> {
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
        Ok(trainer)
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
        let refuse = |why: String| Error::Restore {
            snapshot: id.clone(),
            why,
        };
        let small = trainer_state(&snapshot.blob(&file(TRAINER))?).map_err(refuse)?;
        if small.model != *model {
            return Err(refuse(format!(
                "it was made with {}; roll back to a snapshot of the configured model, or start in an empty state \
                 directory",
                differences(&small.model, model).join(", ")
            )));
        }
        let expires = config.rows.expire_after.ms() > 0;
        let mut weights = Weights::new(
            small.model.clone(),
            ROW_STATE,
            config.optimizer.row_initial_accumulator,
            WIDE_STATE,
        );
        let mut dense = snapshot.arrays(&file(DENSE))?;
        let mut state = snapshot.arrays(&file(DENSE_STATE))?;
        let names: Vec<String> = weights.dense.keys().cloned().collect();
        for name in &names {
            let shape = weights.dense[name].shape.clone();
            let values: Arc<[f32]> = dense.take::<f32>(name, &shape)?.into();
            weights.dense.insert(name.clone(), DenseArray { shape, values });
        }
        weights.norm = FeatureNorm {
            n_samples: small.norm_samples,
            mean: dense.take::<f32>(NORM_MEAN, &[N_DENSE])?,
            variance: dense.take::<f32>(NORM_VARIANCE, &[N_DENSE])?,
        };
        let mut rows = snapshot.arrays(&file(ROWS))?;
        for (table, n) in weights.rows.tables_mut().zip(0..) {
            let prefix = table_prefix(n, table);
            restore_table(table, &prefix, &mut rows, expires)?;
        }
        restore_table(&mut weights.wide, "", &mut snapshot.arrays(&file(WIDE))?, expires)?;
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
            trainer.weights.calibration = trainer.calibrator.served(trainer.weights.prior.len());
        }
        if !PositionBias::restore(&mut trainer.position, small.position) {
            return Err(refuse(
                "its biases of positions are not those of the model".to_owned(),
            ));
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

/// Hash over the trainer's part of a draft, names and shapes included.
#[must_use]
pub fn weights_hash(draft: &Draft) -> String {
    let mut names: Vec<String> = Vec::new();
    let prefixes = (0..).map(|n| if n == 0 { String::new() } else { member_prefix(n) });
    for prefix in prefixes.take(MAX_MODELS) {
        let files =
            [DENSE, DENSE_STATE, ROWS, WIDE, TRAINER, ADMISSION].map(|name| format!("{prefix}{name}"));
        names.extend(files.into_iter().filter(|name| draft.has(name)));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    draft.hash_files(&names)
}

/// Prefix of the names of a member's files.
fn member_prefix(n: usize) -> String {
    format!("member{n}.")
}

/// The small part of the state.
///
/// # Errors
/// When its layout is not [`LAYOUT`], whose meaning other numbers would be read in.
fn trainer_state(bytes: &[u8]) -> Result<TrainerState, String> {
    #[derive(Deserialize)]
    struct LayoutOnly {
        #[serde(default = "first_layout")]
        layout: u32,
    }
    let LayoutOnly { layout } = serde_json::from_slice(bytes).map_err(|e| format!("{TRAINER}: {e}"))?;
    if layout != LAYOUT {
        return Err(format!(
            "its weights are in layout {layout}, and this version of ouzel reads layout {LAYOUT}: continue with the version \
             that wrote it, or start in an empty state directory"
        ));
    }
    serde_json::from_slice(bytes).map_err(|e| format!("{TRAINER}: {e}"))
}

/// The layout of states without a number.
fn first_layout() -> u32 {
    1
}

/// Keys of the model that differ: `model.dim = 8 where the configuration says 16`.
fn differences(snapshot: &ModelConfig, configured: &ModelConfig) -> Vec<String> {
    fn compare(key: &str, was: &Value, is: &Value, out: &mut Vec<String>) {
        match (was, is) {
            (Value::Object(was), Value::Object(is)) => {
                let keys: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
                for part in keys {
                    let value = |of: &Map<String, Value>| of.get(part).cloned().unwrap_or_default();
                    compare(&format!("{key}.{part}"), &value(was), &value(is), out);
                }
            }
            _ if was != is => out.push(format!("{key} = {was} where the configuration says {is}")),
            _ => {}
        }
    }
    let [was, is] = [snapshot, configured].map(|model| json!(model));
    let mut out = Vec::new();
    compare("model", &was, &is, &mut out);
    out
}

/// A shape as arrays have it.
fn extents(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect()
}

/// The name of a state tensor of a dense weight.
fn state_name(weight: &str, what: &str) -> String {
    format!("{weight}.{what}")
}

/// Prefix of the names of a table's arrays; empty for the first table, which always exists.
fn table_prefix(n: usize, table: &Table) -> String {
    match n {
        0 => String::new(),
        _ => format!("{}.", table.name()),
    }
}

fn add_table(arrays: &mut Arrays, prefix: &str, table: &Table) -> Result<(), Error> {
    let Pages {
        ids,
        values,
        seen,
        free,
    } = table.pages();
    let ids: Vec<u64> = ids.iter().flat_map(|page| page.iter().map(|id| id.0)).collect();
    let values = values
        .into_iter()
        .map(|page| -> SharedChunk<f32> { page })
        .collect();
    let name = |name: &str| format!("{prefix}{name}");
    arrays.insert(name("ids"), Array::new(&[table.len()], ids)?)?;
    arrays.insert(
        name("values"),
        Array::shared(&[table.len(), table.stride()], values)?,
    )?;
    if !free.is_empty() {
        arrays.insert(name("free"), Array::new(&[free.len()], free)?)?;
    }
    if !seen.is_empty() {
        let seen = seen
            .into_iter()
            .map(|page| -> SharedChunk<u32> { page })
            .collect();
        arrays.insert(name("seen"), Array::shared(&[table.len()], seen)?)?;
    }
    Ok(())
}

/// Restores a table, with last-seen times only if rows expire.
fn restore_table(table: &mut Table, prefix: &str, arrays: &mut Arrays, expires: bool) -> Result<(), Error> {
    let name = |name: &str| format!("{prefix}{name}");
    let has = |arrays: &Arrays, name: &str| arrays.iter().any(|(found, _)| found == name);
    let ids = arrays.take::<u64>(&name("ids"), &[ANY])?;
    let values = arrays.take::<f32>(&name("values"), &[ids.len(), table.stride()])?;
    let free = if has(arrays, &name("free")) {
        arrays.take::<u32>(&name("free"), &[ANY])?
    } else {
        Vec::new()
    };
    table.import(&ids, &values, &free)?;
    if expires && has(arrays, &name("seen")) {
        table.import_seen(&arrays.take::<u32>(&name("seen"), &[ids.len()])?)?;
    }
    Ok(())
}

fn admission_arrays(counts: AdmissionCounts) -> Result<Arrays, Error> {
    let n = counts.ids.len();
    let mut arrays = Arrays::new();
    arrays.insert("ids", Array::new(&[n], counts.ids)?)?;
    arrays.insert("counts", Array::new(&[n], counts.counts)?)?;
    arrays.insert("users", Array::new(&[n, AdmissionCounts::USERS], counts.users)?)?;
    Ok(arrays)
}

fn admission_counts(mut arrays: Arrays) -> Result<AdmissionCounts, Error> {
    let ids = arrays.take::<u64>("ids", &[ANY])?;
    Ok(AdmissionCounts {
        counts: arrays.take::<u16>("counts", &[ids.len()])?,
        users: arrays.take::<u16>("users", &[ids.len(), AdmissionCounts::USERS])?,
        ids,
    })
}
