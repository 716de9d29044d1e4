//! Crashes: every shown item has exactly one outcome, and the restarted daemon serves the same snapshot within seconds.

use std::time::{Duration, Instant};

use ouzel_snapshot::Manifest;

use ouzel_serving::ScoredBy;

use super::broker::Broker;
use super::daemon::{Home, rank_request};
use super::world::{SLATE, World};
use super::{run, wait_until};

/// Small batches and many snapshots. The clock closes no batch, so two runs have the same batches. Records wait longer
/// than a busy machine takes to read three topics.
pub(crate) const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\n\
                        snapshot.every = \"0s\"\nsnapshot.every_batches = 5\nsnapshot.keep = 4\nsnapshot.keep_hourly = 0\nsnapshot.keep_daily = 0\norder.max_reorder_delay = \"500ms\"";

/// Longest time from the start of the process to the first answer.
const MAX_STARTUP: Duration = Duration::from_secs(3);

/// Event time at which every window of the world is closed.
pub(crate) fn time_after_all_windows(world: &World) -> i64 {
    world.end_ms + 3_600_000
}

/// Checks that the snapshot counts every event of the world once.
#[track_caller]
pub(crate) fn check_totals(world: &World, n_beats: u64, manifest: &Manifest) {
    let expected = world.expected;
    let counter = |name: &str| {
        let count = manifest.checkpoint.counters.get(name).copied();
        count.unwrap_or_else(|| panic!("no counter {name} in {:?}", manifest.checkpoint.counters))
    };
    for (name, value) in [
        ("impressions", expected.requests + n_beats),
        ("accepted", expected.requests + n_beats),
        ("items", expected.shown + n_beats),
        ("click.positive", expected.positives),
        ("click.negative", expected.shown - expected.positives),
        ("click.late", 0),
        ("click.pending", n_beats),
        ("pending_items", n_beats),
        ("duplicate_items", 0),
        ("actions", expected.actions + n_beats),
        ("matched", expected.positives),
        ("duplicate_actions", expected.duplicates),
        ("late_actions", expected.late),
        ("orphans", expected.orphans),
        ("waiting", n_beats),
        ("rejected_impressions", 0),
        ("rejected_actions", 0),
        ("closed_early", 0),
    ] {
        assert_eq!(counter(name), value, "{name}");
    }
    assert_eq!(manifest.checkpoint.sample_seq, expected.samples());
}

/// Writes half of the events, kills twice, writes the rest, stops. Compares the result with a run without crashes.
fn check_crashes(broker: &Broker) {
    let dir = tempfile::tempdir().unwrap();
    let world = World::generate(600, dir.path());
    let (first, rest) = world.events.split_at(world.events.len() / 2);
    let (pieces, last) = first.split_at(first.len() * 3 / 4);
    let pieces = pieces.chunks(first.len() / 4);
    let mut home = Home::new(broker, SETTINGS);

    let daemon = home.start();
    let mut client = daemon.client();
    assert_eq!(daemon.get("/healthz").status, 200);
    assert!(
        daemon.get("/readyz").body.contains("fallback"),
        "nothing is learned yet"
    );
    let ranked = client.rank(&rank_request("user-1", 20)).unwrap();
    assert_eq!((ranked.model, ranked.items.len()), (Some(ScoredBy::Fallback), 20));
    for piece in pieces {
        broker.feed(piece);
        daemon.wait_joined(broker.n_records());
    }
    let ranked = daemon.rank(&rank_request("user-1", 20));
    assert_eq!(ranked.items.len(), 20);
    assert!(ranked.items.windows(2).all(|pair| pair[0].score >= pair[1].score));
    let n_joined = daemon.status().events;
    broker.feed(last);
    wait_until("the daemon joins the last piece", || {
        (daemon.status().events > n_joined).then_some(())
    });
    daemon.kill();

    let n_resumed = home.n_resumed();
    let daemon = home.start();
    daemon.wait_joined(broker.n_records() - n_resumed);
    assert!(daemon.metric("ouzel_learner_samples_total", "") > 0.0);
    wait_until("metrics by bucket are updated", || {
        let n_samples = ["new", "warm", "hot"].map(|bucket| {
            let labels = format!("{{side=\"item\",bucket=\"{bucket}\"}}");
            daemon.metric("ouzel_learner_bucket_judged", &labels)
        });
        (n_samples.iter().sum::<f64>() > 0.0).then_some(())
    });
    let latest = daemon.snapshot();
    daemon.kill();

    // The last snapshot contains all records, and gives the first answer.
    assert_eq!(home.latest(), Some(latest));
    let n_resumed = home.n_resumed();
    let started = Instant::now();
    let daemon = home.start();
    let ranked = daemon.rank(&rank_request("user-1", 20));
    let took = started.elapsed();
    assert!(took <= MAX_STARTUP, "the first answer came after {took:?}");
    assert_eq!(ranked.snapshot, latest.to_string());
    broker.feed(rest);
    let n_beats = broker.heartbeat(time_after_all_windows(&world));
    daemon.wait_joined(broker.n_records() - n_resumed);
    daemon.stop();

    let crashed = home.manifest();
    check_totals(&world, n_beats, &crashed);
    assert!(
        crashed.id.number() >= 4,
        "several snapshots were written: {}",
        crashed.id
    );

    let mut home = Home::new(broker, SETTINGS);
    let undisturbed = home.run_to_end(broker.n_records());
    check_totals(&world, n_beats, &undisturbed);
    assert_eq!(crashed.checkpoint.counters, undisturbed.checkpoint.counters);
    assert_eq!(crashed.checkpoint.positions, undisturbed.checkpoint.positions);
    if broker.n_partitions == 1 {
        // With one partition per stream there is only one order, so samples, batches and bits are equal.
        assert_eq!(crashed.checkpoint.ledger_hash, undisturbed.checkpoint.ledger_hash);
        assert_eq!(crashed.checkpoint.batch_seq, undisturbed.checkpoint.batch_seq);
        assert_eq!(
            crashed.checkpoint.weights_hash,
            undisturbed.checkpoint.weights_hash
        );
    }

    // A replay of the same topics also closes the windows of the heartbeats.
    let config = home.config();
    let replayed = run([
        "replay",
        "--from",
        "start",
        "--json",
        "--config",
        config.to_str().unwrap(),
    ])
    .json();
    let join = &replayed["runs"][0]["join"];
    assert_eq!(join["positives"], world.expected.positives);
    assert_eq!(
        join["negatives"],
        world.expected.shown - world.expected.positives + n_beats
    );
    assert_eq!(replayed["runs"][0]["judged"], world.expected.shown + n_beats);
    assert_eq!(world.expected.shown, world.expected.requests * SLATE as u64);
}

#[test]
fn a_crash_changes_no_sample_on_the_embedded_broker() {
    check_crashes(&Broker::embedded(1));
}

#[test]
fn a_crash_changes_no_sample_on_a_real_broker() {
    if let Some(broker) = Broker::real("crash", 2) {
        check_crashes(&broker);
    }
}
