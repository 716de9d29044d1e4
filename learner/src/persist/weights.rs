//! The weights of a snapshot, checked: recorded hash, shapes, distinct ids, finite values.

use std::sync::Arc;

use ouzel_model::{Array as DenseArray, FeatureNorm, ModelConfig, Weights};
use ouzel_sample::N_DENSE;
use ouzel_snapshot::{Arrays, Draft, Snapshot};

use super::state::{TrainerState, differences, trainer_state};
use super::tables::{restore_table, table_prefix};
use super::{
    ADMISSION, DENSE, DENSE_STATE, NORM_MEAN, NORM_VARIANCE, RETRIEVAL, ROWS, SHOWN_LOGITS, TRAINER, WIDE,
    retrieval,
};
use crate::calibration::Calibrator;
use crate::error::Error;
use crate::optim::{ROW_STATE, WIDE_STATE};

/// Largest number of models of a mixture.
const MAX_MODELS: usize = 9;

/// Prefix of the names of a member's files.
pub(super) fn member_prefix(n: usize) -> String {
    format!("member{n}.")
}

/// Names of the files of weights and optimizer state that exist, of a model and its members.
fn weight_files(has: impl Fn(&str) -> bool) -> Vec<String> {
    let prefixes = (0..MAX_MODELS).map(|n| if n == 0 { String::new() } else { member_prefix(n) });
    let names = prefixes.flat_map(|prefix| {
        [
            DENSE,
            DENSE_STATE,
            ROWS,
            WIDE,
            TRAINER,
            ADMISSION,
            SHOWN_LOGITS,
            RETRIEVAL,
        ]
        .map(|name| format!("{prefix}{name}"))
    });
    names.filter(|name| has(name)).collect()
}

/// Hash over the trainer's part of a draft, names and shapes included.
#[must_use]
pub fn weights_hash(draft: &Draft) -> String {
    let names = weight_files(|name| draft.has(name));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    draft.hash_files(&names)
}

/// Checks that every weight and all optimizer state of a draft is finite.
///
/// # Errors
/// [`Error::NotFinite`] names the first value that is not.
pub fn check_draft(draft: &Draft) -> Result<(), Error> {
    for name in weight_files(|name| draft.has(name)) {
        if let Some(arrays) = draft.arrays(&name) {
            check_finite(&name, arrays)?;
        }
    }
    Ok(())
}

/// Checks the recorded hash of the weights of a snapshot; a snapshot without one passes.
///
/// # Errors
/// [`Error::Unsound`] when the hash differs, [`Error::Snapshot`] when a file cannot be read.
pub(super) fn check_hash(snapshot: &Snapshot) -> Result<(), Error> {
    let recorded = &snapshot.manifest().checkpoint.weights_hash;
    if recorded.is_empty() {
        return Ok(());
    }
    let names = weight_files(|name| snapshot.manifest().file(name).is_some());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = snapshot.hash_files(&names)?;
    if found == *recorded {
        return Ok(());
    }
    let why = format!("their hash is {found}, the manifest says {recorded}");
    Err(unsound(snapshot, why))
}

pub(super) fn check_finite(file: &str, arrays: &Arrays) -> Result<(), Error> {
    for (name, array) in arrays.iter() {
        if let Some(at) = array.first_non_finite() {
            return Err(Error::NotFinite {
                file: file.to_owned(),
                array: name.to_owned(),
                at,
            });
        }
    }
    Ok(())
}

fn unsound(snapshot: &Snapshot, why: String) -> Error {
    Error::Unsound {
        snapshot: snapshot.id().to_string(),
        why,
    }
}

/// How rows are restored: what a learner's configuration decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowSettings {
    /// Initial optimizer state of new rows.
    pub(super) initial_accumulator: f32,
    /// True if rows expire, so that the times when they were seen are needed.
    pub(super) expires: bool,
}

/// The state of one model of a snapshot.
pub(super) struct SavedModel {
    pub(super) weights: Weights,
    pub(super) small: TrainerState,
    /// Optimizer state of the dense weights.
    pub(super) dense_state: Arrays,
    /// What learning the towers needs beside their weights; none without towers.
    pub(super) retrieval: Option<Arrays>,
}

/// Reads the small state of the model whose files start with `prefix`.
pub(super) fn read_small(snapshot: &Snapshot, prefix: &str) -> Result<TrainerState, Error> {
    trainer_state(
        &snapshot.blob(&format!("{prefix}{TRAINER}"))?,
        &snapshot.id().to_string(),
    )
}

/// Reads and checks the model whose files start with `prefix`; `expected` is the configured model, if it is known.
///
/// # Errors
/// [`Error::Restore`] for another model or layout, [`Error::Unsound`] and others for weights that cannot be used.
pub(super) fn read_model(
    snapshot: &Snapshot,
    prefix: &str,
    expected: Option<&ModelConfig>,
    settings: RowSettings,
) -> Result<SavedModel, Error> {
    let file = |name: &str| format!("{prefix}{name}");
    let small = read_small(snapshot, prefix)?;
    if let Some(model) = expected.filter(|model| small.model != **model) {
        return Err(Error::Restore {
            snapshot: snapshot.id().to_string(),
            why: format!(
                "it was made with {}; `ouzel snapshot migrate` keeps the weights that fit, or roll back to a snapshot of \
                 the configured model",
                differences(&small.model, model).join(", ")
            ),
        });
    }
    let arrays = |name: &str| -> Result<Arrays, Error> {
        let arrays = snapshot.arrays(&file(name))?;
        check_finite(&format!("{} of snapshot {}", file(name), snapshot.id()), &arrays)?;
        Ok(arrays)
    };
    let mut weights = Weights::new(
        small.model.clone(),
        ROW_STATE,
        settings.initial_accumulator,
        WIDE_STATE,
    );
    let mut dense = arrays(DENSE)?;
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
    let mut rows = arrays(ROWS)?;
    for (table, n) in weights.rows.tables_mut().zip(0..) {
        let prefix = table_prefix(n, table);
        restore_table(table, &prefix, &mut rows, settings.expires)?;
    }
    restore_table(&mut weights.wide, "", &mut arrays(WIDE)?, settings.expires)?;
    let mut of_retrieval = None;
    if weights.config.retrieval.is_on() {
        let mut arrays = arrays(RETRIEVAL)?;
        retrieval::restore_rows(&mut weights, &mut arrays, settings.expires)?;
        of_retrieval = Some(arrays);
    }
    check_small(snapshot, &small, weights.prior.len())?;
    weights.prior.clone_from(&small.prior);
    weights.frozen = small.frozen;
    if !small.calibration.is_empty() {
        let mut calibrator = Calibrator::new(0);
        calibrator.lines.clone_from(&small.calibration);
        weights.calibration = calibrator.served(weights.prior.len());
    }
    Ok(SavedModel {
        weights,
        small,
        dense_state: arrays(DENSE_STATE)?,
        retrieval: of_retrieval,
    })
}

/// Checks numbers by task: their count, and that they are finite.
fn check_small(snapshot: &Snapshot, small: &TrainerState, n_tasks: usize) -> Result<(), Error> {
    if small.prior.len() != n_tasks || small.seen.len() != n_tasks {
        let why = format!("{} priors for {n_tasks} tasks", small.prior.len());
        return Err(unsound(snapshot, why));
    }
    let seen = small
        .seen
        .iter()
        .flat_map(|(labels, positives)| [*labels, *positives]);
    if !small.prior.iter().copied().chain(seen).all(f32::is_finite) {
        return Err(unsound(snapshot, "a prior is not finite".to_owned()));
    }
    Ok(())
}
