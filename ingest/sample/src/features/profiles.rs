//! The newest profile of each user, bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::limits::evict_oldest;
use super::state::FeatureState;
use crate::profile::UserProfile;
use crate::{Id, IdMap, Number, ProfileUpdate};

/// Profiles by user, about 150 bytes each and 16 for each value; a deleted one is kept without values.
#[derive(Debug, Default)]
pub(crate) struct Profiles {
    newest: IdMap<Id, Arc<UserProfile>>,
    /// Profiles forgotten above the limit.
    n_evicted: AtomicU64,
}

/// The profiles in a dump, sorted by user.
#[derive(Serialize, Deserialize)]
pub(crate) struct ProfilesDump {
    newest: Vec<(Id, Arc<UserProfile>)>,
    n_evicted: u64,
}

impl Profiles {
    pub(crate) fn get(&self, user: Id) -> Option<Arc<UserProfile>> {
        self.newest.get(&user).map(|profile| Arc::clone(&profile))
    }

    /// Applies an update unless it is older than the known version. Then keeps at most `max` profiles: those with the
    /// oldest versions are forgotten, ties by user. False where nothing changed.
    fn update(&self, update: ProfileUpdate, max: usize) -> bool {
        let user = update.user;
        let known = self.get(user);
        if known.as_ref().is_some_and(|known| known.ts > update.ts) {
            return false;
        }
        self.newest.insert(user, Arc::new(update.apply(known.as_deref())));
        let n_profiles = self.newest.len();
        if n_profiles > max {
            let n_left = evict_oldest(&self.newest, max, |profile| profile.ts);
            self.n_evicted
                .fetch_add((n_profiles - n_left) as u64, Ordering::Relaxed);
        }
        true
    }

    /// The profiles, or none while there never was one.
    pub(crate) fn dump(&self) -> Option<ProfilesDump> {
        let n_evicted = self.n_evicted.load(Ordering::Relaxed);
        let profiles = self.newest.iter();
        let mut newest: Vec<_> = profiles
            .map(|entry| (*entry.key(), Arc::clone(entry.value())))
            .collect();
        newest.sort_unstable_by_key(|(user, _)| *user);
        (!newest.is_empty() || n_evicted > 0).then_some(ProfilesDump { newest, n_evicted })
    }
}

impl From<ProfilesDump> for Profiles {
    fn from(dump: ProfilesDump) -> Self {
        Self {
            newest: dump.newest.into_iter().collect(),
            n_evicted: AtomicU64::new(dump.n_evicted),
        }
    }
}

impl FeatureState {
    /// Applies a change of a user's profile. False where a newer version is known, which stays.
    ///
    /// A deletion leaves histories and counters of the user: they expire like others.
    pub fn update_profile(&self, update: ProfileUpdate) -> bool {
        self.profiles.update(update, self.config.max_users)
    }

    /// Number of profiles forgotten because there were more than `max_users`.
    #[must_use]
    pub fn n_evicted_profiles(&self) -> u64 {
        self.profiles.n_evicted.load(Ordering::Relaxed)
    }

