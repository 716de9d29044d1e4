//! Checks a restored trainer before anything serves or is learned from it.

use ouzel_model::Weights;
use ouzel_snapshot::{Draft, Snapshot};

use super::probe::Probe;
use super::signal::Breach;
use super::weights::check_weights;
use crate::error::Error;
use crate::trainer::Trainer;

/// File of the probe in a snapshot.
const PROBE: &str = "probe.json";

impl Probe {
    /// Adds the probe and its scores by the trainer's weights to a draft.
    ///
    /// # Errors
    /// When the model cannot compute.
    pub fn save(&self, trainer: &mut Trainer, draft: &mut Draft) -> Result<(), Error> {
        let device = trainer.config().device()?;
        let weights = trainer.weights()?;
        draft.add_blob(PROBE, self.record(&weights, device)?)?;
        Ok(())
    }
}

/// Checks the weights that a trainer restored from `snapshot`: shapes, every number finite, and the scores that the
/// snapshot recorded. Returns its probe, or what is wrong with it.
///
/// A snapshot from before there were probes is checked for itself only.
///
/// # Errors
/// When the snapshot cannot be read or the model cannot compute.
pub fn check_restored(snapshot: &Snapshot, trainer: &mut Trainer) -> Result<Result<Probe, Breach>, Error> {
    let device = trainer.config().device()?;
    let weights: Weights = trainer.weights()?;
    if let Err(breach) = check_weights(&weights) {
        return Ok(Err(breach));
    }
    if !snapshot.manifest().files.iter().any(|file| file.name == PROBE) {
        return Ok(Ok(Probe::default()));
    }
    let (probe, breach) = Probe::restore(&snapshot.blob(PROBE)?, &weights, device)?;
    Ok(breach.map_or(Ok(probe), Err))
}
