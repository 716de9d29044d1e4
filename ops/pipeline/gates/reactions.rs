//! What a learner does about what its gates find.
//!
//! With outputs, by `gates.on_breach`; a replay has none, counts, and takes what it found as normal.

use std::sync::atomic::Ordering;

use metrics::{counter, gauge};

use ouzel_learner::gates::{Breach, BreakerEvent, IntervalVerdict, OnBreach, REFERENCE_EVERY};
use ouzel_learner::model::Weights;
use ouzel_sample::Batch;

use super::{FLAP_GUARD_MS, Gates, Hold, Until};
use crate::pipeline::control::LearningState;
use crate::pipeline::learner::Learner;
use crate::telemetry::metrics::{GATE_HELD, GATE_SWAPS_BACK};

impl Learner {
    /// Shows the gates a batch that was learned, with its logits from before.
    pub(in crate::pipeline) fn observe(&mut self, taught: &Batch, logits: &[f32]) -> anyhow::Result<()> {
        let Some(gates) = &mut self.gates else {
            return Ok(());
        };
        let closed = gates.observe(taught, logits)?;
        if self.outputs.is_none() {
            return self.observe_only(closed.map(|(event, _)| event), taught.seq);
        }
        if taught.seq.is_multiple_of(REFERENCE_EVERY) {
            self.examine()?;
        }
        let Some((event, verdict)) = closed else {
            return Ok(());
        };
        match event {
            BreakerEvent::Closed { quality: None } => self.judge_interval(&verdict),
            BreakerEvent::Closed {
                quality: Some(breach),
            } => {
                tracing::warn!(%breach, "the predictions of an interval disagree with its outcomes");
            }
            BreakerEvent::Tripped(breach) => self.data_breach(&breach)?,
            BreakerEvent::Healed => self.healed(),
        }
        Ok(())
    }

    /// Swaps back if the model that learns is worse than the last good version, of which the present one becomes the next
    /// otherwise.
    pub(super) fn judge_interval(&mut self, verdict: &IntervalVerdict) {
        match verdict {
            IntervalVerdict::NotWorse => {
                let held = self
                    .gates
                    .as_mut()
                    .and_then(|gates| gates.hold.take_if(|hold| hold.until == Until::NotWorse));
                if held.is_some() {
                    tracing::info!("the model is not worse than the last good version: versions serve again");
                    self.show_gates();
                }
                self.mark_good(true);
            }
            IntervalVerdict::Undecided => self.mark_good(false),
            IntervalVerdict::Worse(breach) => {
                tracing::warn!(%breach, "the model is worse than the last good version in this interval");
            }
            IntervalVerdict::GoBack(breach) => {
                if self.gates.as_ref().is_none_or(Gates::warns_only) {
                    tracing::warn!(%breach, "the model is worse than the last good version; it serves on, because gates.on_breach is warn");
                    return;
                }
                let why = format!("the model is worse than the last good version: {breach}");
                tracing::error!("{why}");
                self.swap_back(&why, Until::NotWorse);
                self.stop_if_configured(&why);
            }
        }
    }

    /// A replay checks references only, and goes on whatever it finds.
    fn observe_only(&mut self, event: Option<BreakerEvent>, batch: u64) -> anyhow::Result<()> {
        let Some(gates) = &mut self.gates else {
            return Ok(());
        };
        if matches!(event, Some(BreakerEvent::Tripped(_))) {
            gates.breaker.accept();
        }
        if batch.is_multiple_of(REFERENCE_EVERY) {
            let weights = self.trainer.weights()?;
            let measured = gates.check(&weights)?;
            gates.accept(weights, measured);
        }
        Ok(())
    }

    /// Checks the present weights at a fixed batch, published or not: as a reference for later versions. Learning stops here
    /// only, so that it stops at the same batch on every machine.
    fn examine(&mut self) -> anyhow::Result<()> {
        self.admit()?;
        self.stop_if_held();
        Ok(())
    }

    /// Stops learning if a version was refused, as configured.
    pub(super) fn stop_if_held(&mut self) {
        let why = self.gates.as_ref().and_then(|gates| match &gates.hold {
            Some(hold) if hold.until == Until::NextGoodVersion => Some(hold.why.clone()),
            _ => None,
        });
        if let Some(why) = why {
            self.stop_if_configured(&why);
        }
    }

    /// Returns the weights if they may serve now.
    pub(in crate::pipeline) fn admit(&mut self) -> anyhow::Result<Option<Weights>> {
        let weights = self.trainer.weights()?;
        let Some(gates) = &mut self.gates else {
            return Ok(Some(weights));
        };
        if gates
            .hold
            .as_ref()
            .is_some_and(|hold| hold.until != Until::NextGoodVersion)
        {
            return Ok(None);
        }
        let measured = gates.check(&weights)?;
        let breach = measured.breaches.first().cloned();
        let Some(breach) = breach else {
            let weights = gates.pass(weights, measured);
            if gates.hold.take().is_some() {
                tracing::info!("a version passes the gates again: the newest one serves");
                self.show_gates();
            }
            return Ok(Some(weights));
        };
        if gates.warns_only() {
            tracing::warn!(%breach, "a version would not pass the gates; it serves, because gates.on_breach is warn");
            gates.accept(weights.clone(), measured);
            return Ok(Some(weights));
        }
        self.version_breach(&breach);
        Ok(None)
    }

    /// Why no snapshot may be written now: the present weights are not good.
    pub(in crate::pipeline) fn refuse_snapshot(&mut self) -> anyhow::Result<Option<String>> {
        let Some(gates) = self.gates.as_mut().filter(|gates| !gates.warns_only()) else {
            return Ok(None);
        };
        if let Some(hold) = &gates.hold {
            return Ok(Some(hold.why.clone()));
        }
        let weights = self.trainer.weights()?;
        let Some(breach) = gates.check(&weights)?.breaches.into_iter().next() else {
            return Ok(None);
        };
        self.version_breach(&breach);
        Ok(Some(breach.to_string()))
    }

