//! Records of Avro and Protobuf: values, events, schemas that are missing, and bytes of every kind.

#[path = "../../tests/support/registry.rs"]
mod registry_server;
#[cfg(feature = "registry-tls")]
mod tls;

use std::sync::Arc;

use ouzel_sample::{Event, IdKind, IdSpace, PartitionId, Record, RecordMetadata};
use proptest::collection::vec;
use proptest::prelude::*;
use protox::prost_reflect::prost::Message;
use protox::prost_reflect::{DynamicMessage, Value as Protobuf};
use serde_json::json;

use super::avro_schema::AvroSchema;
use super::protobuf::ProtobufSchema;
use super::*;
use crate::decode::{Decoder, EventConfig};
use crate::mapping::READY_MADE;
use crate::{Quarantine, QuarantineRule};
use registry_server::RegistryServer;

const TS: i64 = 1_714_550_401_500;
const SHOP: &str = r#"
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "confluent/meta.proto";
message Unused { string x = 1; }
message Envelope {
  message Impression {
    string request_id = 1;
    int64 user_id = 2 [(confluent.field_meta).doc = "who saw it"];
    google.protobuf.Timestamp ts_ms = 3;
    repeated Shown items = 4;
    Device device = 5;
    map<string, double> scores = 6;
    bytes raw = 7;
    optional int32 age = 8;
    google.protobuf.StringValue note = 9;
    uint64 large = 10;
    oneof place { string city = 11; string country = 12; }
  }
}
message Shown { string item_id = 1; int32 position = 2; float price = 3; }
enum Device { DEVICE_UNKNOWN = 0; PHONE = 1; }
"#;

fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    [&[0], id.to_be_bytes().as_slice(), body].concat()
}

fn record(stream: Stream, payload: Vec<u8>) -> Record {
    Record {
        position: PartitionId::new(stream, 0).at(7),
        timestamp_ms: Some(TS),
        payload: Some(payload),
        metadata: None,
    }
}

fn formats(server: &RegistryServer, format: PayloadFormat) -> RecordFormats {
    let registry = RegistryConfig {
        url: server.url(),
        ..RegistryConfig::default()
    };
    RecordFormats::new(|_| format, Some(&registry)).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// An impression of [`SHOP`] as Confluent's serializer frames it; the path to its message is `[1, 0]`.
fn shop_impression() -> Vec<u8> {
    let schema = ProtobufSchema::parse(SHOP, &[]).unwrap();
    let pool = schema.pool();
    let message = |name: &str| DynamicMessage::new(pool.get_message_by_name(name).unwrap());
    let mut ts = message("google.protobuf.Timestamp");
    ts.set_field_by_name("seconds", Protobuf::I64(TS / 1000));
    ts.set_field_by_name("nanos", Protobuf::I32(500_000_000));
    let mut first = message("shop.Shown");
    first.set_field_by_name("item_id", Protobuf::String("a".to_owned()));
    first.set_field_by_name("price", Protobuf::F32(0.1));
    let mut note = message("google.protobuf.StringValue");
    note.set_field_by_name("value", Protobuf::String("hi".to_owned()));
    let mut shown = message("shop.Envelope.Impression");
    shown.set_field_by_name("request_id", Protobuf::String("r".to_owned()));
    shown.set_field_by_name("user_id", Protobuf::I64(5));
    shown.set_field_by_name("ts_ms", Protobuf::Message(ts));
    shown.set_field_by_name("items", Protobuf::List(vec![Protobuf::Message(first)]));
    shown.set_field_by_name("device", Protobuf::EnumNumber(1));
    shown.set_field_by_name("raw", Protobuf::Bytes(b"ab".to_vec().into()));
    shown.set_field_by_name("note", Protobuf::Message(note));
    shown.set_field_by_name("large", Protobuf::U64(u64::MAX));
    [&[4, 2, 0], shown.encode_to_vec().as_slice()].concat()
}

#[test]
fn avro_is_read_as_another_library_wrote_it() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("tests/avro.json")).unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let references: Vec<&str> = case["references"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let schema = AvroSchema::parse(case["schema"].as_str().unwrap(), &references).unwrap();
        let payload = unhex(case["payload"].as_str().unwrap());
        assert_eq!(
            schema.decode(&payload).unwrap(),
            case["value"],
            "{}",
            case["name"]
        );
        // One byte less or more is never the same record.
        assert!(
            schema.decode(&payload[..payload.len() - 1]).is_err(),
            "{}",
            case["name"]
        );
        assert!(schema.decode(&[payload.as_slice(), &[0]].concat()).is_err());
    }
}

