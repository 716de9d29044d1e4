//! `POST /v1/events`: events reach the topics, or the caller learns why they did not.

use std::net::SocketAddr;

use ouzel_serving::RankRequest;
use ouzel_serving::client::{RankClient, Reply};
use serde_json::{Value, json};

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::wait_until;
use super::world::START_MS;

const SETTINGS: &str = "learner.batch_min_samples = 1\nlearner.flush_after_idle = \"50ms\"\n\
     serving.events_listen = \"127.0.0.1:0\"\nserving.events_timeout = \"4s\"";

fn post(address: SocketAddr, body: &Value) -> Reply {
    let mut client = RankClient::connect(address).unwrap();
    client.post("/v1/events", &body.to_string()).unwrap()
}

fn json_of(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap_or_else(|error| panic!("{error}: {}", reply.body))
}

fn shown(request: &str, items: &[&str]) -> Value {
    let items: Vec<Value> = items.iter().map(|item| json!({ "item_id": item })).collect();
    json!({ "stream": "impressions", "event": {
        "request_id": request, "user_id": "u", "ts_ms": START_MS, "items": items } })
}

fn acted(request: &str, item: &str) -> Value {
    json!({ "stream": "actions", "event": {
        "request_id": request, "item_id": item, "user_id": "u", "ts_ms": START_MS + 1000, "action": "click" } })
}

fn metric(daemon: &Daemon, name: &str, labels: &str) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small count"
    )]
    let value = daemon.metric(name, labels) as u64;
    value
}

#[test]
fn posted_events_are_learned_and_a_call_with_a_bad_one_writes_nothing() {
    let broker = Broker::embedded(2);
    let mut home = Home::new(&broker, SETTINGS);
    let daemon = home.start();
    let item = json!({ "stream": "items", "event": {
        "item_id": "a", "ts_ms": START_MS, "title": "A", "vectors": { "text": vec![0.123_456_79_f32; 3072] } } });

    // One object, a list, and an object with a list.
    for (body, n) in [
        (item, 1),
        (json!([shown("r1", &["a", "b"]), acted("r1", "a")]), 2),
        (json!({ "events": [shown("r2", &["a", "b"])] }), 1),
    ] {
        let reply = post(daemon.address, &body);
        assert_eq!((reply.status, json_of(&reply)), (200, json!({ "written": n })));
    }
    daemon.wait_joined(4);

    let bad = json!([
        shown("r3", &["a"]),
        { "stream": "actions", "event": { "request_id": "r3", "item_id": "a", "user_id": "u", "action": "click" } },
        { "stream": "items", "event": [1] },
        acted("r3", "a"),
        { "stream": "actions", "event": { "request_id": "r3", "item_id": "a", "user_id": "u", "ts_ms": START_MS,
                                          "action": "stare" } },
    ]);
    let reply = post(daemon.address, &bad);
    let error = json_of(&reply)["error"].clone();
    assert_eq!(
        (reply.status, &error["code"]),
        (400, &json!("invalid_events")),
        "{error}"
    );
    let found: Vec<Value> = error["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| json!([event["index"], event["stream"], event["reason"]]))
        .collect();
    let expected = json!([
        [1, "actions", "missing_field"],
        [2, "items", "malformed_json"],
        [4, "actions", "unknown_action"]
    ]);
    assert_eq!(json!(found), expected);
    let detail = error["events"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("`ts_ms`"), "{detail}");

    let many: Vec<Value> = (0..1001).map(|i| acted(&format!("r{i}"), "a")).collect();
    for (body, status, code) in [
        (json!([]), 400, "invalid_field"),
        (json!({ "stream": "actions" }), 400, "invalid_field"),
        (json!({ "stream": "clicks", "event": {} }), 400, "invalid_field"),
        (json!("event"), 400, "invalid_field"),
        (json!(many), 413, "too_large"),
        (json!(["x".repeat(1 << 20)]), 413, "too_large"),
    ] {
        let reply = post(daemon.address, &body);
        assert_eq!(
            (reply.status, json_of(&reply)["error"]["code"].as_str()),
            (status, Some(code)),
            "{}",
            reply.body
        );
    }
    // Nothing of the calls that were refused was written.
    let reply = post(daemon.address, &acted("r2", "b"));
    assert_eq!(reply.status, 200, "{}", reply.body);
    daemon.wait_joined(5);

    assert_eq!(
        metric(
            &daemon,
            "ouzel_serving_events_written_total",
            "{stream=\"actions\"}"
        ),
        2
    );
    assert_eq!(
        metric(&daemon, "ouzel_serving_event_calls_total", "{outcome=\"ok\"}"),
        4
    );
    let refused = "{stream=\"actions\",reason=\"unknown_action\"}";
    assert_eq!(metric(&daemon, "ouzel_serving_events_refused_total", refused), 1);
    assert_eq!(metric(&daemon, "ouzel_ingest_rejected_total", refused), 0);
    daemon.stop();
    assert_eq!(home.manifest().checkpoint.counters["matched"], 2);
}

#[test]
fn a_broker_that_does_not_acknowledge_is_answered_503_with_the_reason() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let daemon = home.start();
    assert_eq!(post(daemon.address, &shown("r1", &["a"])).status, 200);
    broker.set_reachable(false);
    let reply = post(daemon.address, &json!([shown("r2", &["a"]), acted("r2", "a")]));
    let error = json_of(&reply)["error"].clone();
    assert_eq!(
        (reply.status, &error["code"]),
        (503, &json!("unacknowledged")),
        "{error}"
    );
    assert_eq!(reply.header("retry-after"), Some("1"));
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("2 of 2 events were not acknowledged, the first to"),
        "{message}"
    );
    broker.set_reachable(true);
    wait_until("events are taken again", || {
        (post(daemon.address, &acted("r1", "a")).status == 200).then_some(())
    });
    daemon.stop();
}

