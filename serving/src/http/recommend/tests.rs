use std::sync::Arc;

use http_body_util::BodyExt;
use ouzel_model::{Key, ModelConfig, RetrievalConfig, Weights};
use ouzel_sample::{
    Action, Attribute, AttributeField, EventTime, FeatureConfig, FeatureState, Id, IdKind, IdSpace,
    Impression, Item, ShownItem,
};
use serde_json::{Value, json};
use tch::Device;

use super::*;
use crate::{ItemIndex, Published, Queue, ScoreExpression, Scorer, ServingConfig, Version, run_worker};

const ITEMS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Six items of two categories, the first of which the user `u` clicked, and the second of which was shown beside it.
fn features(ids: IdSpace) -> FeatureState {
    let features = FeatureState::new(FeatureConfig::default());
    for (at, name) in (0..).zip(ITEMS) {
        let category = if at % 2 == 0 { "news" } else { "sport" };
        features.put_item(Item {
            id: ids.id(IdKind::Item, name),
            name: name.to_owned(),
            ts: EventTime(at),
            attributes: vec![Attribute {
                field: AttributeField::Category,
                value: ids.attribute("category", category),
            }],
            tag_names: vec![],
            numbers: vec![],
            has_title: false,
            texts: vec![],
            image: None,
            vectors: vec![],
        });
    }
    let [a, b] = [0, 1].map(|at| ids.id(IdKind::Item, ITEMS[at]));
    let user = ids.id(IdKind::User, "u");
    features.add_impression(&Impression {
        request: Id(1),
        user,
        ts: EventTime(10),
        items: vec![ShownItem::new(a, Some(0)), ShownItem::new(b, Some(1))],
        context: Vec::new(),
        numbers: Vec::new(),
        known_actions: None,
    });
    let click = Action {
        request: Some(Id(1)),
        item: a,
        user,
        ts: EventTime(11),
        task: 0,
        value: None,
    };
    features.add_action(&click, &[], None);
    features
}

fn version(ids: IdSpace, width: usize) -> Arc<Version> {
    let config = ModelConfig {
        retrieval: RetrievalConfig {
            width,
            ..RetrievalConfig::default()
        },
        ..ModelConfig::default()
    };
    let mut weights = Weights::new(config, 1, 0.1, 2);
    if let Some(rows) = &mut weights.retrieval {
        for name in ITEMS {
            rows.insert(Key::item(ids.id(IdKind::Item, name)).id);
        }
        rows.insert(Key::user(ids.id(IdKind::User, "u")).id);
    }
    Arc::new(Version::new("s1", weights).unwrap())
}

/// The routes over a real scorer with one worker.
struct Port {
    app: App,
    features: Arc<FeatureState>,
    published: Arc<Published<Version>>,
    indexes: Arc<Published<ItemIndex>>,
    runtime: tokio::runtime::Runtime,
    worker: Option<std::thread::JoinHandle<()>>,
}

impl Port {
    fn new(width: usize) -> Self {
        let ids = IdSpace::new(7);
        let features = Arc::new(features(ids));
        let published = Arc::new(Published::new());
        published.publish(version(ids, width));
        let indexes = Arc::new(Published::without_metrics());
        let state = Arc::clone(&features);
        let scorer = Scorer::new(
            Arc::clone(&published),
            Arc::new(move || Arc::clone(&state)),
            ids,
            Arc::new(|| EventTime(1000)),
            Device::Cpu,
            ScoreExpression::parse("", &["click".to_owned()]).unwrap(),
        );
        let mut scorer = scorer.with_indexes(Arc::clone(&indexes));
        let queue = Arc::new(Queue::new(8));
        let of_worker = Arc::clone(&queue);
        let config = ServingConfig {
            deadline: ouzel_sample::settings::Period::from_ms(30_000),
            max_candidates: 50,
            ..ServingConfig::default()
        };
        Self {
            app: App {
                queue,
                model: Arc::new(|| None),
                status: Arc::new(|| json!({})),
                metrics: Arc::new(String::new),
                events: None,
                config,
            },
            features,
            published,
            indexes,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            worker: Some(
                std::thread::Builder::new()
                    .spawn(move || run_worker(&of_worker, &mut scorer))
                    .unwrap(),
            ),
        }
    }

    fn index(&self) {
        let loaded = self.published.load().unwrap();
        let index = ItemIndex::build(loaded, &self.features).unwrap().unwrap();
        self.indexes.publish(Arc::new(index));
    }

    fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let app = State(self.app.clone());
        let body = Body::from(body.to_string());
        self.runtime.block_on(async {
            let response = match path {
                "recommend" => recommend(app, HeaderMap::new(), body).await,
                _ => similar(app, HeaderMap::new(), body).await,
            };
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            (status, serde_json::from_slice(&bytes).unwrap())
        })
    }

    /// The ids of the items of a reply, which is no refusal.
    #[track_caller]
    fn found(&self, path: &str, body: Value) -> Vec<String> {
        let (status, reply) = self.post(path, body);
        assert_eq!(status, 200, "{reply}");
        let items = reply["items"].as_array().unwrap();
        let similarities: Vec<f64> = items
            .iter()
            .map(|item| item["similarity"].as_f64().unwrap())
            .collect();
        assert!(similarities.is_sorted_by(|a, b| a >= b), "{reply}");
        items
            .iter()
            .map(|item| item["item_id"].as_str().unwrap().to_owned())
            .collect()
    }

    #[track_caller]
    fn refused(&self, path: &str, body: Value, status: u16, code: &str, message: &str) {
        let (found, reply) = self.post(path, body);
        let error = &reply["error"];
        assert_eq!(
            (found, error["code"].as_str().unwrap()),
            (status, code),
            "{reply}"
        );
        assert!(error["message"].as_str().unwrap().contains(message), "{reply}");
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.app.queue.close();
        if let Some(worker) = self.worker.take() {
            worker.join().unwrap();
        }
    }
}

