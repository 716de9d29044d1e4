//! Freezing and rebasing the base model: crashes around them change no bit.

use std::thread;

use ouzel_snapshot::{Manifest, SnapshotId};
use serde_json::Value;

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::world::World;

/// One HSTU layer with adapters. Snapshots are written on request, at the first batch and at the end. The reordering delay
/// is longer than a busy machine takes to read three topics.
const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\n\
                        snapshot.every = \"0s\"\nsnapshot.every_batches = 1000\nsnapshot.keep = 50\norder.max_reorder_delay = \"500ms\"\n\
                        model = { from = \"hstu\", lora.rank = 2, lora.layers = [\"sequence.layer0.uvqk\"] }";

/// A weight of the base, and one of an adapter.
const BASE: &str = "sequence.token.weight";
const ADAPTER: &str = "sequence.layer0.uvqk.lora_b";

/// A daemon that is killed at certain points, or not.
struct Lineage<'a> {
    broker: &'a Broker,
    home: Home,
    daemon: Option<Daemon>,
    /// Records in the snapshot of the daemon's start.
    n_before: u64,
    is_killed: bool,
}

impl<'a> Lineage<'a> {
    fn new(broker: &'a Broker, is_killed: bool) -> Self {
        let mut home = Home::new(broker, SETTINGS);
        let daemon = Some(home.start());
        Self {
            broker,
            home,
            daemon,
            n_before: 0,
            is_killed,
        }
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    /// Waits until all records are joined.
    fn wait_joined(&self) {
        self.daemon().wait_joined(self.broker.n_records() - self.n_before);
    }

    /// Kills and restarts the daemon if the lineage is one that crashes.
    fn crash(&mut self) {
        if self.is_killed {
            self.daemon.take().unwrap().kill();
            self.n_before = self.home.n_resumed();
            self.daemon = Some(self.home.start());
        }
    }

    /// Runs a command that writes a snapshot. Returns its id.
    #[track_caller]
    fn change(&self, args: &[&str]) -> SnapshotId {
        let done = self.home.snapshot(&[args, &["--json"]].concat()).json();
        assert_eq!(done["done_by"], "the running daemon");
        let id: SnapshotId = done["snapshot"].as_str().unwrap().parse().unwrap();
        assert_eq!(self.home.latest(), Some(id));
        id
    }
}

/// Number of values of a dense weight that differ between two snapshots.
#[track_caller]
fn differing(home: &Home, a: SnapshotId, b: SnapshotId, weight: &str) -> u64 {
    let (a, b) = (a.number().to_string(), b.number().to_string());
    let diff = home.snapshot(&["diff", &a, &b, "--json"]).json();
    let files = diff["files"].as_array().unwrap();
    let dense = files
        .iter()
        .find(|file| file["name"] == "dense.safetensors")
        .unwrap();
    let arrays = dense["arrays"].as_array().unwrap();
    // Equal arrays may be missing from the report.
    let array = arrays.iter().find(|array| array["name"] == weight);
    array.map_or(0, |array| array["n_differing"].as_u64().unwrap())
}

/// Learns, freezes, learns, rebases, learns. Returns the manifests after the freeze, after the rebase and at the end.
fn learned(world: &World, broker: &Broker, is_killed: bool) -> [Manifest; 3] {
    let mut lineage = Lineage::new(broker, is_killed);
    let pieces: Vec<_> = world.events.chunks(world.events.len().div_ceil(3)).collect();
    broker.feed(pieces[0]);
    lineage.wait_joined();
    let before = lineage.daemon().snapshot();
    let refused = lineage.home.snapshot(&["rebase"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused
            .err
            .starts_with("error: the running daemon refused: there is nothing to add"),
        "{}",
        refused.err
    );
    assert_eq!(refused.err.lines().count(), 1, "{}", refused.err);

    let frozen = lineage.change(&["freeze-base", "--note", "warm enough"]);
    let at_freeze = lineage.home.manifest();
    assert_eq!((at_freeze.id, at_freeze.parent), (frozen, Some(before)));
    let note = at_freeze.note.clone().unwrap();
    let expected = format!(
        "base frozen before batch {}: warm enough",
        at_freeze.checkpoint.batch_seq
    );
    assert_eq!(note, expected);
    assert_eq!(differing(&lineage.home, before, frozen, BASE), 0);
    lineage.crash();
    let refused = lineage.home.snapshot(&["freeze-base"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("the base is frozen already"),
        "{}",
        refused.err
    );
    assert!(
        lineage
            .home
            .snapshot(&["show", "latest"])
            .out
            .contains("frozen, ")
    );

    broker.feed(pieces[1]);
    lineage.wait_joined();
    // No snapshot has the last piece, so it is learned again.
    lineage.crash();
    lineage.wait_joined();
    let second = lineage.daemon().snapshot();
    assert_eq!(
        differing(&lineage.home, frozen, second, BASE),
        0,
        "the base is frozen"
    );
    assert!(
        differing(&lineage.home, frozen, second, ADAPTER) > 0,
        "adapters learn"
    );
    assert_eq!(
        lineage.home.manifest().checkpoint.frozen,
        at_freeze.checkpoint.frozen
    );

    lineage.change(&["rebase"]);
    let at_rebase = lineage.home.manifest();
    assert!(
        at_rebase.checkpoint.frozen.is_some() && at_rebase.checkpoint.frozen != at_freeze.checkpoint.frozen
    );
    lineage.crash();
    broker.feed(pieces[2]);
    broker.heartbeat(world.end_ms + 3_600_000);
    lineage.wait_joined();
    lineage.daemon.take().unwrap().stop();
    let audit = std::fs::read_to_string(lineage.home.state().join("audit.log")).unwrap();
    assert!(
        audit.contains("\"freeze_base\"") && audit.contains("\"rebase\""),
        "{audit}"
    );
    let verified = lineage.home.snapshot(&["verify", "--json"]).json();
    assert_eq!(verified["ok"], true, "{verified}");
    [at_freeze, at_rebase, lineage.home.manifest()]
}

#[test]
fn a_crash_around_freezing_and_rebasing_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::generate(300, dir.path());
    // In parallel, because each waits most of the time.
    let [crashed, undisturbed] = thread::scope(|scope| {
        let run = |is_killed| {
            let world = &world;
            scope.spawn(move || learned(world, &Broker::embedded(1), is_killed))
        };
        [run(true), run(false)].map(|lineage| lineage.join().unwrap())
    });
    for (crashed, undisturbed) in crashed.iter().zip(&undisturbed) {
        assert_eq!(crashed.checkpoint.ledger_hash, undisturbed.checkpoint.ledger_hash);
        assert_eq!(crashed.checkpoint.frozen, undisturbed.checkpoint.frozen);
        assert_eq!(
            crashed.checkpoint.weights_hash,
            undisturbed.checkpoint.weights_hash
        );
        assert_eq!(crashed.note, undisturbed.note);
    }
}

#[test]
fn without_a_daemon_a_new_snapshot_descends_from_the_newest() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(200, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = home.start();
    broker.feed(early);
    daemon.wait_joined(broker.n_records());
    daemon.stop();
    let before = home.manifest();

    // Only under the configuration of the snapshot.
    let state = home.state();
    let refused = super::run_here(&["snapshot", "freeze-base", "--state", state.to_str().unwrap()]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("was written under another configuration"),
        "{}",
        refused.err
    );
    assert!(refused.err.contains("\nhint: "), "{}", refused.err);
    let refused = home.snapshot(&["rebase"]);
    assert!(
        refused
            .err
            .starts_with("error: there is nothing to add to the base"),
        "{}",
        refused.err
    );
    assert_eq!(home.latest(), Some(before.id), "a refusal changes nothing");

    let done: Value = home.snapshot(&["freeze-base", "--json"]).json();
    assert_eq!(done["done_by"], "this command");
    let after = home.manifest();
    assert_eq!(done["snapshot"], after.id.to_string());
    assert_eq!(after.parent, Some(before.id));
    assert_eq!(after.checkpoint.positions, before.checkpoint.positions);
    assert_eq!(after.checkpoint.plan_position, before.checkpoint.plan_position);
    assert_eq!(after.checkpoint.ledger_hash, before.checkpoint.ledger_hash);
    assert_ne!(after.checkpoint.weights_hash, before.checkpoint.weights_hash);
    assert!(before.checkpoint.frozen.is_none() && after.checkpoint.frozen.is_some());
    let differ: Vec<&str> = after
        .files
        .iter()
        .filter(|file| before.file(&file.name).map(|old| &old.blake3) != Some(&file.blake3))
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(differ, ["trainer.json"], "no other file has changed");

    let n_resumed = home.n_resumed();
    let daemon = home.start();
    broker.feed(late);
    let n_beats = broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records() - n_resumed);
    daemon.stop();
    let end = home.manifest();
    assert_eq!(end.checkpoint.frozen, after.checkpoint.frozen);
    assert_eq!(differing(&home, before.id, end.id, BASE), 0);
    assert!(differing(&home, before.id, end.id, ADAPTER) > 0);
    assert_eq!(
        end.checkpoint.sample_seq,
        world.expected.samples(),
        "no sample is lost or repeated"
    );
    assert_eq!(end.checkpoint.counters["pending_items"], n_beats);
    assert_eq!(home.snapshot(&["verify"]).code, Some(0));
}

#[test]
fn a_model_without_a_base_has_none_to_freeze() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, "model.from = \"deepfm\"");
    let daemon = home.start();
    let refused = home.snapshot(&["freeze-base"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("no base to freeze"), "{}", refused.err);
    daemon.stop();
}
