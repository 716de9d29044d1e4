//! The feature state as bytes: sorted, so that equal states are equal bytes.

use std::hash::Hash;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use serde::ser::{Error as _, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};

use crate::features::FeatureConfig;
use crate::features::bound::Held;
use crate::features::counter::{Counter, CounterKey};
use crate::features::state::FeatureState;
use crate::features::user::UserState;
use crate::features::vectors::{VectorDump, VectorTable};
use crate::{EventTime, Id, IdMap, Item};

/// A dump that could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum FeatureStateError {
    /// The bytes are not a dump of this version.
    #[error("cannot read the feature state: {0}")]
    Decode(#[from] postcard::Error),
    /// The dump was made under another configuration.
    #[error("the feature state was made under another configuration: {found:?}, now {expected:?}")]
    Config {
        /// The dump's.
        found: Box<FeatureConfig>,
        /// Ours.
        expected: Box<FeatureConfig>,
    },
}

#[derive(Deserialize)]
struct Dump {
    config: FeatureConfig,
    items: Vec<Arc<Item>>,
    vectors: VectorDump,
    users: Vec<(Id, UserState)>,
    counters: Vec<(CounterKey, Counter)>,
    global: Counter,
    next_sweep: EventTime,
}

/// What [`Dump`] reads, without a copy of the two large maps.
#[derive(Serialize)]
struct View<'a> {
    config: &'a FeatureConfig,
    items: Vec<Arc<Item>>,
    vectors: VectorDump,
    users: Sorted<'a, Id, UserState>,
    counters: Sorted<'a, CounterKey, Counter>,
    global: Counter,
    next_sweep: EventTime,
}

/// A map as a list of its entries, sorted by key.
struct Sorted<'a, K, V>(&'a IdMap<K, V>);

impl<K: Copy + Ord + Hash + Serialize, V: Serialize> Serialize for Sorted<'_, K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut keys: Vec<K> = self.0.iter().map(|entry| *entry.key()).collect();
        keys.sort_unstable();
        let mut list = serializer.serialize_seq(Some(keys.len()))?;
        for key in keys {
            // The one writer is who dumps, so nothing has gone meanwhile.
            let value = self
                .0
                .get(&key)
                .ok_or_else(|| S::Error::custom("an entry has gone"))?;
            list.serialize_element(&(key, value.value()))?;
        }
        list.end()
    }
}

impl FeatureState {
    /// The whole state, sorted by id.
    ///
    /// # Panics
    /// Never: the types written have no failing representation.
    #[must_use]
    pub fn dump(&self) -> Vec<u8> {
        let dump = View {
            config: &self.config,
            items: self.items(),
            vectors: self.vectors.dump(),
            users: Sorted(&self.users),
            counters: Sorted(&self.counters),
            next_sweep: EventTime(self.held.next_sweep.load(Ordering::Relaxed)),
            global: *self.global.read().unwrap_or_else(PoisonError::into_inner),
        };
        postcard::to_stdvec(&dump).expect("the feature state has no type that postcard refuses")
    }

