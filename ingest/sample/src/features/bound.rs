//! What the feature state forgets: by expiry in event time, by a cap with deterministic eviction, and on purpose.
//!
//! What is dropped is a function of the state and the event alone (least recently touched first, ties by key),
//! so a replay drops the same. The work is done in sweeps over everything, rare enough to cost nothing per
//! event: one for each tenth of the cap that is inserted beyond it, and ten in an expiry period.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use crate::features::counter::{CounterKey, Of};
use crate::features::state::FeatureState;
use crate::{Deletion, EventTime, Id, IdMap};

/// How much is held, and when it is looked through next.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) n_users: AtomicUsize,
    pub(crate) n_counters: AtomicUsize,
    /// Bytes of the catalog.
    pub(crate) catalog_bytes: AtomicU64,
    /// Event time of the next sweep for expiry, ms.
    pub(crate) next_sweep: AtomicI64,
}

impl Held {
    pub(crate) fn new(n_users: usize, n_counters: usize, catalog_bytes: u64, next_sweep: EventTime) -> Self {
        Self {
            catalog_bytes: AtomicU64::new(catalog_bytes),
            n_users: AtomicUsize::new(n_users),
            n_counters: AtomicUsize::new(n_counters),
            next_sweep: AtomicI64::new(next_sweep.0),
        }
    }
}

impl FeatureState {
    /// Keeps the state within its bounds. Called by the writer after each event.
    pub(crate) fn bound(&self) {
        let config = &self.config;
        if self.held.n_counters.load(Ordering::Relaxed) > config.max_counters {
            let n = evict(&self.counters, config.max_counters, |counter| counter.last);
            self.held.n_counters.store(n, Ordering::Relaxed);
        }
        if self.held.n_users.load(Ordering::Relaxed) > config.max_users {
            let n = evict(&self.users, config.max_users, |user| user.last());
            self.held.n_users.store(n, Ordering::Relaxed);
        }
        if config.expire_ms == 0 {
            return;
        }
        let now = self.global.read().unwrap_or_else(PoisonError::into_inner).last;
        if now.0 < self.held.next_sweep.load(Ordering::Relaxed) {
            return;
        }
        self.held
            .next_sweep
            .store(now.plus_ms(config.expire_ms / 10).0, Ordering::Relaxed);
        let oldest = now.plus_ms(-config.expire_ms);
        self.counters.retain(|_, counter| counter.last >= oldest);
        self.users.retain(|_, user| user.last() >= oldest);
        self.held.n_counters.store(self.counters.len(), Ordering::Relaxed);
        self.held.n_users.store(self.users.len(), Ordering::Relaxed);
    }
}

impl FeatureState {
    /// Keeps the catalog with its vectors within its bound: drops vectors that no item has any more, then the items
    /// whose newest version is oldest, ties by id, until a tenth of it is free again.
    pub(crate) fn bound_catalog(&self) {
        let max = self.config.max_catalog_bytes;
        let mut held = self.held.catalog_bytes.load(Ordering::Relaxed);
        if held + self.vectors.n_bytes() <= max {
            return;
        }
        self.vectors.retain(|item| self.items.contains_key(&item));
        let mut vectors = self.vectors.n_bytes();
        let mut ages: Vec<(EventTime, Id, u64)> = self
            .items
            .iter()
            .map(|entry| (entry.ts, *entry.key(), entry.n_bytes() as u64))
            .collect();
        ages.sort_unstable();
        for (_, id, n_bytes) in ages {
            if held + vectors <= max - max / 10 {
                break;
            }
            self.items.remove(&id);
            held -= n_bytes;
            // What other items share is not freed; then the next sweep goes on.
            vectors = vectors.saturating_sub(self.vectors.n_bytes_of(id));
        }
        self.vectors.retain(|item| self.items.contains_key(&item));
        self.held.catalog_bytes.store(held, Ordering::Relaxed);
    }
}

impl FeatureState {
    /// Forgets an item with its vectors and its counter, unless its version is newer than that: true when it did. What
    /// its vectors took is free after [`drop_unused_vectors`](Self::drop_unused_vectors). Counters of users with the
    /// item go as others do, when they are not touched for long; histories go on naming it.
    pub fn delete_item(&self, deletion: &Deletion) -> bool {
        let Deletion { item, ts } = *deletion;
        if self.items.get(&item).is_some_and(|known| known.ts > ts) {
            return false;
        }
        if let Some((_, before)) = self.items.remove(&item) {
            let bytes = &self.held.catalog_bytes;
            bytes.fetch_sub(before.n_bytes() as u64, Ordering::Relaxed);
        }
        self.vectors.forget(item);
        if self.counters.remove(&CounterKey::new(Of::Item, item)).is_some() {
            self.held.n_counters.fetch_sub(1, Ordering::Relaxed);
        }
        true
    }