fn sorted(mut names: Vec<String>) -> String {
    names.sort_unstable();
    names.concat()
}

#[test]
fn items_are_found_without_those_seen_excluded_or_of_other_values() {
    let port = Port::new(8);
    port.index();
    let all = |more: Value| {
        let mut body = json!({"user_id": "u", "k": 10});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        sorted(port.found("recommend", body))
    };
    assert_eq!(all(json!({})), "bcdef", "the user clicked a");
    assert_eq!(all(json!({"leave_out_seen": "none"})), "abcdef");
    assert_eq!(all(json!({"leave_out_seen": "shown"})), "cdef");
    assert_eq!(all(json!({"exclude": ["b", "f"]})), "cde");
    assert_eq!(all(json!({"filter": {"category": "sport"}})), "bdf");
    assert_eq!(
        all(json!({"filter": {"category": ["sport", "news"]}, "exclude": ["b"]})),
        "cdef"
    );
    assert_eq!(all(json!({"filter": {"category": "weather"}})), "");
    assert_eq!(port.found("recommend", json!({"user_id": "u", "k": 2})).len(), 2);
    assert_eq!(
        port.found("recommend", json!({"user_id": "stranger", "k": 6}))
            .len(),
        6
    );

    assert_eq!(
        sorted(port.found("similar", json!({"item_id": "c", "k": 10}))),
        "abdef"
    );
    let best = port.found("similar", json!({"item_id": "c", "k": 1}));
    assert_eq!(port.found("similar", json!({"item_id": "c", "k": 5}))[..1], best);
}

#[test]
fn what_was_found_is_ranked_in_the_same_call_by_a_version_that_the_reply_names() {
    let port = Port::new(8);
    port.index();
    let body = json!({"user_id": "u", "k": 2, "rank": true, "candidates": 4, "request_id": "r"});
    let (status, reply) = port.post("recommend", body);
    assert_eq!(status, 200, "{reply}");
    let index = json!({"snapshot": "s1", "version": 1, "items": 6});
    assert_eq!(
        (&reply["index"], &reply["version"], &reply["snapshot"]),
        (&index, &json!(1), &json!("s1"))
    );
    assert_eq!(reply["request_id"], "r");
    let items = reply["items"].as_array().unwrap();
    assert_eq!(items.len(), 2);
    for item in items {
        assert!(
            item["score"].is_number() && item["tasks"]["click"].is_number(),
            "{reply}"
        );
    }
    let (_, unranked) = port.post("recommend", json!({"user_id": "u", "k": 2}));
    assert_eq!(unranked["index"], index);
    assert_eq!(
        (unranked.get("version"), unranked["items"][0].get("score")),
        (None, None)
    );
}

#[test]
fn refusals_name_what_is_missing_or_wrong() {
    let bare = Port::new(0);
    bare.refused(
        "recommend",
        json!({"user_id": "u", "k": 1}),
        409,
        "no_towers",
        "model.retrieval.width",
    );
    let port = Port::new(8);
    port.refused(
        "recommend",
        json!({"user_id": "u", "k": 1}),
        503,
        "not_ready",
        "no version is indexed",
    );
    port.index();
    let recommend = |body: Value, code: &str, message: &str| {
        let status = if code == "invalid_field" { 400 } else { 422 };
        port.refused("recommend", body, status, code, message);
    };
    let invalid = "invalid_request";
    recommend(json!({"user_id": "u", "k": 0}), invalid, "k is 0");
    recommend(json!({"user_id": "", "k": 1}), invalid, "user_id is empty");
    recommend(
        json!({"user_id": "u", "k": 51}),
        invalid,
        "serving.max_candidates = 50",
    );
    recommend(
        json!({"user_id": "u", "k": 2, "candidates": 1, "rank": true}),
        invalid,
        "at least k = 2",
    );
    recommend(
        json!({"user_id": "u", "k": 1, "filter": {"price": 3}}),
        invalid,
        "filter.price is a number",
    );
    recommend(
        json!({"user_id": "u", "k": 1, "exclude": [""]}),
        invalid,
        "exclude[0] is empty",
    );
    recommend(
        json!({"user_id": "u", "k": 1, "leave_out_seen": "all"}),
        "invalid_field",
        "leave_out_seen",
    );
    recommend(
        json!({"user_id": "u", "k": 1, "colour": "red"}),
        "invalid_field",
        "colour",
    );
    port.refused(
        "similar",
        json!({"item_id": "zz", "k": 1}),
        404,
        "unknown_item",
        "\"zz\" is not in the catalog",
    );
}
