//! A daemon with towers recommends items of its catalog over HTTP, before and after a kill.

use ouzel_serving::client::Reply;
use serde_json::{Value, json};

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::wait_until;
use super::world::World;

fn post(daemon: &Daemon, path: &str, body: &Value) -> Reply {
    daemon.client().post(path, &body.to_string()).unwrap()
}

/// The items of a reply, once there is an index.
fn found(daemon: &Daemon, path: &str, body: &Value) -> Vec<String> {
    wait_until("the catalog is indexed", || {
        let reply = post(daemon, path, body);
        if reply.status == 503 {
            return None;
        }
        assert_eq!(reply.status, 200, "{}", reply.body);
        let reply: Value = serde_json::from_str(&reply.body).unwrap();
        if reply["index"]["items"] != 40 {
            return None;
        }
        let items = reply["items"].as_array().unwrap().iter();
        let names = items.map(|item| item["item_id"].as_str().unwrap().to_owned());
        Some(names.collect())
    })
}

#[test]
fn a_daemon_recommends_from_its_catalog_and_again_after_a_kill() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, "model.from = \"two-tower\"\nmodel.retrieval.width = 16");
    let daemon = home.start();
    let world = World::generate(300, &home.path().join("world"));
    broker.feed(&world.events);
    daemon.wait_joined(broker.n_records());
    let latest = daemon.snapshot();

    let recommend = json!({ "user_id": "user-3", "k": 40, "rank": true });
    let items = found(&daemon, "/v1/recommend", &recommend);
    assert!(
        !items.is_empty() && items.len() < 40,
        "seen items are left out: {}",
        items.len()
    );
    let of_category =
        json!({ "user_id": "user-3", "k": 40, "filter": { "category": "c0" }, "leave_out_seen": "none" });
    assert_eq!(found(&daemon, "/v1/recommend", &of_category).len(), 8);
    let similar = found(&daemon, "/v1/similar", &json!({ "item_id": "item-0", "k": 5 }));
    assert!(similar.len() == 5 && !similar.contains(&"item-0".to_owned()));
    let reply = post(&daemon, "/v1/similar", &json!({ "item_id": "none", "k": 5 }));
    assert_eq!(reply.status, 404, "{}", reply.body);
    let status: Value = serde_json::from_str(&daemon.get("/v1/status").body).unwrap();
    assert!(status["recall"]["positives"].as_u64() > Some(0), "{status}");

    daemon.kill();
    let daemon = home.start();
    assert_eq!(home.latest(), Some(latest));
    assert_eq!(found(&daemon, "/v1/recommend", &of_category).len(), 8);
    daemon.stop();
}