    /// Forgets the vectors that no item has any more: what is left to do after items were deleted, once for many.
    pub fn drop_unused_vectors(&self) {
        if !self.vectors.is_empty() {
            self.vectors.retain(|_| true);
        }
    }
}

/// Drops the entries touched longest ago until a tenth of `max` is free again; how many are left.
fn evict<K, V>(map: &IdMap<K, V>, max: usize, last: impl Fn(&V) -> EventTime) -> usize
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
    let (oldest, _, _) = ages.select_nth_unstable(n_dropped - 1);
    for (_, key) in oldest.iter() {
        map.remove(key);
    }
    let (_, key) = ages[n_dropped - 1];
    map.remove(&key);
    ages.len() - n_dropped
}

#[cfg(test)]
mod tests {
    use crate::{EventTime, FeatureConfig, FeatureState, Id, Impression, ShownItem};

    fn show(state: &FeatureState, user: u64, item: u64, ts: i64) {
        state.show(&Impression {
            request: Id(ts.unsigned_abs()),
            user: Id(user),
            ts: EventTime(ts),
            items: vec![ShownItem {
                item: Id(item),
                position: None,
            }],
            context: vec![],
            revealed: None,
        });
    }

    #[test]
    fn a_flood_of_new_ids_stays_within_the_cap_and_drops_the_oldest() {
        let config = FeatureConfig {
            max_counters: 1000,
            max_users: 100,
            ..FeatureConfig::default()
        };
        let state = FeatureState::new(config);
        for n in 0..5000u64 {
            show(&state, 10_000 + n, 20_000 + n, i64::try_from(n).unwrap());
            show(&state, 1, 2, i64::try_from(n).unwrap());
            assert!(state.size().1 <= 1010, "{:?} after {n}", state.size());
        }
        let count = |item: u64| {
            let items = [ShownItem {
                item: Id(item),
                position: None,
            }];
            let ask = crate::FeatureQuery {
                request: Id(0),
                user: Id(77),
                ts: EventTime(5000),
                context: &[],
                items: &items,
                slate_size: None,
            };
            state.read(&ask).1[0].dense[crate::dense_index("item_impressions").unwrap()]
        };
        assert!(count(2) > 8.0, "what is touched all the time stays: {}", count(2));
        assert!(
            count(20_000) < 0.1 && count(24_999) > 0.5,
            "the oldest go, the newest stay"
        );
    }

    #[test]
    fn a_flood_of_items_stays_within_the_bound_and_drops_the_oldest() {
        let config = FeatureConfig {
            max_catalog_bytes: 50_000,
            ..FeatureConfig::default()
        };
        let item = |n: u64, ts: u64, text: usize| crate::Item {
            id: Id(n),
            name: n.to_string(),
            ts: EventTime(i64::try_from(ts).unwrap()),
            attributes: vec![],
            texts: vec!["x".repeat(text)],
            image: None,
            vectors: vec![],
        };
        let straight = FeatureState::new(config.clone());
        let mut restored = FeatureState::new(config.clone());
        for n in 0..2000u64 {
            for state in [&straight, &restored] {
                state.put_item(item(n, n, 100));
                // Put again and again, larger and smaller, it is counted once.
                state.put_item(item(7, n, usize::try_from(n % 300).unwrap()));
            }
            let held: usize = straight.items.iter().map(|entry| entry.n_bytes()).sum();
            assert!(held <= 51_000, "{held} after {n}");
            if n % 300 == 200 {
                restored = FeatureState::load(&restored.dump(), config.clone()).unwrap();
            }
        }
        assert!(straight.item(Id(7)).is_some() && straight.item(Id(1999)).is_some());
        assert!(straight.item(Id(100)).is_none());
        assert_eq!(straight.dump(), restored.dump());
    }

    #[test]
    fn a_restored_state_drops_what_the_running_one_drops() {
        let config = FeatureConfig {
            max_counters: 300,
            expire_ms: 2000,
            ..FeatureConfig::default()
        };
        let straight = FeatureState::new(config.clone());
        let mut restored = FeatureState::new(config.clone());
        for n in 0..3000u64 {
            let ts = i64::try_from(n * 7).unwrap();
            for state in [&straight, &restored] {
                show(state, n % 90, n % 170, ts);
            }
            if n % 500 == 250 {
                restored = FeatureState::load(&restored.dump(), config.clone()).unwrap();
            }
        }
        assert_eq!(straight.dump(), restored.dump());
        assert!(straight.size().1 < 600, "{:?}", straight.size());
    }
}
