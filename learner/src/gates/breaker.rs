//! The breaker: says when the data, or what the model makes of it, is not what it was.

use std::collections::BTreeMap;

use ouzel_sample::Batch;
use serde::{Deserialize, Serialize};

use super::config::GatesConfig;
use super::interval::Interval;
use super::moments::Moments;
use super::signal::{Breach, Signal};

/// Intervals in a row with a breach of one signal after which the breaker trips: one alone may be a holiday's first minute.
const TRIPS_AFTER: u32 = 2;
/// Multiple of the allowed distance from which one interval is enough: no minute of real data is that far off.
const TRIPS_AT_ONCE: f64 = 2.0;
/// Intervals in a row without a breach after which it is whole again.
const HEALS_AFTER: u32 = 2;

/// Watches intervals of samples against their own past.
///
/// It is a function of the batches alone. While it is tripped, its averages do not move.
#[derive(Clone, Debug)]
pub struct Breaker {
    config: GatesConfig,
    state: State,
}

/// The part in a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    interval: Interval,
    averages: BTreeMap<Signal, Moments>,
    n_intervals: u64,
    /// Intervals in a row with a breach, by signal.
    in_a_row: BTreeMap<Signal, u32>,
    /// Intervals in a row without any.
    n_clean: u32,
    tripped: Option<Breach>,
}

/// What a batch brought about.
#[derive(Clone, Debug, PartialEq)]
pub enum BreakerEvent {
    /// An interval closed. `quality` is a breach of a figure that compares predictions with outcomes, in this interval alone.
    Closed {
        /// What disagrees.
        quality: Option<Breach>,
    },
    /// An interval closed and the breaker tripped.
    Tripped(Breach),
    /// An interval closed and the breaker is whole again.
    Healed,
}

impl Breaker {
    /// A breaker that has seen nothing.
    #[must_use]
    pub fn new(config: GatesConfig) -> Self {
        Self {
            config,
            state: State::default(),
        }
    }

    /// Why it is tripped.
    #[must_use]
    pub fn tripped(&self) -> Option<&Breach> {
        self.state.tripped.as_ref()
    }

    /// Whether enough intervals have closed to judge by.
    #[must_use]
    pub fn is_warm(&self) -> bool {
        self.state.n_intervals >= self.config.warm_up_intervals
    }

    /// Newest event time of the impressions learned from, ms.
    #[must_use]
    pub fn event_time_ms(&self) -> i64 {
        self.state.interval.event_time_ms()
    }

    /// Adds a batch with its logits from before it was learned from, `[n_samples, n_tasks]`. Returns what the interval that
    /// it closed brought about.
    pub fn observe(&mut self, batch: &Batch, logits: &[f32]) -> Option<BreakerEvent> {
        let state = &mut self.state;
        state.interval.add(batch, logits);
        if state.interval.len() < self.config.interval_samples as u64 {
            return None;
        }
        let mut signals = state.interval.signals();
        signals.retain(|(signal, _)| self.config.slices || !signal.is_slice());
        state.interval = Interval::after(&state.interval);
        Some(self.close(&signals))
    }

    /// Takes the data as it is now as normal: every average starts anew and judges again after half the warm-up.
    pub fn accept(&mut self) {
        let state = &mut self.state;
        state.averages.clear();
        state.in_a_row.clear();
        (state.tripped, state.n_clean) = (None, 0);
    }

    fn close(&mut self, signals: &[(Signal, f64)]) -> BreakerEvent {
        let is_warm = self.is_warm();
        let breaches: Vec<(Signal, Breach, f64)> = signals
            .iter()
            .filter(|_| is_warm)
            .filter_map(|(signal, value)| {
                let (breach, multiple) = self.judge(*signal, *value)?;
                Some((*signal, breach, multiple))
            })
            .collect();
        let state = &mut self.state;
        state.n_intervals += 1;
        state
            .in_a_row
            .retain(|signal, _| breaches.iter().any(|(breached, ..)| breached == signal));
        for (signal, ..) in &breaches {
            *state.in_a_row.entry(*signal).or_default() += 1;
        }
        for (signal, value) in signals {
            let Some(scaled) = signal.scaled(*value) else {
                continue;
            };
            // An interval that is far off would widen the limits for the next one.
            if state.tripped.is_none() && !state.in_a_row.contains_key(signal) {
                state.averages.entry(*signal).or_default().add(scaled);
            }
        }
        state.n_clean = if breaches.is_empty() { state.n_clean + 1 } else { 0 };
        if state.tripped.is_some() {
            if state.n_clean >= HEALS_AFTER {
                state.tripped = None;
                return BreakerEvent::Healed;
            }
        } else {
            let is_lasting = |signal: &Signal| state.in_a_row.get(signal).is_some_and(|n| *n >= TRIPS_AFTER);
            let trips = breaches
                .iter()
                .find(|(signal, _, multiple)| *multiple >= TRIPS_AT_ONCE || is_lasting(signal));
            if let Some((_, breach, _)) = trips {
                state.tripped = Some(breach.clone());
                return BreakerEvent::Tripped(breach.clone());
            }
        }
        let quality = breaches.into_iter().find(|(signal, ..)| signal.is_quality());
        BreakerEvent::Closed {
            quality: quality.map(|(_, breach, _)| breach),
        }
    }

