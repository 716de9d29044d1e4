//! The feature state and its updates. The join stage is the only writer.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::mapref::one::RefMut;

use super::config::FeatureConfig;
use super::counter::{Counter, CounterKey, CounterScope};
use super::smoothing::f32_of;
use super::usage::Usage;
use super::user::UserState;
use super::vectors::{VectorTable, provided_vectors};
use crate::{Action, EventTime, HistoryEntry, Id, IdMap, Impression, Item, TaskId, primary_attribute};

/// The item catalog, user histories, live counters and content vectors.
#[derive(Debug)]
pub struct FeatureState {
    pub(crate) config: FeatureConfig,
    pub(crate) items: IdMap<Id, Arc<Item>>,
    pub(crate) vectors: VectorTable,
    pub(crate) users: IdMap<Id, UserState>,
    pub(crate) counters: IdMap<CounterKey, Counter>,
    /// Counts of all impressions and primary actions.
    pub(crate) global: RwLock<Counter>,
    pub(crate) usage: Usage,
}

impl FeatureState {
    /// An empty state.
    #[must_use]
    pub fn new(config: FeatureConfig) -> Self {
        Self {
            config,
            items: IdMap::default(),
            vectors: VectorTable::default(),
            users: IdMap::default(),
            counters: IdMap::default(),
            global: RwLock::new(Counter::new(0.0, EventTime::MIN)),
            usage: Usage::new(0, 0, 0, EventTime::MIN),
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &FeatureConfig {
        &self.config
    }

    /// Adds an item or replaces it by a newer version; an older version changes nothing.
    pub fn put_item(&self, mut item: Item) {
        if self.items.get(&item.id).is_some_and(|known| known.ts > item.ts) {
            return;
        }
        self.vectors.put(item.id, provided_vectors(&item));
        // The vector table owns them from here on.
        item.vectors = Vec::new();
        let bytes = &self.usage.catalog_bytes;
        bytes.fetch_add(item.n_bytes() as u64, Ordering::Relaxed);
        if let Some(before) = self.items.insert(item.id, Arc::new(item)) {
            bytes.fetch_sub(before.n_bytes() as u64, Ordering::Relaxed);
        }
        self.enforce_catalog_limit();
    }

    /// The content vectors of the items.
    #[must_use]
    pub fn vectors(&self) -> &VectorTable {
        &self.vectors
    }

    /// An item of the catalog.
    #[must_use]
    pub fn item(&self, id: Id) -> Option<Arc<Item>> {
        self.items.get(&id).map(|item| Arc::clone(&item))
    }

    /// All items of the catalog, sorted by id.
    #[must_use]
    pub fn items(&self) -> Vec<Arc<Item>> {
        let mut items: Vec<_> = self.items.iter().map(|entry| Arc::clone(entry.value())).collect();
        items.sort_unstable_by_key(|item| item.id);
        items
    }

    /// Number of items in the catalog.
    #[must_use]
    pub fn n_items(&self) -> usize {
        self.items.len()
    }

    /// Numbers of users and of live counters.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.users.len(), self.counters.len())
    }

    /// Numbers of impressions and primary actions counted so far.
    #[must_use]
    pub fn totals(&self) -> (u32, u32) {
        let global = self.global();
        (global.impressions, global.actions)
    }

    /// Adds actions from before the log to a user's history, oldest first, all at time `ts`.
    pub fn seed_history(&self, user: Id, items: &[Id], ts: EventTime) {
        let mut state = self.user(user);
        for item in items {
            state.add_action(self.history_entry(*item, ts, 0), self.config.history_capacity);
        }
    }

    /// Counts a slate. Features of the slate must be read before, so that they do not contain it.
    pub fn add_impression(&self, impression: &Impression) {
        let update = self.update(Counter::add_impression, impression.ts);
        let (user, n_items) = (impression.user, impression.items.len());
        self.update_request_counters(&update, user, &impression.context, n_items);
        for shown in &impression.items {
            self.update_item_counters(&update, user, shown.item);
        }
        if self.config.shown_capacity > 0 {
            let mut user = self.user(user);
            for shown in &impression.items {
                user.add_shown(shown.item, impression.ts, self.config.shown_capacity);
            }
        }
        self.enforce_limits();
    }

    /// Counts an action and adds it to the user's history.
    pub fn add_action(&self, action: &Action, context: &[Id]) {
        let entry = self.history_entry(action.item, action.ts, action.task);
        self.user(action.user)
            .add_action(entry, self.config.history_capacity);
        if action.task == 0 {
            let update = self.update(Counter::add_action, action.ts);
            self.update_request_counters(&update, action.user, context, 1);
            self.update_item_counters(&update, action.user, action.item);
        }
        self.enforce_limits();
    }

    /// The global rate of the primary action, with half a pseudo-action so that it is never 0 or 1.
    pub(crate) fn rate(&self) -> f32 {
        let global = self.global();
        (f32_of(global.actions) + 0.5) / (f32_of(global.impressions) + 1.0)
    }

    pub(crate) fn counter(&self, scope: CounterScope, id: Id) -> Option<Counter> {
        let counter = self.counters.get(&CounterKey::new(scope, id));
        counter.map(|counter| *counter)
    }

    pub(crate) fn global(&self) -> Counter {
        *self.global.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn history_entry(&self, item: Id, ts: EventTime, task: TaskId) -> HistoryEntry {
        let known = self.items.get(&item);
        HistoryEntry {
            item,
            ts,
            attribute: known.map_or(Id(0), |item| primary_attribute(&item.attributes)),
            task,
        }
    }

    /// A user's state for writing; creates and counts a new one.
    fn user(&self, id: Id) -> RefMut<'_, Id, UserState> {
        self.users.entry(id).or_insert_with(|| {
            self.usage.n_users.fetch_add(1, Ordering::Relaxed);
            UserState::default()
        })
    }

    fn update(&self, apply: fn(&mut Counter, EventTime, &FeatureConfig), now: EventTime) -> CounterUpdate {
        CounterUpdate {
            apply,
            initial_rate: self.rate(),
            now,
        }
    }

    /// Applies `n` events of one request to the counters that they share, looking each counter up once.
    fn update_request_counters(&self, update: &CounterUpdate, user: Id, context: &[Id], n: usize) {
        let mut global = self.global.write().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..n {
            (update.apply)(&mut global, update.now, &self.config);
        }
        drop(global);
        self.update_counter(update, CounterScope::User, user, n);
        for value in context {
            self.update_counter(update, CounterScope::Context, *value, n);
        }
    }

    /// Applies one event to the counters of its item and of the user with the item.
    fn update_item_counters(&self, update: &CounterUpdate, user: Id, item: Id) {
        self.update_counter(update, CounterScope::Item, item, 1);
        self.update_counter(update, CounterScope::UserItem, user.pair(item), 1);
        if let Some(item) = self.item(item) {
            for attribute in &item.attributes {
                let value = attribute.value;
                self.update_counter(update, CounterScope::Attribute, value, 1);
                self.update_counter(update, CounterScope::UserAttribute, user.pair(value), 1);
            }
        }
    }

    fn update_counter(&self, update: &CounterUpdate, scope: CounterScope, id: Id, n: usize) {
        let counter = self.counters.entry(CounterKey::new(scope, id));
        let mut counter = counter.or_insert_with(|| {
            self.usage.n_counters.fetch_add(1, Ordering::Relaxed);
            Counter::new(update.initial_rate, update.now)
        });
        for _ in 0..n {
            (update.apply)(&mut counter, update.now, &self.config);
        }
    }
}

/// One event, to be applied to every counter it concerns.
struct CounterUpdate {
    apply: fn(&mut Counter, EventTime, &FeatureConfig),
    /// The global rate before the event; new counters start at it.
    initial_rate: f32,
    now: EventTime,
}
