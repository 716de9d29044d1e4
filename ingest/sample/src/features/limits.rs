//! Limits of the feature state: expiry by event time, eviction beyond the caps, and deletion of items.
//!
//! What is dropped depends on state and event alone (least recently updated first, ties by key), so a replay
//! drops the same. The whole state is swept once per tenth of a cap inserted beyond it and ten times per expiry
//! period, which makes the cost per event negligible.

use std::sync::atomic::Ordering;

use super::counter::{CounterKey, CounterScope};
use super::state::{FeatureState, write};
use crate::{Deletion, EventTime, Id, IdMap};

impl FeatureState {
    /// Enforces the limits on users and counters. The writer calls it after each event.
    pub(crate) fn enforce_limits(&self) {
        let (config, usage) = (&self.config, &self.usage);
        if usage.n_counters.load(Ordering::Relaxed) > config.max_counters {
            let n = evict_oldest(&self.counters, config.max_counters, |counter| counter.last);
            usage.n_counters.store(n, Ordering::Relaxed);
        }
        if usage.n_users.load(Ordering::Relaxed) > config.max_users {
            let n = evict_oldest(&self.users, config.max_users, |user| user.last());
            usage.n_users.store(n, Ordering::Relaxed);
        }
        if config.expire_after.is_zero() {
            return;
        }
        let now = self.global().last;
        if now.0 < usage.next_sweep.load(Ordering::Relaxed) {
            return;
        }
        let next_sweep = now.plus_ms(config.expire_after.ms() / 10);
        usage.next_sweep.store(next_sweep.0, Ordering::Relaxed);
        let oldest = now.plus_ms(-config.expire_after.ms());
        self.counters.retain(|_, counter| counter.last >= oldest);
        self.users.retain(|_, user| user.last() >= oldest);
        usage.n_counters.store(self.counters.len(), Ordering::Relaxed);
        usage.n_users.store(self.users.len(), Ordering::Relaxed);
    }

    /// Enforces the limit on the catalog with its vectors: drops vectors that no item has, then the items with the
    /// oldest versions, ties by id, until a tenth of the limit is free.
    pub(crate) fn enforce_catalog_limit(&self) {
        let max = self.config.max_catalog.bytes();
        let mut catalog = self.usage.catalog_bytes.load(Ordering::Relaxed);
        if catalog + self.vectors.n_bytes() <= max {
            return;
        }
        self.vectors.retain(|item| self.items.contains_key(&item));
        let mut vectors = self.vectors.n_bytes();
        let items = self.items.iter();
        let mut ages: Vec<(EventTime, Id, u64)> = items
            .map(|entry| (entry.ts, *entry.key(), entry.n_bytes() as u64))
            .collect();
        ages.sort_unstable();
        for (_, id, n_bytes) in ages {
            if catalog + vectors <= max - max / 10 {
                break;
            }
            self.items.remove(&id);
            write(&self.titles).remove(id);
            catalog -= n_bytes;
            // Vectors shared with other items are not freed; then the next sweep drops more items.
            vectors = vectors.saturating_sub(self.vectors.n_bytes_of(id));
        }
        self.vectors.retain(|item| self.items.contains_key(&item));
        self.usage.catalog_bytes.store(catalog, Ordering::Relaxed);
    }

    /// Deletes an item with its vectors and its counter; returns false when a newer version is known.
    ///
    /// [`drop_unused_vectors`](Self::drop_unused_vectors) frees the memory of the vectors. Histories keep the item,
    /// counts of past actions by its values and words stay, and counters of users with the item expire like others.
    pub fn delete_item(&self, deletion: &Deletion) -> bool {
        let Deletion { item, ts } = *deletion;
        if self.items.get(&item).is_some_and(|known| known.ts > ts) {
            return false;
        }
        if let Some((_, before)) = self.items.remove(&item) {
            let bytes = &self.usage.catalog_bytes;
            bytes.fetch_sub(before.n_bytes() as u64, Ordering::Relaxed);
            write(&self.titles).remove(item);
        }
        self.vectors.forget(item);
        write(&self.seeds).take(item);
        let key = CounterKey::new(CounterScope::Item, item);
        if self.counters.remove(&key).is_some() {
            self.usage.n_counters.fetch_sub(1, Ordering::Relaxed);
        }
        true
    }

