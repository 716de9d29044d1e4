//! The previous version answers again when the model that learns became worse, though no other gate sees anything.

use ouzel::config::Config;
use ouzel_ingest::DataEvent;
use ouzel_sample::{IdKind, Stream, UserShare};
use serde_json::{Value, json};

use super::broker::Broker;
use super::daemon::{Daemon, Home, rank_request};
use super::wait_until;
use super::world::World;

/// The gates that compare versions and data with those before are as wide as they go, so that the previous version decides.
const SETTINGS: &str = "snapshot.every_batches = 1000\nsnapshot.every = \"0s\"\nlearner.flush_after_idle = \"0s\"\n\
                        order.max_reorder_delay = \"3s\"\n\
                        gates = { interval_samples = 512, warm_up_intervals = 5, max_deviations = 100.0, slices = false, \
                        max_growth = 1000.0, min_rank_correlation = -1.0, max_level_change = 100.0, \
                        max_stability_index = 100.0, min_top_overlap = 0.0, max_loss_increase = 0.1 }";

/// Users whose items the previous version scores too, and that nothing poisons.
const N_HONEST: usize = 40;

/// Names of users of the share that the previous version scores, or of others.
fn users(are_compared: bool, n: usize) -> Vec<String> {
    let (ids, share): (_, UserShare) = (Config::default().id_space(), "5%".parse().unwrap());
    let names = (0..).map(|i| format!("person-{i}"));
    names
        .filter(|name| share.contains(ids.id(IdKind::User, name)) == are_compared)
        .take(n)
        .collect()
}

/// The number of a request of the world.
fn number(event: &Value) -> usize {
    let id = event["request_id"].as_str().unwrap();
    id.trim_start_matches(|c: char| !c.is_ascii_digit())
        .split('-')
        .next()
        .and_then(|digits| digits.parse().ok())
        .unwrap()
}

/// Gives every third request to an honest user and the others to bots, which from request `poisoned_from` on click every
/// item that hardly anyone else clicks.
fn events(world: &World, poisoned_from: usize) -> Vec<DataEvent> {
    let (honest, bots) = (users(true, N_HONEST), users(false, N_HONEST));
    let user_of = |request: usize| match request.is_multiple_of(3) {
        true => &honest[request / 3 % N_HONEST],
        false => &bots[request % N_HONEST],
    };
    let is_poisoned = |request: usize| request >= poisoned_from && !request.is_multiple_of(3);
    let mut events = Vec::new();
    for event in &world.events {
        let mut payload: Value = serde_json::from_slice(&event.payload).unwrap();
        if event.stream == Stream::Items {
            events.push(event.clone());
            continue;
        }
        let request = number(&payload);
        if event.stream == Stream::Actions && is_poisoned(request) {
            continue;
        }
        payload["user_id"] = json!(user_of(request));
        events.push(DataEvent {
            payload: payload.to_string().into_bytes(),
            ..event.clone()
        });
        if event.stream == Stream::Actions || !is_poisoned(request) {
            continue;
        }
        for item in payload["items"].as_array().unwrap() {
            let item = item.as_str().or_else(|| item["item_id"].as_str()).unwrap();
            if is_liked(item) {
                continue;
            }
            let ts_ms = event.ts_ms + 1000;
            let click = json!({ "request_id": payload["request_id"], "user_id": user_of(request), "item_id": item,
                                "ts_ms": ts_ms, "action": "click" });
            events.push(DataEvent {
                stream: Stream::Actions,
                ts_ms,
                payload: click.to_string().into_bytes(),
                ..event.clone()
            });
        }
    }
    events.sort_by_key(|event| event.ts_ms);
    events
}

/// Whether honest users click an item often: every fifth one.
fn is_liked(item: &str) -> bool {
    item.trim_start_matches("item-")
        .parse::<usize>()
        .unwrap()
        .is_multiple_of(5)
}

/// How much higher the liked items of the first ten score than the others, in the mean over honest users.
fn margin(daemon: &Daemon) -> f64 {
    let people = users(true, N_HONEST);
    let margins = people.iter().map(|user| {
        let ranked = daemon.rank(&rank_request(user, 10)).items;
        let mean = |liked: bool| {
            let scores = ranked.iter().filter(|item| is_liked(&item.item_id) == liked);
            let scores: Vec<f64> = scores.map(|item| f64::from(item.score)).collect();
            scores.iter().sum::<f64>() / scores.len() as f64
        };
        mean(true) - mean(false)
    });
    margins.sum::<f64>() / people.len() as f64
}

#[test]
fn a_model_that_became_worse_for_some_users_gives_way_to_the_version_before() {
    let broker = Broker::embedded(1);
    let dir = tempfile::tempdir().unwrap();
    let world = World::generate(3000, dir.path());
    let poisoned_from = 1800;
    let events = events(&world, poisoned_from);
    let first_poison_ms = super::world::START_MS + i64::try_from(poisoned_from).unwrap() * 10_000;
    let (clean, poisoned): (Vec<_>, Vec<_>) = events
        .into_iter()
        .partition(|event| event.ts_ms < first_poison_ms);
    let mut home = Home::new(&broker, SETTINGS);
    let daemon = home.start();
    broker.feed(&clean);
    daemon.wait_joined(broker.n_records());
    // Until all of it is learned, in batches that only samples close.
    let mut n_learned = 0;
    wait_until("the clean events are learned", || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let before = std::mem::replace(&mut n_learned, daemon.status().samples);
        (n_learned > 0 && n_learned == before).then_some(())
    });
    let before = daemon.snapshot();
    let status = daemon.status();
    assert_eq!(
        (status.learning.as_str(), status.gates.swaps_back),
        ("running", 0)
    );
    assert_eq!(status.gates.last_breach, None);
    wait_until("a version that learned from the clean events serves", || {
        (margin(&daemon) > 0.05).then_some(())
    });

    broker.feed(&poisoned);
    let why = wait_until("the model gives way", || daemon.status().stopped_because);
    assert!(why.contains("previous_version"), "{why}");
    let status = daemon.status();
    assert_eq!(
        (status.learning.as_str(), status.gates.swaps_back),
        ("stopped", 1)
    );
    assert_eq!(status.gates.held.as_deref(), Some(why.as_str()));
    assert!((daemon.metric("ouzel_ops_gate_swaps_back_total", "") - 1.0).abs() < 0.5);
    // What answers still knows what honest users like, though the bots' clicks are in the counters that it reads.
    let after = margin(&daemon);
    assert!(after > 0.05, "{after}");
    let served = daemon.rank(&rank_request("person-0", 2)).snapshot;
    assert!(
        served <= before.to_string(),
        "{served} was made after the clean events"
    );
    assert_eq!(
        home.latest(),
        Some(before),
        "nothing that was learned since is a snapshot"
    );

    // The operator takes it as normal: learning goes on, and no version is held.
    daemon.resume();
    wait_until("the rest is learned", || {
        let status = daemon.status();
        (status.samples > n_learned + 4000 && status.learning == "running").then_some(())
    });
    assert_eq!(daemon.status().gates.held, None);
    daemon.stop();
}
