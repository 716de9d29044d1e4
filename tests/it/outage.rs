//! An unreachable broker: scoring continues, nothing is lost, and the daemon still stops cleanly.

use ouzel_sample::Stream;
use serde_json::json;

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::wait_until;
use super::world::World;

#[test]
fn a_daemon_serves_during_an_outage_of_the_broker_and_learns_after_it() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, "learner.batch_min_samples = 32");
    let world = World::generate(200, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = home.start();
    broker.feed(early);
    daemon.wait_joined(broker.n_records());
    daemon.wait_ready();
    broker.set_reachable(false);
    wait_until("the outage is noticed", || {
        daemon.logged("reading from kafka is interrupted")
    });
    daemon.check_serves();
    daemon.snapshot();
    broker.set_reachable(true);
    broker.feed(late);
    let n_beats = broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records());

    // The broker need not be reachable for a clean stop.
    broker.set_reachable(false);
    daemon.stop();
    let checkpoint = home.manifest().checkpoint;
    assert_eq!(checkpoint.sample_seq, world.expected.samples());
    assert_eq!(checkpoint.counters["click.positive"], world.expected.positives);
    assert_eq!(checkpoint.counters["pending_items"], n_beats);
}

/// Checks that the daemon serves, and that its log cannot be read for this reason.
#[track_caller]
fn check_serves_only(daemon: &Daemon, home: &Home, why: &str) {
    daemon.check_serves();
    let status = daemon.status();
    assert!(
        status
            .not_learning
            .as_ref()
            .is_some_and(|found| found.contains(why)),
        "{status:?}"
    );
    let refused = home.snapshot(&["pin", "latest"]);
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.err.contains(why), "{}", refused.err);
}

#[test]
fn a_daemon_that_starts_during_an_outage_serves_its_snapshot_and_learns_after_it() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, "learner.batch_min_samples = 32");
    let world = World::generate(200, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = home.start();
    broker.feed(early);
    daemon.wait_joined(broker.n_records());
    daemon.stop();
    let n_resumed = home.n_resumed();

    broker.set_reachable(false);
    let daemon = home.start();
    check_serves_only(&daemon, &home, "cannot reach");
    broker.set_reachable(true);
    broker.feed(late);
    broker.heartbeat(world.end_ms + 3_600_000);
    wait_until("the log is read again", || {
        daemon.logged("the log can be read again: learning goes on")
    });
    daemon.wait_joined(broker.n_records() - n_resumed);
    assert_eq!(daemon.status().not_learning, None);
    daemon.stop();
    let checkpoint = home.manifest().checkpoint;
    assert_eq!(checkpoint.sample_seq, world.expected.samples());
    assert_eq!(checkpoint.counters["click.positive"], world.expected.positives);
}

#[test]
fn a_log_that_lost_records_is_read_on_only_after_the_loss_is_accepted() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, "learner.batch_min_samples = 32");
    let world = World::generate(200, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let daemon = home.start();
    broker.feed(early);
    daemon.wait_joined(broker.n_records());
    daemon.stop();
    let before = home.manifest();

    // The embedded broker keeps 5 MiB of a partition: what the daemon would read next is dropped.
    broker.feed(late);
    let pad = "x".repeat(50_000);
    for n in 0..200 {
        let impression = json!({
            "request_id": format!("large-{n}"), "user_id": "nobody", "ts_ms": world.end_ms,
            "items": [{ "item_id": "item-1" }], "pad": pad,
        });
        let payload = impression.to_string();
        broker.send(
            Stream::Impressions,
            "large",
            world.end_ms,
            Some(payload.as_bytes()),
        );
    }
    broker.flush();
    let daemon = home.start();
    check_serves_only(&daemon, &home, "retention passed");
    daemon.stop();
    assert_eq!(home.manifest(), before, "nothing was learned, skipped or reset");

    let daemon = home.start_with(&["--accept-loss"]);
    wait_until("the loss is in the lineage", || {
        (home.manifest().id > before.id).then_some(())
    });
    let after = home.manifest();
    assert_eq!(after.parent, Some(before.id));
    let note = after.note.unwrap();
    assert!(
        note.contains("lost and accepted: impressions[0] offsets"),
        "{note}"
    );
    let lost = daemon.metric("ouzel_ops_lost_records_total", "{stream=\"impressions\"}");
    assert!(lost > 0.0);
    daemon.kill();

    // The loss is accepted once: a start without the flag goes on from there.
    let n_resumed = home.n_resumed();
    let daemon = home.start();
    assert_eq!(daemon.status().not_learning, None);
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records() - n_resumed);
    daemon.stop();
}
