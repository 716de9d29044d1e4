//! The popularity of an item: its action rate by the live counters, with no model.
//!
//! A fallback scorer ranks by it when no model may serve.

use super::counter::CounterScope;
use super::smoothing::f32_of;
use super::state::FeatureState;
use crate::Id;

impl FeatureState {
    /// The rate of primary actions on an item, smoothed towards the global rate, in `(0, 1)`.
    ///
    /// With `a` actions on `n` shown items, `p` pseudo-actions (`features.prior_actions`) and the global rate `r`, it is
    /// `(a + p) / (n + max(p / r, 2 p))`. Among items it has the order of the feature `item_ctr`.
    #[must_use]
    pub fn popularity(&self, item: Id) -> f32 {
        let (rate, prior) = (self.rate(), self.config.prior_actions);
        let counter = self.counter(CounterScope::Item, item);
        let (impressions, actions) = counter.map_or((0.0, 0.0), |counter| {
            (f32_of(counter.impressions), f32_of(counter.actions))
        });
        let prior_impressions = (prior / rate).max(2.0 * prior);
        let popularity = (actions + prior) / (impressions + prior_impressions);
        // Several actions on one shown item can exceed its impressions.
        popularity.clamp(f32::MIN_POSITIVE, 1.0 - f32::EPSILON)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::testing::impression;
    use crate::{Action, EventTime, FeatureConfig};

    #[test]
    fn acted_on_items_are_more_popular_and_unknown_ones_have_the_global_rate() {
        let features = FeatureState::new(FeatureConfig::default());
        for ts in 0..50 {
            features.add_impression(&impression(9, &[1, 2, 3], ts));
            let action = Action {
                request: None,
                item: Id(1),
                user: Id(9),
                ts: EventTime(ts),
                task: 0,
                value: None,
            };
            features.add_action(&action, &[], None);
        }
        let [liked, ignored, unknown] = [1, 2, 4].map(|item| features.popularity(Id(item)));
        assert!(
            liked > unknown && unknown > ignored,
            "{liked} {unknown} {ignored}"
        );
        assert!(liked < 1.0 && ignored > 0.0);
        assert!((unknown - features.rate()).abs() < 1e-6);
    }
}