    /// A state from its dump, which must have been made under `config`.
    pub fn load(bytes: &[u8], config: FeatureConfig) -> Result<Self, FeatureStateError> {
        let dump: Dump = postcard::from_bytes(bytes)?;
        if dump.config.meaning() != config.meaning() {
            let (found, expected) = (Box::new(dump.config), Box::new(config));
            return Err(FeatureStateError::Config { found, expected });
        }
        let (items, users, counters) = (IdMap::default(), IdMap::default(), IdMap::default());
        let catalog_bytes = dump.items.iter().map(|item| item.n_bytes() as u64).sum();
        for item in dump.items {
            items.insert(item.id, item);
        }
        for (id, user) in dump.users {
            users.insert(id, user);
        }
        for (key, counter) in dump.counters {
            counters.insert(key, counter);
        }
        let held = Held::new(users.len(), counters.len(), catalog_bytes, dump.next_sweep);
        Ok(Self {
            config,
            held,
            items,
            vectors: VectorTable::load(dump.vectors),
            users,
            counters,
            global: RwLock::new(dump.global),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Attribute, FeatureQuery, Impression, ShownItem, Slot};

    fn item(id: u64) -> Item {
        Item {
            id: Id(id),
            name: format!("item {id}"),
            ts: EventTime(0),
            attributes: vec![Attribute {
                slot: Slot::Category,
                value: Id(id % 2),
            }],
            texts: vec![],
            image: None,
            vectors: vec![],
        }
    }

    fn slate(user: u64, items: &[u64], ts: i64) -> Impression {
        Impression {
            request: Id(ts.unsigned_abs()),
            user: Id(user),
            ts: EventTime(ts),
            items: items
                .iter()
                .map(|i| ShownItem {
                    item: Id(*i),
                    position: None,
                })
                .collect(),
            context: vec![Id(77)],
            revealed: None,
        }
    }

    fn click(user: u64, item: u64, ts: i64) -> Action {
        Action {
            request: Id(1),
            item: Id(item),
            user: Id(user),
            ts: EventTime(ts),
            task: 0,
            value: None,
        }
    }

    fn world() -> FeatureState {
        let state = FeatureState::new(FeatureConfig::default());
        for id in 0..20 {
            state.put_item(item(id));
        }
        for step in 0..50u64 {
            let ts = i64::try_from(step).unwrap() * 1000;
            state.show(&slate(step % 7, &[step % 20, (step + 3) % 20], ts));
            if step % 3 == 0 {
                state.act(&click(step % 7, step % 20, ts + 10), &[Id(77)]);
            }
        }
        state
    }

    fn read(state: &FeatureState) -> (crate::Request, Vec<crate::Candidate>) {
        let items = [
            ShownItem {
                item: Id(3),
                position: None,
            },
            ShownItem {
                item: Id(4),
                position: None,
            },
        ];
        let ask = FeatureQuery {
            request: Id(9),
            user: Id(3),
            ts: EventTime(60_000),
            context: &[Id(77)],
            items: &items,
            slate_size: None,
        };
        state.read(&ask)
    }

    #[test]
    fn a_loaded_state_dumps_and_reads_the_same() {
        let state = world();
        let bytes = state.dump();
        let loaded = FeatureState::load(&bytes, FeatureConfig::default()).unwrap();
        assert_eq!(bytes, loaded.dump());
        assert_eq!(read(&state), read(&loaded));
        assert_eq!(state.totals(), (100, 17));
    }

    #[test]
    fn another_configuration_is_refused() {
        let config = FeatureConfig {
            history_len: 3,
            ..FeatureConfig::default()
        };
        let error = FeatureState::load(&world().dump(), config).unwrap_err();
        assert!(error.to_string().contains("another configuration"), "{error}");
        let bounds = FeatureConfig {
            max_counters: 7,
            ..FeatureConfig::default()
        };
        assert!(
            FeatureState::load(&world().dump(), bounds).is_ok(),
            "bounds may change"
        );
    }

    #[test]
    fn a_truncated_dump_is_an_error() {
        let bytes = world().dump();
        for len in (0..bytes.len()).step_by(7) {
            assert!(
                FeatureState::load(&bytes[..len], FeatureConfig::default()).is_err(),
                "{len}"
            );
        }
    }

    #[test]
    fn reading_changes_nothing_and_features_do_not_contain_the_slate_itself() {
        let state = world();
        let before = read(&state);
        assert_eq!(before, read(&state));
        state.show(&slate(3, &[3, 4], 60_000));
        assert_ne!(before, read(&state));
    }

    #[test]
    fn an_unknown_user_and_item_have_neutral_features() {
        let state = world();
        let items = [ShownItem {
            item: Id(999),
            position: None,
        }];
        let ask = FeatureQuery {
            request: Id(9),
            user: Id(999),
            ts: EventTime(60_000),
            context: &[],
            items: &items,
            slate_size: None,
        };
        let (request, candidates) = state.read(&ask);
        assert!(request.history.is_empty());
        let named = |name: &str| candidates[0].dense[crate::dense_index(name).unwrap()];
        for name in [
            "item_ctr",
            "user_ctr",
            "user_item_impressions",
            "slate_item_ctr",
            "history_len",
        ] {
            assert!(named(name).abs() < 1e-6, "{name} = {}", named(name));
        }
    }
}
