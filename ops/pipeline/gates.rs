//! The gates of a running learner: what it does when the data or a version is not what it should be.
//!
//! `Gates` holds the checks and what they found; `reactions` is what the learner does about it, by
//! `gates.on_breach`. The checks themselves are in `ouzel_learner::gates`.

mod reactions;
mod report;
#[cfg(test)]
mod tests;

use metrics::counter;

use ouzel_learner::Trainer;
use ouzel_learner::gates::{
    Breach, Breaker, BreakerEvent, GatesConfig, IntervalVerdict, Learned, Measured, OnBreach,
    PreviousVersion, Probe, REFERENCE_EVERY, VersionGate,
};
use ouzel_learner::model::Weights;
use ouzel_sample::Batch;
use ouzel_snapshot::{Draft, Snapshot};

use crate::config::Config;
use crate::telemetry::metrics::{GATE_BREACHES, GATE_INTERVALS, GATE_VERSIONS};

pub use report::{GateFigures, GateReport};

/// File of the breaker's state in a snapshot.
const STATE: &str = "gates.json";
/// File of what earlier versions were like, in a snapshot.
const VERSIONS: &str = "versions.json";
/// Event time between two automatic swaps back: the second one within it waits for an operator, so that nothing flaps.
const FLAP_GUARD_MS: i64 = 10 * 60 * 1000;

/// The checks of one learner, and what they found.
pub(crate) struct Gates {
    config: GatesConfig,
    breaker: Breaker,
    probe: Probe,
    versions: VersionGate,
    previous: PreviousVersion,
    /// Learned since the reference.
    learned: Learned,
    hold: Option<Hold>,
    /// Event time of the last automatic swap back, ms.
    swapped_ms: Option<i64>,
    report: GateReport,
    /// What was found over the whole run.
    figures: GateFigures,
}

/// Why no new version serves, and what ends that.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    why: String,
    until: Until,
}

/// What ends a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// A version that passes.
    NextGoodVersion,
    /// Data as before.
    Healed,
    /// An interval that is not worse than the previous version.
    NotWorse,
    /// An operator.
    Resumed,
}

impl Gates {
    /// The gates of a configuration; none if they are off.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Option<Self>> {
        if !config.gates.enabled {
            return Ok(None);
        }
        let device = config.learner_config().device()?;
        Ok(Some(Self {
            config: config.gates,
            breaker: Breaker::new(config.gates),
            probe: Probe::default(),
            versions: VersionGate::new(config.gates, device),
            previous: PreviousVersion::new(device, config.model_config().n_tasks()),
            learned: Learned::default(),
            hold: None,
            swapped_ms: None,
            report: GateReport::default(),
            figures: GateFigures::default(),
        }))
    }

    /// Restores the state of a snapshot, whose probe is `probe`. One from before there were gates has none.
    pub(crate) fn restore(&mut self, snapshot: &Snapshot, probe: Probe) -> anyhow::Result<()> {
        self.probe = probe;
        if snapshot.manifest().files.iter().any(|file| file.name == STATE) {
            self.breaker.restore(&snapshot.blob(STATE)?)?;
        }
        if snapshot.manifest().files.iter().any(|file| file.name == VERSIONS) {
            self.versions.restore(&snapshot.blob(VERSIONS)?)?;
        }
        Ok(())
    }

    /// Adds the state to a draft.
    pub(crate) fn save(&self, trainer: &mut Trainer, draft: &mut Draft) -> anyhow::Result<()> {
        draft.add_blob(STATE, self.breaker.dump())?;
        draft.add_blob(VERSIONS, self.versions.dump())?;
        Ok(self.probe.save(trainer, draft)?)
    }

    /// The figures of the whole run.
    pub(crate) fn figures(&self) -> &GateFigures {
        &self.figures
    }

    /// Adds a batch that was learned, with its logits from before. Returns what the interval that it closed brought about.
    fn observe(
        &mut self,
        batch: &Batch,
        logits: &[f32],
    ) -> anyhow::Result<Option<(BreakerEvent, IntervalVerdict)>> {
        self.probe.observe(batch);
        self.learned.add(batch);
        self.previous.observe(batch, logits)?;
        let Some(event) = self.breaker.observe(batch, logits) else {
            return Ok(None);
        };
        self.figures.intervals += 1;
        counter!(GATE_INTERVALS).increment(1);
        if let BreakerEvent::Tripped(breach) = &event {
            self.count(breach);
            *self.figures.trips.entry(breach.gate.clone()).or_default() += 1;
        }
        // An interval in which the data disagrees, or while a version is held, makes no version a good one.
        let is_clean = event == BreakerEvent::Closed { quality: None } && self.hold.is_none();
        let good = self
            .versions
            .good()
            .filter(|_| is_clean && self.breaker.is_warm());
        let verdict = self.previous.close(self.config.max_loss_increase, good)?;
        if let IntervalVerdict::GoBack(breach) = &verdict {
            self.count(breach);
            *self.figures.trips.entry(breach.gate.clone()).or_default() += 1;
        }
        Ok(Some((event, verdict)))
    }

    /// Measures a version.
    fn check(&mut self, weights: &Weights) -> anyhow::Result<Measured> {
        let is_warm = self.breaker.is_warm();
        let measured = self.versions.check(weights, self.learned, &self.probe, is_warm)?;
        self.figures.versions += 1;
        let outcome = if measured.breaches.is_empty() {
            "good"
        } else {
            "refused"
        };
        counter!(GATE_VERSIONS, "outcome" => outcome).increment(1);
        if let Some(breach) = measured.breaches.first() {
            self.figures.refused += 1;
            *self.figures.refusals.entry(breach.gate.clone()).or_default() += 1;
            self.count(breach);
        }
        Ok(measured)
    }

    /// Takes a version as the reference.
    fn accept(&mut self, weights: Weights, measured: Measured) {
        self.versions.accept(weights, measured);
        self.learned = Learned::default();
    }

    /// Takes a version that passed, and returns its weights: as the reference if there is none or it is too far.
    fn pass(&mut self, weights: Weights, measured: Measured) -> Weights {
        if self.versions.good().is_none() || self.learned.n_batches >= REFERENCE_EVERY {
            self.accept(weights.clone(), measured);
        } else {
            self.versions.remember(&measured, self.learned);
        }
        weights
    }

    /// Takes the present data and version as normal, as an operator says.
    fn accept_all(&mut self) {
        self.breaker.accept();
        self.versions.reset();
        self.previous.forget();
        (self.learned, self.hold, self.swapped_ms) = (Learned::default(), None, None);
    }

    fn count(&mut self, breach: &Breach) {
        counter!(GATE_BREACHES, "gate" => breach.gate.clone()).increment(1);
        self.report.last_breach = Some(breach.to_string());
    }

    fn warns_only(&self) -> bool {
        self.config.on_breach == OnBreach::Warn
    }
}
