//! The state itself: who writes what, and the one read that training and serving share.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::mapref::one::RefMut;

use crate::features::FeatureConfig;
use crate::features::bound::Held;
use crate::features::counter::{Counter, CounterKey, Of};
use crate::features::dense::{Dense, N_DENSE, logit};
use crate::features::similarity::{N_PAST, N_SIMILARITY, Past};
use crate::features::smooth::{SlotSums, Smooth, f32_of, ln1p, mean, seconds};
use crate::features::user::UserState;
use crate::features::vector_map::VectorMap;
use crate::features::vectors::{N_MODALITIES, VectorId, VectorTable, given};
use crate::{
    Action, Attribute, Candidate, EventTime, HistoryEntry, Id, IdMap, Impression, Item, Predicted, Request,
    ShownItem, Slot, about,
};

/// What a reader asks for: features of these items for this user, as of `ts`.
#[derive(Clone, Copy, Debug)]
pub struct FeatureQuery<'a> {
    /// The slate.
    pub request: Id,
    /// The user.
    pub user: Id,
    /// As of when, in event time.
    pub ts: EventTime,
    /// Categorical values of the request.
    pub context: &'a [Id],
    /// The candidates.
    pub items: &'a [ShownItem],
    /// How many of them will be shown, when fewer than are scored.
    pub slate_size: Option<u16>,
}

