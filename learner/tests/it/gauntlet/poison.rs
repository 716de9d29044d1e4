//! The kinds of damage that a version can have.

use std::sync::Arc;

use ouzel_learner::Trainer;
use ouzel_learner::model::{Array, Inputs, Model, Table, WeightGroup, Weights, uniform, weight_specs};
use ouzel_sample::{Batch, Labels, Sample};
use ouzel_snapshot::{Array as StoredArray, Arrays, CheckpointMeta, Draft, Fingerprint, Snapshot};

use super::Line;

/// A kind of damage to the weights of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Poison {
    Nan,
    ZeroTable,
    Norms,
    SignFlip,
    Shuffled,
    FlippedLabels,
    Constant,
    Stale,
    Schema,
    BlowUp,
    Calibration,
}

/// A damaged version.
pub(crate) struct Damaged {
    pub(crate) weights: Weights,
    /// Batches that it claims to have learned since the last version.
    pub(crate) n_batches: u64,
}

impl Poison {
    /// The kinds that damage a version in memory.
    pub(crate) const VERSIONS: [Self; 11] = [
        Self::Nan,
        Self::ZeroTable,
        Self::Norms,
        Self::SignFlip,
        Self::Shuffled,
        Self::FlippedLabels,
        Self::Constant,
        Self::Stale,
        Self::Schema,
        Self::BlowUp,
        Self::Calibration,
    ];

    /// The kinds that can be in a snapshot of the same model.
    pub(crate) const STORED: [Self; 8] = [
        Self::Nan,
        Self::ZeroTable,
        Self::Norms,
        Self::SignFlip,
        Self::Shuffled,
        Self::Constant,
        Self::Stale,
        Self::Calibration,
    ];

    /// Damages the next version of `line`.
    pub(crate) fn damage(self, line: &mut Line, seed: u64) -> Damaged {
        let mut weights = line.trainer.weights().unwrap();
        let mut n_batches = 1;
        match self {
            Self::Nan => change_one(&mut weights, seed, f32::NAN),
            Self::ZeroTable => each_row(&mut weights, |row| row.fill(0.0)),
            Self::Norms => each_row(&mut weights, |row| row.iter_mut().for_each(|x| *x *= 100.0)),
            Self::SignFlip => flip_output(&mut weights),
            Self::Shuffled => shuffle(&mut weights, seed),
            Self::FlippedLabels => {
                let batches: Vec<Batch> = line.next.iter().map(flipped).collect();
                n_batches = batches.len() as u64;
                weights = taught(line, &batches, |_| {});
            }
            Self::Constant => {
                for array in weights.dense.values_mut() {
                    array.values = vec![0.0; array.values.len()].into();
                }
                for table in weights.tables_mut() {
                    rows(table, |row| row.fill(0.0));
                }
            }
            Self::Stale => weights = line.earlier.clone().unwrap(),
            Self::Schema => {
                let name = name_of(&weights, seed);
                weights.dense.remove(&name);
            }
            Self::BlowUp => {
                let batches = line.next[..2].to_vec();
                n_batches = 2;
                weights = taught(line, &batches, |config| {
                    config.optimizer.dense_rate *= 1000.0;
                    config.optimizer.row_rate *= 1000.0;
                    config.optimizer.wide_alpha *= 1000.0;
                });
            }
            Self::Calibration => {
                let factor = if seed.is_multiple_of(2) { 2.0 } else { 0.5 };
                weights.prior[0] += shift_for(line, &weights, factor);
            }
        }
        Damaged { weights, n_batches }
    }
}

/// The name of a dense weight, another one for each seed.
fn name_of(weights: &Weights, seed: u64) -> String {
    let names: Vec<&String> = weights.dense.keys().collect();
    names[usize::try_from(seed).unwrap() % names.len()].clone()
}

fn change_one(weights: &mut Weights, seed: u64, value: f32) {
    let array = weights.dense.get_mut(&name_of(weights, seed)).unwrap();
    set(array, seed, value);
}

fn set(array: &mut Array, seed: u64, value: f32) {
    let mut values = array.values.to_vec();
    let at = usize::try_from(seed * 7).unwrap() % values.len();
    values[at] = value;
    array.values = values.into();
}

/// NaN in one value of an adapter.
pub(crate) fn adapter_nan(weights: &mut Weights, seed: u64) {
    let specs = weight_specs(&weights.config).into_iter();
    let adapters: Vec<String> = specs
        .filter(|spec| spec.group == WeightGroup::Adapter)
        .map(|spec| spec.name)
        .collect();
    let name = &adapters[usize::try_from(seed).unwrap() % adapters.len()];
    set(weights.dense.get_mut(name).unwrap(), seed, f32::NAN);
}

/// Changes the weights of each embedding row.
fn each_row(weights: &mut Weights, change: impl Fn(&mut [f32])) {
    for table in weights.rows.tables_mut() {
        rows(table, &change);
    }
}

fn rows(table: &mut Table, change: impl Fn(&mut [f32])) {
    let dim = table.dim();
    for row in 0..u32::try_from(table.len()).unwrap() {
        change(&mut table.row_mut(row)[..dim]);
    }
}

/// Turns the order of the items around: negates what adds up to the logit.
fn flip_output(weights: &mut Weights) {
    let negate = |values: &mut [f32]| values.iter_mut().for_each(|x| *x = -*x);
    for (name, array) in &mut weights.dense {
        if name.starts_with("out") {
            let mut values = array.values.to_vec();
            negate(&mut values);
            array.values = values.into();
        }
    }
    rows(&mut weights.wide, negate);
}

