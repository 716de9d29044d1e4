//! A small made-up site: a catalog, slates shown to users, what they did with them, and everything that goes
//! wrong on the way to the log.
//!
//! Events come late and out of order, impressions and actions come twice, actions come before their impression
//! or without one, and some records are rubbish. All of it follows from a seed, and the world knows what must
//! become of every record: [`Expected`] is counted while the events are made up, without a join.

use ouzel_ingest::join::Counters;
use ouzel_sample::Stream;
use serde_json::json;

use super::dice::Dice;

/// Window of the first task, `click`, ms.
pub const CLICK_MS: i64 = 30_000;
/// Window of the second task, `order`, ms.
pub const ORDER_MS: i64 = 120_000;
/// How far the watermark stays behind, ms; records of one partition are never further out of order, but for
/// stragglers.
pub const LATENESS_MS: i64 = 10_000;
/// How far before its impression an action may be stamped, ms.
pub const SKEW_MS: i64 = 5_000;

/// 2026-01-01, when the world begins.
const START_MS: i64 = 1_767_225_600_000;
const N_ITEMS: usize = 250;
const N_USERS: usize = 150;
const SLATE: usize = 5;
/// Mean time from one slate to the next, ms.
const SLATE_EVERY_MS: f64 = 150.0;
/// Records a stream ends with, each under a key of its own: enough that every partition gets one, and event
/// time passes everything before.
const N_CLOSERS: i64 = 32;

/// One record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// To which stream.
    pub stream: Stream,
    /// Its key.
    pub key: String,
    /// Timestamp of the record, ms.
    pub record_ms: i64,
    /// Its value.
    pub payload: Vec<u8>,
    /// When it reaches the log, ms: the order of the log.
    arrives_ms: i64,
}

/// The log of a made-up site, and what must become of it.
#[derive(Clone, Debug)]
pub struct World {
    /// Its records, in the order in which they reach the log.
    pub events: Vec<Event>,
    /// What must become of them.
    pub expected: Expected,
}

/// What must become of every record, whatever the order across partitions and however often the reader dies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Outcomes of impressions: joined, come again, rubbish.
    pub impressions: [u64; 3],
    /// Shown items of those joined, and of those come again.
    pub items: [u64; 2],
    /// By task: shown items with an action, without one when the window closed, and with an open window.
    pub tasks: [[u64; 3]; 2],
    /// Outcomes of actions: matched, come again, after their window, without an impression, waiting, rubbish.
    pub actions: [u64; 6],
    /// False when records came so late that their outcome depends on the order across partitions; then only
    /// the sums are known.
    pub is_exact: bool,
}

impl Expected {
    /// What of `found` is not as it must be, a line each.
    #[must_use]
    pub fn differences(&self, found: &Counters) -> Vec<String> {
        let [joined, again, rubbish] = self.impressions;
        let [matched, acted_again, late, orphans, waiting, rubbish_actions] = self.actions;
        let mut pairs = vec![
            ("impressions", joined + again + rubbish, found.impressions),
            ("rejected impressions", rubbish, found.rejected_impressions),
            ("items", self.items[0] + self.items[1], found.items),
            ("actions", self.actions.iter().sum(), found.actions),
            ("rejected actions", rubbish_actions, found.rejected_actions),
        ];
        if self.is_exact {
            pairs.extend([
                ("joined impressions", joined, found.accepted),
                ("duplicate impressions", again, found.duplicate_impressions),
                ("duplicate items", self.items[1], found.duplicate_items),
                ("late impressions", 0, found.late_impressions),
                ("matched actions", matched, found.matched),
                ("duplicate actions", acted_again, found.duplicate_actions),
                ("late actions", late, found.late_actions),
                ("orphaned actions", orphans, found.orphans),
                ("waiting actions", waiting, found.waiting),
                ("actions before their impression", 0, found.before_shown),
            ]);
            for (of, found) in self.tasks.iter().zip(&found.tasks) {
                pairs.extend([
                    ("positives of a task", of[0], found.positive),
                    ("negatives of a task", of[1], found.negative),
                    ("undecided items of a task", of[2], found.pending),
                ]);
            }
        }
        let wrong = pairs.into_iter().filter(|(_, expected, found)| expected != found);
        wrong
            .map(|(what, expected, found)| format!("{what}: {found}, but there must be {expected}"))
            .collect()
    }
}

