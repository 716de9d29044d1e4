//! `ouzel snapshot migrate`: a changed configuration goes on from what was learned.

use std::fs;
use std::path::Path;

use ouzel_ingest::DataEvent;
use ouzel_snapshot::{AuditVerb, Manifest};
use serde_json::Value;

use super::broker::Broker;
use super::daemon::Home;
use super::run;
use super::world::World;

/// As for rewinding: time closes no batch, and two daemons read one order.
const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\n\
                        snapshot.every = \"0s\"\nsnapshot.every_batches = 1000\nsnapshot.keep = 50\norder.max_reorder_delay = \"3s\"\n";
const CLICK: &str = "join.tasks = [{ name = \"click\", window = \"10m\" }]\n";
const TWO_TASKS: &str =
    "join.tasks = [{ name = \"click\", window = \"10m\" }, { name = \"like\", window = \"5m\" }]\n";
const LONGER: &str = "join.tasks = [{ name = \"click\", window = \"20m\" }]\n";

/// Changes the settings of a home whose daemon is stopped.
fn configure(home: &Home, former: &str, present: &str) {
    let text = fs::read_to_string(home.config()).unwrap();
    assert!(text.contains(former), "{text}");
    fs::write(home.config(), text.replace(former, present)).unwrap();
}

fn halves(world: &World) -> (Vec<DataEvent>, Vec<DataEvent>) {
    let middle = world.events[world.events.len() / 2].ts_ms;
    world
        .events
        .iter()
        .cloned()
        .partition(|event| event.ts_ms < middle)
}

fn learned(manifest: &Manifest) -> (String, String, u64) {
    let checkpoint = &manifest.checkpoint;
    let hashes = (checkpoint.ledger_hash.clone(), checkpoint.weights_hash.clone());
    (hashes.0, hashes.1, checkpoint.sample_seq)
}

/// Copies the files of a stopped daemon's state.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A home that has learned the first half of a small log, the log, and its second half.
fn half_learned(settings: &str) -> (Home, Broker, Vec<DataEvent>, i64) {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, &format!("{SETTINGS}{settings}"));
    let world = World::generate(160, &home.path().join("world"));
    let (early, late) = halves(&world);
    broker.feed(&early);
    let before = home.run_to_end(broker.n_records());
    assert!(before.checkpoint.batch_seq > 3 && before.checkpoint.counters["pending_items"] > 0);
    (home, broker, late, world.end_ms)
}

/// Migrates from the settings `former` to `present`, learns on, and checks the lineage. Returns the dry run's document.
fn check(former: &str, present: &str) -> Value {
    let (mut home, broker, late, end_ms) = half_learned(former);
    let before = home.manifest();
    let n_before = broker.n_records();
    configure(&home, former, present);

    let config = home.config();
    let refused = run(["daemon", "--config", config.to_str().unwrap()]);
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.err.contains("ouzel snapshot migrate"), "{}", refused.err);
    let forecast = home.snapshot(&["migrate", "--dry-run", "--json"]).json();
    assert_eq!(home.manifest(), before, "a dry run changes nothing");
    let text = home.snapshot(&["migrate", "--dry-run"]);
    assert!(
        text.out.contains("STARTS ANEW") && text.out.ends_with("nothing was changed\n"),
        "{text:?}"
    );

    let done = home.snapshot(&["migrate", "--note", "why not", "--json"]).json();
    let migrated = home.manifest();
    assert_eq!(done["snapshot"], migrated.id.to_string());
    assert_eq!(migrated.parent, Some(before.id));
    let note = migrated.note.as_deref().unwrap();
    assert!(
        note.starts_with("migrated from ") && note.ends_with(": why not"),
        "{note}"
    );
    assert_eq!(migrated.checkpoint.positions, before.checkpoint.positions);
    let audit = home.store().audit().unwrap();
    assert!(
        audit
            .lines
            .iter()
            .any(|line| line.verb == AuditVerb::Migrate && line.id == Some(before.id))
    );
    assert_eq!(home.snapshot(&["verify", "latest"]).code, Some(0));
    let again = home.snapshot(&["migrate"]);
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("there is nothing to migrate"), "{}", again.err);

    broker.feed(&late);
    broker.heartbeat(end_ms + 3_600_000);
    let daemon = home.start();
    daemon.wait_ready();
    daemon.check_serves();
    daemon.wait_joined(broker.n_records() - n_before);
    daemon.stop();
    let after = home.manifest();
    assert_eq!(after.parent, Some(migrated.id));
    assert!(after.checkpoint.batch_seq > migrated.checkpoint.batch_seq + 3);
    let counters = &after.checkpoint.counters;
    // Those of the heartbeats.
    assert_eq!(counters["pending_items"], 4, "{counters:?}");
    assert!(counters["click.positive"] > migrated.checkpoint.counters["click.positive"]);
    forecast
}

