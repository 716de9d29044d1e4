//! Tests of accepted payloads; rejections are in [`rejects`], properties in [`properties`].

mod profiles;
mod properties;
mod rejects;
mod topics;

use serde_json::{Value, json};

use ouzel_sample::{
    AttributeField, Event, EventTime, FeatureChange, IdKind, IdSpace, ItemUpdate, KnownAction, Number,
    NumberScope, PartitionId, Record, RecordMetadata, Reject, RejectReason, ShownFeatures, Stream,
    sort_numbers,
};

use super::*;
use crate::mapping::FieldSource;

const TS: i64 = 1_573_257_673_000;

fn decoder() -> Decoder {
    Decoder::new(
        IdSpace::new(7),
        vec!["click".to_owned(), "order".to_owned()],
        EventConfig::default(),
    )
    .unwrap()
}

fn record(stream: Stream, payload: impl Into<Vec<u8>>) -> Record {
    Record {
        position: PartitionId::new(stream, 3).at(42),
        timestamp_ms: Some(TS),
        payload: Some(payload.into()),
        metadata: None,
    }
}

fn decode(stream: Stream, payload: &Value) -> Result<Event, Reject> {
    decoder().decode(&record(stream, payload.to_string())).event
}

fn impression() -> Value {
    json!({
        "request_id": "r1", "user_id": "u1", "ts_ms": TS,
        "items": [{"item_id": "a", "position": 0}, {"item_id": "b"}],
        "context": {"device": "phone"},
    })
}

fn action() -> Value {
    json!({"request_id": "r1", "item_id": "a", "user_id": "u1", "ts_ms": TS, "action": "order", "value": 2.5})
}

fn item() -> Value {
    json!({
        "item_id": "a", "ts_ms": TS, "category": ["news", "sport"], "author": "ann",
        "title": "The \"title\"", "text": ["first", "second"], "image": "a.jpg",
        "vectors": {"text": [0.5, -1.0], "image": [2]},
        "features": {"tags": ["x", "y"], "kind": "long", "length": 12, "score": 0.5, "is_new": true, "none": null},
    })
}

fn user() -> Value {
    json!({
        "user_id": "u1", "ts_ms": TS,
        "features": {"country": "FR", "plans": ["a", "b"], "age": 30, "city_id": 7, "none": null},
    })
}

fn with(mut event: Value, field: &str, value: Value) -> Value {
    event[field] = value;
    event
}

fn without(mut event: Value, field: &str) -> Value {
    event.as_object_mut().unwrap().remove(field);
    event
}

/// Checks that `payload` is rejected for `reason` with a detail that contains `words`.
#[track_caller]
fn check(stream: Stream, payload: impl ToString, reason: RejectReason, words: &str) {
    check_bytes(stream, payload.to_string().as_bytes(), reason, words);
}

#[track_caller]
fn check_bytes(stream: Stream, payload: &[u8], reason: RejectReason, words: &str) {
    let decoded = decoder().decode(&record(stream, payload));
    let reject = decoded.event.expect_err("rejected");
    assert_eq!(reject.reason, reason, "{}", reject.detail);
    assert!(
        reject.detail.contains(words),
        "{:?} does not contain {words:?}",
        reject.detail
    );
}

/// Numbers sorted by name.
fn numbers(scope: NumberScope, named: &[(&str, f32)]) -> Vec<Number> {
    let ids = IdSpace::new(7);
    let number = |(name, value): &(&str, f32)| Number {
        name: ids.number(scope, name),
        value: *value,
    };
    let mut numbers: Vec<Number> = named.iter().map(number).collect();
    sort_numbers(&mut numbers);
    numbers
}

#[test]
fn an_impression_keeps_the_order_of_its_items_and_sorts_its_context() {
    let ids = IdSpace::new(7);
    let payload = with(
        impression(),
        "context",
        json!({"n_id": 7, "f_id": 7.0, "b": true, "list": ["x", "x", 8, 8.0], "none": null, "empty": "", "age": 7}),
    );
    let payload = with(
        payload,
        "items",
        json!([
            {"item_id": "a", "position": 0, "features": {"label": "exact", "score": 0.25, "rank": 3, "none": null}},
            {"item_id": "b"},
        ]),
    );
    let Ok(Event::Impression(impression)) = decode(Stream::Impressions, &payload) else {
        panic!()
    };
    assert_eq!(impression.request, ids.id(IdKind::Request, "r1"));
    assert_eq!(impression.user, ids.id(IdKind::User, "u1"));
    assert_eq!(impression.ts.0, TS);
    let shown: Vec<_> = impression
        .items
        .iter()
        .map(|shown| (shown.item, shown.position))
        .collect();
    assert_eq!(
        shown,
        [
            (ids.id(IdKind::Item, "a"), Some(0)),
            (ids.id(IdKind::Item, "b"), None)
        ]
    );
    let mut context: Vec<_> = [
        ("n_id", "7"),
        ("f_id", "7"),
        ("b", "true"),
        ("list", "x"),
        ("list", "8"),
    ]
    .map(|(name, value)| ids.attribute(name, value))
    .into();
    context.sort_unstable();
    assert_eq!(impression.context, context);
    assert_eq!(impression.numbers, numbers(NumberScope::Context, &[("age", 7.0)]));
    let [first, second] = &impression.items[..] else {
        panic!()
    };
    assert_eq!(first.features.values, [ids.attribute("label", "exact")]);
    let expected = numbers(NumberScope::Item, &[("score", 0.25), ("rank", 3.0)]);
    assert_eq!(first.features.numbers, expected);
    assert_eq!(second.features, ShownFeatures::default());
    assert_eq!(impression.known_actions, None);
}

