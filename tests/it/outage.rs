//! A broker that is away for a while: scoring goes on, nothing is lost, and a stop is still a clean one.

use ouzel_serving::RankRequest;

use super::broker::Broker;
use super::daemon::Home;
use super::until;
use super::world::World;

#[test]
fn an_outage_of_the_broker_is_waited_out_and_served_through() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, "learner.batch_min_samples = 32");
    let world = World::make(200, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let request = RankRequest {
        user_id: "user-1".to_owned(),
        items: vec!["item-1".to_owned(), "item-2".to_owned()],
        ..RankRequest::default()
    };
    let daemon = home.start();
    broker.feed(early);
    daemon.joined(broker.n_records());
    daemon.ready();
    broker.set_reachable(false);
    until("the outage is noticed", || {
        daemon.said("reading from kafka is interrupted")
    });
    assert_eq!(daemon.rank(&request).items.len(), 2);
    assert_eq!(daemon.get("/readyz").status, 200);
    daemon.snapshot();
    broker.set_reachable(true);
    broker.feed(late);
    let n_beats = broker.heartbeat(world.end_ms + 3_600_000);
    daemon.joined(broker.n_records());

    // Nobody is there to take leave of.
    broker.set_reachable(false);
    daemon.stop();
    let cut = home.manifest().cut;
    assert_eq!(cut.sample_seq, world.expected.samples());
    assert_eq!(cut.counters["click.positive"], world.expected.positives);
    assert_eq!(cut.counters["pending_items"], n_beats);
}