#[test]
fn events_have_a_port_of_their_own_which_ranks_nothing() {
    let broker = Broker::embedded(1);
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listen.local_addr().unwrap();
    drop(listen);
    let mut home = Home::new(&broker, &format!("serving.events_listen = \"{address}\""));
    let daemon = home.start();
    assert_eq!(post(daemon.address, &shown("r1", &["a"])).status, 404);
    assert_eq!(post(address, &shown("r1", &["a"])).status, 200);
    let mut client = RankClient::connect(address).unwrap();
    assert_eq!(client.get("/healthz").unwrap().status, 200);
    let page = client.get("/metrics").unwrap().body;
    assert!(
        page.contains("ouzel_serving_events_written_total{stream=\"impressions\"} 1"),
        "{page}"
    );
    assert_eq!(client.get("/v1/events").unwrap().status, 405);
    assert_eq!(client.post("/v1/rank", "{}").unwrap().status, 404);
    daemon.wait_joined(1);
    daemon.stop();
}

#[test]
fn a_call_of_the_default_limits_is_written() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let daemon = home.start();
    let uuid = |n: usize| format!("{:08x}-1234-4abc-8def-{:012x}", n * 7919, n);
    let features: Value = (0..12)
        .map(|n| (format!("feature_{n}"), json!(format!("value-{n}"))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let items: Vec<Value> = (0..1000)
        .map(|n| json!({ "item_id": uuid(n), "position": n, "features": features }))
        .collect();
    let event = json!({ "request_id": uuid(5000), "user_id": uuid(5001), "ts_ms": START_MS, "items": items });
    let body = json!({ "stream": "impressions", "event": event });
    assert!(body.to_string().len() > 300_000);
    let reply = post(daemon.address, &body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let n_beats = broker.heartbeat(START_MS + 3_600_000);
    daemon.wait_joined(1 + 2 * n_beats);
    let request = RankRequest {
        user_id: uuid(5001),
        items: (0..1000).map(|n| uuid(n).into()).collect(),
        ..RankRequest::default()
    };
    assert_eq!(daemon.rank(&request).items.len(), 1000);
    daemon.stop();
    assert_eq!(home.manifest().checkpoint.counters["items"], 1000 + n_beats);
}
