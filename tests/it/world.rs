//! A small world: users, items, slates and clicks, the same on every run, and what must come of them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use ouzel_ingest::{DataDir, DataEvent};
use serde_json::{Value, json};

/// When the first slate is shown: long ago, as a log that is fed again.
pub(crate) const START_MS: i64 = 1_700_000_000_000;
/// From one slate to the next.
const STEP_MS: i64 = 10_000;
/// Items of a slate.
pub(crate) const SLATE: usize = 4;
/// Items of the catalog.
const N_ITEMS: usize = 40;
/// Users.
const N_USERS: usize = 25;
/// The window of clicks, as configured by default.
const WINDOW_MS: i64 = 600_000;

/// What a world must come to, whatever happens to the process that learns it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// JoinResultReceiver.
    pub(crate) requests: u64,
    /// Shown items.
    pub(crate) shown: u64,
    /// Those clicked in time.
    pub(crate) positives: u64,
    /// Action records.
    pub(crate) actions: u64,
    /// Those that repeat one before.
    pub(crate) duplicates: u64,
    /// Those after the window.
    pub(crate) late: u64,
    /// Those on a slate that was never shown.
    pub(crate) orphans: u64,
}

impl Expected {
    /// What the default policy tells: each shown item, and each positive once more.
    pub(crate) fn samples(&self) -> u64 {
        self.shown + self.positives
    }
}

/// A world, in order of time.
pub(crate) struct World {
    /// Its events: the catalog first.
    pub(crate) events: Vec<DataEvent>,
    /// What they come to.
    pub(crate) expected: Expected,
    /// Time of the last event.
    pub(crate) end_ms: i64,
}

/// Numbers that look random and are the same on every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

impl World {
    /// A world of `n_requests` slates, made as a data folder at `dir` and read back from there.
    pub(crate) fn make(n_requests: u64, dir: &Path) -> Self {
        let expected = write(n_requests, dir);
        let data = DataDir::open(dir, None).unwrap();
        let events = data.events().to_vec();
        let end_ms = events.iter().map(|event| event.ts_ms).max().unwrap();
        Self {
            events,
            expected,
            end_ms,
        }
    }
}

/// Writes the folder and says what it comes to.
fn write(n_requests: u64, dir: &Path) -> Expected {
    let mut dice = Dice::new(n_requests);
    let mut expected = Expected {
        requests: n_requests,
        ..Expected::default()
    };
    let (mut impressions, mut clicks) = (Vec::new(), Vec::new());
    let items = (0..N_ITEMS).map(|i| {
        json!({ "item_id": format!("item-{i}"), "category": format!("c{}", i % 5), "author": format!("a{}", i % 7),
                "title": format!("the item number {i}") })
    });
    for request in 0..n_requests {
        let ts_ms = START_MS + i64::try_from(request).unwrap() * STEP_MS;
        let request_id = format!("r{request}");
        let user_id = format!("user-{}", dice.below(N_USERS as u64));
        let device = ["mobile", "desktop", "tablet"][usize::try_from(dice.below(3)).unwrap()];
        let first = usize::try_from(dice.below(N_ITEMS as u64)).unwrap();
        for place in 0..SLATE {
            // 7 and 40 have no common divisor, so the items of a slate are distinct.
            let item = (first + 7 * place) % N_ITEMS;
            let item_id = format!("item-{item}");
            expected.shown += 1;
            impressions.push(
                json!({ "request_id": request_id, "user_id": user_id, "item_id": item_id, "ts_ms": ts_ms,
                                     "position": place, "device": device }),
            );
            let chance = if item.is_multiple_of(5) { 60 } else { 10 };
            if dice.below(100) >= chance {
                continue;
            }
            let mut click = |request_id: &str, delay_ms: i64| {
                clicks.push(
                    json!({ "request_id": request_id, "user_id": user_id, "item_id": item_id,
                                    "ts_ms": ts_ms + delay_ms }),
                );
                expected.actions += 1;
            };
            let delay_ms = 1000 + i64::try_from(dice.below(300_000)).unwrap();
            match dice.below(12) {
                0 => {
                    click(&request_id, WINDOW_MS + 20_000);
                    expected.late += 1;
                }
                1 => {
                    click(&format!("never-{request}-{place}"), delay_ms);
                    expected.orphans += 1;
                }
                2 => {
                    click(&request_id, delay_ms);
                    click(&request_id, delay_ms + 500);
                    expected.positives += 1;
                    expected.duplicates += 1;
                }
                _ => {
                    click(&request_id, delay_ms);
                    expected.positives += 1;
                }
            }
        }
    }
    clicks.sort_by_key(|click: &Value| click["ts_ms"].as_i64());
    lines(dir, "impressions", impressions);
    lines(dir, "clicks", clicks);
    lines(dir, "items", items);
    expected
}

fn lines(dir: &Path, name: &str, rows: impl IntoIterator<Item = Value>) {
    let mut text = String::new();
    for row in rows {
        writeln!(text, "{row}").unwrap();
    }
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(format!("{name}.jsonl")), text).unwrap();
}
