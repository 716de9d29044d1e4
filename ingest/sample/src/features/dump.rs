//! Dumps of the feature state: sorted, so that equal states are equal bytes.

use std::hash::Hash;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};

use serde::ser::{Error as _, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};

use super::config::FeatureConfig;
use super::counter::{Counter, CounterKey};
use super::numbers::NumberTable;
use super::profiles::{Profiles, ProfilesDump};
use super::seeds::Seeds;
use super::slate_sizes::SlateSizes;
use super::state::{FeatureState, read};
use super::titles::Titles;
use super::usage::Usage;
use super::user::UserState;
use super::vectors::{VectorDump, VectorTable};
use crate::{EventTime, Id, IdMap, Item};

/// The first bytes of a dump. The format changes with every change of the types in [`Dump`].
const MAGIC: &[u8] = b"ouzel features 4\n";

/// A dump that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum FeatureStateError {
    /// The bytes are not a dump of this format.
    #[error(
        "the feature state was written by another version of ouzel, whose live features are others: `ouzel snapshot \
         migrate` keeps the weights and reads items and users again, or continue with that version"
    )]
    Format,
    /// The dump is damaged.
    #[error("cannot read the feature state: {0}")]
    Decode(#[from] postcard::Error),
    /// The dump was made under another configuration.
    #[error(
        "the feature state was made under another configuration: {}; `ouzel snapshot migrate` keeps what fits",
        differences(found, expected)
    )]
    Config {
        /// The configuration of the dump.
        found: Box<FeatureConfig>,
        /// The present configuration.
        expected: Box<FeatureConfig>,
    },
}

/// The state as it is stored.
#[derive(Deserialize)]
pub(super) struct Dump {
    pub(super) config: FeatureConfig,
    pub(super) items: Vec<Arc<Item>>,
    vectors: VectorDump,
    pub(super) users: Vec<(Id, UserState)>,
    pub(super) counters: Vec<(CounterKey, Counter)>,
    pub(super) global: Counter,
    slate_sizes: SlateSizes,
    seeds: Seeds,
    item_numbers: NumberTable,
    request_numbers: NumberTable,
    next_sweep: EventTime,
}

/// The same fields as [`Dump`], borrowed: the two large maps are not copied.
#[derive(Serialize)]
struct DumpRef<'a> {
    config: &'a FeatureConfig,
    items: Vec<Arc<Item>>,
    vectors: VectorDump,
    users: SortedEntries<'a, Id, UserState>,
    counters: SortedEntries<'a, CounterKey, Counter>,
    global: Counter,
    slate_sizes: SlateSizes,
    seeds: Seeds,
    item_numbers: NumberTable,
    request_numbers: NumberTable,
    next_sweep: EventTime,
}

/// A map serialised as a list of its entries, sorted by key.
struct SortedEntries<'a, K, V>(&'a IdMap<K, V>);

impl<K: Copy + Ord + Hash + Serialize, V: Serialize> Serialize for SortedEntries<'_, K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut keys: Vec<K> = self.0.iter().map(|entry| *entry.key()).collect();
        keys.sort_unstable();
        let mut list = serializer.serialize_seq(Some(keys.len()))?;
        for key in keys {
            // Only the writer dumps, so no entry can have disappeared.
            let value = self
                .0
                .get(&key)
                .ok_or_else(|| S::Error::custom("an entry disappeared"))?;
            list.serialize_element(&(key, value.value()))?;
        }
        list.end()
    }
}

impl FeatureState {
    /// The whole state as bytes, sorted by id. Profiles follow the rest if there ever was one.
    #[must_use]
    pub fn dump(&self) -> Vec<u8> {
        let dump = DumpRef {
            config: &self.config,
            items: self.items(),
            vectors: self.vectors.dump(),
            users: SortedEntries(&self.users),
            counters: SortedEntries(&self.counters),
            global: self.global(),
            slate_sizes: read(&self.slate_sizes).clone(),
            seeds: read(&self.seeds).clone(),
            item_numbers: read(&self.item_numbers).clone(),
            request_numbers: read(&self.request_numbers).clone(),
            next_sweep: EventTime(self.usage.next_sweep.load(Ordering::Relaxed)),
        };
        let invariant = "postcard serialises every type of the feature state";
        let bytes = postcard::to_extend(&dump, MAGIC.to_vec()).expect(invariant);
        match self.profiles.dump() {
            Some(profiles) => postcard::to_extend(&profiles, bytes).expect(invariant),
            None => bytes,
        }
    }