/// Catalog, histories and counters.
#[derive(Debug)]
pub struct FeatureState {
    pub(crate) config: FeatureConfig,
    pub(crate) items: IdMap<Id, Arc<Item>>,
    pub(crate) vectors: VectorTable,
    pub(crate) users: IdMap<Id, UserState>,
    pub(crate) counters: IdMap<CounterKey, Counter>,
    pub(crate) global: RwLock<Counter>,
    pub(crate) held: Held,
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
            held: Held::new(0, 0, 0, EventTime::MIN),
        }
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &FeatureConfig {
        &self.config
    }

    /// Takes a new version of an item; an older version than the known one changes nothing.
    pub fn put_item(&self, mut item: Item) {
        if self.items.get(&item.id).is_none_or(|known| known.ts <= item.ts) {
            self.vectors.put(item.id, given(&item));
            // They are in the table now.
            item.vectors = Vec::new();
            let bytes = &self.held.catalog_bytes;
            bytes.fetch_add(item.n_bytes() as u64, Ordering::Relaxed);
            if let Some(before) = self.items.insert(item.id, Arc::new(item)) {
                bytes.fetch_sub(before.n_bytes() as u64, Ordering::Relaxed);
            }
            self.bound_catalog();
        }
    }

    /// The items' content vectors.
    #[must_use]
    pub fn vectors(&self) -> &VectorTable {
        &self.vectors
    }

    /// An item of the catalog.
    #[must_use]
    pub fn item(&self, id: Id) -> Option<Arc<Item>> {
        self.items.get(&id).map(|item| Arc::clone(&item))
    }

    /// The catalog, by id.
    #[must_use]
    pub fn items(&self) -> Vec<Arc<Item>> {
        let mut items: Vec<_> = self.items.iter().map(|entry| Arc::clone(entry.value())).collect();
        items.sort_unstable_by_key(|item| item.id);
        items
    }

    /// Items in the catalog.
    #[must_use]
    pub fn n_items(&self) -> usize {
        self.items.len()
    }

    /// Users with a history, and live counters.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.users.len(), self.counters.len())
    }

    /// Impressions and primary actions counted so far.
    #[must_use]
    pub fn totals(&self) -> (u32, u32) {
        let global = self.global();
        (global.impressions, global.actions)
    }

    /// Seeds a user's history with actions from before the log, oldest first, all at `ts`.
    pub fn seed_history(&self, user: Id, items: &[Id], ts: EventTime) {
        let mut state = self.user(user);
        for item in items {
            state.act(
                HistoryEntry {
                    item: *item,
                    ts,
                    about: self.about(*item),
                    task: 0,
                },
                self.config.history_kept,
            );
        }
    }

    /// Counts a slate. Read its features first: they must not contain it.
    pub fn show(&self, impression: &Impression) {
        let touch = Touch {
            event: Counter::show,
            rate: self.rate(),
            now: impression.ts,
        };
        self.touch_request(
            &touch,
            impression.user,
            &impression.context,
            impression.items.len(),
        );
        for shown in &impression.items {
            self.touch_item(&touch, impression.user, shown.item);
        }
        if self.config.shown_kept > 0 {
            let mut user = self.user(impression.user);
            for shown in &impression.items {
                user.show(shown.item, impression.ts, self.config.shown_kept);
            }
        }
        self.bound();
    }

    /// Counts an action and appends it to the user's history.
    pub fn act(&self, action: &Action, context: &[Id]) {
        let entry = HistoryEntry {
            item: action.item,
            ts: action.ts,
            about: self.about(action.item),
            task: action.task,
        };
        self.user(action.user).act(entry, self.config.history_kept);
        if action.task == 0 {
            let touch = Touch {
                event: Counter::act,
                rate: self.rate(),
                now: action.ts,
            };
            self.touch_request(&touch, action.user, context, 1);
            self.touch_item(&touch, action.user, action.item);
        }
        self.bound();
    }

    /// The features of `ask.items` as of `ask.ts`. Counters are as of the latest event written.
    #[must_use]
    pub fn read(&self, ask: &FeatureQuery<'_>) -> (Request, Vec<Candidate>) {
        let (history, shown) = match self.users.get(&ask.user) {
            Some(user) => (
                user.before(ask.ts, self.config.history_len),
                user.shown_before(ask.ts).collect(),
            ),
            None => (Vec::new(), Vec::new()),
        };
        let n_items = u16::try_from(ask.items.len()).unwrap_or(u16::MAX);
        let shared = self.shared(ask, history.len(), ask.slate_size.unwrap_or(n_items));
        let mut candidates: Vec<Candidate> = ask
            .items
            .iter()
            .map(|shown| {
                let item = self.item(shown.item);
                Candidate {
                    item: shown.item,
                    position: shown.position,
                    dense: Dense::new(self.dense(ask, &shared, shown.item, item.as_deref())),
                    content: self.content(shown.item),
                    attributes: item.map(|item| item.attributes.clone()).unwrap_or_default(),
                    predicted: Predicted::default(),
                }
            })
            .collect();
        self.compare(&history, &shown, shared.smooth.rate, &mut candidates);
        centre(&mut candidates);
        let newest = history.len().saturating_sub(self.config.history_contents);
        let contents = history[newest..].iter().map(|entry| self.content(entry.item));
        let request = Request {
            contents: contents.collect(),
            id: ask.request,
            user: ask.user,
            ts: ask.ts,
            context: ask.context.to_vec(),
            history,
            n_items,
        };
        (request, candidates)
    }

    /// The content vectors that these requests and candidates name.
    #[must_use]
    pub fn vectors_of<'a>(
        &self,
        requests: impl Iterator<Item = &'a Request>,
        candidates: impl Iterator<Item = &'a Candidate>,
    ) -> VectorMap {
        if self.config.history_contents == 0 || self.vectors.is_empty() {
            return VectorMap::default();
        }
        let past = requests.flat_map(|request| request.contents.iter().copied());
        VectorMap::new(
            &self.vectors.list(),
            past.chain(candidates.map(|candidate| candidate.content)),
        )
    }

    /// An item's content, where the model reads it.
    fn content(&self, item: Id) -> VectorId {
        if self.config.history_contents == 0 {
            VectorId::NONE
        } else {
            self.vectors.of(item)
        }
    }

    fn about(&self, item: Id) -> Id {
        let item = self.items.get(&item);
        item.map(|item| about(&item.attributes)).unwrap_or_default()
    }

    /// Fills in how like the candidates' content is to that of the user's past.
    fn compare(&self, history: &[HistoryEntry], shown: &[Id], rate: f32, candidates: &mut [Candidate]) {
        if self.vectors.is_empty() {
            return;
        }
        let acted = || {
            history
                .iter()
                .filter(|entry| entry.task == 0)
                .map(|entry| entry.item)
        };
        let passed = shown.iter().filter(|item| !acted().any(|acted| acted == **item));
        let name = |item: Id| self.vectors.of(item);
        let n_acted = acted().count();
        let list = self.vectors.list();
        let past = Past::new(
            &list,
            acted().skip(n_acted.saturating_sub(N_PAST)).map(name),
            passed.take(N_PAST).map(|item| name(*item)),
        );
        if past.is_empty() {
            return;
        }
        for candidate in candidates {
            let Some(vectors) = list.get(self.vectors.of(candidate.item)) else {
                continue;
            };
            for modality in 0..N_MODALITIES {
                let at = SIMILARITY + 2 * N_SIMILARITY * modality;
                let values = &mut candidate.dense.values_mut()[at..at + N_SIMILARITY];
                values.copy_from_slice(&past.compare(vectors, modality, rate));
            }
        }
    }

    /// A user's state, to be written; a new one is counted.
    fn user(&self, id: Id) -> RefMut<'_, Id, UserState> {
        self.users.entry(id).or_insert_with(|| {
            self.held.n_users.fetch_add(1, Ordering::Relaxed);
            UserState::default()
        })
    }

    fn global(&self) -> Counter {
        *self.global.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The global rate of the primary action, with half a pseudo-action so that it is never 0 or 1.
    fn rate(&self) -> f32 {
        let global = self.global();
        (f32_of(global.actions) + 0.5) / (f32_of(global.impressions) + 1.0)
    }

    /// Counts `n` events of one request for what they share, each of its counters looked up once.
    fn touch_request(&self, touch: &Touch, user: Id, context: &[Id], n: usize) {
        let mut global = self.global.write().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..n {
            (touch.event)(&mut global, touch.now, &self.config);
        }
        drop(global);
        self.bump(touch, Of::User, user, n);
        for value in context {
            self.bump(touch, Of::Context, *value, n);
        }
    }

    /// Counts an event for what is of its item alone.
    fn touch_item(&self, touch: &Touch, user: Id, item: Id) {
        self.bump(touch, Of::Item, item, 1);
        self.bump(touch, Of::UserItem, user.pair(item), 1);
        if let Some(item) = self.item(item) {
            for attribute in &item.attributes {
                self.bump(touch, Of::Attribute, attribute.value, 1);
                self.bump(touch, Of::UserAttribute, user.pair(attribute.value), 1);
            }
        }
    }

    fn bump(&self, touch: &Touch, of: Of, id: Id, n: usize) {
        let mut counter = self.counters.entry(CounterKey::new(of, id)).or_insert_with(|| {
            self.held.n_counters.fetch_add(1, Ordering::Relaxed);
            Counter::new(touch.rate, touch.now)
        });
        for _ in 0..n {
            (touch.event)(&mut counter, touch.now, &self.config);
        }
    }

    fn counter(&self, of: Of, id: Id) -> Option<Counter> {
        self.counters
            .get(&CounterKey::new(of, id))
            .map(|counter| *counter)
    }

    /// What all candidates of a request share.
    fn shared(&self, ask: &FeatureQuery<'_>, history_len: usize, slate_size: u16) -> Shared {
        let rate = self.rate();
        let smooth = Smooth {
            rate,
            global: logit(rate),
            prior: self.config.prior_actions,
            prior_impressions: self.config.prior_actions / rate,
        };
        let user = self.counter(Of::User, ask.user);
        let hour = angle_of_day(ask.ts);
        let context = mean(
            ask.context
                .iter()
                .map(|value| smooth.ctr(self.counter(Of::Context, *value).as_ref())),
        );
        let mut values = [0.0; N_DENSE];
        values[12] = context;
        values[13] = smooth.ctr(user.as_ref());
        values[14] = user.map_or(0.0, |c| ln1p(f32_of(c.impressions)));
        values[15] = user.map_or(0.0, |c| smooth.average(c.fast));
        values[16] = user.map_or(0.0, |c| smooth.average(c.slow));
        values[17] = user.map_or(0.0, |c| ln1p(seconds(ask.ts.since_ms(c.last))));
        values[26] = ln1p(f32::from(slate_size));
        values[29] = hour.sin();
        values[30] = hour.cos();
        values[31] = ln1p(f32::from(u16::try_from(history_len).unwrap_or(u16::MAX)));
        Shared { smooth, values }
    }

    fn dense(&self, ask: &FeatureQuery<'_>, shared: &Shared, id: Id, item: Option<&Item>) -> [f32; N_DENSE] {
        let smooth = &shared.smooth;
        let mut values = shared.values;
        if let Some(counter) = self.counter(Of::Item, id) {
            let (impressions, actions) = counter.recent(ask.ts, &self.config);
            values[0] = smooth.ctr(Some(&counter));
            values[1] = ln1p(f32_of(counter.impressions));
            values[2] = smooth.average(counter.fast);
            values[3] = smooth.average(counter.slow);
            values[4] = ln1p(impressions);
            values[5] = ln1p(actions);
            values[6] = ln1p(seconds(ask.ts.since_ms(counter.first)) / 3600.0);
        }
        if let Some(item) = item {
            let [category, author, tag] = self.attributes(smooth, item, ask.user);
            [values[7], values[8]] = category.everyone.mean(category.n);
            [values[9], values[10]] = author.everyone.mean(author.n);
            [values[11], _] = tag.everyone.mean(tag.n);
            [values[18], values[19]] = category.user.mean(category.n);
            [values[20], values[21]] = author.user.mean(author.n);
            [values[22], _] = tag.user.mean(tag.n);
        }
        if let Some(counter) = self.counter(Of::UserItem, ask.user.pair(id)) {
            values[23] = smooth.ctr(Some(&counter));
            values[24] = ln1p(f32_of(counter.impressions));
            values[25] = ln1p(f32_of(counter.actions));
        }
        values
    }

    /// The counters of an item's values, by slot: category, author, tag.
    fn attributes(&self, smooth: &Smooth, item: &Item, user: Id) -> [SlotSums; 3] {
        let mut slots = [SlotSums::default(); 3];
        for Attribute { slot, value } in &item.attributes {
            let sums = match slot {
                Slot::Category => &mut slots[0],
                Slot::Author => &mut slots[1],
                Slot::Tag => &mut slots[2],
                Slot::Context => continue,
            };
            sums.n += 1.0;
            let everyone = self.counter(Of::Attribute, *value);
            sums.everyone.add(smooth, everyone.as_ref());
            let user = self.counter(Of::UserAttribute, user.pair(*value));
            sums.user.add(smooth, user.as_ref());
        }
        slots
    }
}

/// What is done to every counter that an event concerns.
struct Touch {
    event: fn(&mut Counter, EventTime, &FeatureConfig),
    /// The global rate before the event, where new counters begin.
    rate: f32,
    now: EventTime,
}

/// The user and context features of a request, and the smoothing all its candidates share.
struct Shared {
    smooth: Smooth,
    values: [f32; N_DENSE],
}

/// The place of the first similarity feature.
const SIMILARITY: usize = 32;

/// Fills the slate-centred features: the item's value minus the slate's mean.
fn centre(slate: &mut [Candidate]) {
    let similarities = (0..N_MODALITIES).flat_map(|modality| {
        let from = SIMILARITY + 2 * N_SIMILARITY * modality;
        (from..from + N_SIMILARITY).map(|from| (from, from + N_SIMILARITY))
    });
    for (from, to) in [(0, 27), (1, 28)].into_iter().chain(similarities) {
        let mean = mean(slate.iter().map(|candidate| candidate.dense[from]));
        for candidate in slate.iter_mut() {
            let values = candidate.dense.values_mut();
            values[to] = values[from] - mean;
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