    /// The numbers of a user's profile, sorted by name.
    pub(crate) fn profile_numbers(&self, user: Id) -> Vec<Number> {
        let profile = self.profiles.get(user);
        profile.map_or_else(Vec::new, |profile| profile.numbers().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::testing::{impression, read};
    use crate::{EventTime, FeatureChange, FeatureConfig};

    const AGE: Id = Id(50);

    fn update(user: u64, ts: i64, features: Vec<(Id, FeatureChange)>) -> ProfileUpdate {
        ProfileUpdate {
            user: Id(user),
            ts: EventTime(ts),
            clears_features: true,
            features,
            is_deletion: false,
        }
    }

    fn country(value: u64) -> (Id, FeatureChange) {
        (Id(60), FeatureChange::Values(vec![Id(value)]))
    }

    /// Number of users whose profile has a value.
    fn n_profiles(state: &FeatureState) -> usize {
        let profiles = state.profiles.newest.iter();
        let has_value =
            |profile: &UserProfile| profile.values().next().is_some() || !profile.numbers().is_empty();
        profiles.filter(|profile| has_value(profile)).count()
    }

    fn context(state: &FeatureState, user: u64) -> Vec<u64> {
        let (request, _) = read(state, user, &[1], 1_000);
        request.context.iter().map(|value| value.0).collect()
    }

    #[test]
    fn the_newest_version_counts_and_a_deletion_is_one() {
        let state = FeatureState::new(FeatureConfig::default());
        assert!(state.dump() == FeatureState::new(FeatureConfig::default()).dump());
        assert!(state.update_profile(update(
            1,
            10,
            vec![country(7), (AGE, FeatureChange::Number(30.0))]
        )));
        assert_eq!(
            context(&state, 1),
            [77, 7],
            "a number never counted has no bucket"
        );
        assert!(!state.update_profile(update(1, 9, vec![country(8)])));
        let partial = ProfileUpdate {
            clears_features: false,
            ..update(1, 10, vec![country(9)])
        };
        assert!(state.update_profile(partial));
        assert_eq!(context(&state, 1), [77, 9]);
        assert_eq!(
            state.profile_numbers(Id(1)).len(),
            1,
            "a partial event keeps the others"
        );
        let deletion = ProfileUpdate {
            is_deletion: true,
            ..update(1, 20, vec![])
        };
        assert!(state.update_profile(deletion));
        assert!(!state.update_profile(update(1, 19, vec![country(7)])));
        assert_eq!((context(&state, 1), n_profiles(&state)), (vec![77], 0));
        assert!(state.update_profile(update(1, 20, vec![country(7)])));
        assert_eq!((context(&state, 1), n_profiles(&state)), (vec![77, 7], 1));
        assert_eq!(context(&state, 2), [77], "another user has none of it");
    }

    #[test]
    fn a_number_of_the_request_precedes_that_of_the_profile() {
        let state = FeatureState::new(FeatureConfig::default());
        for age in 0..64u8 {
            let user = u64::from(age);
            let age = (AGE, FeatureChange::Number(f32::from(age)));
            state.update_profile(update(user, 1, vec![age]));
            state.add_impression(&impression(user, &[1], 1));
        }
        let own = |value| {
            let own = Number { name: AGE, value };
            state.context(Id(1), &[], &[own])
        };
        let of_profile = |user| state.context(Id(user), &[], &[]);
        assert_eq!(of_profile(60), own(60.0));
        assert_ne!(of_profile(1), own(60.0));
        assert_eq!(of_profile(1), own(1.0));
        assert_eq!(
            of_profile(999).len(),
            1,
            "a user without the number has its missing bucket"
        );
    }

    #[test]
    fn a_flood_of_profiles_stays_within_the_limit_and_forgets_the_oldest_versions() {
        let config = FeatureConfig {
            max_users: 100,
            ..FeatureConfig::default()
        };
        let straight = FeatureState::new(config.clone());
        let mut restored = FeatureState::new(config.clone());
        for n in 0..2_000u64 {
            for state in [&straight, &restored] {
                let ts = i64::try_from(n).unwrap();
                state.update_profile(update(n, ts, vec![country(n)]));
                state.update_profile(update(7, ts, vec![country(1)]));
                assert!(n_profiles(state) <= 100);
            }
            if n % 300 == 200 {
                restored = FeatureState::load(&restored.dump(), config.clone()).unwrap();
            }
        }
        assert_eq!(straight.dump(), restored.dump());
        let kept = |user| straight.profiles.get(Id(user)).is_some();
        assert!(kept(7) && kept(1_999) && !kept(100));
        let n_left = n_profiles(&straight) as u64;
        assert_eq!(straight.n_evicted_profiles() + n_left, 2_000);
    }
}