#[test]
fn the_task_of_an_action_is_its_index_in_the_configuration() {
    let Ok(Event::Action(decoded)) = decode(Stream::Actions, &action()) else {
        panic!()
    };
    assert_eq!((decoded.task, decoded.value), (1, Some(2.5)));
    let Ok(Event::Action(decoded)) = decode(Stream::Actions, &without(action(), "value")) else {
        panic!()
    };
    assert_eq!(decoded.value, None);
}

#[test]
fn an_item_has_its_title_first_and_its_attributes_sorted_by_field() {
    let ids = IdSpace::new(7);
    let Ok(Event::Item(decoded)) = decode(Stream::Items, &item()) else {
        panic!()
    };
    assert_eq!(decoded.name, "a");
    assert_eq!(decoded.texts, ["The \"title\"", "first", "second"]);
    assert_eq!(decoded.image.as_deref(), Some("a.jpg"));
    assert_eq!(
        decoded.vectors,
        [
            ("image".to_owned(), vec![2.0]),
            ("text".to_owned(), vec![0.5, -1.0])
        ]
    );
    assert!(decoded.attributes.is_sorted());
    let values = |field| {
        let mut values: Vec<_> = decoded.values(field).collect();
        values.sort_unstable();
        values
    };
    let expected = |pairs: &[(&str, &str)]| {
        let mut values: Vec<_> = pairs
            .iter()
            .map(|(name, value)| ids.attribute(name, value))
            .collect();
        values.sort_unstable();
        values
    };
    assert_eq!(
        values(AttributeField::Category),
        expected(&[("category", "news"), ("category", "sport")])
    );
    assert_eq!(values(AttributeField::Author), expected(&[("author", "ann")]));
    assert_eq!(
        values(AttributeField::Tag),
        expected(&[("tags", "x"), ("tags", "y"), ("kind", "long"), ("is_new", "true")])
    );
    assert_eq!(
        decoded.numbers,
        numbers(NumberScope::Item, &[("length", 12.0), ("score", 0.5)])
    );
}

#[test]
fn a_partial_event_sets_the_fields_that_it_has_and_removes_those_that_are_null() {
    let ids = IdSpace::new(7);
    let partial = json!({
        "item_id": "a", "ts_ms": TS, "partial": true, "title": null, "author": ["ann", ""],
        "features": {"price": 9.5, "kind": null, "tags": ["x"]},
    });
    let Ok(Event::ItemUpdate(update)) = decode(Stream::Items, &partial) else {
        panic!()
    };
    let of = |name| ids.number(NumberScope::Item, name);
    let expected = ItemUpdate {
        id: ids.id(IdKind::Item, "a"),
        name: "a".to_owned(),
        ts: EventTime(TS),
        authors: Some(vec![ids.attribute("author", "ann")]),
        features: vec![
            (of("kind"), FeatureChange::Values(vec![])),
            (of("price"), FeatureChange::Number(9.5)),
            (
                of("tags"),
                FeatureChange::Values(vec![ids.attribute("tags", "x")]),
            ),
        ],
        title: Some(None),
        ..ItemUpdate::default()
    };
    let by_name = |update: &ItemUpdate| {
        let mut update = update.clone();
        update.features.sort_by_key(|(name, _)| *name);
        update
    };
    assert_eq!(by_name(&update), by_name(&expected));
    let cleared = with(partial.clone(), "features", json!(null));
    let Ok(Event::ItemUpdate(update)) = decode(Stream::Items, &cleared) else {
        panic!()
    };
    assert!(update.clears_features && update.features.is_empty());
    let whole = decode(Stream::Items, &with(item(), "partial", json!(false)));
    assert_eq!(whole, decode(Stream::Items, &item()));
    let deletion = decode(Stream::Items, &with(partial, "deleted", json!(true)));
    assert!(matches!(deletion, Ok(Event::Deletion(_))));
}

