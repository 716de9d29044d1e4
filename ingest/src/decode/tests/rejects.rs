use super::*;
use crate::decode::events::{EARLIEST_MS, LATEST_MS};

#[test]
fn a_payload_that_is_not_a_json_object_is_malformed() {
    for payload in [
        "",
        "{",
        "[1",
        "nul",
        "[]",
        "7",
        "\"text\"",
        "{\"a\":1} tail",
        "{'a':1}",
    ] {
        for stream in Stream::EVENTS {
            check(stream, payload, RejectReason::MalformedJson, "");
        }
    }
    check_bytes(Stream::Actions, b"\xff\xfe{}", RejectReason::MalformedJson, "");
    check(
        Stream::Actions,
        r#"{"request_id":"\ud800"}"#,
        RejectReason::MalformedJson,
        "",
    );
    check(Stream::Actions, "[]", RejectReason::MalformedJson, "found a list");
}

#[test]
fn every_required_field_is_named_when_it_is_missing_or_null() {
    let table = [
        (
            Stream::Impressions,
            impression(),
            vec!["request_id", "user_id", "ts_ms", "items"],
        ),
        (
            Stream::Actions,
            action(),
            vec!["item_id", "user_id", "ts_ms", "action"],
        ),
        (Stream::Items, item(), vec!["item_id", "ts_ms"]),
        (Stream::Users, user(), vec!["user_id", "ts_ms"]),
    ];
    for (stream, event, required) in table {
        for field in event.as_object().unwrap().keys() {
            for payload in [
                without(event.clone(), field),
                with(event.clone(), field, Value::Null),
            ] {
                if required.contains(&field.as_str()) {
                    check(stream, payload, RejectReason::MissingField, &format!("`{field}`"));
                } else {
                    decode(stream, &payload).expect("an optional field");
                }
            }
        }
    }
    let empty = with(impression(), "items", json!([])).to_string();
    check(Stream::Impressions, &empty, RejectReason::MissingField, "`items`");
    let nameless = with(impression(), "items", json!([{"item_id": "a"}, {}])).to_string();
    check(
        Stream::Impressions,
        &nameless,
        RejectReason::MissingField,
        "items[1]: `item_id`",
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_field_of_the_wrong_type_is_named_with_the_type_found() {
    let table = [
        (
            Stream::Impressions,
            impression(),
            "user_id",
            json!(["a"]),
            "`user_id`: expected a string, found a list",
        ),
        (
            Stream::Impressions,
            impression(),
            "ts_ms",
            json!("yesterday"),
            "`ts_ms` is neither a number nor an ISO 8601 time",
        ),
        (
            Stream::Impressions,
            impression(),
            "ts_ms",
            json!([1.5e12]),
            "`ts_ms`: expected a time",
        ),
        (
            Stream::Impressions,
            impression(),
            "items",
            json!({}),
            "`items`: expected a list of objects",
        ),
        (
            Stream::Impressions,
            impression(),
            "items",
            json!([["a"]]),
            "`items[0].item_id`: expected a string, found a list",
        ),
        (
            Stream::Impressions,
            impression(),
            "items",
            json!([{"item_id": {}}]),
            "`items[0].item_id`",
        ),
        (
            Stream::Impressions,
            impression(),
            "items",
            json!([{"item_id": "a", "position": -1}]),
            "`items[0].position`: expected an integer from 0 to 65535",
        ),
        (
            Stream::Impressions,
            impression(),
            "context",
            json!([]),
            "`context`",
        ),
        (
            Stream::Impressions,
            impression(),
            "context",
            json!({"a": {"b": 1}}),
            "`context.a`",
        ),
        (
            Stream::Impressions,
            impression(),
            "context",
            json!({"a": [[1]]}),
            "`context.a`",
        ),
        (
            Stream::Actions,
            action(),
            "value",
            json!("two"),
            "`value`: expected a number",
        ),
        (Stream::Actions, action(), "action", json!(["a"]), "`action`"),
        (
            Stream::Items,
            item(),
            "category",
            json!(["a", {}]),
            "`category[1]`: expected a string",
        ),
        (
            Stream::Items,
            item(),
            "category",
            json!({}),
            "`category`: expected a string or a list",
        ),
        (
            Stream::Items,
            item(),
            "title",
            json!(["a"]),
            "`title`: expected a string, found a list",
        ),
        (Stream::Items, item(), "vectors", json!([1]), "`vectors`"),
        (
            Stream::Items,
            item(),
            "vectors",
            json!({"v": [1, "2"]}),
            "`vectors.v[1]`: expected a number",
        ),
        (
            Stream::Items,
            item(),
            "features",
            json!({"f": {}}),
            "`features.f`",
        ),
        (
            Stream::Impressions,
            impression(),
            "items",
            json!([{"item_id": "a", "features": {"f": {}}}]),
            "`items[0].features.f`",
        ),
    ];
    for (stream, event, field, value, words) in table {
        let payload = with(event, field, value).to_string();
        check(stream, payload, RejectReason::WrongType, words);
    }
}

#[test]
fn rejections_contain_no_values() {
    let secret = "s3cret";
    for payload in [
        with(impression(), "items", json!(secret)),
        with(impression(), "user_id", json!([secret])),
        with(impression(), "user_id", json!(secret.repeat(100))),
    ] {
        let reject = decode(Stream::Impressions, &payload).unwrap_err();
        assert!(!reject.detail.contains(secret), "{}", reject.detail);
    }
}

#[test]
fn ids_are_between_1_and_512_bytes() {
    for (id, is_accepted) in [("", false), (&*"x".repeat(512), true), (&*"x".repeat(513), false)] {
        for field in ["request_id", "user_id", "item_id"] {
            match decode(Stream::Actions, &with(action(), field, json!(id))) {
                Ok(_) => assert!(is_accepted),
                Err(reject) => {
                    assert!(!is_accepted, "{}", reject.detail);
                    assert_eq!(reject.reason, RejectReason::BadId);
                    assert!(reject.detail.contains(field));
                }
            }
        }
    }
}

#[test]
fn times_are_checked_against_the_calendar_and_the_record() {
    let table = [
        (0, Err(RejectReason::TooOld)),
        (-5, Err(RejectReason::TooOld)),
        (EARLIEST_MS - 1, Err(RejectReason::TooOld)),
        (EARLIEST_MS, Ok(())),
        (TS + 5000, Ok(())),
        (TS + 5001, Err(RejectReason::Future)),
        (32_503_680_000_000, Err(RejectReason::Future)),
    ];
    for (ts, expected) in table {
        for (stream, event) in [
            (Stream::Impressions, impression()),
            (Stream::Actions, action()),
            (Stream::Items, item()),
            (Stream::Users, user()),
        ] {
            let outcome = decode(stream, &with(event, "ts_ms", json!(ts)));
            assert_eq!(
                outcome.map(|_| ()).map_err(|reject| reject.reason),
                expected,
                "{stream} at {ts}"
            );
        }
    }
    let huge = with(action(), "ts_ms", json!(u64::MAX)).to_string();
    check(Stream::Actions, &huge, RejectReason::Future, "`ts_ms`");
    // Without a record timestamp, the skew is not checked.
    let mut untimed = record(
        Stream::Actions,
        with(action(), "ts_ms", json!(TS + 60_000)).to_string(),
    );
    untimed.timestamp_ms = None;
    assert!(decoder().decode(&untimed).event.is_ok());
    untimed.payload = Some(with(action(), "ts_ms", json!(LATEST_MS)).to_string().into_bytes());
    assert_eq!(
        decoder().decode(&untimed).event.unwrap_err().reason,
        RejectReason::Future
    );
}

#[test]
fn numbers_are_finite() {
    let action = action().to_string();
    for number in ["1e999", "-1e999", "1e39", "NaN", "-Infinity", "Infinity"] {
        let payload = action.replace("2.5", number);
        assert_ne!(payload, action);
        check(Stream::Actions, payload, RejectReason::NonFinite, "");
    }
    let item = item().to_string();
    check(
        Stream::Items,
        item.replace("-1.0", "1e40"),
        RejectReason::NonFinite,
        "`vectors.text[1]`",
    );
    check(
        Stream::Items,
        item.replace(":12", ":1e400"),
        RejectReason::NonFinite,
        "",
    );
}

#[test]
fn counts_are_limited() {
    let slate: Vec<_> = (0..1001).map(|i| json!({"item_id": i.to_string()})).collect();
    let many = with(impression(), "items", json!(slate));
    check(Stream::Impressions, many, RejectReason::TooMany, "1001 items");
    let most = with(impression(), "items", json!(slate[..1000]));
    decode(Stream::Impressions, &most).expect("as many as the limit");
    let values: Vec<_> = (0..600).map(|i| i.to_string()).collect();
    for (stream, event, field) in [
        (Stream::Items, item(), "features"),
        (Stream::Users, user(), "features"),
        (Stream::Impressions, impression(), "context"),
    ] {
        let list = with(event.clone(), field, json!({ "list": values })).to_string();
        check(stream, &list, RejectReason::TooMany, "512");
        let names: serde_json::Map<_, _> = values.iter().map(|v| (v.clone(), json!(null))).collect();
        let names = with(event, field, Value::Object(names)).to_string();
        check(stream, &names, RejectReason::TooMany, "600");
    }
    let texts = with(item(), "text", json!(vec!["t"; 64])).to_string();
    check(Stream::Items, &texts, RejectReason::TooMany, "65 texts");
    let vector = with(item(), "vectors", json!({"v": vec![0; 8193]})).to_string();
    check(Stream::Items, &vector, RejectReason::TooMany, "8193 values");
}

#[test]
fn an_action_without_a_task_is_rejected_by_name() {
    let payload = with(action(), "action", json!("dislike")).to_string();
    check(
        Stream::Actions,
        payload,
        RejectReason::UnknownAction,
        "\"dislike\"",
    );
}

#[test]
fn a_field_given_twice_has_its_last_value() {
    let last = br#"{"item_id":"a","item_id":"b","ts_ms":1573257673000}"#;
    let event = decoder()
        .decode(&record(Stream::Items, last.as_slice()))
        .event
        .unwrap();
    assert!(matches!(event, Event::Item(item) if item.name == "b"));
    let mixed = br#"{"item_id":1,"item_id":"b","ts_ms":1573257673000}"#;
    let event = decoder()
        .decode(&record(Stream::Items, mixed.as_slice()))
        .event
        .unwrap();
    assert!(matches!(event, Event::Item(item) if item.name == "b"));
}
