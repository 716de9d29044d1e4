//! The weights of a snapshot in a trainer of another model: what fits by name and shape is kept, the rest starts anew.
//!
//! Scores change as little as they can. Floats that embedding rows gain are 0, and so is a part of the first layer that
//! starts anew: both add nothing until they have learned. A new task starts at its prior. Where the input of a weight
//! starts anew, its numbers have no meaning any more, so it starts anew as well.

mod fit;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ouzel_model::{Array as DenseArray, Feature, FeatureNorm, ModelConfig, Output, Weights, weight_specs};
use ouzel_sample::{N_DENSE, TaskMap};
use ouzel_snapshot::{ANY, Arrays, Snapshot};
use serde_json::Value;
use tch::Tensor;

use super::state::{LAYOUT, TrainerState, trainer_state};
use super::tables::{admission_counts, table_prefix};
use super::weights::{check_finite, check_hash, member_prefix};
use super::{
    ADMISSION, DENSE, DENSE_STATE, NORM_MEAN, NORM_VARIANCE, RETRIEVAL, ROWS, TRAINER, WIDE, extents,
    retrieval, state_name,
};
use crate::config::LearnerConfig;
use crate::error::Error;
use crate::optim::{ROW_STATE, WIDE_STATE};
use crate::trainer::Trainer;
use fit::{Fit, Fitting};
use rows::SavedTable;

pub use rows::TableMigration;

/// What became of a dense weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightOutcome {
    /// Every value is kept.
    Kept,
    /// The values that both shapes have are kept.
    Reshaped,
    /// It starts anew, or is new.
    Anew,
    /// The model no longer has it.
    Lost,
}

/// What a migration of the weights has kept, started anew and lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightsMigration {
    /// Every dense weight, former and present, with its number of values and what became of it.
    pub weights: Vec<(String, usize, WeightOutcome)>,
    /// Every table of rows.
    pub tables: Vec<TableMigration>,
    /// What else there is to say, a sentence each.
    pub notes: Vec<String>,
}

impl WeightsMigration {
    /// Number of values of the weights with this outcome.
    #[must_use]
    pub fn n_parameters(&self, outcome: WeightOutcome) -> usize {
        let of = self.weights.iter().filter(|(_, _, found)| *found == outcome);
        of.map(|(_, n, _)| n).sum()
    }
}

/// The model that a snapshot was made with, of any layout that [`Trainer::migrate`] reads.
///
/// # Errors
/// As for [`Trainer::migrate`].
pub fn saved_model(snapshot: &Snapshot) -> Result<ModelConfig, Error> {
    Ok(read_small(snapshot, "")?.0.model)
}

impl Trainer {
    /// A trainer of `model` with those weights of a snapshot that fit it. Optimizer state follows the weights.
    ///
    /// # Errors
    /// [`Error::Restore`] for a change that cannot be made: the base is frozen and would start anew in part. Otherwise as
    /// for [`Trainer::load`].
    pub fn migrate(
        snapshot: &Snapshot,
        model: &ModelConfig,
        config: LearnerConfig,
    ) -> Result<(Self, WeightsMigration), Error> {
        check_hash(snapshot)?;
        let mut done = WeightsMigration::default();
        let (small, _) = read_small(snapshot, "")?;
        let mut trainer = Self::migrate_alone(snapshot, "", model, config, &mut done)?;
        let former = small.mixture.filter(|_| small.model.members == model.members);
        if former.is_none() && !(small.model.members.is_empty() && model.members.is_empty()) {
            let note = "model.members: every member starts anew, with an equal share";
            done.notes.push(note.to_owned());
        }
        if let Some(former) = former.filter(|former| former.len() == trainer.mixture.len()) {
            trainer.mixture = former;
        }
        let is_kept = small.model.members == model.members;
        for (member, n) in model.member_models().iter().zip(1..) {
            let prefix = member_prefix(n);
            let has_files = snapshot.manifest().file(&format!("{prefix}{TRAINER}")).is_some();
            let migrated = match trainer.mixture.is_asleep(n) {
                true => None,
                false if is_kept && has_files => {
                    let config = trainer.member_config();
                    Some(Self::migrate_alone(snapshot, &prefix, member, config, &mut done)?)
                }
                false => Some(Self::new(member.clone(), trainer.member_config())?),
            };
            trainer.members.push(migrated);
        }
        // Tasks and members may be others, so models are compared by predictions from here on.
        trainer.keep_shown_logits();
        trainer.resume_at(small.next_batch);
        Ok((trainer, done))
    }

