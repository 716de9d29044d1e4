//! `ouzel pause`, `resume` and `status`: learning stops and goes on, across restarts, while serving does not stop.

use super::broker::Broker;
use super::daemon::Home;
use super::world::World;
use super::{CommandOutput, run_here, wait_until};

const SETTINGS: &str = "learner.batch_min_samples = 32\nlearner.flush_after_idle = \"0s\"\nsnapshot.every = \"0s\"\n\
                        snapshot.every_batches = 1000";

/// A command on the state of `home`.
fn ouzel(home: &Home, args: &[&str]) -> CommandOutput {
    let config = home.config();
    run_here(&[args, &["--config", config.to_str().unwrap()]].concat())
}

#[test]
fn a_pause_outlives_the_process_and_loses_nothing() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let world = World::generate(300, &home.path().join("world"));
    let (early, late) = world.events.split_at(world.events.len() / 2);
    let none = ouzel(&home, &["status"]);
    assert_eq!(none.code, Some(1), "{}", none.err);

    let daemon = home.start();
    broker.feed(early);
    daemon.wait_joined(broker.n_records());
    assert_eq!(ouzel(&home, &["status"]).code, Some(0));
    let paused = ouzel(&home, &["pause", "--note", "bad feed"]);
    assert_eq!(paused.code, Some(0), "{}", paused.err);
    assert!(paused.out.contains("by the running daemon"), "{}", paused.out);
    let status = daemon.status();
    assert_eq!(status.learning, "paused");
    let before = home.manifest();
    assert_eq!(before.checkpoint.batch_seq, status.batches);

    broker.feed(late);
    let read = || daemon.metric("ouzel_ingest_records_total", "{stream=\"impressions\"}");
    wait_until("the records are read and wait for the learner", || {
        (read() >= 300.0).then_some(())
    });
    daemon.check_serves();
    assert_eq!(daemon.status().batches, status.batches);
    let shown = ouzel(&home, &["status"]);
    assert_eq!(shown.code, Some(3));
    for said in ["learning    paused", "watermark   2023-11-1", "held by     "] {
        assert!(shown.out.contains(said), "{}", shown.out);
    }
    for refused in [
        ouzel(&home, &["pause"]),
        home.snapshot(&["rollback", "0", "--skip-to", "now"]),
    ] {
        assert_eq!(refused.code, Some(1));
        assert!(refused.err.contains("learning is paused"), "{}", refused.err);
        assert!(refused.err.contains("ouzel resume"), "{}", refused.err);
    }
    daemon.kill();

    let n_resumed = home.n_resumed();
    let daemon = home.start();
    daemon.wait_ready();
    daemon.check_serves();
    assert_eq!(daemon.status().learning, "paused");
    assert_eq!(daemon.status().batches, status.batches);
    let resumed = ouzel(&home, &["resume", "--note", "feed is mended"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.err);
    broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records() - n_resumed);
    daemon.stop();
    let checkpoint = home.manifest().checkpoint;
    assert_eq!(checkpoint.sample_seq, world.expected.samples());

    // Without a daemon the same commands are for the next start.
    let refused = ouzel(&home, &["resume"]);
    assert_eq!(refused.code, Some(1));
    let paused = ouzel(&home, &["pause", "--note", "maintenance"]);
    assert!(paused.out.contains("by this command"), "{}", paused.out);
    let daemon = home.start();
    daemon.wait_ready();
    assert_eq!(daemon.status().learning, "paused");
    daemon.stop();
    assert_eq!(ouzel(&home, &["resume"]).code, Some(0));
    let notes: Vec<String> = home
        .store()
        .audit()
        .unwrap()
        .lines
        .into_iter()
        .map(|line| line.note)
        .filter(|note| !note.is_empty())
        .collect();
    assert_eq!(notes, ["bad feed", "feed is mended", "maintenance"]);
}
