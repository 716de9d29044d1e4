//! The records of a world in other forms: behind paths of a mapping, and as Avro with its schema in a registry.

use std::sync::Arc;

use ouzel_ingest::{Decoder, EventConfig, PayloadFormat, RecordFormats, RegistryConfig};
use ouzel_sample::{IdSpace, Record, Stream};
use serde_json::{Value, json};

use super::registry_server::RegistryServer;
use super::world::World;

/// The names and places that [`at_paths`] gives the fields.
const PATHS: &str = r#"
[impressions]
root = "payload"
request_id = "view.id"
user_id = ["user.id", "anonymous_id"]
items = "products"
item_id = "sku"
position = "rank"
time = { field = "$.sent_at", unit = "ms" }
context = ["device", "country"]

[actions]
root = "payload"
request_id = "view.id"
user_id = ["user.id", "anonymous_id"]
item_id = "product.sku"
action = "event"
time = { field = "$.sent_at", unit = "ms" }
"#;

const IMPRESSION: &str = r#"{"type": "record", "name": "Impression", "fields": [
    {"name": "request_id", "type": "string"}, {"name": "user_id", "type": "string"}, {"name": "ts_ms", "type": "long"},
    {"name": "items", "type": {"type": "array", "items": {"type": "record", "name": "Shown", "fields": [
        {"name": "item_id", "type": "string"}, {"name": "position", "type": ["null", "int"]}]}}},
    {"name": "context", "type": ["null", {"type": "record", "name": "Context", "fields": [
        {"name": "device", "type": "string"}, {"name": "country", "type": "string"}]}]}]}"#;
const ACTION: &str = r#"{"type": "record", "name": "Action", "fields": [
    {"name": "request_id", "type": "string"}, {"name": "user_id", "type": "string"}, {"name": "ts_ms", "type": "long"},
    {"name": "item_id", "type": "string"}, {"name": "action", "type": "string"}]}"#;
const ITEM: &str = r#"{"type": "record", "name": "Item", "fields": [
    {"name": "item_id", "type": "string"}, {"name": "ts_ms", "type": "long"}, {"name": "title", "type": "string"},
    {"name": "category", "type": {"type": "array", "items": "string"}}, {"name": "author", "type": ["null", "string"]}]}"#;

/// The log as an analytics pipeline would carry it, and its decoder.
pub(crate) fn at_paths(world: &World) -> (Vec<Record>, Decoder) {
    let log = rewritten(world, |stream, event| {
        let at_path = match stream {
            Stream::Impressions => {
                let shown = event["items"].as_array().into_iter().flatten();
                let products: Vec<Value> = shown
                    .map(|item| json!({ "sku": item["item_id"], "rank": item["position"] }))
                    .collect();
                let context = &event["context"];
                json!({ "sent_at": event["ts_ms"], "payload": {
                    "event": "view", "view": { "id": event["request_id"] }, "user": { "id": event["user_id"] },
                    "products": products, "device": context["device"], "country": context["country"] } })
            }
            Stream::Actions => json!({ "sent_at": event["ts_ms"], "payload": {
                "event": event["action"], "view": { "id": event["request_id"] }, "user": { "id": event["user_id"] },
                "product": { "sku": event["item_id"] } } }),
            _ => event,
        };
        at_path.to_string().into_bytes()
    });
    let config: EventConfig = toml::from_str(PATHS).expect("the mapping is a configuration");
    (log, decoder(config))
}

/// The log as Avro, its decoder, and the registry that must stay up.
pub(crate) fn avro(world: &World) -> (Vec<Record>, Decoder, RegistryServer) {
    let log = rewritten(world, |stream, event| match stream {
        Stream::Impressions => impression(&event),
        Stream::Actions => action(&event),
        _ => item(&event),
    });
    let server = RegistryServer::start();
    for (id, schema) in [(1, IMPRESSION), (2, ACTION), (3, ITEM)] {
        server.schema(id, "AVRO", schema, &json!([]));
    }
    let registry = RegistryConfig {
        url: server.url(),
        ..RegistryConfig::default()
    };
    let formats =
        RecordFormats::new(|_| PayloadFormat::Avro, Some(&registry)).expect("the registry is valid");
    let decoder = decoder(EventConfig::default()).with_formats(Arc::new(formats));
    (log, decoder, server)
}

fn decoder(config: EventConfig) -> Decoder {
    Decoder::new(IdSpace::new(1), vec!["click".to_owned()], config).expect("the mapping is valid")
}

fn rewritten(world: &World, form: impl Fn(Stream, Value) -> Vec<u8>) -> Vec<Record> {
    let mut log = world.log();
    for record in &mut log {
        let payload = record.payload.as_deref().expect("a world has no tombstone");
        let event = serde_json::from_slice(payload).expect("a world's records are JSON");
        record.payload = Some(form(record.position.partition.stream, event));
    }
    log
}

fn impression(event: &Value) -> Vec<u8> {
    let mut record = framed(1);
    for name in ["request_id", "user_id"] {
        text(&mut record, &event[name]);
    }
    long(&mut record, event["ts_ms"].as_i64().unwrap_or_default());
    let shown = event["items"].as_array().map_or(&[][..], Vec::as_slice);
    block(&mut record, shown, |record, item| {
        text(record, &item["item_id"]);
        option(record, &item["position"], |record, position| {
            long(record, position.as_i64().unwrap_or_default());
        });
    });
    option(&mut record, &event["context"], |record, context| {
        text(record, &context["device"]);
        text(record, &context["country"]);
    });
    record
}

fn action(event: &Value) -> Vec<u8> {
    let mut record = framed(2);
    for name in ["request_id", "user_id"] {
        text(&mut record, &event[name]);
    }
    long(&mut record, event["ts_ms"].as_i64().unwrap_or_default());
    for name in ["item_id", "action"] {
        text(&mut record, &event[name]);
    }
    record
}

fn item(event: &Value) -> Vec<u8> {
    let mut record = framed(3);
    text(&mut record, &event["item_id"]);
    long(&mut record, event["ts_ms"].as_i64().unwrap_or_default());
    text(&mut record, &event["title"]);
    let categories = event["category"].as_array().map_or(&[][..], Vec::as_slice);
    block(&mut record, categories, text);
    option(&mut record, &event["author"], text);
    record
}

/// The head of a record as Confluent's serializer writes it.
fn framed(schema: u8) -> Vec<u8> {
    vec![0, 0, 0, 0, schema]
}

/// A number in zigzag form, seven bits a byte.
fn long(record: &mut Vec<u8>, number: i64) {
    let mut rest = (number << 1 ^ number >> 63).cast_unsigned();
    while rest >= 0x80 {
        record.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    record.push(rest.to_le_bytes()[0]);
}

fn text(record: &mut Vec<u8>, value: &Value) {
    let text = value.as_str().unwrap_or_default();
    count(record, text.len());
    record.extend(text.as_bytes());
}

fn count(record: &mut Vec<u8>, n: usize) {
    long(record, i64::try_from(n).expect("a count is small"));
}

/// An array in one block.
fn block(record: &mut Vec<u8>, values: &[Value], each: impl Fn(&mut Vec<u8>, &Value)) {
    if !values.is_empty() {
        count(record, values.len());
        values.iter().for_each(|value| each(record, value));
    }
    long(record, 0);
}

/// A union of null and a value.
fn option(record: &mut Vec<u8>, value: &Value, some: impl Fn(&mut Vec<u8>, &Value)) {
    long(record, i64::from(!value.is_null()));
    if !value.is_null() {
        some(record, value);
    }
}