#[test]
fn an_avro_record_of_few_bytes_and_endless_values_is_refused() {
    let nulls = AvroSchema::parse(r#"{"type": "array", "items": "null"}"#, &[]).unwrap();
    // A block of 2^60 nulls.
    let payload = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 0];
    assert!(nulls.decode(&payload).is_err());
    let node = r#"{"type": "record", "name": "N", "fields": [{"name": "next", "type": ["null", "N"]}]}"#;
    let node = AvroSchema::parse(node, &[]).unwrap();
    let mut deep = vec![2; 500_000];
    deep.push(0);
    let reject = Reject::from(node.decode(&deep).unwrap_err());
    assert!(
        reject.detail.contains("more than 128 nested values"),
        "{}",
        reject.detail
    );
}

#[test]
fn what_is_no_avro_schema_is_refused() {
    for (text, why) in [
        ("{", "no JSON"),
        (
            r#"{"type": "record", "name": "R", "fields": [{"name": "x", "type": "Nowhere"}]}"#,
            "Nowhere",
        ),
        (r#"{"type": "array"}"#, "items"),
        (
            r#"[{"type": "fixed", "name": "F", "size": 1}, {"type": "fixed", "name": "F", "size": 2}]"#,
            "twice",
        ),
        ("7", "7"),
    ] {
        let error = AvroSchema::parse(text, &[]).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
    let deep = format!("{}\"null\"{}", "[".repeat(200), "]".repeat(200));
    assert!(AvroSchema::parse(&deep, &[]).is_err());
}

#[test]
fn protobuf_has_the_names_of_its_schema_and_defaults_of_fields_without_presence() {
    let schema = ProtobufSchema::parse(SHOP, &[]).unwrap();
    assert_eq!(
        schema.decode(&shop_impression()).unwrap(),
        json!({
            "request_id": "r", "user_id": 5, "ts_ms": "2024-05-01T08:00:01.500000000Z",
            "items": [{"item_id": "a", "position": 0, "price": 0.1}],
            "device": "PHONE", "raw": "YWI=", "note": "hi", "large": u64::MAX,
        })
    );
    // The first message of the file, by its short path.
    assert_eq!(schema.decode(&[0]).unwrap(), json!({"x": ""}));
    assert!(schema.decode(&[2, 14]).is_err(), "no message has this path");
    let deep = r#"syntax = "proto3"; message N { N next = 1; }"#;
    let deep = ProtobufSchema::parse(deep, &[]).unwrap();
    let mut payload = Vec::new();
    for _ in 0..5000 {
        let mut length = Vec::new();
        protox::prost_reflect::prost::encoding::encode_varint(payload.len() as u64, &mut length);
        payload = [&[0x0a], length.as_slice(), payload.as_slice()].concat();
    }
    assert!(deep.decode(&[&[0], payload.as_slice()].concat()).is_err());
    let error = ProtobufSchema::parse("message", &[]).unwrap_err();
    assert!(error.contains("expected"), "{error}");
}

#[test]
fn protobuf_reads_structs_and_maps_in_one_order() {
    let text = r#"
        syntax = "proto3";
        import "google/protobuf/struct.proto";
        import "shop/price.proto";
        message R { google.protobuf.Struct any = 1; map<int32, shop.Price> prices = 2; }
    "#;
    let price = r#"
        syntax = "proto3";
        package shop;
        import "confluent/type/decimal.proto";
        message Price { confluent.type.Decimal amount = 1; }
    "#;
    let schema = ProtobufSchema::parse(text, &[("shop/price.proto".to_owned(), price.to_owned())]).unwrap();
    // any = {"k": [true]}, prices = {9: {}, -1: {amount: 12.34}}
    let any = "0a0d0a0b0a016b120632040a022001";
    let prices = "1204080912001215".to_owned() + "08ffffffffffffffffff01" + "12080a060a0204d21802";
    let payload = unhex(&format!("00{any}{prices}"));
    let value = schema.decode(&payload);
    assert_eq!(
        value.unwrap(),
        json!({"any": {"k": [true]}, "prices": {"-1": {"amount": 12.34}, "9": {}}})
    );
}

#[test]
fn records_of_both_formats_become_events_and_schemas_are_fetched_once() {
    let server = RegistryServer::start();
    let action = r#"{"type": "record", "name": "Action", "fields": [
        {"name": "request_id", "type": ["null", "string"]}, {"name": "user_id", "type": "long"},
        {"name": "item_id", "type": "string"}, {"name": "action", "type": "string"},
        {"name": "ts_ms", "type": {"type": "long", "logicalType": "timestamp-micros"}}]}"#;
    server.schema(1, "AVRO", action, &json!([]));
    server.schema(2, "PROTOBUF", SHOP, &json!([]));
    let mut config = EventConfig::default();
    (config.actions.format, config.impressions.format) = (PayloadFormat::Avro, PayloadFormat::Protobuf);
    let registry = RegistryConfig {
        url: server.url(),
        ..RegistryConfig::default()
    };
    let formats = RecordFormats::new(|stream| config.format(stream), Some(&registry)).unwrap();
    let ids = IdSpace::new(7);
    let decoder = Decoder::new(ids, vec!["click".to_owned()], config)
        .unwrap()
        .with_formats(Arc::new(formats));
    // r, user 5, item i, click, 2024-05-01T08:00:01.500007Z
    let mut body = vec![2, 2, b'r', 10, 2, b'i', 10];
    body.extend(b"click");
    let mut us = (TS.unsigned_abs() * 1000 + 7) << 1;
    while us > 0x7f {
        body.push(0x80 | u8::try_from(us & 0x7f).unwrap());
        us >>= 7;
    }
    body.push(u8::try_from(us).unwrap());
    for _ in 0..3 {
        let event = decoder.decode(&record(Stream::Actions, framed(1, &body))).event;
        let Ok(Event::Action(action)) = event else {
            panic!("{event:?}")
        };
        assert_eq!(action.request, Some(ids.id(IdKind::Request, "r")));
        assert_eq!(action.user, ids.id(IdKind::User, "5"));
        assert_eq!(action.ts.0, TS);
        let shown = decoder.decode(&record(Stream::Impressions, framed(2, &shop_impression())));
        let Ok(Event::Impression(shown)) = shown.event else {
            panic!("{shown:?}")
        };
        assert_eq!(shown.items[0].item, ids.id(IdKind::Item, "a"));
        assert_eq!(shown.context, [ids.attribute("device", "PHONE")]);
    }
    assert_eq!(server.n_requests(), 2);
    // A rule of the quarantine reads the fields of any format.
    let rule = QuarantineRule {
        field: Some("item_id".to_owned()),
        value: Some("i".to_owned()),
        ..QuarantineRule::default()
    };
    let decoder = decoder.with_quarantine(Quarantine::new(&[rule], ids).unwrap());
    let excluded = decoder
        .decode(&record(Stream::Actions, framed(1, &body)))
        .event
        .unwrap_err();
    assert_eq!(excluded.reason, RejectReason::Quarantined);
    let json = decoder
        .json_of(Stream::Actions, &framed(1, &body))
        .unwrap()
        .into_owned();
    assert_eq!(serde_json::from_slice::<Value>(&json).unwrap()["item_id"], "i");
    // A JSON payload where Avro is expected, and a schema of the other format.
    let plain = decoder
        .decode(&record(Stream::Actions, b"{}".to_vec()))
        .event
        .unwrap_err();
    assert_eq!(plain.reason, RejectReason::MalformedPayload);
    let other = decoder
        .decode(&record(Stream::Actions, framed(2, &body)))
        .event
        .unwrap_err();
    assert_eq!(other.reason, RejectReason::UnknownSchema);
    assert!(other.detail.contains("PROTOBUF"), "{}", other.detail);
    let account = decoder.accounts().of(Stream::Actions);
    assert_eq!((account.read, account.used), (6, 3));
    assert_eq!(account.check(Stream::Actions), Ok(()));
}

