//! An unreachable broker: scoring continues, nothing is lost, and the daemon still stops cleanly.

use super::broker::Broker;
use super::daemon::Home;
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
