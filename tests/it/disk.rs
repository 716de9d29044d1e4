//! A disk that is full or does not work: serving goes on, nothing unsound becomes current, nothing is learned that
//! could not be written down, and all of it goes on by itself when the disk does.
//!
//! The disk is filled by a limit on the size of files, set on the running daemon from outside; every write beyond
//! it fails as on a full disk. It is broken by files in the place of its directories, so that what is done there
//! fails otherwise than by being full. That every single operation of a snapshot may fail, `EIO` included, is
//! tested in `snapshot/src/tests/faults.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use ouzel_serving::RankRequest;
use ouzel_snapshot::SnapshotId;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::until;
use super::world::World;

const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\n\
                        snapshot.every_batches = 5\nsnapshot.keep = 100\norder.max_reorder_delay = \"500ms\"";
const FAILED: &str = "ouzel_snapshot_failed_total";
const COLD: &str = "ouzel_ingest_store_cold_requests";
const STALLED: &str = "ouzel_ops_plan_stalled";
/// Enough for what is written of the plan log between two snapshots, and less than the rows of a snapshot.
const LITTLE: u64 = 4096;

/// No file of the daemon may become larger than this.
fn limit(daemon: &Daemon, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(daemon.id()).unwrap());
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

/// It answers, is ready, and says so of a snapshot that is there.
#[track_caller]
fn serves(daemon: &Daemon) {
    let request = RankRequest {
        user_id: "user-1".to_owned(),
        items: vec!["item-1".to_owned(), "item-2".to_owned()],
        ..RankRequest::default()
    };
    for _ in 0..20 {
        assert_eq!(daemon.client().rank(&request).unwrap().items.len(), 2);
        assert_eq!(daemon.get("/readyz").status, 200);
    }
}

/// Every snapshot is sound; how many there are.
#[track_caller]
fn sound(home: &Home) -> usize {
    let listed = home.store().list().unwrap();
    for snapshot in &listed {
        assert_eq!(snapshot.fault, None, "{}", snapshot.id);
        // One may be being removed or renamed; those that are listed have their names already.
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

/// Waits until learning has paused, and shows that it has.
#[track_caller]
fn pauses(daemon: &Daemon) {
    until("the plan log cannot be written", || {
        (daemon.metric(STALLED, "") > 0.0).then_some(())
    });
    // Its words take a while from its pipe to where they are looked up.
    until("it says so", || daemon.said("the plan log cannot be written"));
    // What was on its way to the learner arrives; then nothing more does.
    let mut before = samples(daemon);
    until("nothing more is learned", || {
        serves(daemon);
        let now = samples(daemon);
        let is_still = now.to_bits() == before.to_bits();
        before = now;
        is_still.then_some(())
    });
}

/// Waits until a snapshot newer than `than` is current, without asking for one.
#[track_caller]
fn saves(home: &Home, than: Option<SnapshotId>) {
    until("a new snapshot is there", || (home.latest() > than).then_some(()));
}

/// The same log, undisturbed, comes to the same.
#[track_caller]
fn is_as_undisturbed(broker: &Broker, home: &Home, settings: &str, n_samples: u64) {
    let mut calm = Home::new(broker, settings);
    let daemon = calm.start();
    daemon.joined(broker.n_records());
    daemon.stop();
    let (found, expected) = (home.manifest().cut, calm.manifest().cut);
    assert_eq!(found.ledger_hash, expected.ledger_hash);
    assert_eq!(found.weights_hash, expected.weights_hash);
    assert_eq!(found.counters, expected.counters);
    assert_eq!(found.sample_seq, n_samples);
}

#[test]
fn a_full_disk_stops_neither_serving_nor_what_comes_after_it() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::make(600, &home.path().join("world"));
    let pieces: Vec<_> = world.events.chunks(world.events.len() / 4 + 1).collect();
    let daemon = home.start();
    broker.feed(pieces[0]);
    daemon.joined(broker.n_records());
    daemon.snapshot();
    let before = home.latest();
    let n_before = sound(&home);

    // No room for a snapshot, but for the plan log: learning goes on.
    limit(&daemon, Some(LITTLE));
    let learned = samples(&daemon);
    broker.feed(pieces[1]);
    until("a snapshot has failed", || {
        (daemon.metric(FAILED, "{reason=\"full\"}") > 0.0).then_some(())
    });
    until("it says so", || daemon.said("snapshot not written"));
    until("learning goes on", || (samples(&daemon) > learned).then_some(()));
    serves(&daemon);
    assert_eq!((home.latest(), sound(&home)), (before, n_before));

    // No room for anything: learning pauses.
    limit(&daemon, Some(0));
    broker.feed(pieces[2]);
    pauses(&daemon);
    assert_eq!((home.latest(), sound(&home)), (before, n_before));

    // Killed and started in this state, it serves what it has; and so it does with room again.
    limit(&daemon, None);
    daemon.joined(broker.n_records());
    saves(&home, before);
    assert_eq!(daemon.metric(STALLED, "").to_bits(), 0f64.to_bits());
    limit(&daemon, Some(0));
    broker.feed(pieces[3]);
    pauses(&daemon);
    daemon.kill();
    sound(&home);

    let n_resumed = home.n_resumed();
    let daemon = home.start();
    serves(&daemon);
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.joined(broker.n_records() - n_resumed);
    daemon.stop();
    sound(&home);
    is_as_undisturbed(&broker, &home, SETTINGS, world.expected.samples());
}

/// A directory that fails: a file stands in its place until this is healed.
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

    fn heal(&self) {
        fs::remove_file(&self.path).unwrap();
        fs::rename(&self.aside, &self.path).unwrap();
    }
}