    /// The breach of a signal, if its value is too far from its average, and the multiple of the allowed distance.
    fn judge(&self, signal: Signal, value: f64) -> Option<(Breach, f64)> {
        let average = self.state.averages.get(&signal)?;
        // A signal that is rarely defined, or was just accepted, has no usual range yet.
        if average.n() < self.config.warm_up_intervals / 2 {
            return None;
        }
        let scaled = signal.scaled(value)?;
        let allowed = (self.config.max_deviations * average.deviation()).max(signal.floor());
        let distance = scaled - average.mean();
        let is_far = match signal {
            cost if cost.is_cost() => distance > allowed,
            Signal::Auc => distance < -allowed,
            _ => distance.abs() > allowed,
        };
        let breach = Breach {
            gate: signal.name().to_owned(),
            detail: None,
            value,
            limits: (
                Some(signal.unscaled(average.mean() - allowed)),
                Some(signal.unscaled(average.mean() + allowed)),
            ),
        };
        is_far.then_some((breach, distance.abs() / allowed))
    }

    /// The state as bytes, for a snapshot.
    #[must_use]
    pub fn dump(&self) -> Vec<u8> {
        serde_json::to_vec(&self.state).expect("the state is numbers and names")
    }

    /// Restores the state of a snapshot.
    ///
    /// # Errors
    /// When the bytes are not those of [`dump`](Self::dump).
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), serde_json::Error> {
        self.state = serde_json::from_slice(bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ouzel_sample::{Sample, SampleKind};

    use super::*;
    use crate::testing::{batch, sample};

    fn config() -> GatesConfig {
        GatesConfig {
            interval_samples: 256,
            warm_up_intervals: 6,
            ..GatesConfig::default()
        }
    }

    /// A batch of 64 samples of which every `every`-th is positive, and predicted so.
    fn make(seq: u64, every: u64, is_inverted: bool) -> Batch {
        let samples: Vec<Sample> = (0..64)
            .map(|at| {
                let n = seq * 64 + at;
                let is_positive =
                    ouzel_model::uniform(1, n, 0) < 1.0 / f32::from(u16::try_from(every).unwrap());
                let made = sample(n, at, SampleKind::Final, is_positive != is_inverted);
                let noise = ouzel_model::uniform(2, n, 0) * 2.0;
                made.candidate
                    .predicted
                    .set(&[if is_positive { noise } else { -1.5 - noise }]);
                made
            })
            .collect();
        Batch {
            seq,
            ..batch(samples)
        }
    }

    fn run(breaker: &mut Breaker, batches: impl Iterator<Item = Batch>) -> Vec<BreakerEvent> {
        batches
            .filter_map(|batch| breaker.observe(&batch, &[0.0; 64]))
            .collect()
    }

    #[test]
    fn an_even_stream_never_trips_and_inverted_labels_do() {
        let mut breaker = Breaker::new(config());
        let events = run(&mut breaker, (0..400).map(|seq| make(seq, 5, false)));
        assert_eq!(events.len(), 100);
        assert!(
            events
                .iter()
                .all(|event| *event == BreakerEvent::Closed { quality: None }),
            "{events:?}"
        );
        let events = run(&mut breaker, (400..408).map(|seq| make(seq, 5, true)));
        let BreakerEvent::Tripped(breach) = &events[0] else {
            panic!("{events:?}")
        };
        assert_eq!(breach.gate, "label_rate", "{breach}");
        assert_eq!(breaker.tripped(), Some(breach));
        // It heals when the data is as before, and not earlier.
        let events = run(&mut breaker, (408..412).map(|seq| make(seq, 5, true)));
        assert!(matches!(events[0], BreakerEvent::Closed { .. }), "{events:?}");
        let events = run(&mut breaker, (412..420).map(|seq| make(seq, 5, false)));
        assert_eq!(events[1], BreakerEvent::Healed);
    }

    #[test]
    fn what_an_operator_accepts_is_normal_from_then_on() {
        let mut breaker = Breaker::new(config());
        run(&mut breaker, (0..100).map(|seq| make(seq, 20, false)));
        let events = run(&mut breaker, (100..108).map(|seq| make(seq, 2, false)));
        assert!(
            events
                .iter()
                .any(|event| matches!(event, BreakerEvent::Tripped(_))),
            "{events:?}"
        );
        breaker.accept();
        let events = run(&mut breaker, (108..300).map(|seq| make(seq, 2, false)));
        assert!(breaker.tripped().is_none(), "{events:?}");
    }

    #[test]
    fn a_breaker_restored_in_the_middle_of_an_interval_goes_on_to_the_same_bytes() {
        let mut breaker = Breaker::new(config());
        run(&mut breaker, (0..37).map(|seq| make(seq, 5, false)));
        let mut copy = Breaker::new(config());
        copy.restore(&breaker.dump()).unwrap();
        let tail = || (37..90).map(|seq| make(seq, 5, seq > 60));
        assert_eq!(run(&mut breaker, tail()), run(&mut copy, tail()));
        assert!(breaker.tripped().is_some());
        assert_eq!(breaker.dump(), copy.dump());
    }
}