/// Gives each row the weights of another one.
fn shuffle(weights: &mut Weights, seed: u64) {
    for table in weights.rows.tables_mut() {
        let dim = table.dim();
        let n = u32::try_from(table.len()).unwrap();
        let mut order: Vec<u32> = (0..n).collect();
        order.sort_by(|a, b| {
            let key = |row: u32| uniform(seed, u64::from(row), 77);
            key(*a).total_cmp(&key(*b))
        });
        let values: Vec<Vec<f32>> = order.iter().map(|row| table.row(*row)[..dim].to_vec()).collect();
        for (row, values) in (0..n).zip(values) {
            table.row_mut(row)[..dim].copy_from_slice(&values);
        }
    }
}

fn flipped(batch: &Batch) -> Batch {
    let flip = |sample: &Sample| Sample {
        labels: Labels::UNKNOWN.with(0, sample.labels.get(0) != Some(true)),
        ..sample.clone()
    };
    Batch {
        samples: batch.samples.iter().map(flip).collect(),
        ..batch.clone()
    }
}

/// The weights of a copy of the line's trainer that learned these batches, under a changed configuration.
fn taught(line: &mut Line, batches: &[Batch], change: impl Fn(&mut ouzel_learner::LearnerConfig)) -> Weights {
    let dir = tempfile::tempdir().unwrap();
    let store = ouzel_snapshot::Store::open(dir.path()).unwrap();
    let mut config = line.config.clone();
    let id = store.write(&line.draft(None)).unwrap();
    change(&mut config);
    let mut trainer = Trainer::load(&store.read(id).unwrap(), &line.model, config).unwrap();
    for (seq, batch) in (trainer.next_batch()..).zip(batches) {
        trainer.step(&Batch { seq, ..batch.clone() }).unwrap();
    }
    trainer.weights().unwrap()
}

/// The shift of log-odds that changes the mean prediction by this factor.
fn shift_for(line: &Line, weights: &Weights, factor: f32) -> f32 {
    let samples: Vec<Sample> = line.next.iter().flat_map(|batch| batch.samples.clone()).collect();
    let inputs = Inputs::of_samples(&weights.config, &samples, &Default::default());
    let device = line.config.device().unwrap();
    let logits = Model::for_inference(weights, device)
        .unwrap()
        .score(&inputs, weights)
        .unwrap();
    let mean = |shift: f32| {
        logits
            .iter()
            .map(|z| 1.0 / (1.0 + (-z - shift).exp()))
            .sum::<f32>()
    };
    let (wanted, mut low, mut high) = (mean(0.0) * factor, -5.0f32, 5.0f32);
    for _ in 0..40 {
        let middle = f32::midpoint(low, high);
        if mean(middle) < wanted {
            low = middle
        } else {
            high = middle
        }
    }
    low
}

/// A draft of a snapshot with other weights, its hashes right.
pub(crate) fn stored(good: &Snapshot, weights: &Weights) -> Draft {
    let mut draft = Draft::new(
        Some(good.id()),
        0,
        Fingerprint::default(),
        CheckpointMeta::default(),
    );
    for file in &good.manifest().files {
        match file.name.as_str() {
            "dense.safetensors" => {
                let mut arrays = Arrays::new();
                for (name, array) in good.arrays(&file.name).unwrap().iter() {
                    let array = match weights.dense.get(name) {
                        Some(poisoned) => {
                            StoredArray::new(&poisoned.shape, poisoned.values.to_vec()).unwrap()
                        }
                        None => array.clone(),
                    };
                    arrays.insert(name, array).unwrap();
                }
                draft.add_arrays(&file.name, arrays).unwrap();
            }
            "rows.safetensors" => {
                let tables: Vec<&Table> = weights.rows.tables().collect();
                draft.add_arrays(&file.name, table_arrays(&tables)).unwrap();
            }
            "wide.safetensors" => draft
                .add_arrays(&file.name, table_arrays(&[&weights.wide]))
                .unwrap(),
            "trainer.json" => {
                let text = good.blob(&file.name).unwrap();
                let mut state: serde_json::Value = serde_json::from_slice(&text).unwrap();
                state["prior"] = serde_json::json!(weights.prior);
                draft
                    .add_blob(&file.name, serde_json::to_vec(&state).unwrap())
                    .unwrap();
            }
            name if name.ends_with(".safetensors") => {
                draft.add_arrays(name, good.arrays(name).unwrap()).unwrap();
            }
            name => draft.add_blob(name, good.blob(name).unwrap()).unwrap(),
        }
    }
    draft
}

fn table_arrays(tables: &[&Table]) -> Arrays {
    let mut arrays = Arrays::new();
    for (n, table) in tables.iter().enumerate() {
        let prefix = if n == 0 {
            String::new()
        } else {
            format!("{}.", table.name())
        };
        let pages = table.pages();
        let ids: Vec<u64> = pages
            .ids
            .iter()
            .flat_map(|page| page.iter().map(|id| id.0))
            .collect();
        let values: Vec<f32> = pages
            .values
            .iter()
            .flat_map(|page: &Arc<Vec<f32>>| page.to_vec())
            .collect();
        let ids = StoredArray::new(&[table.len()], ids).unwrap();
        let values = StoredArray::new(&[table.len(), table.stride()], values).unwrap();
        arrays.insert(format!("{prefix}ids"), ids).unwrap();
        arrays.insert(format!("{prefix}values"), values).unwrap();
    }
    arrays
}
