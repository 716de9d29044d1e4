//! One live counter: impressions and actions with their moving averages and decayed counts.

use serde::{Deserialize, Serialize};

use super::config::FeatureConfig;
use crate::{EventTime, Id, id::mix};

/// What a counter counts events of. Part of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum CounterScope {
    /// An item.
    Item = 1,
    /// A user.
    User = 2,
    /// A categorical value of items.
    Attribute = 3,
    /// A categorical value of requests.
    Context = 4,
    /// A user with a categorical value of items.
    UserAttribute = 5,
    /// A user with an item; tells whether the item was already shown to the user.
    UserItem = 6,
    /// Actions on items with a categorical value, seeded ones included.
    ValueActions = 7,
    /// Actions on an item; tells when the last one was.
    ItemActions = 8,
}

/// The key of a counter: a 64-bit hash of its scope and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct CounterKey(u64);

impl CounterKey {
    pub(crate) fn new(scope: CounterScope, id: Id) -> Self {
        Self(mix(id.0 ^ mix(scope as u64)))
    }
}

/// Counts of shown items and of the primary task's actions on them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counter {
    pub(crate) impressions: u32,
    pub(crate) actions: u32,
    /// Fast exponential moving average of the outcome, per impression.
    pub(crate) fast: f32,
    /// Slow exponential moving average of the outcome, per impression.
    pub(crate) slow: f32,
    /// Impressions decayed by time, as of `last`.
    pub(crate) recent_impressions: f32,
    /// Actions decayed by time, as of `last`.
    pub(crate) recent_actions: f32,
    /// Event time of the first event.
    pub(crate) first: EventTime,
    /// Latest event time seen.
    pub(crate) last: EventTime,
}

impl Counter {
    /// A counter without events; its averages start at the global rate.
    pub(crate) fn new(rate: f32, now: EventTime) -> Self {
        Self {
            impressions: 0,
            actions: 0,
            fast: rate,
            slow: rate,
            recent_impressions: 0.0,
            recent_actions: 0.0,
            first: now,
            last: now,
        }
    }

    /// Counts one impression, as a negative until its action arrives.
    pub(crate) fn add_impression(&mut self, now: EventTime, config: &FeatureConfig) {
        self.decay_to(now, config);
        self.impressions = self.impressions.saturating_add(1);
        self.recent_impressions += 1.0;
        self.fast -= config.fast_ema_rate * self.fast;
        self.slow -= config.slow_ema_rate * self.slow;
    }

    /// Counts one action.
    pub(crate) fn add_action(&mut self, now: EventTime, config: &FeatureConfig) {
        self.decay_to(now, config);
        self.actions = self.actions.saturating_add(1);
        self.recent_actions += 1.0;
        self.fast += config.fast_ema_rate;
        self.slow += config.slow_ema_rate;
    }

    /// Decayed (impressions, actions) as of `now`.
    pub(crate) fn recent(&self, now: EventTime, config: &FeatureConfig) -> (f32, f32) {
        let keep = decay(now.since_ms(self.last), config.counter_decay.ms());
        (self.recent_impressions * keep, self.recent_actions * keep)
    }

    fn decay_to(&mut self, now: EventTime, config: &FeatureConfig) {
        if now > self.last {
            (self.recent_impressions, self.recent_actions) = self.recent(now, config);
            self.last = now;
        }
    }
}

/// `exp(-elapsed / constant)`; 1 for an event that is out of order.
pub(crate) fn decay(elapsed_ms: i64, constant_ms: i64) -> f32 {
    if elapsed_ms <= 0 {
        return 1.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "a decay needs no exact milliseconds")]
    let ratio = elapsed_ms as f32 / constant_ms.max(1) as f32;
    (-ratio).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_decay_by_event_time_and_never_grow_backwards() {
        let config = FeatureConfig::default();
        let mut counter = Counter::new(0.1, EventTime(0));
        counter.add_impression(EventTime(0), &config);
        let (now, later) = (
            EventTime(config.counter_decay.ms()),
            EventTime(2 * config.counter_decay.ms()),
        );
        assert!((counter.recent(now, &config).0 - (-1.0f32).exp()).abs() < 1e-6);
        counter.add_impression(later, &config);
        counter.add_action(now, &config);
        assert_eq!(counter.last, later);
        assert_eq!((counter.impressions, counter.actions), (2, 1));
    }

    #[test]
    fn an_average_of_steady_outcomes_approaches_them() {
        let config = FeatureConfig::default();
        let mut counter = Counter::new(0.1, EventTime(0));
        for step in 0..200 {
            counter.add_impression(EventTime(step), &config);
            counter.add_action(EventTime(step), &config);
        }
        assert!((counter.fast - 1.0).abs() < 1e-3, "{}", counter.fast);
    }
}
