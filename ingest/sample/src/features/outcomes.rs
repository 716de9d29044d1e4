//! The newest outcomes of one user, on several time scales.
//!
//! A shown item counts as a negative from its impression on and as a positive from its action on. An action that
//! comes late changes the outcome at its place in the order of impressions, so averages and last outcomes end up as if
//! it had come at once. Time-decayed counts and sessions count an action at its own event time instead.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::counter::decay;
use super::dense::{Feature, N_DENSE};
use super::smoothing::{Smoothing, f32_of, ln1p};
use crate::{Action, EventTime, Id, Impression};

/// Outcomes that a late action can still change, count. An older one weighs less than `.8^64 = 6e-7` in the averages.
const CAPACITY: usize = 64;
/// Newest outcomes that are features of their own, count.
const N_LAST: usize = 3;
/// Rates of the moving averages, per shown item.
const AVERAGE_RATES: [f32; 2] = [0.2, 0.5];
/// Share of the global rate mixed into a moving average.
const PRIOR_SHARE: f32 = 0.2;
/// Time constant of the short decayed counts, ms.
const SHORT_DECAY_MS: i64 = 600_000;
/// A session ends after this long without an impression, ms.
const SESSION_GAP_MS: i64 = 1_800_000;

/// The newest outcomes of one user: 120 bytes, and 4 per stored outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcomes {
    /// Hashes of request and item of the newest shown items, oldest first, at most [`CAPACITY`].
    keys: VecDeque<u32>,
    /// Bit `n` says whether the item shown `n`-th last was acted on.
    acted: u64,
    /// Global rates when the newest items were shown, newest first.
    rates: [f32; N_LAST],
    /// Moving averages over all outcomes that are older than `keys`, by [`AVERAGE_RATES`].
    older: [f32; 2],
    /// Shown items decayed by [`SHORT_DECAY_MS`], as of `decayed_to`.
    impressions: f32,
    /// Actions decayed alike.
    actions: f32,
    decayed_to: EventTime,
    /// Event time of the newest impression.
    last_shown: EventTime,
    session: Session,
}

/// The impressions since the last gap, and the actions dated after the first of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Session {
    start: EventTime,
    impressions: u32,
    actions: u32,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self {
            keys: VecDeque::new(),
            acted: 0,
            rates: [0.0; N_LAST],
            older: [0.0; 2],
            impressions: 0.0,
            actions: 0.0,
            decayed_to: EventTime::MIN,
            last_shown: EventTime::MIN,
            session: Session {
                start: EventTime::MAX,
                impressions: 0,
                actions: 0,
            },
        }
    }
}

impl Outcomes {
    /// Adds the items of a slate as negatives. `rate` is the global rate before the slate.
    pub(crate) fn add_impression(&mut self, slate: &Impression, rate: f32) {
        self.decay_to(slate.ts);
        if slate.ts.since_ms(self.last_shown) > SESSION_GAP_MS {
            self.session = Session {
                start: slate.ts,
                impressions: 0,
                actions: 0,
            };
        }
        self.last_shown = self.last_shown.max(slate.ts);
        for shown in &slate.items {
            self.add_shown(key(slate.request, shown.item), rate);
        }
    }

    fn add_shown(&mut self, key: u32, rate: f32) {
        if self.keys.is_empty() {
            self.older = [rate; 2];
        }
        if self.keys.len() == CAPACITY {
            self.keys.pop_front();
            let is_acted = self.is_acted(CAPACITY - 1);
            update_averages(&mut self.older, is_acted);
        }
        self.keys.push_back(key);
        self.acted <<= 1;
        self.rates.rotate_right(1);
        self.rates[0] = rate;
        self.impressions += 1.0;
        self.session.impressions = self.session.impressions.saturating_add(1);
    }

    /// Makes the outcome of an item positive.
    pub(crate) fn add_action(&mut self, action: &Action) {
        self.decay_to(action.ts);
        self.actions += 1.0;
        if action.ts >= self.session.start {
            self.session.actions = self.session.actions.saturating_add(1);
        }
        let Some(request) = action.request else { return };
        let key = key(request, action.item);
        if let Some(age) = self.keys.iter().rev().position(|known| *known == key) {
            self.acted |= 1 << age;
        }
    }

    /// Event time of the newest impression.
    pub(crate) fn last_shown(&self) -> EventTime {
        self.last_shown
    }

    /// Fills the features of the user's outcomes as of `now`.
    pub(crate) fn fill(&self, values: &mut [f32; N_DENSE], smoothing: &Smoothing, now: EventTime) {
        let keep = decay(now.since_ms(self.decayed_to), SHORT_DECAY_MS);
        values[Feature::user_10min_ctr as usize] =
            smoothing.decayed_ctr(self.impressions * keep, self.actions * keep);
        if now.since_ms(self.last_shown) <= SESSION_GAP_MS {
            values[Feature::session_impressions as usize] = ln1p(f32_of(self.session.impressions));
            values[Feature::session_actions as usize] = ln1p(f32_of(self.session.actions));
        }
        if self.keys.is_empty() {
            return;
        }
        let mut averages = self.older;
        for age in (0..self.keys.len()).rev() {
            update_averages(&mut averages, self.is_acted(age));
        }
        values[Feature::user_ema5_ctr as usize] = smoothing.mixed(averages[0], PRIOR_SHARE);
        values[Feature::user_ema2_ctr as usize] = smoothing.mixed(averages[1], PRIOR_SHARE);
        for age in 0..self.keys.len().min(N_LAST) {
            let outcome = f32::from(u8::from(self.is_acted(age)));
            values[Feature::user_outcome_1 as usize + age] = outcome - self.rates[age];
        }
    }