    /// Drops the vectors that no item has: call it once after deleting items.
    pub fn drop_unused_vectors(&self) {
        if !self.vectors.is_empty() {
            self.vectors.retain(|_| true);
        }
    }
}

/// Drops the least recently updated entries until a tenth of `max` is free. Returns the number of entries left.
pub(super) fn evict_oldest<K, V>(map: &IdMap<K, V>, max: usize, last: impl Fn(&V) -> EventTime) -> usize
where
    K: Copy + Ord + std::hash::Hash,
{
    let mut ages: Vec<(EventTime, K)> = map
        .iter()
        .map(|entry| (last(entry.value()), *entry.key()))
        .collect();
    let n_dropped = ages.len().saturating_sub(max - max / 10);
    if n_dropped == 0 {
        return ages.len();
    }
    ages.select_nth_unstable(n_dropped - 1);
    for (_, key) in &ages[..n_dropped] {
        map.remove(key);
    }
    ages.len() - n_dropped
}

#[cfg(test)]
mod tests {
    use crate::features::dense::Feature;
    use crate::features::testing::{dense, impression, item, value};
    use crate::settings::{ByteSize, Period};
    use crate::{EventTime, FeatureConfig, FeatureState, Id, Item};

    #[test]
    fn a_flood_of_new_ids_stays_within_the_caps_and_evicts_the_oldest() {
        let state = FeatureState::new(FeatureConfig {
            max_counters: 1000,
            max_users: 100,
            ..FeatureConfig::default()
        });
        for n in 0..5000u64 {
            let ts = i64::try_from(n).unwrap();
            state.add_impression(&impression(10_000 + n, &[20_000 + n], ts));
            state.add_impression(&impression(1, &[2], ts));
            assert!(state.size().1 <= 1010, "{:?} after {n}", state.size());
        }
        let impressions = |item| value(&dense(&state, 77, item, 5000), Feature::item_impressions);
        assert!(impressions(2) > 8.0, "an item shown all the time stays");
        assert!(impressions(20_000) < 0.1, "the oldest item is evicted");
        assert!(impressions(24_999) > 0.5, "the newest item stays");
    }

    #[test]
    fn a_flood_of_items_stays_within_the_limit_and_evicts_the_oldest() {
        let config = FeatureConfig {
            max_catalog: ByteSize::from_bytes(50_000),
            ..FeatureConfig::default()
        };
        let item = |n: u64, ts: u64, text: usize| Item {
            name: n.to_string(),
            ts: EventTime(i64::try_from(ts).unwrap()),
            texts: vec!["x".repeat(text)],
            ..item(n)
        };
        let straight = FeatureState::new(config.clone());
        let mut restored = FeatureState::new(config.clone());
        for n in 0..2000u64 {
            for state in [&straight, &restored] {
                state.put_item(item(n, n, 100));
                // An item put again and again, larger and smaller, is counted once.
                state.put_item(item(7, n, usize::try_from(n % 300).unwrap()));
            }
            let bytes: usize = straight.items.iter().map(|entry| entry.n_bytes()).sum();
            assert!(bytes <= 51_000, "{bytes} after {n}");
            if n % 300 == 200 {
                restored = FeatureState::load(&restored.dump(), config.clone()).unwrap();
            }
        }
        assert!(straight.item(Id(7)).is_some() && straight.item(Id(1999)).is_some());
        assert!(straight.item(Id(100)).is_none());
        assert_eq!(straight.dump(), restored.dump());
    }

    #[test]
    fn a_restored_state_evicts_what_the_running_one_evicts() {
        let config = FeatureConfig {
            max_counters: 300,
            expire_after: Period::from_ms(2000),
            ..FeatureConfig::default()
        };
        let straight = FeatureState::new(config.clone());
        let mut restored = FeatureState::new(config.clone());
        for n in 0..3000u64 {
            let impression = impression(n % 90, &[n % 170], i64::try_from(n * 7).unwrap());
            for state in [&straight, &restored] {
                state.add_impression(&impression);
            }
            if n % 500 == 250 {
                restored = FeatureState::load(&restored.dump(), config.clone()).unwrap();
            }
        }
        assert_eq!(straight.dump(), restored.dump());
        assert!(straight.size().1 < 600, "{:?}", straight.size());
    }
}
