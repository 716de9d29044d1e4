//! Records whose schemas are in a registry.

use std::sync::Arc;
use std::time::Instant;

use ouzel_ingest::{Decoder, EventConfig, PayloadFormat, RecordFormats, RegistryConfig};
use ouzel_sample::{Event, IdSpace, RejectReason};
use serde_json::json;

use super::registry_server::RegistryServer;
use super::*;

const ACTION: &str = r#"{"type": "record", "name": "Action", "fields": [
    {"name": "request_id", "type": "string"}, {"name": "user_id", "type": "string"},
    {"name": "item_id", "type": "string"}, {"name": "action", "type": "string"},
    {"name": "ts_ms", "type": "long"}]}"#;

/// An action as Confluent's Avro serializer writes it.
fn action(schema: u8) -> Vec<u8> {
    let mut payload = vec![0, 0, 0, 0, schema];
    for text in ["r", "u", "i", "click"] {
        payload.push(u8::try_from(text.len() * 2).unwrap());
        payload.extend(text.as_bytes());
    }
    // 1,000,000 ms, zigzag and of variable length.
    payload.extend([0x80, 0x89, 0x7a]);
    payload
}

#[test]
fn the_source_waits_for_the_registry_and_loses_nothing() {
    let world = world(1);
    let server = RegistryServer::start();
    server.set_down(true);
    for schema in [1, 1, 9] {
        world
            .feeder
            .send(Stream::Actions, "r", Some(1_000_000), Some(&action(schema)))
            .unwrap();
    }
    world.feeder.flush(TIMEOUT).unwrap();
    let registry = RegistryConfig {
        url: server.url(),
        ..RegistryConfig::default()
    };
    let formats = RecordFormats::new(|_| PayloadFormat::Avro, Some(&registry)).unwrap();
    let config = KafkaConfig {
        streams: vec![Stream::Actions],
        formats: Arc::new(formats),
        ..world.config.clone()
    };
    let mut source = KafkaSource::open(&config, &Positions::default(), None).unwrap();
    let started = Instant::now();
    while server.n_requests() < 2 {
        // Neither records nor the end of the partition behind them.
        assert_eq!(source.poll(Duration::from_millis(20)).unwrap(), Polled::Idle);
        assert!(started.elapsed() < TIMEOUT);
    }
    server.schema(1, "AVRO", ACTION, &json!([]));
    server.set_down(false);
    let mut collected = Collected::default();
    while collected.ends.is_empty() {
        collected.poll(&mut source).unwrap();
        assert!(started.elapsed() < TIMEOUT);
    }
    let decoder = Decoder::new(IdSpace::new(7), vec!["click".to_owned()], EventConfig::default())
        .unwrap()
        .with_formats(Arc::clone(&config.formats));
    let records = &collected.records[&id(Stream::Actions, 0)];
    let events: Vec<_> = records
        .iter()
        .map(|record| decoder.decode(record).event)
        .collect();
    assert!(matches!(
        events[..2],
        [Ok(Event::Action(_)), Ok(Event::Action(_))]
    ));
    assert_eq!(
        events[2].as_ref().unwrap_err().reason,
        RejectReason::UnknownSchema
    );
    let account = decoder.accounts().of(Stream::Actions);
    assert_eq!((account.read, account.used), (3, 2));
}