    fn is_acted(&self, age: usize) -> bool {
        self.acted & (1 << age) != 0
    }

    fn decay_to(&mut self, now: EventTime) {
        if now > self.decayed_to {
            let keep = decay(now.since_ms(self.decayed_to), SHORT_DECAY_MS);
            self.impressions *= keep;
            self.actions *= keep;
            self.decayed_to = now;
        }
    }
}

fn update_averages(averages: &mut [f32; 2], is_acted: bool) {
    let outcome = f32::from(u8::from(is_acted));
    for (average, rate) in averages.iter_mut().zip(AVERAGE_RATES) {
        *average += rate * (outcome - *average);
    }
}

/// The hash of a shown item: two of the 64 stored ones collide with a probability of 5e-7.
fn key(request: Id, item: Id) -> u32 {
    (request.pair(item).0 >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::testing::impression;

    fn action(slate: &Impression, item: u64, ts: i64) -> Action {
        Action {
            request: Some(slate.request),
            item: Id(item),
            user: slate.user,
            ts: EventTime(ts),
            task: 0,
            value: None,
        }
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    fn features(outcomes: &Outcomes, now: i64) -> [f32; N_DENSE] {
        let mut values = [0.0; N_DENSE];
        outcomes.fill(&mut values, &Smoothing::new(0.1, 1.0), EventTime(now));
        values
    }

    /// Averages, then last outcomes.
    const ORDERED: std::ops::RangeInclusive<usize> =
        Feature::user_ema5_ctr as usize..=Feature::user_outcome_3 as usize;

    #[test]
    fn a_late_action_changes_its_outcome_as_if_it_had_come_at_once() {
        let (first, second) = (impression(1, &[1, 2, 3], 1_000), impression(1, &[4, 5], 2_000));
        let (mut at_once, mut late) = (Outcomes::default(), Outcomes::default());
        at_once.add_impression(&first, 0.1);
        at_once.add_action(&action(&first, 2, 1_000));
        at_once.add_impression(&second, 0.2);
        late.add_impression(&first, 0.1);
        late.add_impression(&second, 0.2);
        let unacted = features(&late, 3_000);
        late.add_action(&action(&first, 2, 2_500));
        let (at_once, late) = (features(&at_once, 3_000), features(&late, 3_000));
        assert_ne!(bits(&unacted[ORDERED]), bits(&late[ORDERED]));
        assert_eq!(bits(&at_once[ORDERED]), bits(&late[ORDERED]));
        let last = Feature::user_outcome_1 as usize;
        assert_eq!(bits(&late[last..last + 3]), bits(&[-0.2, -0.2, -0.1]));
    }

    #[test]
    fn an_action_on_an_outcome_of_long_ago_leaves_the_averages() {
        let mut outcomes = Outcomes::default();
        let first = impression(1, &[1], 0);
        outcomes.add_impression(&first, 0.1);
        for n in 1..=64 {
            outcomes.add_impression(&impression(1, &[1], n), 0.1);
        }
        let before = features(&outcomes, 100);
        outcomes.add_action(&action(&first, 1, 90));
        let after = features(&outcomes, 100);
        assert_eq!(bits(&before[ORDERED]), bits(&after[ORDERED]));
        assert!(after[Feature::user_10min_ctr as usize] > before[Feature::user_10min_ctr as usize]);
        assert_eq!(outcomes.keys.len(), CAPACITY);
    }

    #[test]
    fn a_session_counts_what_is_dated_after_its_first_impression() {
        let mut outcomes = Outcomes::default();
        let session = |outcomes: &Outcomes, now| {
            let values = features(outcomes, now);
            [Feature::session_impressions, Feature::session_actions]
                .map(|at| values[at as usize].exp_m1().round())
        };
        assert_eq!(bits(&session(&outcomes, 0)), bits(&[0.0, 0.0]));
        let first = impression(1, &[1, 2], 1_000);
        outcomes.add_impression(&first, 0.1);
        outcomes.add_action(&action(&first, 1, 2_000));
        assert_eq!(
            bits(&session(&outcomes, 1_000 + SESSION_GAP_MS)),
            bits(&[2.0, 1.0])
        );
        assert_eq!(
            bits(&session(&outcomes, 1_001 + SESSION_GAP_MS)),
            bits(&[0.0, 0.0])
        );
        outcomes.add_impression(&impression(1, &[3], 1_001 + SESSION_GAP_MS), 0.1);
        outcomes.add_action(&action(&first, 2, 3_000));
        assert_eq!(
            bits(&session(&outcomes, 2_000 + SESSION_GAP_MS)),
            bits(&[1.0, 0.0])
        );
    }
}
