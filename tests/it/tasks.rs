//! Two tasks: one score orders the items, and each task has its own figures.

use ouzel_sample::Stream;
use ouzel_serving::RankRequest;
use serde_json::{Value, json};

use super::broker::Broker;
use super::daemon::Home;
use super::wait_until;
use super::world::START_MS;

const N_SLATES: i64 = 1200;
const SETTINGS: &str = "learner.batch_min_samples = 16\nlearner.flush_after_idle = \"50ms\"\n\
     optimizer.row_rate = 0.1\n\
     join.label_policy = \"wait\"\njoin.tasks = [{ name = \"click\", window = \"10m\" }, { name = \"dislike\", window = \"10m\" }]\n\
     serving.score = \"click - 2 * dislike\"";

/// Both items of each kind are clicked as often; users dislike `bad-*`.
fn items(slate: i64) -> [String; 4] {
    let number = slate % 2;
    [
        format!("good-{number}"),
        format!("bad-{number}"),
        format!("plain-{number}"),
        format!("plain-{}", number + 5),
    ]
}

fn feed(broker: &Broker) {
    for slate in 0..N_SLATES {
        let at = START_MS + slate * 10_000;
        let request_id = format!("r{slate}");
        let user = format!("user-{}", slate % 15);
        let items = items(slate);
        let slate: Vec<Value> = items.iter().map(|item| json!({ "item_id": item })).collect();
        let shown = json!({ "request_id": request_id, "user_id": user, "ts_ms": at, "items": slate });
        let mut events = vec![(Stream::Impressions, at, shown)];
        let mut act = |item: &String, action: &str, after: i64| {
            let acted = json!({ "request_id": request_id, "user_id": user, "ts_ms": at + after,
                                "item_id": item, "action": action });
            events.push((Stream::Actions, at + after, acted));
        };
        act(&items[0], "click", 1000);
        act(&items[1], "click", 1500);
        act(&items[1], "dislike", 2000);
        for (stream, at, event) in events {
            broker.send(stream, &request_id, at, Some(event.to_string().as_bytes()));
        }
    }
    broker.heartbeat(START_MS + N_SLATES * 10_000 + 3_600_000);
}

#[test]
fn disliked_items_rank_last_although_they_are_clicked_and_each_task_has_its_figures() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(&broker, SETTINGS);
    let daemon = home.start();
    feed(&broker);
    // Each shown item is one sample, once both its windows are over.
    let n_samples = u64::try_from(N_SLATES * 4).unwrap();
    wait_until("every sample is learned", || {
        (daemon.status().samples >= n_samples).then_some(())
    });
    let latest = daemon.snapshot().to_string();
    assert_eq!(home.snapshot(&["pin", &latest]).code, Some(0));
    let request = RankRequest {
        user_id: "stranger".to_owned(),
        items: items(0).map(Into::into).to_vec(),
        ..RankRequest::default()
    };
    let ranked = daemon.rank(&request);
    let order: Vec<&str> = ranked.items.iter().map(|item| item.item_id.as_str()).collect();
    assert_eq!((order[0], order[3]), ("good-0", "bad-0"), "{ranked:?}");
    for item in &ranked.items {
        let expected = item.tasks["click"] - 2.0 * item.tasks["dislike"];
        assert!((item.score - expected).abs() < 1e-6, "{item:?}");
    }
    let bad = &ranked.items[3];
    assert!(bad.tasks["click"] > 0.5 && bad.tasks["dislike"] > 0.5, "{bad:?}");
    let top = RankRequest {
        top_k: Some(3),
        ..request
    };
    let ranked = daemon.rank(&top);
    assert!(
        ranked.items.iter().all(|item| item.item_id != "bad-0"),
        "{ranked:?}"
    );

    for task in ["click", "dislike"] {
        let labels = format!("{{task=\"{task}\"}}");
        for name in [
            "auc_ratio",
            "gauc_ratio",
            "normalised_entropy_ratio",
            "calibration_ratio",
        ] {
            let value = daemon.metric(&format!("ouzel_learner_window_{name}"), &labels);
            assert!(value > 0.0, "{name}{labels}");
        }
    }
    daemon.stop();
    let metrics = home.manifest().checkpoint.metrics;
    for name in [
        "auc",
        "window_gauc",
        "dislike.auc",
        "dislike.window_gauc",
        "dislike.calibration",
    ] {
        assert!(
            metrics[name].is_some_and(|value| value > 0.5),
            "{name}: {metrics:?}"
        );
    }
}
