//! Shutdown: the first signal drains the daemon, the second ends it immediately.

use std::io::Write;
use std::net::TcpStream;

use super::broker::Broker;
use super::daemon::Home;
use super::wait_until;
use super::world::World;

#[test]
fn a_stop_leaves_all_read_records_in_the_last_snapshot() {
    let broker = Broker::embedded(1);
    // No batch is closed by the clock: some samples are in an open batch, and some windows are open.
    let mut home = Home::new(
        &broker,
        "learner.flush_after_idle = \"0s\"\norder.max_reorder_delay = \"300ms\"",
    );
    let daemon = home.start();
    daemon.stop();
    assert_eq!(
        home.manifest().checkpoint.sample_seq,
        0,
        "an empty state is saved, too"
    );

    let world = World::generate(233, &home.path().join("world"));
    let daemon = home.start();
    broker.feed(&world.events);
    daemon.wait_joined(broker.n_records());
    let n_pending = daemon.status().pending;
    daemon.stop();
    let checkpoint = home.manifest().checkpoint;
    let n_read: i64 = checkpoint.positions.values().sum();
    assert_eq!(n_read.unsigned_abs(), broker.n_records());
    assert_eq!(checkpoint.counters["pending_items"], n_pending);
    assert!(n_pending > 0);

    // The open batch and the open windows continue after a restart.
    let mut daemon = home.start();
    let status = daemon.status();
    assert_eq!(status.batches, checkpoint.batch_seq);
    let n_open = checkpoint.sample_seq - status.samples;
    assert!(
        status.samples > 0 && n_open > 0,
        "the open batch is in the snapshot: {n_open} of {}",
        checkpoint.sample_seq
    );
    let n_beats = broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(2 * n_beats);
    daemon.signal("INT");
    assert_eq!(daemon.wait_exit(), Some(0));
    assert!(!home.state().join("admin.sock").exists());
    let checkpoint = home.manifest().checkpoint;
    assert_eq!(checkpoint.sample_seq, world.expected.samples());
    assert_eq!(checkpoint.counters["click.positive"], world.expected.positives);
}

#[test]
fn a_second_signal_ends_the_daemon_at_once() {
    let broker = Broker::embedded(1);
    // Longer than the time limit of this test: only the second signal ends the daemon in time.
    let settings = "serving.body_timeout = \"1h\"\nserving.shutdown_grace = \"1h\"";
    for (second, code) in [("TERM", 143), ("INT", 130)] {
        let mut home = Home::new(&broker, settings);
        let mut daemon = home.start();
        // A request in flight, which the drain waits for.
        let mut request = TcpStream::connect(daemon.address).unwrap();
        request
            .write_all(b"POST /v1/rank HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{")
            .unwrap();
        assert_eq!(
            daemon.get("/healthz").status,
            200,
            "the first request is being read"
        );
        daemon.signal("TERM");
        wait_until("the daemon drains", || daemon.logged("stopping"));
        wait_until("the state is written", || home.latest());
        daemon.signal(second);
        assert_eq!(daemon.wait_exit(), Some(code));
        drop(request);
    }
}
