//! Each ready-made mapping on a made-up record of the true shape, and mappings on records of any shape.

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use ouzel_sample::{RejectReason, Stream};

use super::*;

/// The mapping of `stream` in a ready-made mapping.
fn ready_made(name: &str, stream: Stream) -> Mapping {
    let (_, text) = READY_MADE.iter().find(|(known, _)| *known == name).unwrap();
    compile(text, stream)
}

/// The mapping of `stream` in the text of a section `[events]`.
fn compile(text: &str, stream: Stream) -> Mapping {
    fn section<T: DeserializeOwned + Default>(table: &toml::Table, stream: Stream) -> T {
        let section = table.get(stream.name()).cloned();
        section.map_or_else(T::default, |section| section.try_into().unwrap())
    }
    let table: toml::Table = toml::from_str(text).unwrap();
    let mapping = match stream {
        Stream::Impressions => Mapping::impressions(&section(&table, stream)),
        Stream::Actions => Mapping::actions(&section(&table, stream)),
        Stream::Users => Mapping::users(&section(&table, stream)),
        _ => Mapping::items(&section(&table, stream)),
    };
    mapping.unwrap()
}

fn context<'a>(headers: &'a [(String, Vec<u8>)]) -> RecordContext<'a> {
    RecordContext {
        metadata: Metadata {
            topic: "web",
            partition: 1,
            offset: 9,
            timestamp_ms: Some(1_714_550_400_000),
            headers,
            key: None,
        },
        ..RecordContext::default()
    }
}

#[track_caller]
fn check(mapping: &Mapping, record: &Value, expected: &[Value]) {
    let mapped = mapping.apply(record, &context(&[])).unwrap();
    assert_eq!(mapped.events, expected);
}

#[track_caller]
fn refused(mapping: &Mapping, record: &Value, reason: RejectReason) {
    assert_eq!(mapping.apply(record, &context(&[])).unwrap_err().reason, reason);
}

const T: i64 = 1_714_550_400_000;

#[test]
fn the_default_reads_one_event_per_item_and_loose_types() {
    let impressions = ready_made("ouzel", Stream::Impressions);
    check(
        &impressions,
        &json!({
            "request_id": 7, "user_id": 5.0, "item_id": 12, "ts_ms": "2024-05-01T08:00:00Z", "position": "3",
            "device": "phone", "context": {"slot": "top"}, "features": {"score": 0.5}, "rating": 5,
        }),
        &[json!({
            "request_id": "7", "user_id": "5", "ts_ms": T, "context": {"slot": "top", "device": "phone"},
            "items": [{"item_id": "12", "position": 3, "features": {"score": 0.5}}],
        })],
    );
    let mapped = impressions
        .apply(&json!({"ts_ms": 1, "rating": 5, "clicked": 1}), &context(&[]))
        .unwrap();
    assert_eq!(mapped.unread, ["clicked", "rating"]);
    let actions = ready_made("ouzel", Stream::Actions);
    check(
        &actions,
        &json!({"request_id": "r", "user_id": "u", "item_id": "i", "ts_ms": T, "type": "like", "dwell_ms": "12"}),
        &[
            json!({"request_id": "r", "user_id": "u", "item_id": "i", "ts_ms": T, "action": "like", "value": 12}),
        ],
    );
    check(
        &ready_made("ouzel", Stream::Items),
        &json!({"item_id": 5, "ts_ms": T, "category": "a|b", "author_id": 3, "price": 2.5, "nested": {"x": 1}}),
        &[json!({
            "item_id": "5", "ts_ms": T, "category": "a|b", "author": "3", "features": {"price": 2.5},
        })],
    );
}

#[test]
fn a_partial_item_keeps_its_nulls() {
    check(
        &ready_made("ouzel", Stream::Items),
        &json!({"item_id": 5, "ts_ms": T, "partial": true, "title": null, "category": "a", "price": 3, "features": null}),
        &[json!({
            "item_id": "5", "ts_ms": T, "partial": true, "title": null, "category": "a", "features": {"price": 3},
        })],
    );
}

