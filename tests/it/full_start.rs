//! A start on a full disk: the newest snapshot is served, and learning goes on by itself once there is room.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::disk::{check_equals_undisturbed, limit_file_size};
use super::world::World;
use super::{print_figures, wait_until};

const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\nsnapshot.every = \"0s\"\n\
                        snapshot.every_batches = 5\nsnapshot.lease = \"500ms\"";

/// Feeds half a world, stops the daemon, and starts it without room by `start`; `free` makes room for it.
fn check(home: &mut Home, fill: impl Fn(&mut Home) -> Daemon, free: impl Fn(&Daemon)) {
    let broker = Broker::embedded(1);
    home.set(&broker, SETTINGS);
    let world = World::generate(300, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = home.start();
    broker.feed(early);
    daemon.wait_joined(broker.n_records());
    daemon.stop();
    let (latest, n_resumed) = (home.latest(), home.n_resumed());

    let daemon = fill(home);
    daemon.wait_ready();
    daemon.check_serves();
    assert!(daemon.logged("there is no room in the state directory").is_some());
    let why = wait_until("the status says why nothing is learned", || {
        daemon.status().not_learning
    });
    assert!(why.contains("cannot write") && why.contains("lease"), "{why}");
    let ready: Value = serde_json::from_str(&daemon.get("/readyz").body).unwrap();
    assert_eq!(
        (&ready["status"], &ready["not_learning"]),
        (&"ready".into(), &why.into())
    );
    wait_until("the metric says so", || {
        (daemon.metric("ouzel_ops_learning", "").to_bits() == 0f64.to_bits()).then_some(())
    });
    let refused = home.snapshot(&["pin", "latest"]);
    assert!(refused.err.contains("make room"), "{}", refused.err);
    broker.feed(late);
    // A crash in this state changes nothing.
    daemon.kill();
    let daemon = fill(home);
    daemon.wait_ready();
    daemon.check_serves();
    assert_eq!(home.latest(), latest);
    let claims = fs::read_dir(home.state().join("lease")).unwrap();
    let unfinished = claims.filter(|claim| {
        claim
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with('.')
    });
    assert!(unfinished.count() <= 1, "failed claims are removed");

    free(&daemon);
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records() - n_resumed);
    let status = daemon.status();
    assert_eq!((status.role.as_str(), status.not_learning), ("primary", None));
    daemon.stop();
    assert!(home.latest() > latest);
    check_equals_undisturbed(&broker, home, SETTINGS, world.expected.samples());
}

#[test]
fn a_daemon_that_starts_without_room_for_a_file_serves_and_learns_later() {
    check(&mut Home::empty(), Home::start_without_room, |daemon| {
        limit_file_size(daemon, None);
    });
}

/// A small file system in memory, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it; `None` where this process may not.
    fn mount(dir: &Path) -> Option<Self> {
        fs::create_dir_all(dir).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(dir)
            .output();
        mounted
            .is_ok_and(|mounted| mounted.status.success())
            .then(|| Self(dir.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Writes until nothing more fits.
    fn fill(&self) {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.filler())
            .unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _is_unmounted = Command::new("umount").arg("-l").arg(&self.0).status().is_ok();
    }
}

#[test]
fn a_daemon_that_starts_on_a_full_disk_serves_and_learns_later() {
    let mut home = Home::empty();
    let Some(disk) = SmallDisk::mount(&home.state()) else {
        print_figures("SKIPPED: this process may not mount a small file system, so no disk is full");
        return;
    };
    let fill = |home: &mut Home| {
        disk.fill();
        home.start()
    };
    check(&mut home, fill, |_| fs::remove_file(disk.filler()).unwrap());
}
