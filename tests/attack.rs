//! Memory under attack: a flood of ids that never return, a bot that acts on everything, and events of the largest size,
//! against a join and a learner with caps. Resident memory stays within the sum of the caps.
//!
//! `OUZEL_ATTACK_IDS` sets the number of distinct ids (default 200,000; `make verify-long` takes 10,000,000). The caps are
//! at most a hundredth of that, so every cap is exceeded many times.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails while setting a test up fails the test"
)]

use std::fs;
use std::sync::Arc;

use ouzel::config::Config;
use ouzel_ingest::join::StoreConfig;
use ouzel_ingest::{Decoder, Stage};
use ouzel_learner::Trainer;
use ouzel_sample::{
    Candidate, DecodedRecord, EventTime, FeatureState, PartitionId, Position, Record, Request, Stream,
};
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint};
use serde_json::{Value, json};

const START_MS: i64 = 1_700_000_000_000;
/// Most items of a slate, and most values of a request's context.
const SLATE: usize = 20;
const VALUES: usize = 64;
/// Actions in the history of a user.
const HISTORY: usize = 20;
/// Shown items stored of a user, the default.
const SHOWN: usize = 50;
/// Outcomes of a user that a late action can change.
const OUTCOMES: usize = 64;
/// Values of a user whose actions are counted, and title words.
const COUNTED: usize = 8;
const DIM: usize = 8;
/// Row widths of the default model's members.
const MEMBERS: [usize; 2] = [16, 32];
/// Slack for memory that the allocator does not return.
const SLACK: f64 = 1.10;

fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    4096 * statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
}

/// The caps of join and learner.
#[derive(Clone, Copy)]
struct Caps {
    users: usize,
    counters: usize,
    rows: usize,
    pending: usize,
    waiting: usize,
    remembered: usize,
    catalog: usize,
    /// Presumed negatives whose logits are kept.
    compared: usize,
}

impl Caps {
    fn for_ids(n_ids: usize) -> Self {
        let unit = n_ids / 100;
        Self {
            users: unit,
            counters: 4 * unit,
            rows: 2 * unit,
            pending: unit,
            waiting: unit / 4,
            remembered: unit,
            catalog: 400 * unit,
            compared: unit,
        }
    }

    fn config(self) -> Config {
        let Self {
            users,
            counters,
            rows,
            pending,
            waiting,
            remembered,
            catalog,
            compared,
        } = self;
        let text = format!(
            "events = {{ max_items = {SLATE}, max_attributes = {VALUES} }}\n\
             join = {{ max_pending_items = {pending}, max_early_actions = {waiting}, max_closed_requests = {remembered} }}\n\
             learner.max_rows = {rows}\noptimizer.mixture_items = {compared}\n\
             model = {{ dim = {DIM}, history_len = {HISTORY}, sequence.history_len = {HISTORY}, \
             interest.history_len = {HISTORY} }}\n\
             [features]\nhistory_len = {HISTORY}\nhistory_capacity = {HISTORY}\nvalue_capacity = {COUNTED}\nword_capacity = {COUNTED}\n\
             max_users = {users}\nmax_counters = {counters}\nmax_catalog = \"{catalog}B\"\n"
        );
        Config::parse(&text, "caps").unwrap()
    }

    /// The sum of the caps, bytes.
    fn bytes(self) -> usize {
        // A hash map has capacity for a power of two of entries and uses at most seven eighths.
        let map = |n: usize, entry: usize| (n * 8 / 7).next_power_of_two() * (entry + 1);
        let lists = 24 * (HISTORY + 1).next_power_of_two() + 16 * (SHOWN + 1).next_power_of_two();
        let lists = lists + 4 * OUTCOMES + 2 * 8 * COUNTED;
        let users = map(self.users, 264) + self.users * (16 + lists);
        let counters = map(self.counters, 48) + 16 * self.counters;
        let features = users + counters + self.catalog;
        // An item with its features and its slot; its request, if every request had one item.
        let item = 16 + 48 + size_of::<Candidate>() + 16 * VALUES.min(3);
        let request = 160 + size_of::<Request>() + 8 * VALUES + 24 * HISTORY + 60;
        let slots = self.pending + self.waiting + self.remembered;
        let join = self.pending * (item + request)
            + self.waiting * 240
            + self.remembered * (32 + 16 * SLATE)
            + slots * 40
            + map(slots, 40) * 3 / 2;
        // Values and ids twice, for the served version; the index twice, while it is rebuilt.
        let table =
            |stride: usize| 2 * self.rows * (4 * stride + 8) + 2 * map(self.rows, 16) + 16 * self.rows;
        // Each model of the mixture has tables and logits of its own; a checkpoint copies the logits.
        let compared = self.compared.next_power_of_two() * 12 + map(self.compared, 16) + 12 * self.compared;
        let models: usize = [DIM]
            .iter()
            .chain(&MEMBERS)
            .map(|dim| table(dim + 1) + table(3) + compared)
            .sum();
        // A checkpoint copies features and join state.
        2 * (features + join) + models
    }
}

