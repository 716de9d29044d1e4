//! A small generated world of users, items, slates and clicks, the same in every run, with its expected counts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use ouzel::config::Config;
use ouzel_ingest::{DataDir, DataEvent, Decoder, EventConfig, ReadOptions};
use ouzel_sample::{DecodedRecord, IdSpace, PartitionId, Record};
use serde_json::{Value, json};

/// Event time of the first slate, in the past, as in an old log.
pub(crate) const START_MS: i64 = 1_700_000_000_000;
/// Time from one slate to the next.
const STEP_MS: i64 = 10_000;
/// Number of items of a slate.
pub(crate) const SLATE: usize = 4;
/// Number of items in the catalog.
const N_ITEMS: usize = 40;
/// Number of users.
const N_USERS: usize = 25;
/// The default attribution window of clicks.
const WINDOW_MS: i64 = 600_000;

/// The expected counts of a world, whatever happens to the learning process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Slates.
    pub(crate) requests: u64,
    /// Shown items.
    pub(crate) shown: u64,
    /// Shown items clicked within the window.
    pub(crate) positives: u64,
    /// Action records.
    pub(crate) actions: u64,
    /// Action records that repeat an earlier one.
    pub(crate) duplicates: u64,
    /// Action records after the window.
    pub(crate) late: u64,
    /// Action records on a slate that was never shown.
    pub(crate) orphans: u64,
}

impl Expected {
    /// Samples under the default label policy: one per shown item and one more per positive.
    pub(crate) fn samples(&self) -> u64 {
        self.shown + self.positives
    }
}

/// A generated world.
pub(crate) struct World {
    /// Its events in order of time, the catalog first.
    pub(crate) events: Vec<DataEvent>,
    /// The expected counts.
    pub(crate) expected: Expected,
    /// Event time of the last event.
    pub(crate) end_ms: i64,
}

/// A pseudo-random number generator (xorshift).
pub(crate) struct Rng(u64);

impl Rng {
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
    /// A world of `n_requests` slates, written as a data folder to `dir` and read back.
    pub(crate) fn generate(n_requests: u64, dir: &Path) -> Self {
        let expected = write(n_requests, dir);
        let data = read(dir);
        let events = data.events().to_vec();
        let end_ms = events.iter().map(|event| event.ts_ms).max().unwrap();
        Self {
            events,
            expected,
            end_ms,
        }
    }

    /// Its events as records, each in the partition that `partition` gives it.
    pub(crate) fn records(&self, partition: impl Fn(&DataEvent) -> i32) -> Vec<Record> {
        let mut next = BTreeMap::<PartitionId, i64>::new();
        let record = |event: &DataEvent| {
            let id = PartitionId::new(event.stream, partition(event));
            let offset = next.entry(id).or_default();
            *offset += 1;
            Record {
                position: id.at(*offset - 1),
                timestamp_ms: Some(event.ts_ms),
                payload: Some(event.payload.clone()),
                metadata: None,
            }
        };
        self.events.iter().map(record).collect()
    }

    /// Its events decoded under `config`, each stream in one partition.
    pub(crate) fn decoded(&self, config: &Config) -> Vec<DecodedRecord> {
        let decoder = Decoder::new(config.id_space(), config.task_names(), config.events.clone()).unwrap();
        let records = self.records(|_| 0);
        records.iter().map(|record| decoder.decode(record)).collect()
    }
}

/// Reads a data folder with clicks.
pub(crate) fn read(dir: &Path) -> DataDir {
    let decoder = Decoder::new(IdSpace::new(0), vec!["click".to_owned()], EventConfig::default()).unwrap();
    DataDir::open(dir, &decoder, &mut ReadOptions::default()).unwrap()
}

/// Writes the data folder. Returns the expected counts.
fn write(n_requests: u64, dir: &Path) -> Expected {
    let mut rng = Rng::new(n_requests);
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
        let user_id = format!("user-{}", rng.below(N_USERS as u64));
        let device = ["mobile", "desktop", "tablet"][usize::try_from(rng.below(3)).unwrap()];
        let first = usize::try_from(rng.below(N_ITEMS as u64)).unwrap();
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
            if rng.below(100) >= chance {
                continue;
            }
            let mut click = |request_id: &str, delay_ms: i64| {
                clicks.push(
                    json!({ "request_id": request_id, "user_id": user_id, "item_id": item_id,
                                    "ts_ms": ts_ms + delay_ms }),
                );
                expected.actions += 1;
            };
            let delay_ms = 1000 + i64::try_from(rng.below(300_000)).unwrap();
            match rng.below(12) {
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