    fn migrate_alone(
        snapshot: &Snapshot,
        prefix: &str,
        model: &ModelConfig,
        config: LearnerConfig,
        done: &mut WeightsMigration,
    ) -> Result<Self, Error> {
        let saved = Saved::read(snapshot, prefix)?;
        let initial = config.optimizer.row_initial_accumulator;
        let expires = config.rows.expire_after.ms() > 0;
        let mut weights = Weights::new(model.clone(), ROW_STATE, initial, WIDE_STATE);
        let tasks = TaskMap::new(&saved.small.model.tasks, &model.tasks);
        let fitting = Fitting::new(&saved.small.model, model, tasks, saved.norm.is_some());
        let fits = saved.fit(&fitting, &mut weights, prefix, done);
        rows::migrate(
            &saved.tables,
            (&saved.small.model, model),
            &mut weights,
            expires,
            (prefix, done),
        )?;
        if let Some(norm) = &saved.norm {
            weights.norm.clone_from(norm);
        }
        check_base(snapshot, &saved.small, model, &fits)?;
        weights.frozen = None;
        if saved.small.frozen.is_some() {
            weights.frozen = Some(weights.base());
        }
        let kept = fitting.keeps_retrieval() && model.retrieval.is_on();
        let mut of_retrieval = None;
        if kept {
            let mut arrays = snapshot.arrays(&format!("{prefix}{RETRIEVAL}"))?;
            check_finite(RETRIEVAL, &arrays)?;
            retrieval::restore_rows(&mut weights, &mut arrays, expires)?;
            of_retrieval = Some(arrays);
        } else if model.retrieval.is_on() {
            done.notes
                .push("model.retrieval: the towers and their rows start anew".to_owned());
        }
        let mut trainer = Self::with(weights, config)?;
        if let Some((retrieval, mut arrays)) = trainer.retrieval.as_mut().zip(of_retrieval) {
            retrieval::restore(retrieval, &mut arrays, &snapshot.id().to_string())?;
        }
        saved.restore_optimizer(&mut trainer, &fits)?;
        saved.restore_small(&mut trainer, &fitting, expires);
        if let Some(admission) = saved.admission
            && trainer.config.rows.waits() != [false; Feature::N]
        {
            trainer.admission.import(&admission_counts(admission)?);
        }
        Ok(trainer)
    }
}

/// Refuses to start a part of a frozen base anew, which nothing would learn.
fn check_base(
    snapshot: &Snapshot,
    small: &TrainerState,
    model: &ModelConfig,
    fits: &BTreeMap<String, Fit>,
) -> Result<(), Error> {
    use ouzel_model::WeightGroup::Base;
    if small.frozen.is_none() {
        return Ok(());
    }
    let base = weight_specs(model).into_iter().filter(|spec| spec.group == Base);
    let broken = base
        .map(|spec| spec.name)
        .find(|name| !matches!(fits.get(name), Some(Fit::Same(_))));
    let Some(name) = broken else { return Ok(()) };
    Err(Error::Restore {
        snapshot: snapshot.id().to_string(),
        why: format!(
            "its base is frozen, and the weight {name} of it would start anew and never learn: leave [model] as it is, or \
             migrate a snapshot from before the base was frozen"
        ),
    })
}

/// The parts of one model of a snapshot, by name and not by its configuration.
struct Saved {
    small: TrainerState,
    dense: BTreeMap<String, DenseArray>,
    dense_state: Arrays,
    /// `None` where the layout had none.
    norm: Option<FeatureNorm>,
    tables: Vec<SavedTable>,
    admission: Option<Arrays>,
}

