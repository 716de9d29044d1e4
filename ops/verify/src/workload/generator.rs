//! Generates the events of a site and counts the outcome of each.

use std::collections::BTreeMap;

use ouzel_ingest::join::Counters;
use ouzel_sample::Stream;
use serde_json::{Value, json};

use super::{CLICK_MS, Event, Expected, ORDER_MS, Workload};
use crate::rng::SeededRng;

/// 2026-01-01, the start of the workload.
const START_MS: i64 = 1_767_225_600_000;
const N_ITEMS: usize = 250;
const N_USERS: usize = 150;
const SLATE_LEN: usize = 5;
/// Mean time from one slate to the next, ms.
const SLATE_INTERVAL_MS: f64 = 150.0;
/// Records with distinct keys at the end of each stream: each partition gets one, which closes all windows before.
const N_CLOSERS: i64 = 32;
/// A closed request is remembered for this long after a window, ms. A later action would be an orphan instead of late.
const REMEMBERED_MS: i64 = 10_000;
/// An item is shown to a user once within this long of an action on it without a request, ms: longer than every window
/// with the lateness, so that the impression of the action is certain.
const ALONE_MS: i64 = ORDER_MS + 30_000;
/// How far a wrong clock is ahead.
const WRONG_CLOCK_MS: i64 = 55 * 60_000;

impl Workload {
    /// The workload of `seed` with `n_slates` slates. With stragglers, one record in fifty is later than the allowed
    /// lateness.
    pub(crate) fn new(seed: u64, n_slates: u32, has_stragglers: bool) -> Self {
        let mut generator = Generator::new(seed, has_stragglers);
        for item in 0..N_ITEMS {
            generator.write_item(item, START_MS - 60_000);
        }
        // A third of the users has no profile.
        for user in (0..N_USERS).filter(|user| user % 3 > 0) {
            generator.write_profile(user, START_MS - 60_000, false);
        }
        let mut now = START_MS;
        for number in 0..n_slates {
            now += generator.rng.exponential_ms(SLATE_INTERVAL_MS);
            generator.write_slate(number, now);
            generator.write_stray_records(number, now);
            if number.is_multiple_of(16) {
                let item = generator.rng.index(N_ITEMS);
                generator.write_item(item, now);
            }
            if number.is_multiple_of(8) {
                let user = generator.rng.index(N_USERS);
                generator.write_profile(user, now, true);
            }
        }
        generator.write_closers(now + 600_000);
        let Generator {
            mut events, expected, ..
        } = generator;
        events.sort_by_key(|event| event.arrives_ms);
        Self {
            events,
            expected,
            has_bare_actions: has_bare_actions(seed),
        }
    }
}

struct Generator {
    rng: SeededRng,
    has_stragglers: bool,
    has_bare_actions: bool,
    /// When an item was last shown to a user, and until when it is not shown to the user again, ms.
    shown_to: BTreeMap<(String, usize), (i64, i64)>,
    /// How attractive each item is, in `(0, 1)`.
    appeal: Vec<f64>,
    events: Vec<Event>,
    expected: Expected,
}

fn action(request: Option<&str>, user: &str, item: usize, action: &str, ts_ms: i64) -> Value {
    json!({
        "request_id": request, "item_id": format!("i{item}"), "user_id": user, "ts_ms": ts_ms, "action": action,
    })
}

/// Whether actions of this seed's site may name no request.
fn has_bare_actions(seed: u64) -> bool {
    seed % 2 == 1
}

impl Generator {
    fn new(seed: u64, has_stragglers: bool) -> Self {
        let mut rng = SeededRng::new(seed, "workload");
        let appeal = (0..N_ITEMS).map(|_| rng.fraction().powi(2)).collect();
        Self {
            rng,
            has_stragglers,
            has_bare_actions: has_bare_actions(seed),
            shown_to: BTreeMap::new(),
            appeal,
            events: Vec::new(),
            expected: Expected {
                counters: Counters::new(2),
                is_exact: !has_stragglers,
            },
        }
    }