    /// Loads a dump that was made under the same feature definitions as `config`; limits may differ.
    ///
    /// # Errors
    /// When the bytes are not a dump of this format, or it was made under other definitions.
    pub fn load(bytes: &[u8], config: FeatureConfig) -> Result<Self, FeatureStateError> {
        let (dump, profiles) = decode(bytes)?;
        if dump.config.without_limits() != config.without_limits() {
            let (found, expected) = (Box::new(dump.config), Box::new(config));
            return Err(FeatureStateError::Config { found, expected });
        }
        Ok(Self::of_dump(dump, profiles, config))
    }

    /// The state of a dump, from here on under `config`.
    pub(super) fn of_dump(dump: Dump, profiles: Profiles, config: FeatureConfig) -> Self {
        let catalog_bytes = dump.items.iter().map(|item| item.n_bytes() as u64).sum();
        let (n_users, n_counters) = (dump.users.len(), dump.counters.len());
        let mut titles = Titles::default();
        dump.items.iter().for_each(|item| titles.add(item));
        Self {
            config,
            usage: Usage::new(n_users, n_counters, catalog_bytes, dump.next_sweep),
            items: dump.items.into_iter().map(|item| (item.id, item)).collect(),
            vectors: VectorTable::load(dump.vectors),
            users: dump.users.into_iter().collect(),
            profiles,
            counters: dump.counters.into_iter().collect(),
            global: RwLock::new(dump.global),
            slate_sizes: RwLock::new(dump.slate_sizes),
            seeds: RwLock::new(dump.seeds),
            item_numbers: RwLock::new(dump.item_numbers),
            request_numbers: RwLock::new(dump.request_numbers),
            titles: RwLock::new(titles),
        }
    }
}

/// Reads a dump of the present format, and the profiles behind it.
pub(super) fn decode(bytes: &[u8]) -> Result<(Dump, Profiles), FeatureStateError> {
    let bytes = bytes.strip_prefix(MAGIC).ok_or(FeatureStateError::Format)?;
    let (dump, profiles): (Dump, _) = postcard::take_from_bytes(bytes)?;
    let profiles = match profiles {
        [] => Profiles::default(),
        profiles => postcard::from_bytes::<ProfilesDump>(profiles)?.into(),
    };
    Ok((dump, profiles))
}

