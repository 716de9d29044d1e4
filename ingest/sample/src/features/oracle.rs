//! The formulas of the live features, computed in `f64` from the list of all events: slow and plain.

use std::collections::{BTreeMap, BTreeSet};

use super::dense::{DENSE_NAMES, N_DENSE};
use super::numbers::oracle::{NumberOracle, by_name};
use crate::{
    Action, Attribute, AttributeField, EventTime, FeatureChange, FeatureState, Id, Impression, Item, Number,
    ProfileUpdate, ShownItem,
};

const MINUTE: f64 = 60_000.0;

/// An event of a log.
#[derive(Clone, Debug)]
pub(crate) enum LogEvent {
    Item(Item),
    Profile(ProfileUpdate),
    Seed(Id, Vec<Id>),
    Shown(Impression),
    Acted(Action),
}

/// One shown item with what was known when it was shown.
struct Shown {
    request: Id,
    user: Id,
    item: Id,
    ts: f64,
    size: usize,
    /// The global rate before the slate.
    rate: f64,
}

/// All events so far.
#[derive(Default)]
pub(crate) struct Oracle {
    items: BTreeMap<Id, Item>,
    /// Time and features of each user's newest version.
    profiles: BTreeMap<Id, (EventTime, BTreeMap<Id, FeatureChange>)>,
    /// User, item, and the item's first version after the action.
    seeds: Vec<(Id, Id, Option<Item>)>,
    shown: Vec<Shown>,
    /// Actions of the primary task with the item known then.
    acted: Vec<(Action, Option<Item>)>,
    /// Text vectors of length 1.
    vectors: BTreeMap<Id, Vec<f64>>,
    item_numbers: NumberOracle,
    request_numbers: NumberOracle,
}

impl Oracle {
    /// Writes an event here and to `state`.
    pub(crate) fn write(&mut self, event: &LogEvent, state: &FeatureState) {
        match event {
            LogEvent::Item(item) => {
                state.put_item(item.clone());
                self.items.insert(item.id, item.clone());
                for (_, of, known) in &mut self.seeds {
                    if *of == item.id && known.is_none() {
                        *known = Some(item.clone());
                    }
                }
                for (_, values) in &item.vectors {
                    let values: Vec<f64> = values.iter().copied().map(f64::from).collect();
                    self.vectors.insert(item.id, unit(values));
                }
            }
            LogEvent::Profile(update) => {
                state.update_profile(update.clone());
                let known = self
                    .profiles
                    .entry(update.user)
                    .or_insert((EventTime::MIN, BTreeMap::new()));
                if known.0 <= update.ts {
                    known.0 = update.ts;
                    known.1.retain(|_, _| !update.clears_features);
                    known.1.extend(update.features.iter().cloned());
                }
            }
            LogEvent::Seed(user, items) => {
                state.seed_history(*user, items, EventTime(-1));
                for item in items {
                    self.seeds.push((*user, *item, self.items.get(item).cloned()));
                }
            }
            LogEvent::Shown(slate) => {
                state.add_impression(slate);
                for shown in &slate.items {
                    let numbers = self.numbers(shown);
                    self.item_numbers.add(&numbers);
                }
                let numbers = self.request_numbers_of(slate.user, &slate.numbers);
                self.request_numbers.add(&numbers);
                let rate = self.rate();
                self.shown.extend(slate.items.iter().map(|shown| Shown {
                    request: slate.request,
                    user: slate.user,
                    item: shown.item,
                    ts: slate.ts.0 as f64,
                    size: slate.items.len(),
                    rate,
                }));
            }
            LogEvent::Acted(action) => {
                let size = self
                    .shown
                    .iter()
                    .find(|shown| Some(shown.request) == action.request);
                let size = size.map(|shown| u16::try_from(shown.size).unwrap());
                state.add_action(action, &[], size);
                if action.task == 0 {
                    self.acted.push((*action, self.items.get(&action.item).cloned()));
                }
            }
        }
    }

    /// The numbers of an item in a request.
    fn numbers(&self, shown: &ShownItem) -> BTreeMap<Id, f32> {
        let of_item = self.items.get(&shown.item).map_or(&[][..], |item| &item.numbers);
        by_name(of_item.iter().chain(&shown.features.numbers))
    }

    /// The categorical values of a candidate.
    pub(crate) fn values(&self, shown: &ShownItem) -> Vec<Attribute> {
        let of = |field, values: Vec<Id>| values.into_iter().map(move |value| Attribute { field, value });
        let buckets = self.item_numbers.buckets(&self.numbers(shown));
        let mut values = self.attributes(shown.item);
        values.extend(of(AttributeField::Shown, shown.features.values.clone()));
        values.extend(of(AttributeField::Number, buckets));
        values
    }

