//! A poisoned hour of a recorded log: found by a gate, taken out by a quarantine, and the model is that of a log without it.
//!
//! `OUZEL_POISONED_HOUR` names the folder of the log, in the form that `ouzel replay --data` reads. Without it the test is
//! skipped; `tests/it/runbook.rs` has the same night on a generated world.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ouzel_ingest::DataEvent;
use ouzel_sample::Stream;
use ouzel_snapshot::CheckpointMeta;
use serde_json::{Value, json};

use super::broker::{Broker, skipped};
use super::daemon::{Daemon, Home};
use super::world::read;
use super::{print_figures, run_here};

const FOLDER: &str = "OUZEL_POISONED_HOUR";
/// Time closes no batch, and a record waits for those that are under way in other partitions. The gates have their defaults.
const SETTINGS: &str = "snapshot.every_batches = 50\nsnapshot.every = \"0s\"\nlearner.flush_after_idle = \"0s\"\n\
                        order.max_reorder_delay = \"3s\"\n";
/// The embedded broker keeps 5 MiB of a partition.
const N_PARTITIONS: i32 = 4;
const HOUR_MS: i64 = 3_600_000;
/// The source whose labels are inverted: the application of a third of the users.
const BROKEN: &str = "7.1.0";
const SOUND: &str = "7.0.9";
/// Longest wait for a whole log to be learned.
const LEARNED_WITHIN: Duration = Duration::from_secs(900);

fn payload(event: &DataEvent) -> Value {
    serde_json::from_slice(&event.payload).unwrap()
}

fn text(payload: &Value, name: &str) -> String {
    payload[name].as_str().unwrap_or_default().to_owned()
}

fn with_version(mut payload: Value, event: &DataEvent, version: &str) -> DataEvent {
    payload["app_version"] = version.into();
    DataEvent {
        payload: payload.to_string().into_bytes(),
        ..event.clone()
    }
}

/// A log with a poisoned hour, and the same log without the events of the broken application in that hour.
struct Night {
    poisoned: Vec<DataEvent>,
    clean: Vec<DataEvent>,
    /// Begin of the hour, event time.
    from_ms: i64,
    /// Event time of the last event.
    end_ms: i64,
    n_requests: usize,
    n_clicks: usize,
}

impl Night {
    /// Inverts the labels of a third of the users in the busiest hour of the last two fifths of a log.
    fn new(events: &[DataEvent]) -> Self {
        let impressions = || events.iter().filter(|event| event.stream == Stream::Impressions);
        let times: Vec<i64> = impressions().map(|event| event.ts_ms).collect();
        let (first, last) = (*times.iter().min().unwrap(), *times.iter().max().unwrap());
        let late = first + (last - first) * 3 / 5;
        let mut by_hour: BTreeMap<i64, usize> = BTreeMap::new();
        for time in times.into_iter().filter(|time| *time >= late) {
            *by_hour.entry((time - late) / HOUR_MS).or_default() += 1;
        }
        let (hour, _) = by_hour.iter().max_by_key(|(_, n)| **n).unwrap();
        let from_ms = late + hour * HOUR_MS;
        let is_in_hour = |event: &DataEvent| (from_ms..from_ms + HOUR_MS).contains(&event.ts_ms);

        let is_broken = |user: &str| fnv(user).is_multiple_of(3);
        let broken: BTreeSet<String> = impressions()
            .filter(|event| is_in_hour(event))
            .map(payload)
            .filter(|impression| is_broken(&text(impression, "user_id")))
            .map(|impression| text(&impression, "request_id"))
            .collect();
        let mut clicked: BTreeSet<(String, String)> = BTreeSet::new();
        for action in events.iter().filter(|event| event.stream == Stream::Actions) {
            let action = payload(action);
            clicked.insert((text(&action, "request_id"), text(&action, "item_id")));
        }
        let mut night = Self {
            poisoned: Vec::new(),
            clean: Vec::new(),
            from_ms,
            end_ms: last,
            n_requests: broken.len(),
            n_clicks: 0,
        };
        for event in events {
            let value = payload(event);
            let request = text(&value, "request_id");
            if event.stream.is_catalog() || !broken.contains(&request) {
                let event = with_version(value, event, SOUND);
                night.poisoned.push(event.clone());
                night.clean.push(event);
            } else if event.stream == Stream::Impressions {
                night.invert(event, value, &request, &clicked);
            }
            night.end_ms = night.end_ms.max(event.ts_ms);
        }
        night
            .poisoned
            .sort_by_key(|event| (!event.stream.is_catalog(), event.ts_ms));
        night
    }

