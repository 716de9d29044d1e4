//! Verifies the weights of a snapshot by its own model, without a configuration.

use ouzel_model::Model;
use ouzel_snapshot::{ANY, Snapshot};
use serde::Serialize;
use tch::Device;

use super::weights::{RowSettings, check_hash, member_prefix, read_model, read_small};
use super::{PROBE, PROBE_SCORES};
use crate::error::Error;
use crate::fingerprint::{LIBTORCH, cpu_capability};
use crate::probe;
use crate::trainer::set_intra_op_threads;

/// Largest difference of two log-odds on other hardware or another libtorch, relative to 1 or their size.
const TOLERANCE: f32 = 1e-4;

/// The result of loading the weights of a snapshot and scoring its probe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WeightsReport {
    /// Embedding rows of all models.
    pub n_rows: usize,
    /// Scores of the probe that were compared with the recorded ones; 0 when none were recorded.
    pub n_scores: usize,
    /// Largest difference from a recorded score, log-odds.
    pub largest_difference: f32,
    /// True when the bits must be equal: the snapshot was made by this libtorch, on such a CPU.
    pub is_exact: bool,
}

/// Loads the weights of a snapshot and compares the scores of its probe with the recorded ones.
///
/// # Errors
/// As for [`Trainer::load`](crate::Trainer::load); [`Error::Unsound`] also when a score is another one.
pub fn verify_weights(snapshot: &Snapshot) -> Result<WeightsReport, Error> {
    check_hash(snapshot)?;
    let made_by = &snapshot.manifest().created_by;
    set_intra_op_threads(i32::try_from(made_by.n_threads).unwrap_or(1));
    let mut report = WeightsReport {
        n_rows: 0,
        n_scores: 0,
        largest_difference: 0.0,
        is_exact: made_by.libtorch.as_deref() == Some(LIBTORCH)
            && made_by.cpu_capability == cpu_capability()
            && made_by.device == "cpu",
    };
    let n_members = read_small(snapshot, "")?.model.member_models().len();
    for n in 0..=n_members {
        let prefix = if n == 0 { String::new() } else { member_prefix(n) };
        // A member that sleeps has no files.
        if n == 0
            || snapshot
                .manifest()
                .file(&format!("{prefix}{}", super::TRAINER))
                .is_some()
        {
            verify_model(snapshot, &prefix, &mut report)?;
        }
    }
    Ok(report)
}

fn verify_model(snapshot: &Snapshot, prefix: &str, report: &mut WeightsReport) -> Result<(), Error> {
    let settings = RowSettings {
        initial_accumulator: 0.0,
        expires: false,
    };
    let weights = read_model(snapshot, prefix, None, settings)?.weights;
    report.n_rows += weights
        .rows
        .tables()
        .map(ouzel_model::Table::n_live)
        .sum::<usize>();
    let mut model = Model::new(&weights, Device::Cpu)?;
    let file = format!("{prefix}{PROBE}");
    if snapshot.manifest().file(&file).is_none() {
        return Ok(());
    }
    let arrays = snapshot.arrays(&file)?;
    let recorded = arrays.values::<f32>(PROBE_SCORES, &[ANY, weights.config.n_tasks()])?;
    let found = probe::scores(&mut model, &weights)?;
    let unsound = |why: String| Error::Unsound {
        snapshot: snapshot.id().to_string(),
        why,
    };
    if found.len() != recorded.len() {
        let why = format!(
            "the probe has {} scores, {} are recorded",
            found.len(),
            recorded.len()
        );
        return Err(unsound(why));
    }
    for (at, (found, recorded)) in found.iter().zip(recorded.iter()).enumerate() {
        let difference = (found - recorded).abs();
        let is_equal = match report.is_exact {
            true => found.to_bits() == recorded.to_bits(),
            false => difference <= TOLERANCE * recorded.abs().max(1.0),
        };
        if !is_equal {
            return Err(unsound(format!(
                "score {at} of the probe is {found}, recorded is {recorded}"
            )));
        }
        report.largest_difference = report.largest_difference.max(difference);
    }
    report.n_scores += found.len();
    Ok(())
}
