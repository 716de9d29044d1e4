//! The `ouzel snapshot` commands, with and without a running daemon.

use ouzel_serving::RankResponse;
use ouzel_snapshot::{Alias, SnapshotId};
use serde_json::Value;

use super::broker::Broker;
use super::daemon::{Daemon, Home, rank_request};
use super::run_here;
use super::world::World;

/// Snapshots are written when they are asked for, and at the first batch and the end.
const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\n\
                        snapshot.every_batches = 1000\nsnapshot.keep = 50\norder.max_reorder_delay = \"300ms\"";

/// What `ouzel score` with `snapshot` answers.
fn scored(home: &Home, snapshot: &str) -> RankResponse {
    let file = home.path().join("requests.jsonl");
    std::fs::write(&file, serde_json::to_string(&rank_request("user-3", 40)).unwrap()).unwrap();
    let config = home.config();
    let (config, file) = (config.to_str().unwrap(), file.to_str().unwrap());
    let said = run_here(&["score", "--config", config, "--snapshot", snapshot, file]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    serde_json::from_str(&said.out).unwrap()
}

/// Runs a command that changes something. Returns who did it.
#[track_caller]
fn change(home: &Home, args: &[&str]) -> String {
    let done = home.snapshot(&[args, &["--json"]].concat()).json();
    done["done_by"].as_str().unwrap().to_owned()
}

/// The entries of `snapshot list` by id.
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
#[expect(clippy::too_many_lines, reason = "one life of a daemon, step by step")]
fn a_running_daemon_serves_what_it_is_told_and_learns_on() {
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

    // What is pinned is served, whatever is learned; and it is what `score` gives, bit for bit, while nothing
    // new is known of user and items.
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

    // Back to the first: its weights, today's features and positions, and the pin is off.
    change(&home, &["pin", &number]);
    assert_eq!(
        change(&home, &["rollback", &number, "--note", "bad data"]),
        "the running daemon"
    );
    assert_eq!(home.store().alias(Alias::Pinned).unwrap(), None);
    assert_eq!(daemon.status().pinned, None);
    assert_eq!(
        daemon.rank(&rank_request("user-3", 40)).snapshot,
        first.to_string()
    );
    let turned = home.manifest();
    assert!(turned.id > third);
    assert_eq!(turned.parent, Some(first));
    assert!(turned.note.is_some_and(|note| note.contains("rolled back")));
    let store = home.store();
    let manifest_of = |id| store.read(id).unwrap().manifest().clone();
    assert_eq!(turned.cut.positions, manifest_of(third).cut.positions);
    assert_eq!(turned.cut.ledger_hash, manifest_of(third).cut.ledger_hash);
    for left_behind in [second, third] {
        assert_eq!(listed(&home, left_behind)["is_rolled_back"], true);
    }
    assert_eq!(listed(&home, turned.id)["is_rolled_back"], false);
    feed(
        &broker,
        &daemon,
        home.n_resumed() - daemon.status().events,
        pieces[3],
    );
    let fourth = daemon.snapshot();
    assert_eq!(home.manifest().parent, Some(turned.id));
    assert_eq!(
        daemon.rank(&rank_request("user-3", 40)).snapshot,
        turned.id.to_string(),
        "descends from it"
    );
    assert_eq!(daemon.snapshot().number(), fourth.number() + 1);
    let n_beats = broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(
        broker.n_records()
            - manifest_of(third)
                .cut
                .positions
                .values()
                .sum::<i64>()
                .unsigned_abs(),
    );
    daemon.stop();

    let cut = home.manifest().cut;
    assert_eq!(
        cut.sample_seq,
        world.expected.samples(),
        "going back loses and repeats no sample"
    );
    assert_eq!(cut.counters["click.positive"], world.expected.positives);
    assert_eq!(cut.counters["pending_items"], n_beats);
    let verified = home.snapshot(&["verify", "--json"]).json();
    assert_eq!(verified["ok"], true, "{verified}");
}

#[test]
fn a_start_after_a_rollback_offline_goes_on_from_there() {
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
        change(&home, &["rollback", &number, "--note", "try again"]),
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

    // The same log in the same order once more: the same samples, the same weights, in another lineage.
    let after = home.manifest();
    assert!(after.id > before.id);
    assert_eq!(after.parent, Some(first));
    assert_eq!(after.cut.ledger_hash, before.cut.ledger_hash);
    assert_eq!(after.cut.weights_hash, before.cut.weights_hash);
    assert_eq!(after.cut.counters, before.cut.counters);
    assert_eq!(after.cut.counters["pending_items"], n_beats);

    // Collecting leaves the newest that is not rolled back, and what is pinned.
    assert_eq!(change(&home, &["pin", &number]), "this command");
    let removed = home.snapshot(&["gc", "--keep", "1", "--json"]).json();
    assert!(
        removed["removed"].as_array().is_some_and(|ids| ids.len() >= 2),
        "{removed}"
    );
    let left: Vec<SnapshotId> = home
        .store()
        .list()
        .unwrap()
        .iter()
        .map(|entry| entry.id)
        .collect();
    assert_eq!(left, [first, after.id]);
    assert_eq!(change(&home, &["unpin"]), "this command");
    assert_eq!(home.snapshot(&["diff", &number, "latest"]).code, Some(0));
}

#[test]
fn a_damaged_snapshot_is_passed_over_for_the_one_before() {
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
    let n_resumed: i64 = home
        .store()
        .read(first)
        .unwrap()
        .manifest()
        .cut
        .positions
        .values()
        .sum();
    daemon.wait_joined(broker.n_records() - n_resumed.unsigned_abs());
    daemon.stop();
    let after = home.manifest();
    assert_eq!(after.parent, Some(first));
    assert_eq!(after.cut.ledger_hash, before.cut.ledger_hash);
    assert_eq!(after.cut.weights_hash, before.cut.weights_hash);
}