#[test]
fn ready_made_mappings_read_records_of_avro() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("tests/avro.json")).unwrap();
    let server = RegistryServer::start();
    let decode = |name: &str, stream: Stream| {
        let case = cases.iter().find(|case| case["name"] == name).unwrap();
        server.schema(1, "AVRO", case["schema"].as_str().unwrap(), &json!([]));
        let (_, mapping) = READY_MADE.iter().find(|(known, _)| *known == name).unwrap();
        let config: EventConfig = toml::from_str(mapping).unwrap();
        let decoder = Decoder::new(IdSpace::new(7), Vec::new(), config).unwrap();
        let decoder = decoder.with_formats(Arc::new(formats(&server, PayloadFormat::Avro)));
        let payload = framed(1, &unhex(case["payload"].as_str().unwrap()));
        decoder.decode(&record(stream, payload)).event
    };
    let Ok(Event::Item(item)) = decode("debezium", Stream::Items) else {
        panic!()
    };
    assert_eq!((item.name.as_str(), item.ts.0), ("5", TS));
    let Ok(Event::Impression(shown)) = decode("cloudevents", Stream::Impressions) else {
        panic!()
    };
    assert_eq!(shown.request, IdSpace::new(7).id(IdKind::Request, "r7"));
    assert_eq!(shown.ts.0, TS);
}