#[test]
fn an_item_may_have_one_category_and_one_text_and_nothing_else() {
    let bare = json!({"item_id": "a", "ts_ms": TS, "category": "news|sport", "title": "", "text": "only"});
    let Ok(Event::Item(decoded)) = decode(Stream::Items, &bare) else {
        panic!()
    };
    let category: Vec<_> = decoded.values(AttributeField::Category).collect();
    let expected = ["news", "sport"].map(|value| IdSpace::new(7).attribute("category", value));
    assert!(category.len() == 2 && expected.iter().all(|value| category.contains(value)));
    assert_eq!(decoded.texts, ["only"]);
    assert_eq!(decoded.image, None);
}

#[test]
fn a_deletion_needs_only_the_item_the_time_and_the_flag() {
    let tombstone = json!({"item_id": "a", "ts_ms": TS, "deleted": true, "title": "gone"});
    let Ok(Event::Deletion(deletion)) = decode(Stream::Items, &tombstone) else {
        panic!()
    };
    assert_eq!(deletion.item, IdSpace::new(7).id(IdKind::Item, "a"));
    assert_eq!(deletion.ts, EventTime(TS));
    for (deleted, is_item) in [
        (json!(false), true),
        (json!(null), true),
        (json!("true"), false),
        (json!([]), false),
    ] {
        let event = decode(
            Stream::Items,
            &json!({"item_id": "a", "ts_ms": TS, "deleted": &deleted}),
        );
        assert_eq!(matches!(event, Ok(Event::Item(_))), is_item, "{event:?}");
        assert_eq!(event.is_err(), deleted.is_array());
    }
    assert!(decode(Stream::Items, &json!({"ts_ms": TS, "deleted": true})).is_err());
}

#[test]
fn an_event_or_rejection_carries_the_coordinates_of_its_record() {
    for payload in [impression().to_string(), "{".to_owned()] {
        let decoded = decoder().decode(&record(Stream::Impressions, payload));
        assert_eq!(decoded.position.offset, 42);
        assert_eq!(decoded.timestamp_ms, Some(TS));
    }
}

#[test]
fn fields_that_nothing_reads_are_named() {
    let mut payload = with(impression(), "brand_new", json!({"deep": [1, {"x": null}]}));
    payload["items"][0]["also_new"] = json!(1);
    payload["items"][0]["features"] = json!({"bid": 1});
    payload["served_by"] = json!({"snapshot": "7", "scores": [0.5]});
    let (event, unread) = decoder()
        .parse(&record(Stream::Impressions, payload.to_string()))
        .expect("still an event");
    assert!(matches!(event, Event::Impression(_)));
    assert_eq!(unread, ["brand_new", "items[].also_new"]);
    let (_, unread) = decoder()
        .parse(&record(Stream::Items, item().to_string()))
        .unwrap();
    assert!(unread.is_empty(), "{unread:?}");
}

#[test]
fn a_null_value_and_a_large_record_are_rejected_before_parsing() {
    let mut null = record(Stream::Items, "");
    null.payload = None;
    assert_eq!(
        decoder().decode(&null).event.unwrap_err().reason,
        RejectReason::NullValue
    );
    check_bytes(
        Stream::Items,
        &vec![b'{'; 10 << 20],
        RejectReason::TooLarge,
        "10485760 bytes",
    );
}

#[test]
fn immediate_labels_are_attached_to_impressions_and_drop_actions() {
    let decoder = decoder();
    let ids = IdSpace::new(7);
    let actions = [
        action(),
        action(),
        with(action(), "action", json!("click")),
        with(action(), "item_id", json!("never shown")),
        with(action(), "request_id", json!("another")),
        with(action(), "action", json!("unknown")),
        with(action(), "request_id", json!(null)),
    ];
    let records = || {
        actions
            .iter()
            .map(|action| record(Stream::Actions, action.to_string()))
    };
    let mut labels = ImmediateLabels::collect(&decoder, records());

    let shown = decoder.decode(&record(Stream::Impressions, impression().to_string()));
    let Some(Ok(Event::Impression(shown))) = labels.apply(shown).map(|decoded| decoded.event) else {
        panic!()
    };
    let a = ids.id(IdKind::Item, "a");
    let known = [1, 0].map(|task| KnownAction {
        item: a,
        task,
        value: Some(2.5),
    });
    assert_eq!(shown.known_actions, Some(known.to_vec()));

    let quiet = with(impression(), "request_id", json!("quiet")).to_string();
    let Some(Ok(Event::Impression(quiet))) = labels
        .apply(decoder.decode(&record(Stream::Impressions, quiet)))
        .map(|decoded| decoded.event)
    else {
        panic!()
    };
    assert_eq!(quiet.known_actions, Some(Vec::new()));

    let passed: Vec<_> = records()
        .filter_map(|record| labels.apply(decoder.decode(&record)))
        .collect();
    assert_eq!(
        passed.len(),
        2,
        "the rejected action and the one without a request are left, to be counted"
    );
    assert!(passed[0].event.is_err());
    assert!(matches!(&passed[1].event, Ok(Event::Action(action)) if action.request.is_none()));
    let counts = labels.counts();
    assert_eq!(
        (
            counts.actions,
            counts.duplicates,
            counts.matched,
            counts.orphans()
        ),
        (5, 1, 2, 2)
    );
}

