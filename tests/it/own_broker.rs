//! What is done to a broker: Apache Kafka gains partitions and is stopped for ten seconds, under a daemon that
//! serves all the while. A broker of this test's own, since others would not expect that of theirs.

use std::process::Command;
use std::time::{Duration, Instant};

use ouzel_serving::RankRequest;
use ouzel_snapshot::Manifest;
use tempfile::TempDir;

use super::broker::{Broker, skipped};
use super::crash::{SETTINGS, check_totals, long_after};
use super::daemon::{Daemon, Home};
use super::until;
use super::world::World;

/// How long it stands still.
const OUTAGE: Duration = Duration::from_secs(10);
/// By how much event time may go on before a new partition is seen: the lateness that is allowed, and a little less.
const SOON_MS: i64 = 50_000;

/// A broker that this test may stop.
pub(crate) struct Own {
    dir: TempDir,
    pub(crate) address: String,
}

impl Own {
    /// Starts one with the jars that `kafka.py run` has fetched.
    pub(crate) fn start(test: &str) -> Option<Self> {
        if std::env::var_os("OUZEL_KAFKA_JARS").is_none() {
            skipped(
                test,
                "run it by `ops/setup/kafka.py run -- cargo test`, which knows where a broker's jars are",
            );
            return None;
        }
        let mut own = Self {
            dir: tempfile::tempdir().unwrap(),
            address: String::new(),
        };
        own.address = own.kafka(&["start"]);
        Some(own)
    }

    /// Runs `kafka.py` on it and returns what that prints.
    #[track_caller]
    pub(crate) fn kafka(&self, args: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/setup/kafka.py");
        let mut command = Command::new("python3");
        command
            .arg(script)
            .args(args)
            .env("OUZEL_KAFKA_DIR", self.dir.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kafka.py {args:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.kafka(&["stop"]);
    }
}

/// Ranks, which must work whatever the broker does.
#[track_caller]
fn serves(daemon: &Daemon) {
    let request = RankRequest {
        user_id: "user-1".to_owned(),
        items: vec!["item-1".to_owned(), "item-2".to_owned()],
        ..RankRequest::default()
    };
    assert_eq!(daemon.client().rank(&request).unwrap().items.len(), 2);
    assert_eq!(daemon.get("/readyz").status, 200);
}

#[track_caller]
fn is_read_to(manifest: &Manifest, partition: &str) -> i64 {
    *manifest.cut.positions.get(partition).unwrap_or(&0)
}

#[test]
fn a_broker_that_gains_partitions_and_is_stopped_leaves_the_totals_exact() {
    let Some(own) = Own::start("own_broker") else {
        return;
    };
    let broker = Broker::at(own.address.clone(), "own", 2);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::make(600, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = home.start();
    broker.feed(early);
    daemon.joined(broker.n_records());
    daemon.ready();

    // Two more partitions, which producers write to before the daemon knows.
    let both = format!("({}|{})", broker.topics.impressions, broker.topics.actions);
    own.kafka(&[
        "tool",
        "TopicCommand",
        "--alter",
        "--topic",
        &both,
        "--partitions",
        "4",
    ]);
    let broker = broker.grown(4);
    let soon = late.partition_point(|event| event.ts_ms < late[0].ts_ms + SOON_MS);
    let (soon, late) = late.split_at(soon);
    broker.feed(soon);
    daemon.joined(broker.n_records());
    until("the new partitions are read", || {
        daemon.said("the log has gained a partition")
    });

    // Known to the plan log, and to whoever goes on with it.
    let (middle, late) = late.split_at(late.len() / 2);
    broker.feed(middle);
    until("it works on what came since", || {
        (daemon.status().events > early.len() as u64).then_some(())
    });
    daemon.kill();
    let n_resumed = home.n_resumed();
    let daemon = home.start();
    daemon.joined(broker.n_records() - n_resumed);

    own.kafka(&["stop"]);
    let stopped = Instant::now();
    let mut n_served = 0;
    while stopped.elapsed() < OUTAGE {
        serves(&daemon);
        n_served += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(n_served > 10);
    until("the outage was noticed", || {
        daemon.said("reading from kafka is interrupted")
    });
    daemon.snapshot();
    assert_eq!(own.kafka(&["start", "again"]), own.address);
    broker.feed(late);
    let n_beats = broker.heartbeat(long_after(&world));
    daemon.joined(broker.n_records() - n_resumed);
    serves(&daemon);
    daemon.stop();
    let manifest = home.manifest();
    check_totals(&world, n_beats, &manifest);
    for partition in ["impressions[2]", "impressions[3]", "actions[2]", "actions[3]"] {
        assert!(is_read_to(&manifest, partition) > 0, "{partition}");
    }
}