#[test]
fn reading_waits_for_the_registry_and_believes_its_second_no() {
    let server = RegistryServer::start();
    server.set_down(true);
    let formats = formats(&server, PayloadFormat::Avro);
    let records = [
        record(Stream::Items, framed(1, &[2, b'x'])),
        record(Stream::Items, framed(9, &[2, b'x'])),
    ];
    assert!(!formats.are_readable(&records));
    let asked = server.n_requests();
    assert!(
        !formats.are_readable(&records),
        "no request so soon after a failure"
    );
    assert_eq!(server.n_requests(), asked);
    server.schema(
        1,
        "AVRO",
        r#"{"type": "record", "name": "R", "fields": [{"name": "item_id", "type": "string"}]}"#,
        &json!([]),
    );
    server.set_down(false);
    // The second id is unknown at first, too.
    let mut n_waits = 0;
    while !formats.are_readable(&records) {
        n_waits += 1;
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(n_waits < 1000);
    }
    assert!(n_waits > 1);
    assert_eq!(
        formats.value(Stream::Items, &framed(1, &[2, b'x'])).unwrap(),
        json!({"item_id": "x"})
    );
    let reject = formats.value(Stream::Items, &framed(9, &[2, b'x'])).unwrap_err();
    assert_eq!(reject.reason, RejectReason::UnknownSchema);
    assert!(reject.detail.contains("schema 9"), "{}", reject.detail);
    // What was decided stays decided, whatever becomes of the registry.
    server.set_down(true);
    assert!(formats.are_readable(&records));
    assert!(formats.registry_complaint().is_some());
}

#[test]
fn a_login_is_sent_and_references_are_followed() {
    let server = RegistryServer::start();
    server.ask_for("Basic dXNlcjpwYXNz");
    let references = json!([{"name": "shop.Item", "subject": "shop item", "version": 1}]);
    server.schema(
        3,
        "AVRO",
        r#"{"type": "record", "name": "R", "fields": [{"name": "item", "type": "shop.Item"}]}"#,
        &references,
    );
    let item = r#"{"type": "record", "name": "Item", "namespace": "shop", "fields": [{"name": "id", "type": "int"}]}"#;
    server.subject("shop%20item", item, &json!([]));
    let mut registry = RegistryConfig {
        url: format!("{}/", server.url()),
        login: Some("user:wrong\n".to_owned()),
        ..RegistryConfig::default()
    };
    let formats = RecordFormats::new(|_| PayloadFormat::Avro, Some(&registry)).unwrap();
    assert!(formats.registry_complaint().unwrap().contains("401"));
    assert!(!formats.are_readable(&[record(Stream::Items, framed(3, &[8]))]));
    registry.login = Some("user:pass\n".to_owned());
    let formats = RecordFormats::new(|_| PayloadFormat::Avro, Some(&registry)).unwrap();
    assert_eq!(formats.registry_complaint(), None);
    assert_eq!(
        formats.value(Stream::Items, &framed(3, &[8])).unwrap(),
        json!({"item": {"id": 4}})
    );
    registry.url = registry.url.replace("http:", "https:");
    let refused = RecordFormats::new(|_| PayloadFormat::Avro, Some(&registry));
    assert_eq!(refused.is_err(), cfg!(not(feature = "registry-tls")));
}