/// The log of the attack.
#[derive(Default)]
struct Flood {
    next: [i64; 3],
    n_ids: usize,
    /// Steps of the whole flood, which spans the same event time whatever their number, so that the caps close windows.
    n_total: usize,
    large: String,
}

impl Flood {
    fn record(&mut self, stream: Stream, ts_ms: i64, event: &Value) -> Record {
        let offset = &mut self.next[stream as usize];
        let position = Position {
            partition: PartitionId::new(stream, 0),
            offset: *offset,
        };
        *offset += 1;
        Record {
            position,
            timestamp_ms: Some(ts_ms),
            payload: Some(event.to_string().into_bytes()),
            metadata: None,
        }
    }

    /// The records of step `n`.
    fn step(&mut self, n: usize, out: &mut Vec<Record>) {
        let ts = START_MS + i64::try_from(n * 2_000_000 / self.n_total).unwrap();
        let (user, request) = (format!("u{n}"), format!("r{n}"));
        let action = |request: &str, user: &str, item: String| json!({ "request_id": request, "item_id": item, "user_id": user, "ts_ms": ts, "action": "click" });
        // An event of the largest size, with new values in its context.
        let context: serde_json::Map<String, Value> = match n % 100 {
            0 => (0..VALUES - 4)
                .map(|k| (format!("k{k}"), json!(format!("{n}-{k}-{}", &self.large[..900]))))
                .collect(),
            _ => serde_json::Map::new(),
        };
        self.n_ids += 4 + context.len();
        let items = [0, 1].map(|k| json!({ "item_id": format!("x{}", 2 * n + k) }));
        let shown = json!({ "request_id": request, "user_id": user, "ts_ms": ts, "items": items, "context": context });
        out.push(self.record(Stream::Impressions, ts, &shown));
        if n.is_multiple_of(2) {
            let event = action(&request, &user, format!("x{}", 2 * n));
            out.push(self.record(Stream::Actions, ts, &event));
        }
        if n.is_multiple_of(5) {
            self.n_ids += 1;
            let event = action(&format!("lost{n}"), &user, format!("x{}", 2 * n));
            out.push(self.record(Stream::Actions, ts, &event));
        }
        if n.is_multiple_of(10) && n > SLATE {
            self.n_ids += 1;
            let request = format!("b{n}");
            let shown_item = |k: usize| format!("x{}", 2 * n - k);
            let items: Vec<_> = (0..SLATE).map(|k| json!({ "item_id": shown_item(k) })).collect();
            let shown = json!({ "request_id": request, "user_id": "bot", "ts_ms": ts, "items": items });
            out.push(self.record(Stream::Impressions, ts, &shown));
            for k in 0..SLATE {
                let event = action(&request, "bot", shown_item(k));
                out.push(self.record(Stream::Actions, ts, &event));
            }
        }
        if n.is_multiple_of(3) {
            let text = if n.is_multiple_of(150) {
                &self.large[..]
            } else {
                "short"
            };
            let item = json!({ "item_id": format!("x{}", 2 * n), "ts_ms": ts, "category": format!("c{n}"),
                               "author": format!("a{n}"), "title": text });
            self.n_ids += 2;
            out.push(self.record(Stream::Items, ts, &item));
        }
    }
}