impl Saved {
    fn read(snapshot: &Snapshot, prefix: &str) -> Result<Self, Error> {
        let (small, layout) = read_small(snapshot, prefix)?;
        let arrays = |name: &str| -> Result<Arrays, Error> {
            let name = format!("{prefix}{name}");
            let arrays = snapshot.arrays(&name)?;
            check_finite(&format!("{name} of snapshot {}", snapshot.id()), &arrays)?;
            Ok(arrays)
        };
        let stored = arrays(DENSE)?;
        let mut dense = BTreeMap::new();
        for (name, array) in stored.iter() {
            let values: Arc<[f32]> = stored.values::<f32>(name, array.shape())?.into();
            let shape = array.shape().to_vec();
            dense.insert(name.to_owned(), DenseArray { shape, values });
        }
        let take = |dense: &mut BTreeMap<String, DenseArray>, name: &str| {
            let array = dense.remove(name).filter(|array| array.shape == [N_DENSE]);
            array.map(|array| array.values.to_vec())
        };
        let (mean, variance) = (take(&mut dense, NORM_MEAN), take(&mut dense, NORM_VARIANCE));
        let norm = mean
            .zip(variance)
            .filter(|_| layout == LAYOUT)
            .map(|(mean, variance)| FeatureNorm {
                n_samples: small.norm_samples,
                mean,
                variance,
            });
        // Only names and widths of the tables are read from these.
        let shapes = Weights::new(small.model.clone(), ROW_STATE, 0.0, WIDE_STATE);
        let mut rows = arrays(ROWS)?;
        let mut tables = Vec::new();
        for (table, n) in shapes.rows.tables().zip(0..) {
            tables.push(SavedTable::take(table, &table_prefix(n, table), &mut rows)?);
        }
        tables.push(SavedTable::take(&shapes.wide, "", &mut arrays(WIDE)?)?);
        let has = |name: &str| snapshot.manifest().file(&format!("{prefix}{name}")).is_some();
        Ok(Self {
            dense,
            dense_state: match layout {
                LAYOUT => arrays(DENSE_STATE)?,
                _ => Arrays::new(),
            },
            norm,
            tables,
            admission: if has(ADMISSION) {
                Some(arrays(ADMISSION)?)
            } else {
                None
            },
            small,
        })
    }

    /// Copies the values that fit into the initial `weights`. Returns how each weight fits.
    fn fit(
        &self,
        fitting: &Fitting<'_>,
        weights: &mut Weights,
        prefix: &str,
        done: &mut WeightsMigration,
    ) -> BTreeMap<String, Fit> {
        let mut fits = BTreeMap::new();
        let mut used = BTreeSet::new();
        for spec in weight_specs(&weights.config) {
            let name = &spec.name;
            let shape = |former: &str| self.dense.get(former).map(|array| array.shape.as_slice());
            let fit = fitting.fit(name, &spec.shape, shape);
            let Some(array) = weights.dense.get_mut(name) else {
                continue;
            };
            let mut values = array.values.to_vec();
            let outcome = match &fit {
                Fit::Same(former) => {
                    values.copy_from_slice(&self.dense[former].values);
                    used.insert(former.clone());
                    WeightOutcome::Kept
                }
                Fit::Part(former, places) => {
                    places.copy(&self.dense[former].values, &mut values);
                    used.insert(former.clone());
                    WeightOutcome::Reshaped
                }
                Fit::Zero => {
                    values.fill(0.0);
                    WeightOutcome::Anew
                }
                Fit::New => WeightOutcome::Anew,
            };
            array.values = values.into();
            done.weights
                .push((format!("{prefix}{name}"), array.values.len(), outcome));
            fits.insert(name.clone(), fit);
        }
        for (name, array) in self.dense.iter().filter(|(name, _)| !used.contains(*name)) {
            let is_present = fits.contains_key(name);
            if !is_present {
                done.weights
                    .push((format!("{prefix}{name}"), array.values.len(), WeightOutcome::Lost));
            }
        }
        fits
    }

    /// Gives each weight the optimizer state of its former values, as far as the rule is the same.
    fn restore_optimizer(&self, trainer: &mut Trainer, fits: &BTreeMap<String, Fit>) -> Result<(), Error> {
        if self.dense_state.is_empty() || trainer.dense.rule() != self.small.dense {
            return Ok(());
        }
        let former_steps: BTreeMap<String, u64> = weight_specs(&self.small.model)
            .into_iter()
            .map(|spec| spec.name)
            .zip(self.small.dense_steps.iter().copied())
            .collect();
        for ((spec, _), state) in trainer.model.net().weights().zip(&mut trainer.dense.states) {
            let (former, places) = match fits.get(&spec.name) {
                Some(Fit::Same(former)) => (former, None),
                Some(Fit::Part(former, places)) => (former, Some(places)),
                _ => continue,
            };
            state.n_steps = former_steps.get(former).copied().unwrap_or(0);
            for (kept, tensor) in state.specs.iter().zip(&mut state.tensors) {
                let name = state_name(former, kept.name);
                let shape = extents(&kept.shape);
                let has_shape_of_weight = shape == spec.shape;
                let values = match places {
                    None => self.dense_state.values::<f32>(&name, &shape)?.into_owned(),
                    // What is not of each value, as a factor of Shampoo, starts anew.
                    Some(_) if !has_shape_of_weight => continue,
                    Some(places) => {
                        let Some(former) = self.dense_state.find(&name) else {
                            continue;
                        };
                        let former = self.dense_state.values::<f32>(&name, former.shape())?;
                        let mut values =
                            Vec::<f32>::try_from(tensor.flatten(0, -1)).map_err(ouzel_model::Error::from)?;
                        places.copy(&former, &mut values);
                        values
                    }
                };
                *tensor = Tensor::from_slice(&values)
                    .view(kept.shape.as_slice())
                    .to_device(tensor.device());
            }
        }
        Ok(())
    }