#[test]
fn a_framed_key_is_a_text_and_deletes_its_item() {
    let server = RegistryServer::start();
    let key = r#"{"type": "record", "name": "Key", "fields": [{"name": "id", "type": "long"}]}"#;
    server.schema(4, "AVRO", key, &json!([]));
    server.schema(5, "AVRO", r#""string""#, &json!([]));
    let decoder = Decoder::new(IdSpace::new(7), Vec::new(), EventConfig::default())
        .unwrap()
        .with_formats(Arc::new(formats(&server, PayloadFormat::Avro)));
    let item = |name: &str| IdSpace::new(7).id(IdKind::Item, name);
    for (key, id) in [
        (framed(4, &[14]), "7"),
        (framed(5, &[4, b'a', b'b']), "ab"),
        (b"plain".to_vec(), "plain"),
    ] {
        let tombstone = Record {
            payload: None,
            metadata: Some(Box::new(RecordMetadata {
                key: Some(key),
                headers: Vec::new(),
            })),
            ..record(Stream::Items, Vec::new())
        };
        let event = decoder.decode(&tombstone).event;
        assert!(
            matches!(&event, Ok(Event::Deletion(deletion)) if deletion.item == item(id)),
            "{event:?}"
        );
    }
}

#[test]
fn a_json_schema_record_is_json_behind_an_id() {
    let formats = RecordFormats::new(|_| PayloadFormat::JsonSchema, None).unwrap();
    assert_eq!(
        formats.value(Stream::Items, &framed(4, b"{\"a\":1}")).unwrap(),
        json!({"a": 1})
    );
    let reject = formats.value(Stream::Items, &framed(4, b"{")).unwrap_err();
    assert_eq!(reject.reason, RejectReason::MalformedJson);
}

proptest! {
    #[test]
    fn bytes_of_every_kind_are_a_value_or_a_named_fault(payload in vec(any::<u8>(), 0..200), at in any::<u16>()) {
        let cases: Vec<Value> = serde_json::from_str(include_str!("tests/avro.json")).unwrap();
        for case in &cases {
            let references: Vec<&str> = case["references"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let schema = AvroSchema::parse(case["schema"].as_str().unwrap(), &references).unwrap();
            let mut mutated = unhex(case["payload"].as_str().unwrap());
            let at = usize::from(at) % mutated.len();
            mutated.splice(at..(at + 1), payload.iter().copied().take(3));
            for bytes in [&payload, &mutated] {
                if let Err(fault) = schema.decode(bytes) {
                    prop_assert!(!Reject::from(fault).detail.is_empty());
                }
            }
        }
    }

    #[test]
    fn bytes_of_every_kind_are_a_message_or_a_named_fault(payload in vec(any::<u8>(), 0..60), at in any::<u16>()) {
        static SCHEMA: std::sync::LazyLock<(ProtobufSchema, Vec<u8>)> =
            std::sync::LazyLock::new(|| (ProtobufSchema::parse(SHOP, &[]).unwrap(), shop_impression()));
        let (schema, whole) = &*SCHEMA;
        let mut mutated = whole.clone();
        let at = usize::from(at) % mutated.len();
        mutated.splice(at..(at + 1), payload.iter().copied().take(3));
        for bytes in [&payload, &mutated] {
            if let Err(fault) = schema.decode(bytes) {
                prop_assert!(!Reject::from(fault).detail.is_empty());
            }
        }
    }
}