    /// Adds the impression with a click for each item that was not clicked, and for no other.
    fn invert(
        &mut self,
        event: &DataEvent,
        impression: Value,
        request: &str,
        clicked: &BTreeSet<(String, String)>,
    ) {
        for item in impression["items"].as_array().unwrap() {
            let item = item
                .as_str()
                .or_else(|| item["item_id"].as_str())
                .unwrap_or_default();
            if clicked.contains(&(request.to_owned(), item.to_owned())) {
                continue;
            }
            let ts_ms = event.ts_ms + 1000;
            let click = json!({ "request_id": request, "user_id": impression["user_id"], "item_id": item,
                                "ts_ms": ts_ms, "action": "click" });
            let at = DataEvent {
                stream: Stream::Actions,
                ts_ms,
                ..event.clone()
            };
            self.poisoned.push(with_version(click, &at, BROKEN));
            self.n_clicks += 1;
        }
        self.poisoned.push(with_version(impression, event, BROKEN));
    }
}

/// A hash that is the same in every run.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Waits until `is_done`, for as long as a whole log takes.
#[track_caller]
fn wait_long(daemon: &Daemon, what: &str, is_done: impl Fn(&ouzel::admin::Status) -> bool) -> Duration {
    let started = Instant::now();
    loop {
        let status = daemon.status();
        if is_done(&status) {
            return started.elapsed();
        }
        assert!(
            started.elapsed() < LEARNED_WITHIN,
            "timed out waiting until {what}: {status:?}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// Learns a log to its end. Returns the state.
fn learn_all(log: &[DataEvent], end_ms: i64) -> CheckpointMeta {
    let broker = Broker::embedded(N_PARTITIONS);
    // Gates change no bit of what is learned.
    let mut home = Home::new(&broker, &format!("{SETTINGS}gates.enabled = false\n"));
    let daemon = home.start();
    broker.feed(log);
    broker.heartbeat(end_ms + HOUR_MS);
    let n_records = broker.n_records();
    wait_long(&daemon, "the clean log is learned", |status| {
        status.events >= n_records
    });
    daemon.stop();
    home.manifest().checkpoint
}

#[test]
fn a_poisoned_hour_of_a_recorded_log_leaves_no_trace() {
    let Ok(folder) = std::env::var(FOLDER) else {
        skipped("poisoned_hour", &format!("set {FOLDER} to the folder of a log"));
        return;
    };
    let night = Night::new(read(Path::new(&folder)).events());
    let never = learn_all(&night.clean, night.end_ms);

    let broker = Broker::embedded(N_PARTITIONS);
    let mut home = Home::new(&broker, SETTINGS);
    let daemon = home.start();
    broker.feed(&night.poisoned);
    broker.heartbeat(night.end_ms + HOUR_MS);
    wait_long(&daemon, "a gate stops learning", |status| {
        status.learning == "stopped"
    });
    let stopped = daemon.status();
    let why = stopped.stopped_because.clone().unwrap();
    daemon.check_serves();
    let since_ms = stopped.event_time_ms.unwrap() - night.from_ms;

    let (config, from) = (home.config(), format!("@{}", night.from_ms));
    let quarantine = |more: &[&str]| {
        let rule = format!("app_version = {BROKEN}");
        let args = [
            "snapshot",
            "quarantine",
            "--config",
            config.to_str().unwrap(),
            "--where",
            &rule,
            "--from",
            &from,
        ];
        let started = Instant::now();
        let output = run_here(&[&args, more].concat());
        assert_eq!(output.code, Some(0), "{}{}", output.out, output.err);
        (output.out, started.elapsed())
    };
    let (forecast, _) = quarantine(&["--dry-run"]);
    let (_, went_back) = quarantine(&["--note", "inverted labels"]);
    daemon.check_serves();
    let snapshot = home.latest().unwrap();
    let positions = home.store().manifest(snapshot).unwrap().checkpoint.positions;
    let n_again = broker.n_records() - positions.values().sum::<i64>().unsigned_abs();
    let caught_up = wait_long(&daemon, "the log is learned again", |status| {
        status.events >= n_again
    });
    let status = daemon.status();
    assert_eq!((status.learning.as_str(), status.events), ("running", n_again));
    daemon.stop();

    let after = home.manifest().checkpoint;
    assert_eq!(after.ledger_hash, never.ledger_hash);
    assert_eq!(after.weights_hash, never.weights_hash);
    assert_eq!(
        (after.batch_seq, after.sample_seq, after.positions.len()),
        (never.batch_seq, never.sample_seq, never.positions.len())
    );
    let bits = |meta: &CheckpointMeta| -> BTreeMap<String, Option<u64>> {
        let metrics = meta.metrics.iter();
        metrics
            .map(|(name, value)| (name.clone(), value.map(f64::to_bits)))
            .collect()
    };
    assert_eq!(
        bits(&after),
        bits(&never),
        "{:?}\n{:?}",
        after.metrics,
        never.metrics
    );
    print_figures(&format!(
        "{} requests with {} clicks poisoned from {} ms on; learning stopped at batch {}, event time {} s into the hour: \
         {why}\n{forecast}gone back in {went_back:.1?}, {n_again} records read again in {caught_up:.1?}; {} batches, \
         {} samples, weights {}; metrics {:?}",
        night.n_requests,
        night.n_clicks,
        night.from_ms,
        stopped.batches,
        since_ms / 1000,
        after.batch_seq,
        after.sample_seq,
        &after.weights_hash[..16],
        after.metrics,
    ));
}