#[test]
fn directories_that_fail_stop_neither_serving_nor_what_comes_after_them() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::make(400, &home.path().join("world"));
    let pieces: Vec<_> = world.events.chunks(world.events.len() / 3 + 1).collect();
    let daemon = home.start();
    broker.feed(pieces[0]);
    daemon.joined(broker.n_records());
    daemon.snapshot();
    let before = home.latest();
    let n_before = sound(&home);

    let snapshots = Broken::new(&home.state().join("snapshots"));
    broker.feed(pieces[1]);
    until("a snapshot has failed", || {
        (daemon.metric(FAILED, "{reason=\"io\"}") > 0.0).then_some(())
    });
    daemon.joined(broker.n_records());
    serves(&daemon);
    snapshots.heal();
    saves(&home, before);
    assert!(sound(&home) > n_before);

    // It has its file open still; the next one cannot be made.
    let plan = Broken::new(&home.state().join("plan"));
    broker.feed(pieces[2]);
    pauses(&daemon);
    plan.heal();
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.joined(broker.n_records());
    daemon.stop();
    sound(&home);
    is_as_undisturbed(&broker, &home, SETTINGS, world.expected.samples());
}

#[test]
fn a_daemon_told_to_stop_while_the_disk_is_full_stops_and_loses_nothing() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::make(200, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let mut daemon = home.start();
    broker.feed(early);
    daemon.joined(broker.n_records());
    daemon.snapshot();
    limit(&daemon, Some(0));
    broker.feed(late);
    pauses(&daemon);
    daemon.signal("TERM");
    assert_eq!(daemon.ended(), Some(1));
    assert!(daemon.said("task failed while stopping").is_some());

    let n_resumed = home.n_resumed();
    let daemon = home.start();
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.joined(broker.n_records() - n_resumed);
    daemon.stop();
    is_as_undisturbed(&broker, &home, SETTINGS, world.expected.samples());
}

#[test]
fn a_join_store_whose_disk_is_full_goes_on_in_memory() {
    let broker = Broker::embedded(1);
    // Little is learned before windows close, so that it is the store that finds the disk full, not a snapshot.
    let settings = format!("{SETTINGS}\njoin.label_policy = \"eager\"");
    let on_disk = format!(
        "{settings}\njoin.store = \"sled\"\njoin.sled = {{ requests_in_memory = 2, page_cache = \"256B\" }}"
    );
    let mut home = Home::new(&broker, &on_disk);
    let world = World::make(600, &home.path().join("world"));
    let pieces: Vec<_> = world.events.chunks(world.events.len() / 3 + 1).collect();
    let daemon = home.start();
    broker.feed(pieces[0]);
    daemon.joined(broker.n_records());
    assert!(daemon.metric(COLD, "") > 0.0, "some of it is on disk");

    // No room for a file of the store's, but for the plan log.
    limit(&daemon, Some(LITTLE));
    broker.feed(pieces[1]);
    until("the store takes no more", || {
        daemon.said("takes no more: joining in memory")
    });
    daemon.joined(broker.n_records());
    serves(&daemon);
    assert_eq!(daemon.metric(COLD, "").to_bits(), 0f64.to_bits());

    limit(&daemon, None);
    broker.feed(pieces[2]);
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.joined(broker.n_records());
    daemon.stop();
    is_as_undisturbed(&broker, &home, &settings, world.expected.shown);
}