    /// Restores the numbers by task and the counts.
    fn restore_small(&self, trainer: &mut Trainer, fitting: &Fitting<'_>, expires: bool) {
        let small = &self.small;
        let tasks = fitting.tasks();
        let former = |n: Option<u8>| n.map(usize::from);
        let (was, is) = (small.model.output, trainer.weights.config.output);
        for (seen, from) in trainer.prior.seen.iter_mut().zip(tasks.former()) {
            if let Some(known) = former(from).and_then(|from| small.seen.get(from)) {
                *seen = restated(*known, was, is);
            }
        }
        for (delays, from) in trainer.prior.delays.iter_mut().zip(tasks.former()) {
            if let Some(known) = former(from).and_then(|from| small.delays.get(from)) {
                *delays = *known;
            }
        }
        if was == is {
            for (line, from) in trainer.calibrator.lines.iter_mut().zip(tasks.former()) {
                if let Some(known) = former(from).and_then(|from| small.calibration.get(from)) {
                    line.clone_from(known);
                }
            }
        }
        if let (Some(bias), Some(known)) = (&mut trainer.position, &small.position) {
            bias.keep(known, tasks);
        }
        trainer.weights.prior = trainer.prior.log_odds().collect();
        trainer.weights.calibration = trainer.calibrator.served(trainer.weights.prior.len());
        trainer.model.set_prior(&trainer.weights.prior);
        trainer.age = small.age.filter(|_| expires);
        trainer.next_batch = small.next_batch;
        trainer.n_samples = small.samples;
    }
}

/// Labels and positives in the stream that the output stands for: shown items, or these and each positive once more.
fn restated((labels, positives): (f32, f32), was: Output, is: Output) -> (f32, f32) {
    match (was, is) {
        (Output::LogOdds, Output::FakeNegatives) => (labels + positives, positives),
        (Output::FakeNegatives, Output::LogOdds) => ((labels - positives).max(positives), positives),
        _ => (labels, positives),
    }
}

/// The small state of any layout, and its layout. Of an older one only what still has its meaning is read.
fn read_small(snapshot: &Snapshot, prefix: &str) -> Result<(TrainerState, u32), Error> {
    let id = snapshot.id().to_string();
    let bytes = snapshot.blob(&format!("{prefix}{TRAINER}"))?;
    let unsound = |why: String| Error::Unsound {
        snapshot: id.clone(),
        why: format!("{TRAINER}: {why}"),
    };
    let mut small: Value = serde_json::from_slice(&bytes).map_err(|error| unsound(error.to_string()))?;
    let layout = small.get("layout").map_or(Some(1), Value::as_u64);
    if layout != Some(1) {
        return Ok((trainer_state(&bytes, &id)?, LAYOUT));
    }
    let Some(fields) = small.as_object_mut() else {
        return Err(unsound("it is no object".to_owned()));
    };
    for gone in ["calibration", "position", "age", "delays", "mixture"] {
        fields.remove(gone);
    }
    fields.insert("layout".to_owned(), LAYOUT.into());
    fields.insert("norm_samples".to_owned(), 0.into());
    let state: TrainerState = serde_json::from_value(small).map_err(|error| Error::Restore {
        snapshot: id.clone(),
        why: format!(
            "its weights are in layout 1, and its model has a setting that this version does not know ({error}): its \
             weights cannot be told apart; start in an empty state directory"
        ),
    })?;
    if state.seen.len() != state.model.n_tasks() {
        let n = state.seen.len();
        return Err(unsound(format!(
            "counts of {n} tasks for {}",
            state.model.n_tasks()
        )));
    }
    Ok((state, 1))
}

/// The ids of an array of rows.
fn ids_of(arrays: &mut Arrays, name: &str) -> Result<Vec<u64>, Error> {
    Ok(arrays.take::<u64>(name, &[ANY])?)
}
