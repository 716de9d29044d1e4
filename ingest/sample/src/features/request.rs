//! Features that all candidates of a request share.

use super::clicks::ClickCounts;
use super::counter::CounterScope;
use super::dense::{Feature, N_DENSE};
use super::outcomes::Outcomes;
use super::query::FeatureQuery;
use super::smoothing::{Smoothing, f32_of, ln1p, mean, seconds};
use super::state::{FeatureState, read};
use crate::{EventTime, HistoryEntry, Id};

/// Prior weight of the decayed global rate: impressions at the global rate.
const PRIOR_IMPRESSIONS: f32 = 10.0;

/// What a request reads once: the user's past, shared features, and the smoothing of the others.
pub(super) struct RequestFeatures {
    pub(super) smoothing: Smoothing,
    pub(super) values: [f32; N_DENSE],
    /// Categorical values of the request and of its user's profile, buckets of numbers included.
    pub(super) context: Vec<Id>,
    pub(super) history: Vec<HistoryEntry>,
    /// Items shown to the user, newest first.
    pub(super) shown: Vec<Id>,
    pub(super) clicks: ClickCounts,
    /// Primary actions of all users, seeded ones included.
    pub(super) n_actions: f32,
}

impl FeatureState {
    pub(super) fn request_features(&self, query: &FeatureQuery<'_>) -> RequestFeatures {
        let mut request = RequestFeatures {
            smoothing: Smoothing::new(self.rate(), self.config.prior_actions),
            values: [0.0; N_DENSE],
            context: self.context(query.user, query.context, query.numbers),
            history: Vec::new(),
            shown: Vec::new(),
            clicks: ClickCounts::default(),
            n_actions: f32_of(self.n_actions()),
        };
        let (smoothing, values) = (&request.smoothing, &mut request.values);
        if let Some(user) = self.users.get(&query.user) {
            request.history = user.actions_before(query.ts, self.config.history_len);
            request.shown = user.shown_before(query.ts).collect();
            request.clicks = user.clicks.clone();
            user.outcomes.fill(values, smoothing, query.ts);
        } else {
            Outcomes::default().fill(values, smoothing, query.ts);
        }
        self.fill_counters(query, &request.context, smoothing, values);
        let n_items = u16::try_from(query.items.len()).unwrap_or(u16::MAX);
        let slate_size = query.slate_size.unwrap_or(n_items);
        values[Feature::slate_size as usize] = ln1p(f32::from(slate_size));
        values[Feature::global_rate as usize] = smoothing.log_odds;
        values[Feature::slate_size_ctr as usize] = read(&self.slate_sizes).ctr(slate_size, smoothing);
        let hour = angle_of_day(query.ts);
        values[Feature::hour_sin as usize] = hour.sin();
        values[Feature::hour_cos as usize] = hour.cos();
        let history_len = u16::try_from(request.history.len()).unwrap_or(u16::MAX);
        values[Feature::history_len as usize] = ln1p(f32::from(history_len));
        request
    }

    /// Fills the features of the counters of context, user and all requests.
    fn fill_counters(
        &self,
        query: &FeatureQuery<'_>,
        context: &[Id],
        smoothing: &Smoothing,
        values: &mut [f32; N_DENSE],
    ) {
        let context = context.iter();
        let context =
            context.map(|value| smoothing.ctr(self.counter(CounterScope::Context, *value).as_ref()));
        values[Feature::context_ctr as usize] = mean(context);
        let (impressions, actions) = self.global().recent(query.ts, &self.config);
        values[Feature::global_recent_ctr as usize] =
            smoothing.ctr_with_prior(impressions, actions, PRIOR_IMPRESSIONS);
        let user = self.counter(CounterScope::User, query.user);
        let recent = user.map(|user| user.recent(query.ts, &self.config));
        let (impressions, actions) = recent.unwrap_or_default();
        values[Feature::user_recent_ctr as usize] = smoothing.decayed_ctr(impressions, actions);
        if let Some(user) = user {
            values[Feature::user_ctr as usize] = smoothing.ctr(Some(&user));
            values[Feature::user_impressions as usize] = ln1p(f32_of(user.impressions));
            values[Feature::user_fast_ctr as usize] = smoothing.average(user.fast);
            values[Feature::user_slow_ctr as usize] = smoothing.average(user.slow);
            values[Feature::user_gap as usize] = ln1p(seconds(query.ts.since_ms(user.last)));
        }
    }
}

/// The UTC time of day as an angle, radians.
#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of a day fit an f32's use here"
)]
fn angle_of_day(ts: EventTime) -> f32 {
    const DAY_MS: i64 = 86_400_000;
    ts.0.rem_euclid(DAY_MS) as f32 / DAY_MS as f32 * std::f32::consts::TAU
}
