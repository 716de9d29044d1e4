//! Gates on a real daemon: poisoned data stops learning, at the same batch after a crash too, while serving goes on.

use ouzel_ingest::DataEvent;
use ouzel_sample::Stream;
use serde_json::{Value, json};

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::wait_until;
use super::world::World;

/// A record waits for those of other partitions that are under way, so that what the crash took from the plan log is read
/// in the same order again.
const SETTINGS: &str = "snapshot.every_batches = 40\nlearner.flush_after_idle = \"0s\"\norder.max_reorder_delay = \"3s\"\n\
                        gates.interval_samples = 256\ngates.warm_up_intervals = 8\n";

/// The same events with a click on every item that is shown.
fn clicked_by_a_bot(events: &[DataEvent]) -> Vec<DataEvent> {
    let mut poisoned = Vec::new();
    for event in events {
        poisoned.push(event.clone());
        if event.stream != Stream::Impressions {
            continue;
        }
        let impression: Value = serde_json::from_slice(&event.payload).unwrap();
        let items = impression["items"].as_array().unwrap();
        for item in items {
            let item = item.as_str().map_or_else(|| item["item_id"].clone(), Value::from);
            let ts_ms = event.ts_ms + 1000;
            let click = json!({ "request_id": impression["request_id"], "user_id": impression["user_id"],
                                "item_id": item, "ts_ms": ts_ms, "action": "click" });
            poisoned.push(DataEvent {
                stream: Stream::Actions,
                ts_ms,
                payload: click.to_string().into_bytes(),
                ..event.clone()
            });
        }
    }
    poisoned.sort_by_key(|event| event.ts_ms);
    poisoned
}

/// Waits until a gate stops learning. Returns the number of batches learned by then.
#[track_caller]
fn wait_stopped(daemon: &Daemon) -> u64 {
    wait_until("a gate stops learning", || {
        let status = daemon.status();
        (status.learning == "stopped").then_some(status.batches)
    })
}

#[test]
fn poisoned_data_stops_learning_at_the_same_batch_after_a_crash_and_serving_goes_on() {
    let broker = Broker::embedded(1);
    let dir = tempfile::tempdir().unwrap();
    let world = World::generate(1500, dir.path());
    let (clean, rest) = world.events.split_at(world.events.len() * 3 / 5);
    let mut home = Home::new(&broker, SETTINGS);
    let daemon = home.start();
    broker.feed(clean);
    daemon.wait_joined(broker.n_records());
    daemon.snapshot();
    assert_eq!(daemon.status().learning, "running");
    assert!(daemon.status().gates.last_breach.is_none());

    broker.feed(&clicked_by_a_bot(rest));
    let n_batches = wait_stopped(&daemon);
    daemon.check_serves();
    let status: Value = serde_json::from_str(&daemon.get("/v1/status").body).unwrap();
    assert_eq!(status["learning"], "stopped");
    let why = status["stopped_because"].as_str().unwrap();
    assert!(why.starts_with("the data is not as before"), "{why}");
    assert_eq!(status["gates"]["held"], why);
    let newest = home.latest();
    daemon.kill();

    let mut daemon = home.start();
    assert_eq!(
        wait_stopped(&daemon),
        n_batches,
        "it stops where it stopped before"
    );
    assert_eq!(
        home.latest(),
        newest,
        "nothing learned from then on is a snapshot"
    );
    daemon.check_serves();
    assert!(daemon.metric("ouzel_ops_learning", "").abs() < 0.5);
    // A shutdown does not wait for data that is not learned.
    daemon.signal("TERM");
    assert_eq!(daemon.wait_exit(), Some(0));

    let n_resumed = home.n_resumed();
    let daemon = home.start();
    assert_eq!(wait_stopped(&daemon), n_batches);
    daemon.resume();
    wait_until("learning goes on", || {
        (daemon.status().batches > n_batches).then_some(())
    });
    daemon.wait_joined(broker.n_records() - n_resumed);
    assert_eq!(daemon.status().learning, "running");
    daemon.check_serves();
    daemon.stop();
}