#[test]
fn ga4_lists_and_purchases() {
    let event = |name: &str, items: Value| {
        json!({
            "event_date": "20240501", "event_timestamp": "1714550400000123", "event_name": name,
            "user_id": null, "user_pseudo_id": "171.42",
            "event_params": [
                {"key": "ga_session_id", "value": {"int_value": "99"}},
                {"key": "request_id", "value": {"string_value": "req-1"}},
            ],
            "device": {"category": "mobile", "language": "de"}, "geo": {"country": "Germany"}, "platform": "WEB",
            "items": items,
        })
    };
    let items = json!([
        {"item_id": "SKU1", "item_name": "shoe", "item_list_index": "0", "price": 9.5},
        {"item_id": "SKU2", "item_name": "hat", "item_list_index": "1", "price": 3.0},
    ]);
    check(
        &ready_made("ga4", Stream::Impressions),
        &event("view_item_list", items.clone()),
        &[json!({
            "request_id": "req-1", "user_id": "171.42", "ts_ms": T,
            "items": [{"item_id": "SKU1", "position": 0}, {"item_id": "SKU2", "position": 1}],
            "context": {"country": "Germany", "device": "mobile", "language": "de", "platform": "WEB"},
        })],
    );
    let action = |item: &str, value: f64| {
        json!({
            "request_id": "req-1", "user_id": "171.42", "ts_ms": T, "action": "order", "item_id": item, "value": value,
        })
    };
    check(
        &ready_made("ga4", Stream::Actions),
        &event("purchase", items.clone()),
        &[action("SKU1", 9.5), action("SKU2", 3.0)],
    );
    refused(
        &ready_made("ga4", Stream::Actions),
        &event("page_view", items),
        RejectReason::NotSelected,
    );
}

#[test]
fn snowplow_lists_and_clicks_share_the_page_view() {
    let event = |kind: &str, products: Value| {
        json!({
            "app_id": "shop", "event": "unstruct", "event_id": "e1", "domain_userid": "d1", "user_id": "",
            "collector_tstamp": "2024-05-01 08:00:01.250", "derived_tstamp": "2024-05-01T08:00:00.000Z",
            "geo_country": "DE", "dvce_type": "Mobile", "platform": "web",
            "contexts_com_snowplowanalytics_snowplow_web_page_1": [{"id": "page-1"}],
            "unstruct_event_com_snowplowanalytics_snowplow_ecommerce_snowplow_ecommerce_action_1":
                {"type": kind, "name": "home"},
            "contexts_com_snowplowanalytics_snowplow_ecommerce_product_1": products,
        })
    };
    let product = json!({"id": "p1", "name": "shoe", "category": "shoes", "price": 9.5, "position": 2});
    check(
        &ready_made("snowplow", Stream::Impressions),
        &event("list_view", json!([product])),
        &[json!({
            "request_id": "page-1", "user_id": "d1", "ts_ms": T,
            "items": [{"item_id": "p1", "position": 2, "features": {"price": 9.5}}],
            "context": {"country": "DE", "device": "Mobile", "list": "home", "platform": "web"},
        })],
    );
    check(
        &ready_made("snowplow", Stream::Actions),
        &event("list_click", json!([product])),
        &[json!({
            "request_id": "page-1", "user_id": "d1", "ts_ms": T, "action": "click", "item_id": "p1", "value": 9.5,
        })],
    );
}

#[test]
fn segment_track_calls() {
    let event = |name: &str, properties: Value| {
        json!({
            "type": "track", "event": name, "userId": null, "anonymousId": "a1", "messageId": "m1",
            "timestamp": "2024-05-01T10:00:00.000+02:00", "context": {"locale": "de-DE", "device": {"type": "ios"}},
            "properties": properties,
        })
    };
    check(
        &ready_made("segment", Stream::Impressions),
        &event(
            "Product List Viewed",
            json!({"list_id": "hot", "category": "Deals", "products": [{"product_id": "p1", "position": 1, "price": 5}]}),
        ),
        &[json!({
            "request_id": "web/1/9", "user_id": "a1", "ts_ms": T,
            "items": [{"item_id": "p1", "position": 1, "features": {"price": 5}}],
            "context": {"category": "Deals", "device": "ios", "list": "hot", "locale": "de-DE"},
        })],
    );
    check(
        &ready_made("segment", Stream::Actions),
        &event(
            "Product Clicked",
            json!({"product_id": "p1", "price": 5, "request_id": "r1"}),
        ),
        &[json!({
            "request_id": "r1", "user_id": "a1", "ts_ms": T, "action": "click", "item_id": "p1", "value": 5,
        })],
    );
    let order = event(
        "Order Completed",
        json!({"order_id": "o", "products": [{"product_id": "p1"}, {"sku": "s2"}]}),
    );
    let mapped = ready_made("segment", Stream::Actions)
        .apply(&order, &context(&[]))
        .unwrap();
    assert_eq!(mapped.events.len(), 2);
    assert_eq!(
        (&mapped.events[1]["item_id"], &mapped.events[1]["action"]),
        (&json!("s2"), &json!("order"))
    );
}

