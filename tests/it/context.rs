//! Context values mean the same in impressions and in requests: scores reflect the learned log.

use ouzel_sample::Stream;
use ouzel_serving::RankRequest;
use serde_json::{Value, json};

use super::broker::Broker;
use super::daemon::{Daemon, Home};
use super::wait_until;
use super::world::START_MS;

/// Number of slates.
const N_SLATES: i64 = 240;
const SLATE: i64 = 8;

/// Contexts that are always clicked, each with one that never is.
fn pairs() -> Vec<(Value, Value)> {
    vec![
        (json!({ "device": "mobile" }), json!({ "device": "desktop" })),
        (json!({ "hour": 7 }), json!({ "hour": 8 })),
        (json!({ "vip": true }), json!({ "vip": false })),
        (
            json!({ "tags": ["hot", "new"] }),
            json!({ "tags": ["cold", "new"] }),
        ),
    ]
}

fn feed(broker: &Broker) {
    let pairs = pairs();
    for slate in 0..N_SLATES {
        let at = START_MS + slate * 10_000;
        let number = usize::try_from(slate).unwrap();
        let (liked, disliked) = &pairs[number / 2 % pairs.len()];
        let is_liked = slate % 2 == 0;
        let request_id = format!("r{slate}");
        let items: Vec<Value> = (0..SLATE)
            .map(|place| json!({ "item_id": format!("item-{}", (slate + place) % 20) }))
            .collect();
        let shown = json!({ "request_id": request_id, "user_id": format!("user-{}", slate % 15), "ts_ms": at,
                            "items": items, "context": if is_liked { liked } else { disliked } });
        broker.send(
            Stream::Impressions,
            &request_id,
            at,
            Some(shown.to_string().as_bytes()),
        );
        for item in items.iter().filter(|_| is_liked) {
            let clicked = json!({ "request_id": request_id, "user_id": shown["user_id"], "ts_ms": at + 1000,
                                  "item_id": item["item_id"], "action": "click" });
            broker.send(
                Stream::Actions,
                &request_id,
                at + 1000,
                Some(clicked.to_string().as_bytes()),
            );
        }
    }
    broker.heartbeat(START_MS + N_SLATES * 10_000 + 3_600_000);
}

fn request(context: &Value) -> RankRequest {
    RankRequest {
        user_id: "stranger".to_owned(),
        items: vec!["item-3".to_owned().into()],
        context: context.as_object().cloned(),
        ..RankRequest::default()
    }
}

fn score(daemon: &Daemon, context: &Value) -> f32 {
    daemon.rank(&request(context)).items[0].score
}

#[test]
fn a_learned_context_changes_its_scores() {
    let broker = Broker::embedded(1);
    let mut home = Home::new(
        &broker,
        // Batches by their size alone: a flush on a busy machine would change what is learned.
        "learner.batch_min_samples = 64\nlearner.flush_after_idle = \"0s\"\noptimizer.row_rate = 0.1",
    );
    let daemon = home.start();
    feed(&broker);
    // Half of the shown items are clicked, and each click is one more sample. The last batch may stay open.
    let n_samples = u64::try_from(N_SLATES * SLATE * 3 / 2).unwrap();
    wait_until("every sample but those of an open batch is learned", || {
        (daemon.status().samples > n_samples - 64).then_some(())
    });
    let latest = daemon.snapshot().to_string();
    assert_eq!(home.snapshot(&["pin", &latest]).code, Some(0));
    let plain = score(&daemon, &json!({}));
    for (liked, disliked) in pairs() {
        let (high, low) = (score(&daemon, &liked), score(&daemon, &disliked));
        assert!(
            high > plain + 0.05 && plain > low + 0.05,
            "{liked}: {high}, none: {plain}, {disliked}: {low}"
        );
    }

    // The text of a categorical value counts, not its JSON type.
    for (one, same) in [
        (json!({ "hour_id": 7 }), json!({ "hour_id": "7" })),
        (json!({ "hour": 7 }), json!({ "hour": 7.0 })),
        (json!({ "vip": true }), json!({ "vip": "true" })),
        (json!({ "device": "mobile" }), json!({ "device": ["mobile"] })),
        (
            json!({ "tags": ["hot", "new"] }),
            json!({ "tags": ["new", "hot", "new"] }),
        ),
        (json!({}), json!({ "device": null, "tags": [], "hour": "" })),
        (
            json!({ "device": "mobile", "hour": 8 }),
            json!({ "hour": 8, "device": "mobile" }),
        ),
    ] {
        let (one_bits, same_bits) = (score(&daemon, &one).to_bits(), score(&daemon, &same).to_bits());
        assert_eq!(one_bits, same_bits, "{one} and {same}");
    }
    assert_ne!(
        score(&daemon, &json!({ "device": "mobile" })).to_bits(),
        score(&daemon, &json!({ "gadget": "mobile" })).to_bits(),
        "the name is part of a value"
    );
    daemon.stop();
}