    fn counters(&mut self) -> &mut Counters {
        &mut self.expected.counters
    }

    fn write_item(&mut self, item: usize, ts_ms: i64) {
        let price = ["low", "mid", "high"][self.rng.index(3)];
        let payload = json!({
            "item_id": format!("i{item}"),
            "ts_ms": ts_ms,
            "category": format!("c{}", item % 12),
            "author": format!("a{}", item % 40),
            "features": { "price": price },
        });
        self.write(Stream::Items, &format!("i{item}"), ts_ms, 0, &payload);
    }

    /// A version of a user's profile: whole, or, of one that `is_known`, also partial, out of date or its deletion.
    fn write_profile(&mut self, user: usize, ts_ms: i64, is_known: bool) {
        let user = format!("u{user}");
        let country = ["FR", "DE", "IT"][self.rng.index(3)];
        let mut payload = json!({ "user_id": user, "ts_ms": ts_ms, "country": country });
        if self.rng.chance(0.7) {
            payload["features"] = json!({ "age": 18 + self.rng.index(60) });
        }
        let mut delay = 0;
        if is_known {
            match self.rng.index(10) {
                0 => payload["deleted"] = json!(true),
                1..4 => payload["partial"] = json!(true),
                4 => {
                    // Dated a minute before it arrives.
                    delay = 60_000;
                    payload["ts_ms"] = json!(ts_ms - delay);
                }
                _ => {}
            }
        }
        self.write(Stream::Users, &user, ts_ms - delay, delay, &payload);
    }

    /// A request, shown at once or in two parts, and the actions on its items.
    fn write_slate(&mut self, number: u32, ts_ms: i64) {
        let user = self.rng.index(N_USERS).min(self.rng.index(N_USERS));
        let (request, user) = (format!("r{number}"), format!("u{user}"));
        let mut items = Vec::with_capacity(SLATE_LEN);
        while items.len() < SLATE_LEN {
            let item = self.rng.index(N_ITEMS);
            let until = self
                .shown_to
                .get(&(user.clone(), item))
                .map_or(i64::MIN, |(_, until)| *until);
            if !items.contains(&item) && ts_ms >= until {
                items.push(item);
            }
        }
        let delay = self.delay_ms();
        if !self.rng.chance(0.2) {
            return self.write_impression((&request, &user), ts_ms, delay, &items, 0);
        }
        let (first, second) = items.split_at(SLATE_LEN - 2);
        self.write_impression((&request, &user), ts_ms, delay, first, 0);
        // The user scrolls on. The second part arrives after the first and shows one of its items again, and its own
        // last item twice.
        let later_ms = ts_ms + 1 + self.rng.ms_below(5_000);
        let delay = self.delay_ms().max(ts_ms + delay - later_ms + 1);
        let items: Vec<usize> = second.iter().chain([&first[0], &second[1]]).copied().collect();
        self.write_impression((&request, &user), later_ms, delay, &items, 2);
    }

    /// An impression, perhaps twice, and the actions on its items, of which the last `n_known` count as known.
    fn write_impression(
        &mut self,
        (request, user): (&str, &str),
        ts_ms: i64,
        delay: i64,
        items: &[usize],
        n_known: usize,
    ) {
        let shown = items.iter().enumerate();
        let shown = shown.map(|(at, item)| json!({ "item_id": format!("i{item}"), "position": at }));
        let shown: Vec<Value> = shown.collect();
        let device = ["phone", "tablet", "desk"][self.rng.index(3)];
        let payload = json!({
            "request_id": request,
            "user_id": user,
            "ts_ms": ts_ms,
            "items": shown,
            "context": { "device": device },
        });
        let n_items = items.len() as u64;
        self.write(Stream::Impressions, request, ts_ms, delay, &payload);
        self.counters().accepted += 1;
        self.counters().items += n_items;
        self.counters().duplicate_items += n_known as u64;
        if self.rng.chance(0.03) {
            let delay = delay + self.rng.ms_below(2_000);
            self.write(Stream::Impressions, request, ts_ms, delay, &payload);
            self.counters().duplicate_impressions += 1;
            self.counters().items += n_items;
            self.counters().duplicate_items += n_items;
        }
        for item in &items[..items.len() - n_known] {
            let is_bare = self.is_bare(user, *item, ts_ms) && items.len() == SLATE_LEN;
            let request = (!is_bare).then_some(request);
            let outcomes = self.write_actions(request, user, *item, ts_ms);
            for (task, is_positive) in self.counters().tasks.iter_mut().zip(outcomes) {
                task.positive += u64::from(is_positive);
                task.negative += u64::from(!is_positive);
            }
        }
    }

