//! Verbs under load: no request fails while snapshots are exchanged, and scores are those of the snapshot's weights.
//!
//! `OUZEL_ROLLBACK_ROWS` sets the number of rows of the tables, 1,000,000 in `make verify-long`. The test prints how long
//! each verb took, its process included, and asserts no time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ouzel_sample::Stream;
use ouzel_serving::{RankRequest, RankResponse};
use serde_json::{Value, json};

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::world::START_MS;
use super::{print_figures, wait_until};

/// Batches by size alone. Intervals that long trip no breaker: this log teaches nothing.
const SETTINGS: &str = "learner.batch_min_samples = 512\nlearner.flush_after_idle = \"0s\"\nsnapshot.every = \"0s\"\n\
                        snapshot.every_batches = 1000000\ngates.interval_samples = 1000000";
/// Items of a slate, each shown once in all: with their user, as many rows and one.
const SLATE: u64 = 20;
/// Requests that are fed before the daemon has to have joined them.
const CHUNK: u64 = 1000;

fn n_rows() -> u64 {
    let set = std::env::var("OUZEL_ROLLBACK_ROWS").ok();
    set.map_or(21_000, |rows| rows.parse().unwrap())
}

/// Feeds requests of new users on new items, a tenth of them with a click.
fn feed(broker: &Broker, daemon: &Daemon, requests: std::ops::Range<u64>) {
    for request in requests.clone() {
        let at = START_MS + i64::try_from(request).unwrap() * 100;
        let id = format!("r{request}");
        let items: Vec<Value> = (0..SLATE)
            .map(|place| json!({ "item_id": format!("item-{}", request * SLATE + place) }))
            .collect();
        let mut event =
            json!({ "request_id": id, "user_id": format!("user-{request}"), "ts_ms": at, "items": items });
        broker.send(Stream::Impressions, &id, at, Some(event.to_string().as_bytes()));
        if request % 10 == 0 {
            event = json!({ "request_id": id, "user_id": event["user_id"], "ts_ms": at + 50, "action": "click",
                            "item_id": event["items"][0]["item_id"] });
            broker.send(Stream::Actions, &id, at + 50, Some(event.to_string().as_bytes()));
        }
        if request % CHUNK == CHUNK - 1 {
            broker.flush();
            let behind = START_MS + i64::try_from(request).unwrap() * 100 - 60_000;
            broker.heartbeat(behind);
            daemon.wait_joined(broker.n_records());
        }
    }
    broker.flush();
    daemon.wait_joined(broker.n_records());
}

/// Ends the clients, also when a check has failed.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn request() -> RankRequest {
    RankRequest {
        user_id: "user-3".to_owned(),
        items: (0..SLATE).map(|i| format!("item-{i}").into()).collect(),
        ..RankRequest::default()
    }
}

/// The items of a reply with the bits of their scores.
fn scores(reply: &RankResponse) -> Vec<(String, u32)> {
    let items = reply.items.iter();
    items
        .map(|item| (item.item_id.clone(), item.score.to_bits()))
        .collect()
}

/// Runs a verb until a reply names `snapshot`. Returns the time that both took.
#[track_caller]
fn timed(home: &Home, daemon: &Daemon, verb: &[&str], snapshot: Option<&str>) -> Duration {
    let started = Instant::now();
    let done = home.snapshot(verb);
    assert_eq!(done.code, Some(0), "{verb:?}: {}", done.err);
    if let Some(snapshot) = snapshot {
        wait_until("a reply names the snapshot", || {
            (daemon.client().rank(&request()).unwrap().snapshot == snapshot).then_some(())
        });
    }
    started.elapsed()
}

#[test]
fn no_request_fails_while_snapshots_are_exchanged() {
    let n_requests = n_rows() / (SLATE + 1) / CHUNK * CHUNK;
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let daemon = home.start();
    feed(&broker, &daemon, 0..n_requests);
    let first = daemon.snapshot().to_string();
    daemon.wait_ready();

    let (is_over, n_ranked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _end = SetAtEnd(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = daemon.client();
                while !is_over.load(Ordering::Relaxed) {
                    let ranked = client.rank(&request()).unwrap();
                    assert_eq!((ranked.items.len() as u64, ranked.model), (SLATE, None));
                    n_ranked.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(5));
                }
            });
        }
        feed(&broker, &daemon, n_requests..n_requests + CHUNK);
        daemon.snapshot();

        let pin = timed(&home, &daemon, &["pin", &first], Some(&first));
        let pinned = daemon.client().rank(&request()).unwrap();
        let unpin = timed(&home, &daemon, &["unpin"], None);
        wait_until("the newest version serves again", || {
            (scores(&daemon.client().rank(&request()).unwrap()) != scores(&pinned)).then_some(())
        });
        let skip = timed(
            &home,
            &daemon,
            &["rollback", &first, "--skip-to", "now"],
            Some(&first),
        );
        // The same weights and the features of the same moment.
        let rolled_back = daemon.client().rank(&request()).unwrap();
        assert_eq!(scores(&rolled_back), scores(&pinned));
        let rewind = timed(&home, &daemon, &["rollback", &first, "--rewind"], None);
        print_figures(&format!(
            "{} rows, {} requests, 0 failed: pin {pin:.1?}, unpin {unpin:.1?}, --skip-to now {skip:.1?}, \
             --rewind {rewind:.1?}",
            n_requests * (SLATE + 1),
            n_ranked.load(Ordering::Relaxed),
        ));
    });
    assert!(n_ranked.load(Ordering::Relaxed) > 10);
    daemon.stop();
}