    /// The categorical values of a request.
    pub(crate) fn context(&self, user: Id, values: &[Id], numbers: &[Number]) -> Vec<Id> {
        let mut context = values.to_vec();
        let mut of_user: BTreeSet<Id> = BTreeSet::new();
        for (_, change) in self.profile(user) {
            if let FeatureChange::Values(values) = change {
                of_user.extend(values);
            }
        }
        context.extend(of_user);
        let numbers = self.request_numbers_of(user, numbers);
        context.extend(self.request_numbers.buckets(&numbers));
        context
    }

    /// The numbers of a request: of its user, unless the request has one of that name.
    fn request_numbers_of(&self, user: Id, own: &[Number]) -> BTreeMap<Id, f32> {
        let mut numbers = BTreeMap::new();
        for (name, change) in self.profile(user) {
            if let FeatureChange::Number(value) = change {
                numbers.insert(*name, *value);
            }
        }
        numbers.extend(by_name(own));
        numbers
    }

    fn profile(&self, user: Id) -> impl Iterator<Item = (&Id, &FeatureChange)> {
        self.profiles
            .get(&user)
            .into_iter()
            .flat_map(|(_, features)| features)
    }

    /// The features that this oracle has a formula for, of one candidate of a slate of `size` items.
    pub(crate) fn features(
        &self,
        user: Id,
        item: Id,
        ts: EventTime,
        size: usize,
    ) -> BTreeMap<&'static str, f64> {
        let mut found = BTreeMap::new();
        self.shares(user, item, &mut found);
        self.sizes(size, &mut found);
        self.scales(user, ts.0 as f64, &mut found);
        self.outcomes(user, &mut found);
        self.session(user, ts.0 as f64, &mut found);
        self.titles(user, item, &mut found);
        self.similarities(user, item, &mut found);
        found
    }

    fn attributes(&self, item: Id) -> Vec<Attribute> {
        self.items
            .get(&item)
            .map_or(Vec::new(), |item| item.attributes.clone())
    }

    fn rate(&self) -> f64 {
        (self.acted.len() as f64 + 0.05) / (self.shown.len() as f64 + 1.0)
    }

    /// User and item of all actions, items as far as known then.
    fn clicks(&self) -> Vec<(Id, Option<Item>)> {
        let seeds = self.seeds.iter();
        let seeds = seeds.map(|(user, _, item)| (*user, item.clone()));
        let acted = self.acted.iter();
        seeds
            .chain(acted.map(|(action, item)| (action.user, item.clone())))
            .collect()
    }

    fn shares(&self, user: Id, item: Id, found: &mut BTreeMap<&'static str, f64>) {
        let clicks = self.clicks();
        let own: Vec<_> = clicks.iter().filter(|(of, _)| *of == user).collect();
        let fields = [
            ("category_share", AttributeField::Category, 20.0),
            ("author_share", AttributeField::Author, 200.0),
            ("tag_share", AttributeField::Tag, 200.0),
        ];
        for (name, field, prior) in fields {
            let mut logs = Vec::new();
            for attribute in self.attributes(item).iter().filter(|known| known.field == field) {
                let has = |(_, item): &&(Id, Option<Item>)| {
                    let mut values = item.iter().flat_map(|item| &item.attributes);
                    values.any(|known| known.value == attribute.value)
                };
                let expected =
                    (clicks.iter().filter(has).count() as f64 + 1.0) / (clicks.len() as f64 + prior);
                let of_user = own.iter().filter(|click| has(click)).count() as f64;
                logs.push(((of_user + 2.0 * expected) / (own.len() as f64 + 2.0) / expected).ln());
            }
            let known = !own.is_empty() && !logs.is_empty();
            found.insert(
                name,
                if known {
                    logs.iter().sum::<f64>() / logs.len() as f64
                } else {
                    0.0
                },
            );
        }
    }

    fn sizes(&self, size: usize, found: &mut BTreeMap<&'static str, f64>) {
        let bucket = |size: usize| (4.0 * (size as f64).ln()).floor().to_bits();
        let same = |shown: &&Shown| bucket(shown.size) == bucket(size);
        let n = self.shown.iter().filter(same).count() as f64;
        let k = self.acted.iter().filter(|(action, _)| {
            let of = |shown: &&Shown| Some(shown.request) == action.request && shown.item == action.item;
            self.shown.iter().find(of).is_some_and(|shown| same(&shown))
        });
        let rate = (k.count() as f64 + 20.0 * self.rate()) / (n + 20.0);
        found.insert("slate_size_ctr", logit(rate) - logit(self.rate()));
    }

    fn scales(&self, user: Id, now: f64, found: &mut BTreeMap<&'static str, f64>) {
        let p = self.rate();
        let m = (1.0 / p).max(2.0);
        let decayed = |tau: f64, of: &dyn Fn(Id) -> bool| -> (f64, f64) {
            let weight = |ts: f64| (-(now - ts) / tau).exp();
            let shown = self.shown.iter().filter(|shown| of(shown.user));
            let acted = self.acted.iter().filter(|(action, _)| of(action.user));
            (
                shown.map(|shown| weight(shown.ts)).sum(),
                acted.map(|(action, _)| weight(action.ts.0 as f64)).sum(),
            )
        };
        for (name, tau) in [
            ("user_10min_ctr", 10.0 * MINUTE),
            ("user_recent_ctr", 60.0 * MINUTE),
        ] {
            let (n, k) = decayed(tau, &|of| of == user);
            found.insert(name, logit((k + 1.0) / (n + m)) - logit(p));
        }
        let (n, k) = decayed(60.0 * MINUTE, &|_| true);
        found.insert("global_recent_ctr", logit((k + 10.0 * p) / (n + 10.0)) - logit(p));
    }

    fn outcomes(&self, user: Id, found: &mut BTreeMap<&'static str, f64>) {
        let acted = self.acted.iter().map(|(a, _)| (a.request, a.item));
        let acted: BTreeSet<(Option<Id>, Id)> = acted.collect();
        let own = self.shown.iter().filter(|shown| shown.user == user);
        let outcomes: Vec<(f64, f64)> = own
            .map(|shown| {
                (
                    f64::from(u8::from(acted.contains(&(Some(shown.request), shown.item)))),
                    shown.rate,
                )
            })
            .collect();
        let p = self.rate();
        for (name, rate) in [("user_ema5_ctr", 0.2), ("user_ema2_ctr", 0.5)] {
            let mut average = outcomes.first().map_or(p, |(_, rate)| *rate);
            for (y, _) in &outcomes {
                average += rate * (y - average);
            }
            found.insert(name, logit(0.8 * average + 0.2 * p) - logit(p));
        }
        let names = ["user_outcome_1", "user_outcome_2", "user_outcome_3"];
        for (age, name) in names.into_iter().enumerate() {
            let outcome = outcomes.iter().rev().nth(age);
            found.insert(name, outcome.map_or(0.0, |(y, rate)| y - rate));
        }
    }

    fn session(&self, user: Id, now: f64, found: &mut BTreeMap<&'static str, f64>) {
        let own: Vec<&Shown> = self.shown.iter().filter(|shown| shown.user == user).collect();
        let (mut start, mut n, mut last) = (f64::INFINITY, 0.0f64, f64::NEG_INFINITY);
        for shown in own {
            if shown.ts - last > 30.0 * MINUTE {
                (start, n) = (shown.ts, 0.0);
            }
            n += 1.0;
            last = last.max(shown.ts);
        }
        let own = self.acted.iter().filter(|(action, _)| action.user == user);
        let k = own.filter(|(action, _)| action.ts.0 as f64 >= start).count() as f64;
        let is_over = now - last > 30.0 * MINUTE;
        found.insert("session_impressions", if is_over { 0.0 } else { n.ln_1p() });
        found.insert("session_actions", if is_over { 0.0 } else { k.ln_1p() });
    }

    fn titles(&self, user: Id, item: Id, found: &mut BTreeMap<&'static str, f64>) {
        let idf = |word: &String| -> f64 {
            let with_word = self.items.values().filter(|item| words(item).contains(word));
            (self.items.len() as f64 / (with_word.count() as f64 + 1.0))
                .ln()
                .max(0.0)
        };
        let mut counts: BTreeMap<String, f64> = BTreeMap::new();
        for (_, item) in self.clicks().iter().filter(|(of, _)| *of == user) {
            for word in item.iter().flat_map(words) {
                *counts.entry(word).or_default() += 1.0;
            }
        }
        let weight = |word: &String| counts.get(word).map_or(0.0, |count| count.ln_1p() * idf(word));
        let words = self.items.get(&item).map(words).unwrap_or_default();
        let sum = |of: &dyn Fn(&String) -> f64| -> f64 { words.iter().map(of).sum() };
        let norm = counts.keys().map(|word| weight(word).powi(2)).sum::<f64>().sqrt();
        let length = sum(&|word| idf(word).powi(2)).sqrt();
        let cosine = sum(&|word| weight(word) * idf(word)) / length / norm;
        let known = |word: &String| if counts.contains_key(word) { idf(word) } else { 0.0 };
        let share = sum(&known) / sum(&|word| idf(word));
        let or_zero = |x: f64| if x.is_finite() { x } else { 0.0 };
        found.insert("title_cosine", or_zero(cosine));
        found.insert("title_share", or_zero(share));
        found.insert("title_max", words.iter().map(weight).fold(0.0, f64::max));
    }

    fn similarities(&self, user: Id, item: Id, found: &mut BTreeMap<&'static str, f64>) {
        let seeds = self.seeds.iter().filter(|(of, ..)| *of == user);
        let acted = self.acted.iter().filter(|(action, _)| action.user == user);
        let acted = acted.map(|(action, _)| action.item);
        let acted: Vec<Id> = seeds.map(|(_, item, _)| *item).chain(acted).collect();
        let shown = self.shown.iter().filter(|shown| shown.user == user);
        let shown: Vec<Id> = shown.map(|shown| shown.item).collect();
        let newest = |ids: &[Id]| ids[ids.len().saturating_sub(50)..].to_vec();
        let passed = newest(&shown).into_iter().filter(|item| !acted.contains(item));
        let directions = |ids: Vec<Id>| -> Vec<Vec<f64>> {
            let known = ids.iter().filter_map(|id| self.direction(*id));
            known.collect()
        };
        let (acted, passed) = (directions(newest(&acted)), directions(passed.collect()));
        let own = self.direction(item).filter(|_| acted.len() + passed.len() > 0);
        let cosines = |past: &[Vec<f64>]| -> Vec<f64> {
            let own = own.iter().flat_map(|own| past.iter().map(|past| dot(own, past)));
            own.collect()
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let weight = |cosines: &[f64]| cosines.iter().map(|cosine| cosine.max(0.0).powi(2)).sum::<f64>();
        let (mut near, far, p) = (cosines(&acted), cosines(&passed), self.rate());
        let share = (weight(&near) + p) / (weight(&near) + weight(&far) + 1.0);
        let ctr = logit(share) - logit(p);
        found.insert("text_ctr", if own.is_some() { ctr } else { 0.0 });
        found.insert("text_passed", far.iter().copied().fold(0.0, f64::max));
        found.insert("text_recent", mean(&near[near.len().saturating_sub(5)..]));
        let width = acted.first().map_or(0, Vec::len);
        let sum: Vec<f64> = (0..width)
            .map(|at| acted.iter().map(|past| past[at]).sum())
            .collect();
        // Next to nothing is left of directions that cancel; what it points to is rounding.
        if dot(&sum, &sum).sqrt() > 0.1 {
            let mean_direction = unit(sum);
            let cosine = own.as_ref().map_or(0.0, |own| dot(own, &mean_direction));
            found.insert("text_mean", cosine);
        }
        near.sort_by(|a, b| b.total_cmp(a));
        found.insert("text_max", near.first().copied().unwrap_or_default());
        found.insert("text_top3", mean(&near[..near.len().min(3)]));
    }

    /// The direction of an item's vector from the mean of all items' vectors.
    fn direction(&self, item: Id) -> Option<Vec<f64>> {
        let vector = self.vectors.get(&item)?;
        let n = self.vectors.len() as f64;
        let mean = |at: usize| self.vectors.values().map(|vector| vector[at]).sum::<f64>() / n;
        Some(unit((0..vector.len()).map(|at| vector[at] - mean(at)).collect()))
    }
}

