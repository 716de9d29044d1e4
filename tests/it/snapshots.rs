//! The `ouzel snapshot` commands, with and without a running daemon.

use ouzel_serving::RankResponse;
use ouzel_snapshot::{Alias, SnapshotId};
use serde_json::Value;

use super::broker::Broker;
use super::daemon::{Daemon, Home, rank_request};
use super::run_here;
use super::world::World;

/// Snapshots are written on request, at the first batch and at the end.
const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\n\
                        snapshot.every = \"0s\"\nsnapshot.every_batches = 1000\nsnapshot.keep = 50\norder.max_reorder_delay = \"300ms\"";

/// The response of `ouzel score` with `snapshot`.
fn scored(home: &Home, snapshot: &str) -> RankResponse {
    let file = home.path().join("requests.jsonl");
    std::fs::write(&file, serde_json::to_string(&rank_request("user-3", 40)).unwrap()).unwrap();
    let config = home.config();
    let (config, file) = (config.to_str().unwrap(), file.to_str().unwrap());
    let output = run_here(&["score", "--config", config, "--snapshot", snapshot, file]);
    assert_eq!(output.code, Some(0), "{}", output.err);
    serde_json::from_str(&output.out).unwrap()
}

/// Runs a command that changes the state. Returns `done_by`.
#[track_caller]
fn change(home: &Home, args: &[&str]) -> String {
    let done = home.snapshot(&[args, &["--json"]].concat()).json();
    done["done_by"].as_str().unwrap().to_owned()
}

/// The entry of `snapshot list` with this id.
fn listed(home: &Home, id: SnapshotId) -> Value {
    let list = home.snapshot(&["list", "--json"]).json();
    let entries = list["snapshots"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["id"] == id.to_string());
    entry.unwrap_or_else(|| panic!("no {id} in {list}")).clone()
}

/// Feeds a piece of the world and waits until it is joined.
fn feed(broker: &Broker, daemon: &Daemon, n_before: u64, events: &[ouzel_ingest::DataEvent]) {
    broker.feed(events);
    daemon.wait_joined(broker.n_records() - n_before);
}

#[test]
#[expect(clippy::too_many_lines, reason = "the commands on one daemon, step by step")]
fn a_running_daemon_serves_the_chosen_snapshot_and_continues_to_learn() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(400, &home.path().join("world"));
    let pieces: Vec<_> = world.events.chunks(world.events.len().div_ceil(4)).collect();

    let daemon = home.start();
    feed(&broker, &daemon, 0, pieces[0]);
    let first = daemon.snapshot();
    feed(&broker, &daemon, 0, pieces[1]);
    let second = daemon.snapshot();
    assert!(first < second);
    assert_eq!(home.latest(), Some(second));
    assert_eq!(home.manifest().parent, Some(first));
    assert_eq!(listed(&home, second)["aliases"], serde_json::json!(["latest"]));
    let shown = home.snapshot(&["show", "latest", "--json"]).json();
    assert_eq!(shown["id"], second.to_string());
    let number = first.number().to_string();
    assert_eq!(
        home.snapshot(&["show", &number, "--json"]).json()["id"],
        first.to_string()
    );

    // The pinned snapshot is served, whatever is learned. `score` gives the same bits, while user and items have no new
    // events.
    let newest = second.to_string();
    assert_eq!(
        change(&home, &["pin", "latest", "--note", "try it"]),
        "the running daemon"
    );
    let ranked = daemon.rank(&rank_request("user-3", 40));
    assert_eq!(ranked.snapshot, newest);
    let offline = scored(&home, &newest);
    assert_eq!(ranked.items, offline.items);
    assert_eq!(offline.snapshot, newest);
    assert_eq!(scored(&home, "pinned").items, offline.items);
    assert_ne!(scored(&home, &first.to_string()).items, offline.items);
    feed(&broker, &daemon, 0, pieces[2]);
    let third = daemon.snapshot();
    assert_eq!(daemon.rank(&rank_request("user-3", 40)).snapshot, newest);
    assert_eq!(daemon.status().pinned, Some(newest.clone()));
    assert!(daemon.get("/readyz").body.contains(&newest));
    daemon.kill();
    let daemon = home.start();
    assert_eq!(
        daemon.rank(&rank_request("user-3", 40)).snapshot,
        newest,
        "a pin outlives the process"
    );
    assert_eq!(change(&home, &["unpin"]), "the running daemon");
    let ranked = daemon.rank(&rank_request("user-3", 40));
    assert_eq!(ranked.snapshot, third.to_string());
    assert_eq!(ranked.items, scored(&home, "latest").items);

    // Back to the first snapshot: its weights, the present features and positions, no pin.
    change(&home, &["pin", &number]);
    assert_eq!(
        change(
            &home,
            &["rollback", &number, "--skip-to", "now", "--note", "bad data"]
        ),
        "the running daemon"
    );
    assert_eq!(home.store().alias(Alias::Pinned).unwrap(), None);
    assert_eq!(daemon.status().pinned, None);
    assert_eq!(
        daemon.rank(&rank_request("user-3", 40)).snapshot,
        first.to_string()
    );
    let after_rollback = home.manifest();
    assert!(after_rollback.id > third);
    assert_eq!(after_rollback.parent, Some(first));
    assert!(
        after_rollback
            .note
            .is_some_and(|note| note.contains("rolled back"))
    );
    let store = home.store();
    let manifest_of = |id| store.read(id).unwrap().manifest().clone();
    assert_eq!(
        after_rollback.checkpoint.positions,
        manifest_of(third).checkpoint.positions
    );
    assert_eq!(
        after_rollback.checkpoint.ledger_hash,
        manifest_of(third).checkpoint.ledger_hash
    );
    for abandoned in [second, third] {
        assert_eq!(listed(&home, abandoned)["is_rolled_back"], true);
    }
    assert_eq!(listed(&home, after_rollback.id)["is_rolled_back"], false);
    feed(
        &broker,
        &daemon,
        home.n_resumed() - daemon.status().events,
        pieces[3],
    );
    let fourth = daemon.snapshot();
    assert_eq!(home.manifest().parent, Some(after_rollback.id));
    assert_eq!(
        daemon.rank(&rank_request("user-3", 40)).snapshot,
        after_rollback.id.to_string(),
        "descends from it"
    );
    assert_eq!(daemon.snapshot().number(), fourth.number() + 1);
    let n_beats = broker.heartbeat(world.end_ms + 3_600_000);
    let n_before: i64 = manifest_of(third).checkpoint.positions.values().sum();
    daemon.wait_joined(broker.n_records() - n_before.unsigned_abs());
    daemon.stop();

    let checkpoint = home.manifest().checkpoint;
    assert_eq!(
        checkpoint.sample_seq,
        world.expected.samples(),
        "a rollback loses and repeats no sample"
    );
    assert_eq!(checkpoint.counters["click.positive"], world.expected.positives);
    assert_eq!(checkpoint.counters["pending_items"], n_beats);
    let verified = home.snapshot(&["verify", "--json"]).json();
    assert_eq!(verified["ok"], true, "{verified}");
}