#[test]
fn a_flood_of_ids_a_bot_and_giant_events_stay_within_the_caps() {
    let n_ids = std::env::var("OUZEL_ATTACK_IDS").map_or(200_000, |n| n.parse().expect("a number"));
    let caps = Caps::for_ids(n_ids);
    let config = caps.config();
    let decoder = Decoder::new(config.id_space(), config.task_names(), config.events.clone()).unwrap();
    let timed = [Stream::Impressions, Stream::Actions].map(|stream| PartitionId::new(stream, 0));
    let features = Arc::new(FeatureState::new(config.feature_config()));
    let learner = config.learner_config();
    let mut stage = Stage::new(
        &StoreConfig::Memory,
        &config.join,
        timed,
        Arc::clone(&features),
        learner.batch_min_samples,
    )
    .unwrap();
    let mut trainer = Trainer::new(config.model_config(), learner).unwrap();
    let mut flood = Flood {
        n_total: n_ids,
        large: "x".repeat(60_000),
        ..Flood::default()
    };
    let (mut served, mut base, mut most) = (None, None, 0);
    let (mut n_batches, mut n_forgotten, mut n_rejected, mut n_checkpoints) = (0u64, 0, 0, 0usize);
    let (mut records, mut batches) = (Vec::new(), Vec::new());
    let mut n = 0;
    while flood.n_ids < n_ids {
        flood.step(n, &mut records);
        n += 1;
        for record in records.drain(..) {
            let recorded: DecodedRecord = decoder.decode(&record);
            n_rejected += usize::from(recorded.event.is_err());
            stage.take(&recorded, &mut batches).unwrap();
        }
        for batch in batches.drain(..) {
            trainer.predict(&batch).unwrap();
            n_forgotten += trainer.step(&batch).unwrap().n_forgotten;
            n_batches += 1;
            if n_batches.is_multiple_of(10) {
                served = Some(trainer.weights().unwrap());
            }
        }
        if n_batches < 3 {
            continue;
        }
        let base = *base.get_or_insert_with(resident);
        // Some snapshots, each held in memory while it is written.
        let is_checkpoint = flood.n_ids > (n_checkpoints + 1) * n_ids / 5;
        let written = is_checkpoint.then(|| {
            let checkpoint = stage.checkpoint().unwrap();
            let mut draft = Draft::new(None, 0, Fingerprint::default(), CheckpointMeta::default());
            trainer.save(&mut draft).unwrap();
            n_checkpoints += 1;
            (checkpoint, draft)
        });
        if is_checkpoint || n.is_multiple_of(200) {
            let now = resident();
            most = most.max(now);
            #[allow(clippy::cast_precision_loss, reason = "a bound with a tenth of slack")]
            let cap = SLACK * (base + caps.bytes()) as f64;
            #[allow(clippy::cast_precision_loss, reason = "a bound with a tenth of slack")]
            let is_within = now as f64 <= cap;
            assert!(
                is_within,
                "{now} bytes are resident after {} ids: {base} before the flood, and the caps add up to {}",
                flood.n_ids,
                caps.bytes()
            );
        }
        drop(written);
    }
    drop(served);
    let (users, counters) = features.size();
    let (rows, wide) = trainer.n_rows();
    print_figures(&format!(
        "{} ids: {} MiB resident at most, {} MiB before the flood, the caps add up to {} MiB; {users} users, \
         {counters} counters, {} items, {rows} rows, {n_forgotten} forgotten",
        flood.n_ids,
        most >> 20,
        base.unwrap_or_default() >> 20,
        caps.bytes() >> 20,
        features.n_items()
    ));
    assert!(users <= caps.users && counters <= caps.counters + 4 * (SLATE + VALUES));
    assert!(rows.max(wide) <= caps.rows + 20 * VALUES * SLATE, "{rows} {wide}");
    assert!(
        rows.min(wide) > caps.rows / 2,
        "the tables are full: {rows} {wide}"
    );
    let join = stage.counters();
    join.check().unwrap();
    let early = [join.closed_early, join.orphaned_early, join.forgotten_early];
    assert!(
        early.iter().all(|n| *n > 0),
        "every cap of the join is reached: {early:?}"
    );
    assert!(
        n_forgotten > 2 * caps.rows && n_checkpoints >= 4 && n_rejected == 0,
        "{n_forgotten} {n_checkpoints} {n_rejected}"
    );
    assert!(stage.event_time() > EventTime(START_MS));
}

#[allow(
    clippy::print_stderr,
    reason = "figures that the test runner shows on request"
)]
fn print_figures(figures: &str) {
    eprintln!("{figures}");
}
