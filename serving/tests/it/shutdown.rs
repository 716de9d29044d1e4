//! Shutdown: requests in flight are answered, new ones are refused, and the workers stop.

use ouzel_sample::settings::Period;
use ouzel_serving::ServingConfig;
use ouzel_serving::client::RankClient;

use crate::server::{Server, eventually, request, thread};

#[test]
fn a_request_in_flight_at_shutdown_is_answered() {
    let config = ServingConfig {
        deadline: Period::from_secs(60),
        shutdown_grace: Period::from_secs(60),
        ..ServingConfig::default()
    };
    let (mut server, entered, open) = Server::start_gated(config);
    let mut idle = server.client();
    idle.get("/healthz").unwrap();
    let mut client = server.client();
    let in_flight = thread(move || assert_eq!(client.rank(&request(&["a"])).unwrap().snapshot, "gated"));
    entered.recv().unwrap();

    server.begin_stop();
    eventually("no connection is accepted any more", || {
        RankClient::connect(server.address).is_err()
    });
    assert!(
        idle.get("/healthz").is_err(),
        "an idle connection is closed at once"
    );

    open.send(()).unwrap();
    in_flight.join().unwrap();
    let queue = std::sync::Arc::clone(&server.queue);
    server.join();
    assert!(queue.is_closed());
    assert_eq!(queue.n_workers(), 0);
}

#[test]
fn shutdown_waits_no_longer_than_its_grace_for_a_stuck_request() {
    let config = ServingConfig {
        deadline: Period::from_secs(60),
        shutdown_grace: Period::from_ms(20),
        ..ServingConfig::default()
    };
    let (mut server, entered, open) = Server::start_gated(config);
    let mut client = server.client();
    let aborted = thread(move || assert!(client.rank(&request(&["a"])).is_err()));
    entered.recv().unwrap();
    server.begin_stop();
    aborted.join().unwrap();
    drop(open);
    server.join();
}