    /// Whether the actions on an item shown at `ts_ms` name no request. Then no other request shows it to the user within
    /// [`ALONE_MS`].
    fn is_bare(&mut self, user: &str, item: usize, ts_ms: i64) -> bool {
        let key = (user.to_owned(), item);
        let before = self.shown_to.get(&key).map(|(shown, _)| *shown);
        let is_alone = before.is_none_or(|before| before < ts_ms - ALONE_MS);
        let is_bare = self.has_bare_actions && is_alone && self.rng.chance(0.4);
        let until = if is_bare { ts_ms + ALONE_MS } else { i64::MIN };
        self.shown_to.insert(key, (ts_ms, until));
        is_bare
    }

    /// The actions of the user on an item shown at `ts_ms`. Returns for each task whether its action is in time.
    fn write_actions(&mut self, request: Option<&str>, user: &str, item: usize, ts_ms: i64) -> [bool; 2] {
        if !self.rng.chance(0.05 + 0.4 * self.appeal[item]) {
            return [false; 2];
        }
        let click_after = match self.rng.chance(0.02) {
            // The clock of the user differs from the clock of the site.
            true => -self.rng.ms_below(3_000),
            false => self.rng.exponential_ms(4_000.0),
        };
        let order_after = click_after + self.rng.exponential_ms(30_000.0);
        let click = action(request, user, item, "click", ts_ms + click_after);
        let order = action(request, user, item, "order", ts_ms + order_after);
        [
            self.write_action(request, ts_ms, click_after, CLICK_MS, &click),
            self.rng.chance(0.3) && self.write_action(request, ts_ms, order_after, ORDER_MS, &order),
        ]
    }

    /// An action `after` ms after its impression, perhaps twice. Returns true if it is in time.
    fn write_action(
        &mut self,
        request: Option<&str>,
        shown_ms: i64,
        after: i64,
        window: i64,
        payload: &Value,
    ) -> bool {
        if after > window + REMEMBERED_MS {
            return false;
        }
        let (ts_ms, delay) = (shown_ms + after, self.delay_ms());
        let user = payload["user_id"].as_str().unwrap_or_default();
        let key = request.unwrap_or(user);
        self.write(Stream::Actions, key, ts_ms, delay, payload);
        if after > window {
            match request {
                Some(_) => self.counters().late_actions += 1,
                None => self.counters().unattributed += 1,
            }
            return false;
        }
        self.counters().matched += 1;
        if self.rng.chance(0.06) {
            let delay = delay + self.rng.ms_below(2_000);
            self.write(Stream::Actions, key, ts_ms, delay, payload);
            self.counters().duplicate_actions += 1;
        }
        true
    }

