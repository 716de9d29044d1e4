//! A test with its own broker, which gains partitions and is stopped while the daemon serves.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::broker::{Broker, skipped};
use super::crash::{SETTINGS, check_totals, time_after_all_windows};
use super::daemon::Home;
use super::wait_until;
use super::world::World;

/// How long the broker is stopped.
const OUTAGE: Duration = Duration::from_secs(10);
/// How far event time advances before a new partition is seen: a little less than the allowed lateness.
const SOON_MS: i64 = 50_000;

/// A broker that this test may stop.
pub(crate) struct OwnBroker {
    dir: TempDir,
    pub(crate) address: String,
}

impl OwnBroker {
    /// Starts a broker with the jars that `kafka.py run` has fetched.
    pub(crate) fn start(test: &str) -> Option<Self> {
        let mut own = Self::unstarted(test)?;
        own.address = own.kafka(&["start"]);
        Some(own)
    }

    /// Starts a broker that also has a TLS listener, whose address is returned.
    pub(crate) fn start_secure(test: &str) -> Option<(Self, String)> {
        let mut own = Self::unstarted(test)?;
        let addresses = own.kafka(&["start", "secure"]);
        let (plain, secure) = addresses.split_once(' ').expect("two addresses");
        own.address = plain.to_owned();
        Some((own, secure.to_owned()))
    }

    /// The certificate of the TLS listener.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.path().join("tls/broker.pem")
    }

    fn unstarted(test: &str) -> Option<Self> {
        if std::env::var_os("OUZEL_KAFKA_JARS").is_none() {
            skipped(
                test,
                "run it by `ops/setup/kafka.py run -- cargo test`, which names the jars of the broker",
            );
            return None;
        }
        Some(Self {
            dir: tempfile::tempdir().unwrap(),
            address: String::new(),
        })
    }

    /// Runs `kafka.py` on this broker. Returns its output.
    #[track_caller]
    pub(crate) fn kafka(&self, args: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/setup/kafka.py");
        let mut command = Command::new("python3");
        command
            .arg(script)
            .args(args)
            .env("OUZEL_KAFKA_DIR", self.dir.path());
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kafka.py {args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        self.kafka(&["stop"]);
    }
}

#[test]
fn a_broker_that_gains_partitions_and_is_stopped_leaves_the_totals_exact() {
    let Some(own) = OwnBroker::start("own_broker") else {
        return;
    };
    let broker = Broker::at(own.address.clone(), "own", 2);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(600, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = home.start();
    broker.feed(early);
    daemon.wait_joined(broker.n_records());
    daemon.wait_ready();

    // Two more partitions, which the producer writes to before the daemon has found them.
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
    let broker = broker.with_partitions(4);
    let soon = late.partition_point(|event| event.ts_ms < late[0].ts_ms + SOON_MS);
    let (soon, late) = late.split_at(soon);
    broker.feed(soon);
    daemon.wait_joined(broker.n_records());
    wait_until("the new partitions are read", || {
        daemon.logged("the log has gained a partition")
    });

    // The plan log has the new partitions, so a restart knows them.
    let (middle, late) = late.split_at(late.len() / 2);
    broker.feed(middle);
    wait_until("later records are joined", || {
        (daemon.status().events > early.len() as u64).then_some(())
    });
    daemon.kill();
    let n_resumed = home.n_resumed();
    let daemon = home.start();
    daemon.wait_joined(broker.n_records() - n_resumed);

    own.kafka(&["stop"]);
    let stopped = Instant::now();
    let mut n_served = 0;
    while stopped.elapsed() < OUTAGE {
        daemon.check_serves();
        n_served += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(n_served > 10);
    wait_until("the outage was noticed", || {
        daemon.logged("reading from kafka is interrupted")
    });
    daemon.snapshot();
    assert_eq!(own.kafka(&["start", "again"]), own.address);
    broker.feed(late);
    let n_beats = broker.heartbeat(time_after_all_windows(&world));
    daemon.wait_joined(broker.n_records() - n_resumed);
    daemon.check_serves();
    daemon.stop();
    let manifest = home.manifest();
    check_totals(&world, n_beats, &manifest);
    for partition in ["impressions[2]", "impressions[3]", "actions[2]", "actions[3]"] {
        assert!(manifest.checkpoint.positions[partition] > 0, "{partition}");
    }
}
