//! The commands of `docs/runbook.md`, run in its order on the night that it describes.

use ouzel_ingest::DataEvent;
use ouzel_sample::Stream;
use serde_json::{Value, json};

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::world::World;
use super::{run_here, wait_until};

/// Small intervals for a small log; time closes no batch, and a record waits for those that are under way elsewhere.
const SETTINGS: &str = "snapshot.every_batches = 40\nsnapshot.every = \"0s\"\nlearner.flush_after_idle = \"0s\"\n\
                        gates.interval_samples = 256\ngates.warm_up_intervals = 8\norder.max_reorder_delay = \"3s\"\n";

/// The commands of the runbook with their comments, in order.
fn commands() -> Vec<(Vec<String>, String)> {
    let text = include_str!("../../docs/runbook.md");
    let lines = text.lines().filter(|line| line.starts_with("ouzel "));
    let command = |line: &str| {
        let (command, comment) = line.split_once('#').unwrap_or((line, ""));
        let mut args: Vec<String> = Vec::new();
        for (n, part) in command.split(['\'', '"']).enumerate() {
            match n % 2 {
                0 => args.extend(part.split_whitespace().map(str::to_owned)),
                _ => args.push(part.to_owned()),
            }
        }
        (args.split_off(1), comment.to_owned())
    };
    lines.map(command).collect()
}

/// True of users whose application is of the version that sends a click for every item shown.
fn has_broken_app(event: &DataEvent) -> bool {
    let payload: Value = serde_json::from_slice(&event.payload).unwrap();
    let user = payload["user_id"].as_str().unwrap_or_default();
    user.bytes().last().is_some_and(|digit| digit % 4 == 0)
}

/// The event as an application of this version sends it.
fn sent_by(event: &DataEvent, version: &str) -> DataEvent {
    let mut payload: Value = serde_json::from_slice(&event.payload).unwrap();
    payload["app_version"] = version.into();
    DataEvent {
        payload: payload.to_string().into_bytes(),
        ..event.clone()
    }
}

/// The poisoned events and those of a night without the broken version.
fn night(events: &[DataEvent]) -> (Vec<DataEvent>, Vec<DataEvent>) {
    let (mut poisoned, mut clean) = (Vec::new(), Vec::new());
    for event in events {
        if event.stream == Stream::Items || !has_broken_app(event) {
            poisoned.push(sent_by(event, "7.0.9"));
            clean.push(sent_by(event, "7.0.9"));
            continue;
        }
        poisoned.push(sent_by(event, "7.1.0"));
        if event.stream != Stream::Impressions {
            continue;
        }
        let impression: Value = serde_json::from_slice(&event.payload).unwrap();
        for item in impression["items"].as_array().unwrap() {
            let item = item.as_str().map_or_else(|| item["item_id"].clone(), Value::from);
            let ts_ms = event.ts_ms + 1000;
            let click = json!({ "request_id": impression["request_id"], "user_id": impression["user_id"],
                                "item_id": item, "ts_ms": ts_ms, "action": "click" });
            let click = DataEvent {
                stream: Stream::Actions,
                ts_ms,
                payload: click.to_string().into_bytes(),
                ..event.clone()
            };
            poisoned.push(sent_by(&click, "7.1.0"));
        }
    }
    poisoned.sort_by_key(|event| event.ts_ms);
    (poisoned, clean)
}

/// Feeds the quiet hours and then the night.
fn feed(broker: &Broker, daemon: &Daemon, quiet: &[DataEvent], night: &[DataEvent], end_ms: i64) {
    broker.feed(quiet);
    daemon.wait_joined(broker.n_records());
    broker.feed(night);
    broker.heartbeat(end_ms + 3_600_000);
}

#[test]
fn a_poisoned_hour_ends_in_the_model_of_a_night_that_never_had_it() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::generate(1500, dir.path());
    let (quiet, rest) = world.events.split_at(world.events.len() * 3 / 5);
    let (poisoned, clean) = night(rest);
    let first_ms = rest[0].ts_ms;
    let quiet: Vec<DataEvent> = quiet
        .iter()
        .filter(|event| event.ts_ms < first_ms)
        .map(|event| sent_by(event, "7.0.9"))
        .collect();

    let clean_broker = Broker::embedded(1);
    // Gates change no bit of what is learned, and this night has fewer events.
    let settings = format!("{SETTINGS}gates.enabled = false\n");
    let mut never = Home::new(&clean_broker, &settings);
    let daemon = never.start();
    feed(&clean_broker, &daemon, &quiet, &clean, world.end_ms);
    daemon.wait_joined(clean_broker.n_records());
    daemon.stop();
    let never = never.manifest().checkpoint;

    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let daemon = home.start();
    feed(&broker, &daemon, &quiet, &poisoned, world.end_ms);
    wait_until("a gate stops learning", || {
        (daemon.status().learning == "stopped").then_some(())
    });
    let mut n_again = 0;
    for (args, comment) in commands() {
        let (config, time) = (home.config(), format!("@{first_ms}"));
        let args: Vec<&str> = args
            .iter()
            .map(|arg| match arg.as_str() {
                "ouzel.toml" => config.to_str().unwrap(),
                "2026-05-01T02:00:00Z" => &time,
                arg => arg,
            })
            .collect();
        let output = run_here(&args);
        let expected = if comment.contains("exit code 3") { 3 } else { 0 };
        assert_eq!(
            output.code,
            Some(expected),
            "{args:?}: {}{}",
            output.out,
            output.err
        );
        daemon.check_serves();
        if args.contains(&"quarantine") && !args.contains(&"--dry-run") {
            let back = home.latest().unwrap();
            let snapshot = home.store().read(back).unwrap();
            let n_resumed: i64 = snapshot.manifest().checkpoint.positions.values().sum();
            n_again = broker.n_records() - n_resumed.unsigned_abs();
            daemon.wait_joined(n_again);
        }
    }
    assert!(n_again > 0, "the runbook has a quarantine");
    daemon.stop();
    let after = home.manifest().checkpoint;
    assert_eq!(after.ledger_hash, never.ledger_hash);
    assert_eq!(after.weights_hash, never.weights_hash);
    assert_eq!(after.quarantine.len(), 1);
}