    /// Swaps back if replies of the served version were not finite.
    pub(in crate::pipeline) fn watch(&mut self) -> anyhow::Result<()> {
        let is_watched = self
            .gates
            .as_ref()
            .is_some_and(|gates| !gates.warns_only() && gates.hold.is_none());
        let n_bad = self
            .outputs
            .as_ref()
            .map_or(0, |outputs| outputs.publisher.n_not_finite());
        if is_watched && n_bad > 0 {
            let why = format!("{n_bad} scores of the served version are not finite");
            tracing::error!("{why}");
            self.swap_back(&why, Until::NextGoodVersion);
            self.stop_if_configured(&why);
        }
        Ok(())
    }

    /// Goes on: takes the present data and version as normal.
    pub(in crate::pipeline) fn resume(&mut self) -> anyhow::Result<()> {
        if let Some(gates) = &mut self.gates {
            gates.accept_all();
        }
        self.set_learning(LearningState::Running);
        self.add_note("learning resumed by the operator".to_owned());
        self.show_gates();
        self.publish()
    }

    /// Forgets the versions that gates compare with, after the weights were replaced.
    pub(in crate::pipeline) fn weights_replaced(&mut self) {
        if let Some(gates) = &mut self.gates {
            gates.versions.forget_reference();
            gates.previous.forget();
            gates.learned = Default::default();
        }
    }

    fn data_breach(&mut self, breach: &Breach) -> anyhow::Result<()> {
        let Some(gates) = &mut self.gates else {
            return Ok(());
        };
        if gates.warns_only() {
            tracing::warn!(%breach, "the data is not as before; learning goes on, because gates.on_breach is warn");
            gates.breaker.accept();
            return Ok(());
        }
        let batch = self.status.batches.load(Ordering::Relaxed);
        let why = format!("the data is not as before: {breach}");
        tracing::error!(batch, %breach, "the data is not as before");
        let until = match gates.config.on_breach {
            OnBreach::Hold => Until::Healed,
            OnBreach::Stop | OnBreach::Warn => Until::Resumed,
        };
        self.swap_back(&why, until);
        self.stop_if_configured(&why);
        Ok(())
    }

    pub(super) fn version_breach(&mut self, breach: &Breach) {
        let Some(gates) = &mut self.gates else { return };
        let why = format!("a version does not pass the gates: {breach}");
        let is_new = gates.hold.is_none();
        if is_new {
            tracing::error!(%breach, "a version does not pass the gates: the last good one serves on");
        }
        gates.hold.get_or_insert(Hold {
            why,
            until: Until::NextGoodVersion,
        });
        self.show_gates();
    }

    fn healed(&mut self) {
        let Some(gates) = &mut self.gates else { return };
        if gates
            .hold
            .as_ref()
            .is_some_and(|hold| hold.until == Until::Healed)
        {
            gates.hold = None;
            // What was learned meanwhile may be far from the last good version, which a version must still pass.
            tracing::info!("the data is as before: versions serve again");
            self.show_gates();
        }
    }

    /// Serves the last version from before, and holds new ones. A second swap within ten minutes of event time needs an
    /// operator.
    fn swap_back(&mut self, why: &str, until: Until) {
        let (Some(gates), Some(outputs)) = (&mut self.gates, &mut self.outputs) else {
            return;
        };
        let now_ms = gates.breaker.event_time_ms();
        let flaps = gates
            .swapped_ms
            .is_some_and(|before| now_ms - before < FLAP_GUARD_MS);
        gates.swapped_ms = Some(now_ms);
        let is_pinned = outputs.control.state().pinned().is_some();
        let to_compared = until == Until::NotWorse;
        if !is_pinned && let Some(snapshot) = outputs.publisher.swap_back(to_compared) {
            counter!(GATE_SWAPS_BACK).increment(1);
            gates.report.swaps_back += 1;
            tracing::warn!(snapshot, flaps, "swapped back to the last good version");
        }
        gates.hold = Some(Hold {
            why: why.to_owned(),
            until: if flaps { Until::Resumed } else { until },
        });
        self.show_gates();
    }

    fn stop_if_configured(&mut self, why: &str) {
        let stops = self
            .gates
            .as_ref()
            .is_some_and(|gates| gates.config.on_breach == OnBreach::Stop);
        if let Some(outputs) = self.outputs.as_ref().filter(|_| stops) {
            tracing::error!("learning stops; Kafka keeps what is not read. `ouzel resume` goes on");
            outputs
                .control
                .set_learning(LearningState::Stopped(why.to_owned()));
            if let Some(gates) = &mut self.gates {
                gates.hold = Some(Hold {
                    why: why.to_owned(),
                    until: Until::Resumed,
                });
            }
        }
        self.show_gates();
    }

    /// Records that the served version is good; with `is_compared`, that the next ones are compared with it.
    fn mark_good(&mut self, is_compared: bool) {
        let is_held = self.gates.as_ref().is_none_or(|gates| gates.hold.is_some());
        if let Some(outputs) = self.outputs.as_mut().filter(|_| !is_held) {
            outputs.publisher.mark_good(is_compared);
        }
    }

    /// Copies the state of the gates to the status and the metrics.
    fn show_gates(&mut self) {
        let Some(gates) = &mut self.gates else { return };
        gates.report.held = gates.hold.as_ref().map(|hold| hold.why.clone());
        gauge!(GATE_HELD).set(f64::from(u8::from(gates.hold.is_some())));
        self.status.set_gates(gates.report.clone());
    }
}