/// The first 16 distinct words of a title without punctuation.
fn words(item: &Item) -> Vec<String> {
    let title = item
        .texts
        .first()
        .map_or(String::new(), |title| title.to_lowercase());
    let mut words: Vec<String> = Vec::new();
    for word in title.split(' ').filter(|word| word.len() > 2) {
        if words.len() < 16 && !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    }
    words
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A vector scaled to length 1; zeros for one of next to no length.
fn unit(vector: Vec<f64>) -> Vec<f64> {
    let length = dot(&vector, &vector).sqrt();
    let scale = if length < 1e-3 { 0.0 } else { 1.0 / length };
    vector.iter().map(|x| x * scale).collect()
}

/// Log-odds, clamped like those of the features.
fn logit(p: f64) -> f64 {
    let p = p.clamp(3.4e-4, 1.0 - 3.4e-4);
    (p / (1.0 - p)).ln()
}

/// Panics unless the features with a formula agree to `1e-5` of their size.
pub(crate) fn assert_agree(expected: &BTreeMap<&'static str, f64>, values: &[f32; N_DENSE]) {
    for (name, value) in DENSE_NAMES.iter().zip(values) {
        let Some(expected) = expected.get(name) else {
            continue;
        };
        let tolerance = 1e-5 * expected.abs().max(1.0);
        assert!(
            (f64::from(*value) - expected).abs() < tolerance,
            "{name}: {value}, expected {expected}"
        );
    }
}