#[test]
fn a_task_is_added_and_learned_beside_the_others() {
    let forecast = check(CLICK, TWO_TASKS);
    let weights = &forecast["parts"]["dense weights of another shape"];
    assert!(weights["kept"].as_u64() > Some(0), "{forecast}");
    assert_eq!(forecast["parts"]["rows: rows"]["lost"], 0);
    assert_eq!(forecast["parts"]["users"]["anew"], 0);
    assert_eq!(forecast["parts"]["shown items in open windows"]["lost"], 0);
    assert_eq!(forecast["changed"][0]["key"], "join.tasks");
}

#[test]
fn a_task_is_removed_with_its_head() {
    let forecast = check(TWO_TASKS, CLICK);
    assert_eq!(forecast["parts"]["live counters"]["anew"], 0, "{forecast}");
}

#[test]
fn rows_of_another_width_keep_their_leading_floats() {
    let former = format!("{CLICK}model.dim = 8\n");
    let forecast = check(&former, &format!("{CLICK}model.dim = 12\n"));
    assert!(
        forecast["parts"]["rows: rows"]["kept"].as_u64() > Some(10),
        "{forecast}"
    );
    assert_eq!(forecast["parts"]["dense weights"]["anew"], 0, "{forecast}");
}

#[test]
fn open_windows_close_by_another_length() {
    let forecast = check(CLICK, LONGER);
    let items = &forecast["parts"]["shown items in open windows"];
    assert!(items["kept"].as_u64() > Some(0), "{forecast}");
    assert_eq!(items["lost"], 0);
}

#[test]
fn a_migration_is_the_same_bits_twice_and_a_crash_in_it_changes_nothing() {
    let (mut home, broker, late, end_ms) = half_learned(CLICK);
    let before = home.manifest();
    let mut other = Home::new(&broker, &format!("{SETTINGS}{CLICK}"));
    copy(&home.state(), &other.state());
    let crashed = Home::new(&broker, &format!("{SETTINGS}{CLICK}"));
    copy(&home.state(), &crashed.state());
    let present = format!("{TWO_TASKS}model.hidden = [32, 16]\n");
    let latest = fs::read(crashed.state().join("latest")).unwrap();
    for home in [&home, &other, &crashed] {
        configure(home, CLICK, &present);
        assert_eq!(home.snapshot(&["migrate"]).code, Some(0));
    }
    assert_eq!(learned(&home.manifest()), learned(&other.manifest()));
    // The snapshot is complete, and the process ended before it became the latest one.
    fs::write(crashed.state().join("latest"), latest).unwrap();
    let resumed = crashed.store().newest_valid().unwrap();
    assert_eq!(resumed.snapshot.unwrap().manifest(), &before);
    assert!(resumed.skipped.is_empty());

    broker.feed(&late);
    broker.heartbeat(end_ms + 3_600_000);
    let n_late = broker.n_records() - home.n_resumed();
    let [first, second] = [&mut home, &mut other].map(|home| learned(&home.run_to_end(n_late)));
    assert_eq!(first, second);
}

#[test]
fn what_cannot_be_migrated_is_refused_by_its_name() {
    let (home, broker, ..) = half_learned(CLICK);
    let before = home.manifest();
    let migrate = |settings: &str| {
        configure(&home, CLICK, settings);
        let refused = home.snapshot(&["migrate", "--dry-run"]);
        configure(&home, settings, CLICK);
        assert_eq!(
            (refused.code, refused.out.as_str()),
            (Some(1), ""),
            "{}",
            refused.err
        );
        refused.err
    };
    let salt = migrate(&format!("{CLICK}ids.salt = 7\n"));
    assert!(salt.contains("ids.salt is not that of snapshot"), "{salt}");
    let tier = migrate(&format!("{CLICK}join.source = \"tier\"\n"));
    assert!(tier.contains("join.source = \"events\""), "{tier}");
    let same = home.snapshot(&["migrate"]);
    assert!(same.err.contains("there is nothing to migrate"), "{}", same.err);
    let state = home.state();
    let unnamed = run(["snapshot", "migrate", "--state", state.to_str().unwrap()]);
    assert_eq!(unnamed.code, Some(2));
    assert!(unnamed.err.contains("--config FILE"), "{}", unnamed.err);
    assert_eq!(home.manifest(), before);
    drop(broker);
}