#[test]
fn debezium_changes_and_deletions() {
    let items = ready_made("debezium", Stream::Items);
    let row = json!({"id": 5, "title": "shoe", "category": "shoes", "price": "9.50"});
    let change = json!({"before": null, "after": row, "op": "u", "ts_ms": T, "source": {"table": "items"}});
    let expected = json!({
        "item_id": "5", "ts_ms": T, "title": "shoe", "category": "shoes", "deleted": false,
        "features": {"price": "9.50"},
    });
    check(&items, &change, std::slice::from_ref(&expected));
    check(
        &items,
        &json!({"schema": {"type": "struct"}, "payload": change}),
        &[expected],
    );
    let deletion = json!({"before": row, "after": null, "op": "d", "ts_ms": T});
    let mapped = items.apply(&deletion, &context(&[])).unwrap();
    assert_eq!(
        (&mapped.events[0]["item_id"], &mapped.events[0]["deleted"]),
        (&json!("5"), &json!(true))
    );
}

#[test]
fn debezium_changes_of_users() {
    let row = json!({"id": 5, "age": 30, "country": "FR"});
    let change = json!({"before": null, "after": row, "op": "u", "ts_ms": T, "source": {"table": "users"}});
    check(
        &ready_made("debezium", Stream::Users),
        &change,
        &[json!({"user_id": "5", "ts_ms": T, "deleted": false, "features": {"age": 30, "country": "FR"}})],
    );
}

#[test]
fn connect_and_cloudevents_envelopes() {
    let event = json!({"request_id": "r", "user_id": "u", "item_id": "i", "ts_ms": T, "action": "click"});
    check(
        &ready_made("connect", Stream::Actions),
        &json!({"schema": {"type": "struct"}, "payload": event}),
        std::slice::from_ref(&event),
    );
    let untimed = json!({"request_id": "r", "user_id": "u", "item_id": "i", "action": "click"});
    check(
        &ready_made("cloudevents", Stream::Actions),
        &json!({
            "specversion": "1.0", "id": "1", "type": "com.shop.click", "source": "/web", "time": "2024-05-01T08:00:00Z",
            "data": untimed,
        }),
        std::slice::from_ref(&event),
    );
    let headers = [("ce_time".to_owned(), b"2024-05-01T08:00:00Z".to_vec())];
    let binary = ready_made("cloudevents-binary", Stream::Actions);
    assert!(binary.reads_metadata());
    assert_eq!(
        binary.apply(&untimed, &context(&headers)).unwrap().events,
        [event]
    );
}

#[test]
fn one_topic_with_constants_other_names_and_json_in_a_text() {
    let text = r#"
        [actions]
        where = { event = "view", app = ["web", "ios"] }
        root = "body|json"
        time = { field = "@timestamp" }
        action = { value = "View" }
        actions = { View = "click" }
        item_id = ["sku", "$.fallback"]
        user_id = "@key"
    "#;
    let mapping = compile(text, Stream::Actions);
    let record = json!({"event": "view", "app": "ios", "body": "{\"request_id\": 5}", "fallback": "f"});
    let mut context = context(&[]);
    context.metadata.key = Some(b"user-9");
    assert_eq!(
        mapping.apply(&record, &context).unwrap().events,
        [json!({"request_id": "5", "user_id": "user-9", "ts_ms": T, "action": "click", "item_id": "f"})]
    );
    refused(
        &mapping,
        &json!({"event": "view", "app": "tv"}),
        RejectReason::NotSelected,
    );
    refused(
        &mapping,
        &json!({"event": "view", "app": "web"}),
        RejectReason::MissingField,
    );
}

#[test]
fn what_is_learned_from_must_be_named() {
    let section = ImpressionMapping {
        context: NamedPaths::List(vec!["*".to_owned()]),
        ..ImpressionMapping::default()
    };
    let error = Mapping::impressions(&section).unwrap_err();
    assert_eq!(error.key, "context");
    let section = ItemMapping {
        features: NamedPaths::List(vec!["a[".to_owned()]),
        ..ItemMapping::default()
    };
    assert!(
        Mapping::items(&section)
            .unwrap_err()
            .to_string()
            .contains("a [ without ]")
    );
}

/// Any JSON value, with names that mappings read among its own.
fn any_json() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "request_id",
        "user_id",
        "items",
        "item_id",
        "ts_ms",
        "position",
        "context",
        "features",
        "action",
        "value",
        "payload",
        "after",
        "before",
        "op",
        "data",
        "time",
        "category",
        "event_params",
        "properties",
        "products",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..7)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    /// No record makes a mapping panic, and each has events or a reason.
    #[test]
    fn any_record_is_mapped_or_refused(record in any_json(), preset in 0..READY_MADE.len()) {
        for stream in Stream::EVENTS {
            let mapping = ready_made(READY_MADE[preset].0, stream);
            match mapping.apply(&record, &context(&[])) {
                Ok(mapped) => prop_assert!(!mapped.events.is_empty()),
                Err(reject) => prop_assert!(!reject.detail.is_empty()),
            }
        }
    }

    /// No text makes the parser of paths panic.
    #[test]
    fn any_text_is_a_path_or_refused(text in ".{0,24}") {
        if let Err(error) = path::Path::parse(&text) {
            prop_assert!(!error.is_empty());
        }
    }
}
