//! A full or failing disk: serving continues, no invalid snapshot becomes current, nothing is learned that is not in the
//! plan log, and everything continues by itself when the disk works again.
//!
//! A file size limit set on the running daemon makes the disk full: every write beyond it fails. Files in the place of
//! directories make it fail in other ways. `snapshot/src/tests/faults.rs` lets every operation of a snapshot fail.

use std::fs;
use std::path::{Path, PathBuf};

use ouzel_snapshot::SnapshotId;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::wait_until;
use super::world::World;

const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\n\
                        snapshot.every = \"0s\"\nsnapshot.every_batches = 5\nsnapshot.keep = 100\norder.max_reorder_delay = \"500ms\"";
const FAILED: &str = "ouzel_snapshot_failed_total";
const COLD: &str = "ouzel_ingest_store_cold_requests";
const STALLED: &str = "ouzel_ops_plan_stalled";
/// More than the plan log between two snapshots, and less than the rows of a snapshot.
const SMALL_FILE: u64 = 4096;

/// Limits the size of the daemon's files; `None` removes the limit.
pub(super) fn limit_file_size(daemon: &Daemon, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(daemon.id()).unwrap());
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

/// Checks that every snapshot is valid. Returns the number of snapshots.
#[track_caller]
fn check_snapshots(home: &Home) -> usize {
    let listed = home.store().list().unwrap();
    for snapshot in &listed {
        assert_eq!(snapshot.fault, None, "{}", snapshot.id);
        // A snapshot being written or removed is not listed.
        assert!(
            home.store().verify(snapshot.id).unwrap().is_valid(),
            "{}",
            snapshot.id
        );
    }
    listed.len()
}

fn samples(daemon: &Daemon) -> f64 {
    daemon.metric("ouzel_learner_samples_total", "")
}

/// Waits until learning has paused because the plan log cannot be written.
#[track_caller]
fn wait_paused(daemon: &Daemon) {
    wait_until("the plan log cannot be written", || {
        (daemon.metric(STALLED, "") > 0.0).then_some(())
    });
    // The log line takes a while to reach the file.
    wait_until("the pause is logged", || {
        daemon.logged("the plan log cannot be written")
    });
    // Batches already sent to the learner arrive, then no more.
    let mut before = samples(daemon);
    wait_until("nothing more is learned", || {
        daemon.check_serves();
        let now = samples(daemon);
        let is_still = now.to_bits() == before.to_bits();
        before = now;
        is_still.then_some(())
    });
}

/// Waits until the daemon has written a snapshot newer than `than` by itself.
#[track_caller]
fn wait_snapshot(home: &Home, than: Option<SnapshotId>) {
    wait_until("a new snapshot is there", || (home.latest() > than).then_some(()));
}

/// Checks that an undisturbed daemon on the same log ends with the same hashes and counters.
#[track_caller]
pub(super) fn check_equals_undisturbed(broker: &Broker, home: &Home, settings: &str, n_samples: u64) {
    let undisturbed = Home::new(broker, settings)
        .run_to_end(broker.n_records())
        .checkpoint;
    let found = home.manifest().checkpoint;
    assert_eq!(found.ledger_hash, undisturbed.ledger_hash);
    assert_eq!(found.weights_hash, undisturbed.weights_hash);
    assert_eq!(found.counters, undisturbed.counters);
    assert_eq!(found.sample_seq, n_samples);
}

#[test]
fn a_full_disk_stops_neither_serving_nor_later_learning() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(600, &home.path().join("world"));
    let pieces: Vec<_> = world.events.chunks(world.events.len() / 4 + 1).collect();
    let daemon = home.start();
    broker.feed(pieces[0]);
    daemon.wait_joined(broker.n_records());
    daemon.snapshot();
    let before = home.latest();
    let n_before = check_snapshots(&home);

    // No room for a snapshot, but for the plan log: learning continues.
    limit_file_size(&daemon, Some(SMALL_FILE));
    let learned = samples(&daemon);
    broker.feed(pieces[1]);
    wait_until("a snapshot has failed", || {
        (daemon.metric(FAILED, "{reason=\"full\"}") > 0.0).then_some(())
    });
    wait_until("the failure is logged", || daemon.logged("snapshot not written"));
    wait_until("learning continues", || {
        (samples(&daemon) > learned).then_some(())
    });
    daemon.check_serves();
    assert_eq!((home.latest(), check_snapshots(&home)), (before, n_before));

    // No room for anything: learning pauses.
    limit_file_size(&daemon, Some(0));
    broker.feed(pieces[2]);
    wait_paused(&daemon);
    assert_eq!((home.latest(), check_snapshots(&home)), (before, n_before));

    // Killed and restarted in this state, the daemon serves its snapshot.
    limit_file_size(&daemon, None);
    daemon.wait_joined(broker.n_records());
    wait_snapshot(&home, before);
    assert_eq!(daemon.metric(STALLED, "").to_bits(), 0f64.to_bits());
    limit_file_size(&daemon, Some(0));
    broker.feed(pieces[3]);
    wait_paused(&daemon);
    daemon.kill();
    check_snapshots(&home);

    let n_resumed = home.n_resumed();
    let daemon = home.start();
    daemon.wait_ready();
    daemon.check_serves();
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records() - n_resumed);
    daemon.stop();
    check_snapshots(&home);
    check_equals_undisturbed(&broker, &home, SETTINGS, world.expected.samples());
}