impl World {
    /// The world of `seed` with `n_slates` slates. With stragglers, one record in fifty comes later than the
    /// lateness bound allows.
    #[must_use]
    pub fn new(seed: u64, n_slates: u32, has_stragglers: bool) -> Self {
        let mut maker = Maker {
            dice: Dice::new(seed, "world"),
            has_stragglers,
            events: Vec::new(),
            expected: Expected {
                is_exact: !has_stragglers,
                ..Expected::default()
            },
        };
        let appeal: Vec<f64> = (0..N_ITEMS).map(|_| maker.dice.unit().powi(2)).collect();
        for item in 0..N_ITEMS {
            maker.item(item, START_MS - 60_000);
        }
        let mut now = START_MS;
        for slate in 0..n_slates {
            now += maker.dice.exponential_ms(SLATE_EVERY_MS);
            maker.slate(slate, now, &appeal);
            if slate.is_multiple_of(16) {
                let item = maker.dice.index(N_ITEMS);
                maker.item(item, now);
            }
        }
        maker.close(now + 600_000);
        maker.events.sort_by_key(|event| event.arrives_ms);
        Self {
            events: maker.events,
            expected: maker.expected,
        }
    }
}

struct Maker {
    dice: Dice,
    has_stragglers: bool,
    events: Vec<Event>,
    expected: Expected,
}

impl Maker {
    fn item(&mut self, item: usize, ts: i64) {
        let price = ["low", "mid", "high"][self.dice.index(3)];
        let payload = json!({
            "item_id": format!("i{item}"),
            "ts_ms": ts,
            "category": format!("c{}", item % 12),
            "author": format!("a{}", item % 40),
            "features": { "price": price },
        });
        self.write(Stream::Items, format!("i{item}"), ts, ts, &payload);
    }

    fn slate(&mut self, slate: u32, ts: i64, appeal: &[f64]) {
        let request = format!("r{slate}");
        let user = self.dice.index(N_USERS).min(self.dice.index(N_USERS));
        let mut items = Vec::with_capacity(SLATE);
        while items.len() < SLATE {
            let item = self.dice.index(N_ITEMS);
            if !items.contains(&item) {
                items.push(item);
            }
        }
        let shown: Vec<_> = (0..)
            .zip(&items)
            .map(|(position, item): (u16, _)| json!({ "item_id": format!("i{item}"), "position": position }))
            .collect();
        let device = ["phone", "tablet", "desk"][self.dice.index(3)];
        let payload = json!({
            "request_id": request,
            "user_id": format!("u{user}"),
            "ts_ms": ts,
            "items": shown,
            "context": { "device": device },
        });
        let copies = if self.dice.chance(0.03) { 2 } else { 1 };
        let first = ts + self.delay_ms();
        for copy in 0..copies {
            let arrives = first + copy * self.dice.ms_below(2_000);
            self.write(Stream::Impressions, request.clone(), ts, arrives, &payload);
        }
        self.expected.impressions[0] += 1;
        self.expected.items[0] += SLATE as u64;
        if copies == 2 {
            self.expected.impressions[1] += 1;
            self.expected.items[1] += SLATE as u64;
        }
        let act = |item: usize, action: &str, at: i64| {
            json!({
                "request_id": request,
                "item_id": format!("i{item}"),
                "user_id": format!("u{user}"),
                "ts_ms": at,
                "action": action,
            })
        };
        for item in items {
            let mut outcome = [false; 2];
            if self.dice.chance(0.05 + 0.4 * appeal[item]) {
                let after = match self.dice.chance(0.02) {
                    // The user's clock is not the site's.
                    true => -self.dice.ms_below(3_000),
                    false => self.dice.exponential_ms(4_000.0),
                };
                outcome[0] = self.act(
                    &request,
                    ts,
                    ts + after,
                    CLICK_MS,
                    &act(item, "click", ts + after),
                );
                if self.dice.chance(0.3) {
                    let after = after + self.dice.exponential_ms(30_000.0);
                    outcome[1] = self.act(
                        &request,
                        ts,
                        ts + after,
                        ORDER_MS,
                        &act(item, "order", ts + after),
                    );
                }
            }
            for (of, is_positive) in self.expected.tasks.iter_mut().zip(outcome) {
                of[usize::from(!is_positive)] += 1;
            }
        }
        if self.dice.chance(0.02) {
            // On an item that the slate did not show.
            let at = ts + self.dice.ms_below(3_000);
            let payload = act(N_ITEMS + 7, "click", at);
            let arrives = at + self.delay_ms();
            self.write(Stream::Actions, request.clone(), at, arrives, &payload);
            self.expected.actions[3] += 1;
        }
        if self.dice.chance(0.02) {
            // On a slate that no impression tells of.
            let payload = json!({
                "request_id": format!("lost-{slate}"), "item_id": "i1", "user_id": "u1", "ts_ms": ts, "action": "click",
            });
            let arrives = ts + self.delay_ms();
            self.write(Stream::Actions, format!("lost-{slate}"), ts, arrives, &payload);
            self.expected.actions[3] += 1;
        }
        self.rubbish(slate, ts);
    }

