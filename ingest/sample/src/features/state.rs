//! The feature state and its updates. The join stage is the only writer.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dashmap::mapref::one::RefMut;

use super::clicks::counted_values;
use super::config::FeatureConfig;
use super::counter::{Counter, CounterKey, CounterScope};
use super::long_past::LongAction;
use super::numbers::{NumberTable, merged};
use super::profiles::Profiles;
use super::seeds::Seeds;
use super::similarity::N_PAST;
use super::slate_sizes::SlateSizes;
use super::smoothing::f32_of;
use super::titles::Titles;
use super::usage::Usage;
use super::user::UserState;
use super::vectors::{VectorTable, provided_vectors};
use crate::{
    Action, EventTime, HistoryEntry, Id, IdMap, Impression, Item, ItemUpdate, Number, TaskId, UpdateOutcome,
    primary_attribute,
};

/// The item catalog, user histories and profiles, live counters and content vectors.
#[derive(Debug)]
pub struct FeatureState {
    pub(crate) config: FeatureConfig,
    pub(crate) items: IdMap<Id, Arc<Item>>,
    pub(crate) vectors: VectorTable,
    pub(crate) users: IdMap<Id, UserState>,
    pub(crate) profiles: Profiles,
    pub(crate) counters: IdMap<CounterKey, Counter>,
    /// Counts of all impressions and primary actions.
    pub(crate) global: RwLock<Counter>,
    pub(crate) slate_sizes: RwLock<SlateSizes>,
    pub(crate) seeds: RwLock<Seeds>,
    /// Numbers of shown items.
    pub(crate) item_numbers: RwLock<NumberTable>,
    /// Numbers of requests and of their users' profiles.
    pub(crate) request_numbers: RwLock<NumberTable>,
    /// The words of the catalog's titles.
    pub(crate) titles: RwLock<Titles>,
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
            profiles: Profiles::default(),
            counters: IdMap::default(),
            global: RwLock::new(Counter::new(0.0, EventTime::MIN)),
            slate_sizes: RwLock::default(),
            seeds: RwLock::default(),
            item_numbers: RwLock::default(),
            request_numbers: RwLock::default(),
            titles: RwLock::default(),
            usage: Usage::new(0, 0, 0, EventTime::MIN),
        }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &FeatureConfig {
        &self.config
    }

    /// Adds an item or replaces it by a newer version. False where a newer one is known, which stays.
    pub fn put_item(&self, mut item: Item) -> bool {
        if self.items.get(&item.id).is_some_and(|known| known.ts > item.ts) {
            return false;
        }
        self.vectors.put(item.id, provided_vectors(&item));
        // The vector table owns them from here on.
        item.vectors = Vec::new();
        let bytes = &self.usage.catalog_bytes;
        bytes.fetch_add(item.n_bytes() as u64, Ordering::Relaxed);
        let item = Arc::new(item);
        let before = self.items.insert(item.id, Arc::clone(&item));
        let mut titles = write(&self.titles);
        if let Some(before) = before {
            bytes.fetch_sub(before.n_bytes() as u64, Ordering::Relaxed);
            titles.remove(item.id);
        }
        titles.add(&item);
        drop(titles);
        self.count_waiting_seeds(&item);
        self.enforce_catalog_limit();
        true
    }

    /// Merges the fields of an update into the item; an older update changes nothing.
    pub fn update_item(&self, update: ItemUpdate) -> UpdateOutcome {
        let known = self.item(update.id);
        let is_stored = self.put_item(update.apply(known.as_deref()));
        match (is_stored, known) {
            (false, _) => UpdateOutcome::Stale,
            (true, Some(_)) => UpdateOutcome::Merged,
            (true, None) => UpdateOutcome::New,
        }
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
    ///
    /// They count in the shares of the user's actions, but in no rate: nobody knows what was shown. An action on an
    /// item that the catalog lacks counts for the item's values once the item is put.
    pub fn seed_history(&self, user: Id, items: &[Id], ts: EventTime) {
        let mut state = self.user(user);
        for id in items {
            self.add_past(&mut state, self.history_entry(*id, ts, 0));
            state.clicks.add();
            let mut seeds = write(&self.seeds);
            seeds.add(ts);
            if let Some(item) = self.item(*id) {
                state.clicks.add_item(&item, &self.config);
                self.count_value_actions(&item, ts);
            } else {
                seeds.wait(user, *id);
            }
        }
    }

    /// Counts a slate. Features of the slate must be read before, so that they do not contain it.
    pub fn add_impression(&self, impression: &Impression) {
        let update = self.update(Counter::add_impression, impression.ts);
        let (user, n_items) = (impression.user, impression.items.len());
        let context = self.context(user, &impression.context, &impression.numbers);
        self.update_request_counters(&update, user, &context, n_items);
        for shown in &impression.items {
            self.update_item_counters(&update, user, shown.item);
        }
        self.add_numbers(impression);
        write(&self.slate_sizes).add_impression(u16::try_from(n_items).unwrap_or(u16::MAX));
        let mut user = self.user(user);
        user.outcomes.add_impression(impression, update.initial_rate);
        if self.config.shown_capacity > 0 {
            for shown in &impression.items {
                user.add_shown(shown.item, impression.ts, self.config.shown_capacity);
            }
        }
        drop(user);
        self.enforce_limits();
    }

    /// Counts an action and adds it to the user's history.
    ///
    /// `context` ([`context`](Self::context) as of then) and `slate_size` are those of its impression; without a size, the action does not count in the rate
    /// of slates of that size.
    pub fn add_action(&self, action: &Action, context: &[Id], slate_size: Option<u16>) {
        let entry = self.history_entry(action.item, action.ts, action.task);
        let mut user = self.user(action.user);
        self.add_past(&mut user, entry);
        if entry.attribute == Id::default() && self.config.long_limits().is_some() {
            self.usage.n_unlisted.fetch_add(1, Ordering::Relaxed);
        }
        if action.task == 0 {
            let item = self.item(action.item);
            user.outcomes.add_action(action);
            user.clicks.add();
            if let Some(item) = &item {
                user.clicks.add_item(item, &self.config);
                self.count_value_actions(item, action.ts);
            }
            drop(user);
            if let Some(size) = slate_size {
                write(&self.slate_sizes).add_action(size);
            }
            let update = self.update(Counter::add_action, action.ts);
            self.update_request_counters(&update, action.user, context, 1);
            self.update_item_counters(&update, action.user, action.item);
            self.update_counter(&update, CounterScope::ItemActions, action.item, 1);
        } else {
            drop(user);
        }
        self.enforce_limits();
    }

    /// How often an item was shown.
    #[must_use]
    pub fn n_shown(&self, item: Id) -> u32 {
        self.counter(CounterScope::Item, item)
            .map_or(0, |counter| counter.impressions)
    }

    /// Items that a user acted on and was shown, as far back as features and blocks read contents.
    #[must_use]
    pub fn past_items(&self, user: Id) -> Vec<Id> {
        let n = self.config.history_contents.max(N_PAST);
        let state = self.users.get(&user);
        state.iter().flat_map(|state| state.newest_items(n)).collect()
    }

    /// Number of items that a reply to `n` candidates is taken to show, where the request does not say: `n` if slates of that
    /// size have been shown, else the median slate size over all shown items.
    #[must_use]
    pub fn shown_of(&self, n: u16) -> u16 {
        read(&self.slate_sizes).shown_of(n)
    }

    /// The global rate of the primary action, with a twentieth of a pseudo-action so that it is never 0 or 1.
    pub(crate) fn rate(&self) -> f32 {
        let global = self.global();
        (f32_of(global.actions) + 0.05) / (f32_of(global.impressions) + 1.0)
    }

    /// Number of primary actions of all users, seeded ones included.
    pub(crate) fn n_actions(&self) -> u32 {
        let n_seeded = read(&self.seeds).n_actions();
        self.global().actions.saturating_add(n_seeded)
    }

    pub(crate) fn counter(&self, scope: CounterScope, id: Id) -> Option<Counter> {
        let counter = self.counters.get(&CounterKey::new(scope, id));
        counter.map(|counter| *counter)
    }

    pub(crate) fn global(&self) -> Counter {
        *read(&self.global)
    }

    /// All categorical values of a request, its user's profile and its numbers included.
    ///
    /// First `values`, then those of the profile, then the buckets of the numbers of both. A number of the request precedes that of the same name in the profile.
    #[must_use]
    pub fn context(&self, user: Id, values: &[Id], numbers: &[Number]) -> Vec<Id> {
        let profile = self.profiles.get(user);
        let (mut context, of_user) = (values.to_vec(), profile.as_ref().map(|profile| profile.numbers()));
        context.extend(profile.iter().flat_map(|profile| profile.values()));
        let numbers = merged(of_user.unwrap_or_default(), numbers);
        read(&self.request_numbers).buckets(&numbers, |bucket| context.push(bucket));
        context
    }

    /// Number of values that are not learned, because 256 other names of numbers were known before theirs.
    #[must_use]
    pub fn n_unlearned_numbers(&self) -> u64 {
        read(&self.item_numbers).n_unlearned() + read(&self.request_numbers).n_unlearned()
    }

    /// Counts the numbers of a slate and of its items.
    fn add_numbers(&self, impression: &Impression) {
        let mut numbers = write(&self.item_numbers);
        for shown in &impression.items {
            let item = self.items.get(&shown.item);
            let of_item = item.as_ref().map_or(&[][..], |item| &item.numbers);
            numbers.add(&merged(of_item, &shown.features.numbers));
        }
        let of_user = self.profile_numbers(impression.user);
        write(&self.request_numbers).add(&merged(&of_user, &impression.numbers));
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

    /// Adds an action to the user's history and, once its item is known, to the long past.
    fn add_past(&self, user: &mut UserState, entry: HistoryEntry) {
        user.add_action(entry, self.config.history_capacity);
        let HistoryEntry {
            item,
            ts,
            attribute,
            task,
        } = entry;
        self.add_long(user, attribute, LongAction { item, ts, task });
    }

    /// Adds an action to the list of its key, if there is a long past and the action has a key.
    fn add_long(&self, user: &mut UserState, key: Id, action: LongAction) {
        if let Some(limits) = self.config.long_limits()
            && key != Id::default()
        {
            user.add_long(key, action, limits);
        }
    }

    /// Number of actions since the start that are in no list of a long past, because their item has no category, author or
    /// tag, or was unknown.
    #[must_use]
    pub fn n_unlisted_actions(&self) -> u64 {
        self.usage.n_unlisted.load(Ordering::Relaxed)
    }

    /// Counts the seeded actions that waited for an item.
    fn count_waiting_seeds(&self, item: &Item) {
        let mut seeds = write(&self.seeds);
        let (users, ts) = (seeds.take(item.id), seeds.ts());
        drop(seeds);
        if users.is_empty() {
            return;
        }
        let now = self.global().last.max(ts);
        for user in users {
            if let Some(mut user) = self.users.get_mut(&user) {
                user.clicks.add_item(item, &self.config);
                let seeded = LongAction {
                    item: item.id,
                    ts,
                    task: 0,
                };
                self.add_long(&mut user, primary_attribute(&item.attributes), seeded);
            }
            self.count_value_actions(item, now);
        }
        self.enforce_limits();
    }

    /// Counts an action in the totals of the item's values.
    fn count_value_actions(&self, item: &Item, now: EventTime) {
        let update = self.update(Counter::add_action, now);
        for value in counted_values(item) {
            self.update_counter(&update, CounterScope::ValueActions, value, 1);
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
        let mut global = write(&self.global);
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

/// Locks for reading. A poisoned lock holds whole values: no update panics half-way.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for writing.
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
