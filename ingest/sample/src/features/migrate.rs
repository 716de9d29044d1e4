//! A stored feature state under other feature definitions: what has the same meaning is kept, the rest starts anew.
//!
//! Items, their vectors and users' profiles are facts, which no definition changes. Histories are bounded lists of facts.
//! Only decayed counts have the definitions in their values.

use super::config::FeatureConfig;
use super::counter::Counter;
use super::dump::{Dump, FeatureStateError, decode};
use super::state::FeatureState;
use crate::{EventTime, TaskMap};

/// What a migration of the feature state has kept and what starts anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureMigration {
    /// Items of the catalog; all are kept.
    pub items: u64,
    /// Users whose past is kept.
    pub users: u64,
    /// Users whose past starts anew.
    pub lost_users: u64,
    /// Past actions of tasks that were removed.
    pub lost_actions: u64,
    /// Live counters that are kept.
    pub counters: u64,
    /// Live counters that start anew.
    pub lost_counters: u64,
}

impl FeatureState {
    /// Loads a dump that may have been made under other definitions, or for other tasks.
    ///
    /// Histories are kept, unless fewer values or words of a user are counted than before. Counters are kept while they
    /// decay and average as before. Both are of the primary task, so they start anew with another one.
    ///
    /// # Errors
    /// When the bytes are not a dump of this format.
    pub fn migrate(
        bytes: &[u8],
        config: FeatureConfig,
        tasks: &TaskMap,
    ) -> Result<(Self, FeatureMigration), FeatureStateError> {
        let (mut dump, profiles) = decode(bytes)?;
        let mut migration = FeatureMigration {
            items: dump.items.len() as u64,
            ..FeatureMigration::default()
        };
        let is_primary = tasks.keeps_primary();
        if is_primary && keeps_users(&dump.config, &config) {
            migration.users = dump.users.len() as u64;
            if !tasks.is_identity() {
                let users = dump.users.iter_mut();
                migration.lost_actions = users.map(|(_, user)| user.migrate(tasks)).sum();
            }
        } else {
            migration.lost_users = dump.users.len() as u64;
            dump.users.clear();
        }
        if config.long_limits().is_none() {
            dump.users.iter_mut().for_each(|(_, user)| user.clear_long());
        }
        if is_primary && keeps_counters(&dump.config, &config) {
            migration.counters = dump.counters.len() as u64;
        } else {
            migration.lost_counters = dump.counters.len() as u64;
            forget_counters(&mut dump);
        }
        Ok((Self::of_dump(dump, profiles, config), migration))
    }
}

fn forget_counters(dump: &mut Dump) {
    dump.counters.clear();
    dump.global = Counter::new(0.0, EventTime::MIN);
}

/// Lists of a user are cut when something is added, but counts of values and words are not.
fn keeps_users(former: &FeatureConfig, present: &FeatureConfig) -> bool {
    present.value_capacity >= former.value_capacity && present.word_capacity >= former.word_capacity
}

fn keeps_counters(former: &FeatureConfig, present: &FeatureConfig) -> bool {
    let definition = |config: &FeatureConfig| {
        (
            config.counter_decay,
            config.fast_ema_rate.to_bits(),
            config.slow_ema_rate.to_bits(),
        )
    };
    definition(former) == definition(present)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::testing::{impression, item};
    use crate::settings::Period;
    use crate::{Action, Id};

    fn state() -> FeatureState {
        let state = FeatureState::new(FeatureConfig::default());
        for id in 0..5 {
            state.put_item(item(id));
        }
        for user in 0..3 {
            state.add_impression(&impression(user, &[1, 2], 1000));
            for (item, task) in [(1, 0), (2, 1)] {
                let action = Action {
                    request: Some(Id(1)),
                    item: Id(item),
                    user: Id(user),
                    ts: EventTime(2000),
                    task,
                    value: None,
                };
                state.add_action(&action, &[], Some(2));
            }
        }
        state
    }

    fn tasks(former: &[&str], present: &[&str]) -> TaskMap {
        let [former, present] =
            [former, present].map(|tasks| tasks.iter().map(|task| (*task).to_owned()).collect::<Vec<_>>());
        TaskMap::new(&former, &present)
    }

    #[test]
    fn the_same_definitions_keep_every_byte() {
        let bytes = state().dump();
        let same = tasks(&["click", "like"], &["click", "like"]);
        let (migrated, migration) = FeatureState::migrate(&bytes, FeatureConfig::default(), &same).unwrap();
        assert_eq!(migrated.dump(), bytes);
        assert_eq!(
            (migration.items, migration.users, migration.lost_users),
            (5, 3, 0)
        );
        assert!(migration.counters > 0 && migration.lost_counters == 0);
    }

    #[test]
    fn a_removed_task_takes_its_actions_and_another_primary_task_all_counts() {
        let bytes = state().dump();
        let fewer = tasks(&["click", "like"], &["click"]);
        let migrate = |tasks| FeatureState::migrate(&bytes, FeatureConfig::default(), tasks).unwrap();
        let (migrated, migration) = migrate(&fewer);
        assert_eq!((migration.users, migration.lost_actions), (3, 3));
        let users = migrated.users.iter();
        assert!(
            users
                .map(|user| user.actions_before(EventTime::MAX, 9).len())
                .all(|n| n == 1)
        );
        let (migrated, migration) = migrate(&tasks(&["click", "like"], &["like"]));
        assert_eq!(
            (migration.users, migration.lost_users, migration.counters),
            (0, 3, 0)
        );
        assert!(migrated.users.is_empty() && migrated.items.len() == 5);
        // What starts anew is as if nothing had been read.
        assert_eq!(migrated.totals(), (0, 0));
    }

    #[test]
    fn other_rates_start_the_counters_anew_and_longer_lists_nothing() {
        let bytes = state().dump();
        let same = tasks(&["click", "like"], &["click", "like"]);
        let decay = FeatureConfig {
            counter_decay: Period::from_secs(7),
            ..FeatureConfig::default()
        };
        let (migrated, migration) = FeatureState::migrate(&bytes, decay.clone(), &same).unwrap();
        assert!(migration.counters == 0 && migration.lost_counters > 0);
        assert_eq!(migration.users, 3);
        assert_eq!(migrated.config(), &decay);
        let longer = FeatureConfig {
            history_len: 150,
            ..FeatureConfig::default()
        };
        let (_, migration) = FeatureState::migrate(&bytes, longer, &same).unwrap();
        assert_eq!((migration.lost_users, migration.lost_counters), (0, 0));
        let fewer_words = FeatureConfig {
            word_capacity: 7,
            ..FeatureConfig::default()
        };
        let (_, migration) = FeatureState::migrate(&bytes, fewer_words, &same).unwrap();
        assert_eq!((migration.lost_users, migration.lost_counters), (3, 0));
    }
}