#[test]
fn a_start_after_an_offline_rollback_continues_from_that_snapshot() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(300, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = home.start();
    feed(&broker, &daemon, 0, early);
    let first = daemon.snapshot();
    feed(&broker, &daemon, 0, late);
    let n_beats = broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records());
    daemon.stop();
    let before = home.manifest();
    let number = first.number().to_string();

    assert_eq!(change(&home, &["pin", "latest"]), "this command");
    assert_eq!(
        change(&home, &["rollback", &number, "--rewind", "--note", "try again"]),
        "this command"
    );
    assert_eq!(home.latest(), Some(first));
    assert_eq!(home.store().alias(Alias::Pinned).unwrap(), None);
    assert_eq!(listed(&home, before.id)["is_rolled_back"], true);
    let n_resumed = home.n_resumed();
    let daemon = home.start();
    assert_eq!(
        daemon.rank(&rank_request("user-3", 40)).snapshot,
        first.to_string()
    );
    daemon.wait_joined(broker.n_records() - n_resumed);
    daemon.stop();

    // The same log in the same order again: the same samples and weights, in another lineage.
    let after = home.manifest();
    assert!(after.id > before.id);
    assert_eq!(after.parent, Some(first));
    assert_eq!(after.checkpoint.ledger_hash, before.checkpoint.ledger_hash);
    assert_eq!(after.checkpoint.weights_hash, before.checkpoint.weights_hash);
    assert_eq!(after.checkpoint.counters, before.checkpoint.counters);
    assert_eq!(after.checkpoint.counters["pending_items"], n_beats);

    // Garbage collection keeps the newest snapshot that is not rolled back, and the pinned one.
    assert_eq!(change(&home, &["pin", &number]), "this command");
    let removed = home.snapshot(&["gc", "--keep", "1", "--json"]).json();
    assert!(
        removed["removed"].as_array().is_some_and(|ids| ids.len() >= 2),
        "{removed}"
    );
    let listed = home.store().list().unwrap();
    let kept: Vec<SnapshotId> = listed.iter().map(|entry| entry.id).collect();
    assert_eq!(kept, [first, after.id]);
    assert_eq!(change(&home, &["unpin"]), "this command");
    assert_eq!(home.snapshot(&["diff", &number, "latest"]).code, Some(0));
}

#[test]
fn a_damaged_snapshot_is_skipped_for_the_previous_one() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(200, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = home.start();
    feed(&broker, &daemon, 0, early);
    let first = daemon.snapshot();
    feed(&broker, &daemon, 0, late);
    let second = daemon.snapshot();
    daemon.kill();
    let before = home.manifest();
    let file = home.store().read(second).unwrap().dir().join("join.bin");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(home.snapshot(&["verify"]).code, Some(3));

    let daemon = home.start();
    assert!(daemon.logged("snapshot skipped").is_some());
    assert_eq!(
        daemon.rank(&rank_request("user-3", 40)).snapshot,
        first.to_string()
    );
    let snapshot = home.store().read(first).unwrap();
    let n_resumed: i64 = snapshot.manifest().checkpoint.positions.values().sum();
    daemon.wait_joined(broker.n_records() - n_resumed.unsigned_abs());
    daemon.stop();
    let after = home.manifest();
    assert_eq!(after.parent, Some(first));
    assert_eq!(after.checkpoint.ledger_hash, before.checkpoint.ledger_hash);
    assert_eq!(after.checkpoint.weights_hash, before.checkpoint.weights_hash);
}