#[test]
fn a_null_value_under_an_items_key_deletes_it() {
    let ids = IdSpace::new(7);
    let deleted = |stream, key: Option<&str>, timestamp_ms| {
        let record = Record {
            payload: None,
            timestamp_ms,
            metadata: Some(Box::new(RecordMetadata {
                key: key.map(|key| key.as_bytes().to_vec()),
                headers: Vec::new(),
            })),
            ..record(stream, "")
        };
        match decoder().decode(&record).event {
            Ok(Event::Deletion(deletion)) => Some(deletion.item),
            Err(reject) if reject.reason == RejectReason::NullValue => None,
            other => panic!("{other:?}"),
        }
    };
    let item = |name| Some(ids.id(IdKind::Item, name));
    assert_eq!(
        deleted(Stream::Items, Some("a \"film\""), Some(TS)),
        item("a \"film\"")
    );
    assert_eq!(
        deleted(
            Stream::Items,
            Some(r#"{"schema":{},"payload":{"id":5}}"#),
            Some(TS)
        ),
        item("5")
    );
    assert_eq!(deleted(Stream::Items, Some(r#"{"id":"x"}"#), Some(TS)), item("x"));
    assert_eq!(deleted(Stream::Items, Some(r#"{"a":1,"b":2}"#), Some(TS)), None);
    assert_eq!(deleted(Stream::Items, None, Some(TS)), None);
    assert_eq!(deleted(Stream::Items, Some("k"), None), None);
    assert_eq!(deleted(Stream::Actions, Some("k"), Some(TS)), None);
}

#[test]
fn a_record_that_is_not_in_the_contract_form_goes_through_the_mapping() {
    let ids = IdSpace::new(7);
    let flat = json!({"request_id": 1, "user_id": 5, "item_id": 9, "ts_ms": TS.to_string(), "device": "tv", "odd": 1});
    let (event, unread) = decoder()
        .parse(&record(Stream::Impressions, flat.to_string()))
        .unwrap();
    let Event::Impression(impression) = event else {
        panic!()
    };
    assert_eq!(impression.request, ids.id(IdKind::Request, "1"));
    assert_eq!(impression.items[0].item, ids.id(IdKind::Item, "9"));
    assert_eq!(impression.context, [ids.attribute("device", "tv")]);
    assert_eq!(unread, ["odd"]);
    let mut slate = self::impression();
    slate["scene"] = json!("tv");
    let (event, _) = decoder()
        .parse(&record(Stream::Impressions, slate.to_string()))
        .unwrap();
    let Event::Impression(impression) = event else {
        panic!()
    };
    assert_eq!(
        impression.context.len(),
        2,
        "a field of the default context, beside `context`"
    );
    let mut config = EventConfig::default();
    config.actions.items = FieldSource::Path("bought".to_owned());
    let decoder = Decoder::new(ids, vec!["order".to_owned()], config).unwrap();
    let order = json!({"request_id": "r", "user_id": "u", "ts_ms": TS, "action": "order", "bought": ["a", {"item_id": "b"}]});
    let Ok(Event::Actions(actions)) = decoder.decode(&record(Stream::Actions, order.to_string())).event
    else {
        panic!()
    };
    assert_eq!(actions.len(), 2);
    assert_eq!(actions[1].item, ids.id(IdKind::Item, "b"));
    let other = json!({"request_id": "r", "user_id": "u", "item_id": "i", "ts_ms": TS, "action": "Order"});
    assert!(
        decoder
            .decode(&record(Stream::Actions, other.to_string()))
            .event
            .is_err()
    );
    let account = decoder.accounts().of(Stream::Actions);
    assert_eq!((account.read, account.used, account.n_unneeded()), (2, 1, 1));
    assert_eq!(account.unused_actions["Order"], 1);
    assert_eq!(account.check(Stream::Actions), Ok(()));
}