/// A failing directory: a file in its place, until it is restored.
struct Broken {
    path: PathBuf,
    aside: PathBuf,
}

impl Broken {
    fn new(path: &Path) -> Self {
        let broken = Self {
            path: path.to_owned(),
            aside: path.with_extension("aside"),
        };
        fs::rename(&broken.path, &broken.aside).unwrap();
        fs::write(&broken.path, "no directory").unwrap();
        broken
    }

    fn restore(&self) {
        fs::remove_file(&self.path).unwrap();
        fs::rename(&self.aside, &self.path).unwrap();
    }
}

#[test]
fn failing_directories_stop_neither_serving_nor_later_learning() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(400, &home.path().join("world"));
    let pieces: Vec<_> = world.events.chunks(world.events.len() / 3 + 1).collect();
    let daemon = home.start();
    broker.feed(pieces[0]);
    daemon.wait_joined(broker.n_records());
    daemon.snapshot();
    let before = home.latest();
    let n_before = check_snapshots(&home);

    let snapshots = Broken::new(&home.state().join("snapshots"));
    broker.feed(pieces[1]);
    wait_until("a snapshot has failed", || {
        (daemon.metric(FAILED, "{reason=\"io\"}") > 0.0).then_some(())
    });
    daemon.wait_joined(broker.n_records());
    daemon.check_serves();
    snapshots.restore();
    wait_snapshot(&home, before);
    assert!(check_snapshots(&home) > n_before);

    // The present file is still open; the next file cannot be created.
    let plan = Broken::new(&home.state().join("plan"));
    broker.feed(pieces[2]);
    wait_paused(&daemon);
    plan.restore();
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records());
    daemon.stop();
    check_snapshots(&home);
    check_equals_undisturbed(&broker, &home, SETTINGS, world.expected.samples());
}

#[test]
fn a_daemon_stopped_while_the_disk_is_full_loses_nothing() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(200, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let mut daemon = home.start();
    broker.feed(early);
    daemon.wait_joined(broker.n_records());
    daemon.snapshot();
    limit_file_size(&daemon, Some(0));
    broker.feed(late);
    wait_paused(&daemon);
    daemon.signal("TERM");
    assert_eq!(daemon.wait_exit(), Some(1));
    assert!(daemon.logged("task failed while stopping").is_some());

    let n_resumed = home.n_resumed();
    let daemon = home.start();
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records() - n_resumed);
    daemon.stop();
    check_equals_undisturbed(&broker, &home, SETTINGS, world.expected.samples());
}

#[test]
fn a_join_store_continues_in_memory_when_the_disk_is_full() {
    let broker = Broker::embedded(1);
    // Little is learned before windows close, so the join store finds the disk full, not a snapshot.
    let settings = format!("{SETTINGS}\njoin.label_policy = \"eager\"");
    let on_disk = format!(
        "{settings}\njoin.store = \"sled\"\njoin.sled = {{ requests_in_memory = 2, page_cache = \"256B\" }}"
    );
    let mut home = Home::new(&broker, &on_disk);
    let world = World::generate(600, &home.path().join("world"));
    let pieces: Vec<_> = world.events.chunks(world.events.len() / 3 + 1).collect();
    let daemon = home.start();
    broker.feed(pieces[0]);
    daemon.wait_joined(broker.n_records());
    assert!(daemon.metric(COLD, "") > 0.0, "some requests are on disk");
    // A version descends from a snapshot, and the first must be written while there is room.
    daemon.wait_ready();

    // No room for a file of the store, but for the plan log.
    limit_file_size(&daemon, Some(SMALL_FILE));
    broker.feed(pieces[1]);
    wait_until("the store takes no more", || {
        daemon.logged("takes no more: joining in memory")
    });
    daemon.wait_joined(broker.n_records());
    daemon.check_serves();
    assert_eq!(daemon.metric(COLD, "").to_bits(), 0f64.to_bits());

    limit_file_size(&daemon, None);
    broker.feed(pieces[2]);
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records());
    daemon.stop();
    check_equals_undisturbed(&broker, &home, &settings, world.expected.shown);
}
