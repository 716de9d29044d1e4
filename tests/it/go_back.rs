//! Going back in the log: `rollback --rewind` and `quarantine`, with and without a running daemon.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ouzel_ingest::DataEvent;
use ouzel_snapshot::{AuditVerb, Manifest};
use serde_json::Value;

use super::broker::Broker;
use super::daemon::{Daemon, Home, rank_request};
use super::world::World;

/// Snapshots are written on request, at the first batch and at the end. Time closes no batch, and a record waits for
/// those of other partitions that are under way, so that two daemons read one order.
const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\n\
                        snapshot.every = \"0s\"\nsnapshot.every_batches = 1000\nsnapshot.keep = 50\norder.max_reorder_delay = \"3s\"";

/// The user that a quarantine excludes.
const BOT: &str = "user-3";

/// Runs a snapshot command. Returns its JSON.
#[track_caller]
fn change(home: &Home, args: &[&str]) -> Value {
    home.snapshot(&[args, &["--json"]].concat()).json()
}

/// The user of an impression or action.
fn user(event: &DataEvent) -> Option<String> {
    let payload: Value = serde_json::from_slice(&event.payload).unwrap();
    payload["user_id"].as_str().map(str::to_owned)
}

/// The events before and from the middle of a world. The bot has none before it.
fn halves(world: &World) -> (Vec<DataEvent>, Vec<DataEvent>, i64) {
    let middle = world.events[world.events.len() / 2].ts_ms;
    let (early, late): (Vec<DataEvent>, Vec<DataEvent>) = world
        .events
        .iter()
        .cloned()
        .partition(|event| event.ts_ms < middle);
    let is_human = |event: &DataEvent| user(event).as_deref() != Some(BOT);
    assert!(late.iter().any(|event| !is_human(event)));
    (early.into_iter().filter(is_human).collect(), late, middle)
}

/// What a model has learned, and from what.
fn learned(manifest: &Manifest) -> (String, String, u64) {
    let checkpoint = &manifest.checkpoint;
    (
        checkpoint.ledger_hash.clone(),
        checkpoint.weights_hash.clone(),
        checkpoint.sample_seq,
    )
}

/// Feeds the early half, takes a snapshot, and feeds the late half.
fn feed(broker: &Broker, daemon: &Daemon, early: &[DataEvent], late: &[DataEvent], end_ms: i64) {
    broker.feed(early);
    daemon.wait_joined(broker.n_records());
    daemon.snapshot();
    broker.feed(late);
    broker.heartbeat(end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records());
}

#[test]
fn a_daemon_that_rewinds_serves_on_and_ends_in_the_same_bits() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(300, &home.path().join("world"));
    let (early, late, _) = halves(&world);
    let daemon = home.start();
    feed(&broker, &daemon, &early, &late, world.end_ms);
    let first = home.latest().unwrap();
    let original = daemon.snapshot();
    let before = home.store().read(original).unwrap().manifest().clone();
    let (number, n_resumed) = (first.number().to_string(), home.store().read(first).unwrap());
    let n_resumed: i64 = n_resumed.manifest().checkpoint.positions.values().sum();

    let forecast = change(&home, &["rollback", &number, "--rewind", "--dry-run"]);
    let n_late = broker.n_records() - n_resumed.unsigned_abs();
    let records = forecast["records"].as_object().unwrap().values();
    assert_eq!(
        records.map(|n| n.as_u64().unwrap()).sum::<u64>(),
        n_late,
        "{forecast}"
    );
    assert!(forecast["seconds"].as_f64().is_some(), "{forecast}");
    assert_eq!(home.latest(), Some(original), "a dry run changes nothing");

    // Requests all along: none fails, and no reply names a snapshot that is neither.
    let (is_over, n_ranked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                daemon.rank(&rank_request(BOT, 40));
                n_ranked.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        let done = change(&home, &["rollback", &number, "--rewind", "--note", "poison"]);
        assert_eq!(done["done_by"], "the running daemon");
        assert_eq!(done["snapshot"], first.to_string());
        daemon.wait_joined(n_late);
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(n_ranked.load(Ordering::Relaxed) > 10);
    let after = daemon.snapshot();
    let after = home.store().read(after).unwrap().manifest().clone();
    assert_eq!(learned(&after), learned(&before));
    assert_eq!(after.checkpoint.counters, before.checkpoint.counters);
    assert_eq!(after.checkpoint.positions, before.checkpoint.positions);
    assert_eq!(after.parent, Some(first));
    let audit = home.store().audit().unwrap();
    let line = audit.lines.iter().find(|line| line.verb == AuditVerb::Rollback);
    assert_eq!(line.unwrap().note, "poison");
    daemon.stop();
    assert_eq!(learned(&home.manifest()), learned(&before));
}