/// The definitions that differ, as `features.history_len = 100 where the configuration says 50`.
fn differences(found: &FeatureConfig, expected: &FeatureConfig) -> String {
    let [found, expected] =
        [found, expected].map(|config| serde_json::to_value(config.without_limits()).unwrap_or_default());
    let fields = found.as_object().into_iter().flatten();
    let differing = fields.filter(|(key, value)| expected.get(key) != Some(value));
    let named = differing.map(|(key, value)| {
        let is = expected.get(key).cloned().unwrap_or_default();
        format!("features.{key} = {value} where the configuration says {is}")
    });
    named.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::dense::Feature;
    use crate::features::testing::{dense, impression, item, read, value};
    use crate::{Action, Attribute, AttributeField, ItemUpdate, UpdateOutcome};

    fn populated_state() -> FeatureState {
        let state = FeatureState::new(FeatureConfig::default());
        for id in 0..20 {
            let category = Attribute {
                field: AttributeField::Category,
                value: Id(id % 2),
            };
            state.put_item(Item {
                attributes: vec![category],
                ..item(id)
            });
        }
        for step in 0..50u64 {
            let ts = i64::try_from(step).unwrap() * 1000;
            state.add_impression(&impression(step % 7, &[step % 20, (step + 3) % 20], ts));
            if step % 3 == 0 {
                let click = Action {
                    request: Some(Id(1)),
                    item: Id(step % 20),
                    user: Id(step % 7),
                    ts: EventTime(ts + 10),
                    task: 0,
                    value: None,
                };
                state.add_action(&click, &[Id(77)], Some(2));
            }
        }
        state
    }

    fn features(state: &FeatureState) -> (crate::Request, Vec<crate::Candidate>) {
        read(state, 3, &[3, 4], 60_000)
    }

    #[test]
    fn a_loaded_state_dumps_and_reads_the_same() {
        let state = populated_state();
        let bytes = state.dump();
        let loaded = FeatureState::load(&bytes, FeatureConfig::default()).unwrap();
        assert_eq!(bytes, loaded.dump());
        assert_eq!(features(&state), features(&loaded));
        assert_eq!(state.totals(), (100, 17));
    }

    #[test]
    fn an_update_is_merged_unless_it_is_older_than_the_item() {
        let state = FeatureState::new(FeatureConfig::default());
        let update = |ts: i64, title: &str| ItemUpdate {
            id: Id(7),
            name: "item 7".to_owned(),
            ts: EventTime(ts),
            title: Some(Some(title.to_owned())),
            ..ItemUpdate::default()
        };
        assert_eq!(state.update_item(update(5, "first")), UpdateOutcome::New);
        state.put_item(Item {
            ts: EventTime(10),
            image: Some("a.jpg".to_owned()),
            ..item(7)
        });
        assert_eq!(state.update_item(update(9, "older")), UpdateOutcome::Stale);
        assert_eq!(state.update_item(update(10, "newest")), UpdateOutcome::Merged);
        state.put_item(item(7));
        let known = state.item(Id(7)).unwrap();
        assert_eq!(
            (known.ts, &known.texts[..]),
            (EventTime(10), &["newest".to_owned()][..])
        );
        assert_eq!(known.image.as_deref(), Some("a.jpg"));
        let bytes = state.dump();
        assert_eq!(
            FeatureState::load(&bytes, FeatureConfig::default())
                .unwrap()
                .dump(),
            bytes
        );
    }

    #[test]
    fn other_feature_definitions_are_refused_and_other_limits_are_not() {
        let bytes = populated_state().dump();
        let definitions = FeatureConfig {
            history_len: 3,
            ..FeatureConfig::default()
        };
        let error = FeatureState::load(&bytes, definitions).unwrap_err();
        assert!(error.to_string().contains("another configuration"), "{error}");
        let limits = FeatureConfig {
            max_counters: 7,
            ..FeatureConfig::default()
        };
        assert!(FeatureState::load(&bytes, limits).is_ok());
    }

    #[test]
    fn a_dump_of_another_format_is_refused_with_what_to_do() {
        let bytes = populated_state().dump();
        // The first format had no first line.
        let first = &bytes[MAGIC.len()..];
        let error = FeatureState::load(first, FeatureConfig::default()).unwrap_err();
        assert!(error.to_string().contains("ouzel snapshot migrate"), "{error}");
    }

    #[test]
    fn a_truncated_dump_is_an_error() {
        let bytes = populated_state().dump();
        for len in (0..bytes.len()).step_by(7) {
            let loaded = FeatureState::load(&bytes[..len], FeatureConfig::default());
            assert!(loaded.is_err(), "{len}");
        }
    }

    #[test]
    fn reading_changes_nothing_and_features_do_not_contain_the_slate_itself() {
        let state = populated_state();
        let before = features(&state);
        assert_eq!(before, features(&state));
        state.add_impression(&impression(3, &[3, 4], 60_000));
        assert_ne!(before, features(&state));
    }

    #[test]
    fn an_unknown_user_and_item_have_neutral_features() {
        let state = populated_state();
        assert!(read(&state, 999, &[999], 60_000).0.history.is_empty());
        let values = dense(&state, 999, 999, 60_000);
        for feature in [
            Feature::item_ctr,
            Feature::user_ctr,
            Feature::user_item_impressions,
            Feature::slate_item_ctr,
            Feature::history_len,
        ] {
            assert!(
                value(&values, feature).abs() < 1e-6,
                "feature {}",
                feature as usize
            );
        }
    }
}
