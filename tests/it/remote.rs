//! The remote copy: a machine that has lost its disk goes on from it, and the one that it replaces ends.

use std::fs;
use std::path::Path;

use ouzel_snapshot::{Remote, RemoteCopy};

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::wait_until;
use super::world::World;

/// Small batches. The clock closes none, so two runs have the same ones.
const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\nsnapshot.every = \"0s\"\n\
                        snapshot.every_batches = 7\norder.max_reorder_delay = \"500ms\"\nsnapshot.keep = 1000";

/// The last segment of the plan log on disk, and its size.
fn plan_end(home: &Home) -> Option<(String, u64)> {
    let segments = fs::read_dir(home.state().join("plan")).ok()?.map(|entry| {
        let entry = entry.unwrap();
        (
            format!("plan/{}", entry.file_name().to_string_lossy()),
            entry.metadata().unwrap().len(),
        )
    });
    segments.max()
}

/// Waits until every record is joined and the copy has the newest snapshot and the whole plan log.
#[track_caller]
fn wait_copied(daemon: &Daemon, home: &Home, copy: &Path, n_records: u64) {
    let remote = Remote::open(&format!("file://{}", copy.display())).unwrap();
    wait_until("the copy has everything", || {
        let status = daemon.try_status()?;
        let found = RemoteCopy::read(&remote).unwrap()?;
        let plan = found.plan_end().map(|(name, n_bytes)| (name.to_owned(), n_bytes));
        let latest = home.latest();
        let is_whole = status.events == n_records
            && latest.is_some()
            && found.target("latest") == latest
            && plan == plan_end(home);
        is_whole.then_some(())
    });
}

#[test]
fn a_lost_disk_costs_no_bit_and_the_daemon_that_is_replaced_ends() {
    let broker = Broker::embedded(1);
    let copy = tempfile::tempdir().unwrap();
    let settings = format!(
        "{SETTINGS}\nsnapshot.remote = \"file://{}\"",
        copy.path().display()
    );
    let mut first = Home::new(&broker, &settings);
    let world = World::generate(200, &first.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = first.start();
    broker.feed(early);
    wait_copied(&daemon, &first, copy.path(), broker.n_records());
    let latest = first.latest().unwrap().to_string();
    // The task reports after the index is written.
    wait_until("the status names the newest snapshot of the copy", || {
        let remote = daemon.try_status()?.remote?;
        (remote.newest.as_ref() == Some(&latest) && remote.failing.is_none()).then_some(())
    });
    let listed = first.snapshot(&["list", "--remote", "--json"]).json();
    let newest = listed["snapshots"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(newest["id"], latest.as_str());
    daemon.kill();
    let fetched = first.snapshot(&["fetch", "--json"]).json();
    assert_eq!(fetched["snapshot"], latest.as_str());
    assert_eq!(fetched["fetched"], serde_json::json!([]), "it is there already");
    fs::remove_dir_all(first.state()).unwrap();

    let mut replaced = first.start();
    let restored = replaced.logged("restored from the remote copy").unwrap();
    assert_eq!(restored["order"], "as recorded");
    // Another machine with an empty disk goes on from the copy: this one ends.
    let mut second = Home::new(&broker, &settings);
    let successor = second.start();
    assert_eq!(replaced.wait_exit(), Some(4));

    broker.feed(late);
    broker.heartbeat(world.end_ms + 3_600_000);
    wait_until("a snapshot has every record", || {
        successor.snapshot();
        (second.n_resumed() == broker.n_records()).then_some(())
    });
    let found = second.manifest().checkpoint;
    successor.stop();
    let expected = Home::new(&broker, SETTINGS)
        .run_to_end(broker.n_records())
        .checkpoint;
    assert_eq!(found.sample_seq, world.expected.samples());
    assert_eq!(found.ledger_hash, expected.ledger_hash);
    assert_eq!(found.positions, expected.positions);
    assert_eq!(found.weights_hash, expected.weights_hash);
}