    /// An action at `at` on what was shown at `shown`. True when it is in time.
    fn act(&mut self, request: &str, shown: i64, at: i64, window: i64, payload: &serde_json::Value) -> bool {
        let since = at - shown;
        // Beyond what a closed request is remembered for, an action would be an orphan instead of late.
        if since > window + 10_000 {
            return false;
        }
        let arrives = at + self.delay_ms();
        self.write(Stream::Actions, request.to_owned(), at, arrives, payload);
        if since > window {
            self.expected.actions[2] += 1;
            return false;
        }
        self.expected.actions[0] += 1;
        if self.dice.chance(0.06) {
            let again = arrives + self.dice.ms_below(2_000);
            self.write(Stream::Actions, request.to_owned(), at, again, payload);
            self.expected.actions[1] += 1;
        }
        true
    }

    fn rubbish(&mut self, slate: u32, ts: i64) {
        if self.dice.chance(0.01) {
            self.write(
                Stream::Impressions,
                format!("x{slate}"),
                ts,
                ts,
                &json!({ "request_id": 7 }),
            );
            self.expected.impressions[2] += 1;
        }
        if self.dice.chance(0.01) {
            let payload = json!({
                "request_id": format!("r{slate}"), "item_id": "i1", "user_id": "u1", "ts_ms": ts, "action": "stare",
            });
            self.write(Stream::Actions, format!("x{slate}"), ts, ts, &payload);
            self.expected.actions[5] += 1;
        }
    }

    /// Moves event time past everything, in every partition of both streams.
    fn close(&mut self, ts: i64) {
        for n in 0..N_CLOSERS {
            let at = ts + n;
            let request = format!("close-{n}");
            let payload = json!({
                "request_id": request, "user_id": "u0", "ts_ms": at, "items": [{ "item_id": "i0" }, { "item_id": "i1" }],
            });
            self.write(Stream::Impressions, request, at, at, &payload);
            self.expected.impressions[0] += 1;
            self.expected.items[0] += 2;
            for of in &mut self.expected.tasks {
                of[2] += 2;
            }
            let request = format!("unseen-{n}");
            let payload = json!({
                "request_id": request, "item_id": "i0", "user_id": "u0", "ts_ms": at, "action": "click",
            });
            self.write(Stream::Actions, request, at, at, &payload);
            self.expected.actions[4] += 1;
        }
    }

    /// From an event to its arrival in the log.
    fn delay_ms(&mut self) -> i64 {
        if self.has_stragglers && self.dice.chance(0.02) {
            return 12_000 + self.dice.ms_below(180_000);
        }
        if self.dice.chance(0.2) {
            self.dice.ms_below(6_000)
        } else {
            self.dice.ms_below(200)
        }
    }

    fn write(&mut self, stream: Stream, key: String, ts: i64, arrives: i64, payload: &serde_json::Value) {
        // Producers stamp records, and their clocks disagree.
        let early = if self.dice.chance(0.02) {
            self.dice.ms_below(1_500)
        } else {
            0
        };
        self.events.push(Event {
            stream,
            key,
            record_ms: (arrives - early).max(ts),
            payload: payload.to_string().into_bytes(),
            arrives_ms: arrives,
        });
    }
}

#[cfg(test)]
mod tests;