#[test]
fn a_quarantine_ends_in_the_bits_of_a_log_that_never_had_the_events() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(300, &home.path().join("world"));
    let (early, late, middle) = halves(&world);
    let clean: Vec<DataEvent> = late
        .iter()
        .filter(|event| user(event).as_deref() != Some(BOT))
        .cloned()
        .collect();

    let clean_broker = Broker::embedded(1);
    let mut never = Home::new(&clean_broker, SETTINGS);
    let daemon = never.start();
    feed(&clean_broker, &daemon, &early, &clean, world.end_ms);
    daemon.stop();
    let never = never.manifest();

    let daemon = home.start();
    feed(&broker, &daemon, &early, &late, world.end_ms);
    let first = home.latest().unwrap();
    let poisoned = daemon.snapshot();
    let poisoned = home.store().read(poisoned).unwrap().manifest().clone();
    assert_ne!(learned(&poisoned), learned(&never));
    let snapshot = home.store().read(first).unwrap();
    let n_resumed: i64 = snapshot.manifest().checkpoint.positions.values().sum();
    let n_again = broker.n_records() - n_resumed.unsigned_abs();

    let refused = home.snapshot(&["quarantine", "--user", BOT, "--note", "clicks all"]);
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.err.contains("--only-new"), "{}", refused.err);
    let from = format!("@{middle}");
    let args = [
        "quarantine",
        "--user",
        BOT,
        "--from",
        &from,
        "--note",
        "clicks all",
    ];
    let done = change(&home, &args);
    assert_eq!(done["done_by"], "the running daemon");
    assert_eq!(done["snapshot"], first.to_string());
    daemon.wait_joined(n_again);
    daemon.stop();
    let after = home.manifest();
    assert_eq!(learned(&after), learned(&never));
    assert_eq!(
        after.checkpoint.quarantine,
        [format!("user {BOT}, from {middle} ms")]
    );

    // Again without a daemon: the rule is known, and a start reads the same log to the same end.
    let done = change(&home, &args);
    assert_eq!(done["done_by"], "this command");
    assert!(done["also"].to_string().contains("already"), "{done}");
    assert_eq!(home.latest(), Some(first));
    let daemon = home.start();
    daemon.wait_joined(n_again);
    assert!(
        daemon.metric(
            "ouzel_ingest_rejected_total",
            "{stream=\"impressions\",reason=\"quarantined\"}"
        ) > 0.0
    );
    daemon.stop();
    assert_eq!(learned(&home.manifest()), learned(&never));
}

/// Rolls back to `id` and continues at `ms`, with and without a daemon and tried before. Returns the manifest.
fn skip_to(home: &Home, id: &str, ms: i64, done_by: &str) -> Manifest {
    let time = format!("@{ms}");
    let before = home.latest();
    let forecast = change(home, &["rollback", id, "--skip-to", &time, "--dry-run"]);
    assert_eq!(home.latest(), before, "a dry run changes nothing");
    let done = change(home, &["rollback", id, "--skip-to", &time, "--note", "poison"]);
    assert_eq!(done["done_by"], done_by);
    let skipped = forecast["skipped"].as_object().unwrap();
    let listed = home.store().list().unwrap();
    let is_skip = |manifest: &&Manifest| {
        let note = manifest.note.as_deref().unwrap_or_default();
        note.contains(&format!("continued at {ms} ms, skipped")) && note.ends_with(": poison")
    };
    let mut manifests = listed.iter().filter_map(|entry| entry.manifest.as_ref());
    let written = manifests.rfind(is_skip).unwrap().clone();
    for (stream, n) in skipped {
        assert_eq!(
            written.checkpoint.counters[&format!("skipped.{stream}")],
            n.as_u64().unwrap()
        );
    }
    assert!(skipped["impressions"].as_u64() > Some(10), "{forecast}");
    written
}

#[test]
fn a_rollback_continues_at_the_first_records_of_a_time() {
    // The embedded broker knows no times.
    let Some(broker) = Broker::real("skip-to", 1) else {
        return;
    };
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(300, &home.path().join("world"));
    let (early, late, middle) = halves(&world);
    let daemon = home.start();
    feed(&broker, &daemon, &early, &late, world.end_ms);
    let first = home.latest().unwrap();
    let number = first.number().to_string();
    let whole = daemon.snapshot();
    let whole = home.store().read(whole).unwrap().manifest().clone();
    let ms = i64::midpoint(middle, world.end_ms);
    for (time, word) in [(middle - 3_600_000, "--rewind"), (i64::MAX, "in the future")] {
        let refused = home.snapshot(&["rollback", &number, "--skip-to", &format!("@{time}")]);
        assert_eq!(refused.code, Some(1), "{}", refused.err);
        assert!(refused.err.contains(word), "{}", refused.err);
    }
    let online = skip_to(&home, &number, ms, "the running daemon");
    assert_eq!(online.parent, Some(first));
    let n_read = |manifest: &Manifest| manifest.checkpoint.positions.values().sum::<i64>();
    let n_again = u64::try_from(n_read(&whole) - n_read(&online)).unwrap();
    daemon.wait_joined(n_again);
    daemon.wait_ready();
    daemon.check_serves();
    daemon.stop();
    let last = home.manifest();
    assert!(last.checkpoint.batch_seq > online.checkpoint.batch_seq);
    assert_eq!(last.checkpoint.positions, whole.checkpoint.positions);
    let n = |manifest: &Manifest| manifest.checkpoint.counters["impressions"];
    let skipped = online.checkpoint.counters["skipped.impressions"];
    assert_eq!(
        n(&last) + skipped,
        n(&whole),
        "each impression is read once or skipped"
    );

    let offline = skip_to(&home, &number, ms, "this command");
    assert_eq!(offline.checkpoint.positions, online.checkpoint.positions);
    assert_eq!(offline.checkpoint.weights_hash, online.checkpoint.weights_hash);
    assert_eq!(home.latest(), Some(offline.id));
    assert_eq!(learned(&home.run_to_end(n_again)), learned(&last));
    let listed = home.snapshot(&["list"]);
    assert!(listed.out.contains("skipped"), "{}", listed.out);
}