    /// Now and then an action without an impression or on an item that is not shown, and malformed records.
    fn write_stray_records(&mut self, number: u32, ts_ms: i64) {
        let request = format!("r{number}");
        for (request, item) in [(&request, N_ITEMS + 7), (&format!("lost-{number}"), 1)] {
            if self.rng.chance(0.02) {
                let (at, delay) = (ts_ms + self.rng.ms_below(3_000), self.delay_ms());
                self.write(
                    Stream::Actions,
                    request,
                    at,
                    delay,
                    &action(Some(request), "u1", item, "click", at),
                );
                self.counters().orphans += 1;
            }
        }
        if self.rng.chance(0.01) {
            self.write_wrong_clock(number, ts_ms);
        }
        if self.rng.chance(0.02) {
            let (at, delay) = (ts_ms + self.rng.ms_below(3_000), self.delay_ms());
            // On an item that nobody is shown.
            let bare = action(None, "u1", N_ITEMS + 9, "click", at);
            self.write(Stream::Actions, &request, at, delay, &bare);
            self.counters().unattributed += 1;
        }
        let key = format!("x{number}");
        if self.rng.chance(0.01) {
            self.write(Stream::Impressions, &key, ts_ms, 0, &json!({ "request_id": 7 }));
            self.counters().rejected_impressions += 1;
        }
        if self.rng.chance(0.01) {
            self.write(
                Stream::Actions,
                &key,
                ts_ms,
                0,
                &action(Some(&request), "u1", 1, "stare", ts_ms),
            );
            self.counters().rejected_actions += 1;
        }
    }

    /// An impression and its action with a clock that is far ahead. No other event is late by it, and its own windows
    /// stay open to the end.
    fn write_wrong_clock(&mut self, number: u32, ts_ms: i64) {
        let request = format!("ahead-{number}");
        let wrong_ms = ts_ms + WRONG_CLOCK_MS;
        let payload = json!({
            "request_id": request, "user_id": "u2", "ts_ms": wrong_ms, "items": [{ "item_id": "i3" }],
        });
        let click = action(Some(&request), "u2", 3, "click", wrong_ms + 10);
        for (stream, payload) in [(Stream::Impressions, payload), (Stream::Actions, click)] {
            self.write(stream, &request, wrong_ms, -WRONG_CLOCK_MS, &payload);
        }
        let counters = self.counters();
        counters.accepted += 1;
        counters.items += 1;
        counters.pending_items += 1;
        counters.matched += 1;
        counters.tasks[0].positive += 1;
        counters.tasks[1].pending += 1;
    }

    /// Moves event time past all windows, in every partition of both streams.
    fn write_closers(&mut self, ts_ms: i64) {
        for number in 0..N_CLOSERS {
            let at = ts_ms + number;
            let (request, unseen) = (format!("close-{number}"), format!("unseen-{number}"));
            let payload = json!({
                "request_id": request, "user_id": "u0", "ts_ms": at, "items": [{ "item_id": "i0" }, { "item_id": "i1" }],
            });
            self.write(Stream::Impressions, &request, at, 0, &payload);
            self.write(
                Stream::Actions,
                &unseen,
                at,
                0,
                &action(Some(&unseen), "u0", 0, "click", at),
            );
            let counters = self.counters();
            counters.accepted += 1;
            counters.items += 2;
            counters.pending_items += 2;
            counters.waiting += 1;
            for task in &mut counters.tasks {
                task.pending += 2;
            }
        }
    }

    /// Time from an event to its arrival in the log, ms.
    fn delay_ms(&mut self) -> i64 {
        if self.has_stragglers && self.rng.chance(0.02) {
            return 12_000 + self.rng.ms_below(180_000);
        }
        let max = if self.rng.chance(0.2) { 6_000 } else { 200 };
        self.rng.ms_below(max)
    }

    fn write(&mut self, stream: Stream, key: &str, ts_ms: i64, delay_ms: i64, payload: &Value) {
        match stream {
            Stream::Impressions => self.counters().impressions += 1,
            Stream::Actions => self.counters().actions += 1,
            Stream::Items | Stream::Users | Stream::Samples => {}
        }
        let arrives_ms = ts_ms + delay_ms;
        // Producers stamp records, and their clocks disagree.
        let early = match self.rng.chance(0.02) {
            true => self.rng.ms_below(1_500),
            false => 0,
        };
        self.events.push(Event {
            stream,
            key: key.to_owned(),
            record_ms: (arrives_ms - early).max(ts_ms),
            payload: payload.to_string().into_bytes(),
            arrives_ms,
        });
    }
}
