//! One live counter: impressions, actions and their averages by count and by time.

use serde::{Deserialize, Serialize};

use crate::features::FeatureConfig;
use crate::{EventTime, Id, id::mix};

/// What a counter counts. Part of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Of {
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
    /// A user with an item: also says whether it was already shown.
    UserItem = 6,
}

/// The key of a counter: what it counts and of whom, in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct CounterKey(u64);

impl CounterKey {
    pub(crate) fn new(of: Of, id: Id) -> Self {
        Self(mix(id.0 ^ mix(of as u64)))
    }
}

/// Counts of shown items and of the primary task's actions on them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counter {
    pub(crate) impressions: u32,
    pub(crate) actions: u32,
    /// Exponential average of the outcome per impression, fast.
    pub(crate) fast: f32,
    /// The same, slow.
    pub(crate) slow: f32,
    /// Impressions decayed by time, as of `last`.
    pub(crate) recent_impressions: f32,
    /// Actions decayed by time, as of `last`.
    pub(crate) recent_actions: f32,
    /// First event seen.
    pub(crate) first: EventTime,
    /// Latest event seen.
    pub(crate) last: EventTime,
}

impl Counter {
    /// A counter without events, its averages at the global rate.
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

    /// Counts one impression. Its outcome is taken as negative until the action arrives.
    pub(crate) fn show(&mut self, now: EventTime, config: &FeatureConfig) {
        self.decay_to(now, config);
        self.impressions = self.impressions.saturating_add(1);
        self.recent_impressions += 1.0;
        self.fast -= config.fast_rate * self.fast;
        self.slow -= config.slow_rate * self.slow;
    }

    /// Counts one action.
    pub(crate) fn act(&mut self, now: EventTime, config: &FeatureConfig) {
        self.decay_to(now, config);
        self.actions = self.actions.saturating_add(1);
        self.recent_actions += 1.0;
        self.fast += config.fast_rate;
        self.slow += config.slow_rate;
    }

    /// Decayed (impressions, actions) as of `now`.
    pub(crate) fn recent(&self, now: EventTime, config: &FeatureConfig) -> (f32, f32) {
        let keep = decay(now.since_ms(self.last), config.decay_ms);
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
fn decay(elapsed_ms: i64, constant_ms: i64) -> f32 {
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
        counter.show(EventTime(0), &config);
        let (now, later) = (EventTime(config.decay_ms), EventTime(2 * config.decay_ms));
        assert!((counter.recent(now, &config).0 - (-1.0f32).exp()).abs() < 1e-6);
        counter.show(later, &config);
        counter.act(now, &config);
        assert_eq!(counter.last, later);
        assert_eq!((counter.impressions, counter.actions), (2, 1));
    }

    #[test]
    fn an_average_of_steady_outcomes_approaches_them() {
        let config = FeatureConfig::default();
        let mut counter = Counter::new(0.1, EventTime(0));
        for step in 0..200 {
            counter.show(EventTime(step), &config);
            counter.act(EventTime(step), &config);
        }
        assert!((counter.fast - 1.0).abs() < 1e-3, "{}", counter.fast);
    }
}
