//! Records are delivered, or their loss is reported.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ouzel_ingest::{DeadLetters, EMBEDDED_PARTITION_BYTES, Error, KafkaConfig, KafkaSource, Source, Topics};
use ouzel_sample::{Position, Positions, Record, Reject, RejectReason, Stream};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;

use super::{Collected, TIMEOUT, id, world};

#[test]
fn a_key_lands_on_the_same_partition_in_every_topic() {
    let world = world(4);
    world.feed(Stream::Impressions, 0..100);
    world.feed(Stream::Actions, 0..100);
    let mut collected = Collected::default();
    collected.until(&mut world.open(), |collected| collected.n() == 200);
    for partition in 0..4 {
        let of = |stream| -> Vec<_> {
            let records = collected
                .records
                .get(&id(stream, partition))
                .cloned()
                .unwrap_or_default();
            records.into_iter().map(|record| record.payload).collect()
        };
        assert!(!of(Stream::Impressions).is_empty());
        assert_eq!(of(Stream::Impressions), of(Stream::Actions));
    }
}

#[test]
fn a_feeder_paced_by_consumption_never_overflows_the_embedded_broker() {
    let world = world(1);
    let config = KafkaConfig {
        is_whole_log_expected: true,
        ..world.config.clone()
    };
    let mut source = KafkaSource::open(&config, &Positions::default(), None).unwrap();
    let mut collected = Collected::default();
    let payload = vec![b'x'; 20_000];
    let n = 4 * EMBEDDED_PARTITION_BYTES / 20_000;
    let mut consumed = Positions::default();
    for _ in 0..n {
        while world.feeder.unread_bytes(&consumed) > EMBEDDED_PARTITION_BYTES / 2 {
            world.feeder.poll(Duration::ZERO);
            collected.poll(&mut source).unwrap();
            consumed = source
                .partitions()
                .iter()
                .map(|state| (state.id, state.next))
                .collect();
        }
        world
            .feeder
            .send(Stream::Actions, "k", None, Some(&payload))
            .unwrap();
    }
    world.feeder.flush(TIMEOUT).unwrap();
    collected.until(&mut source, |collected| collected.n() as u64 == n);
    consumed = source
        .partitions()
        .iter()
        .map(|state| (state.id, state.next))
        .collect();
    assert_eq!(world.feeder.unread_bytes(&consumed), 0);
}

#[test]
fn undelivered_records_are_an_error() {
    let world = world(1);
    world.broker.set_reachable(false).unwrap();
    world.feeder.send(Stream::Actions, "k", None, Some(b"x")).unwrap();
    let error = world.feeder.flush(Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, Error::Undelivered { n: 1, .. }), "{error}");
}

#[test]
fn a_dead_letter_carries_its_coordinates_and_the_beginning_of_its_payload() {
    let world = world(1);
    let mut letters = DeadLetters::kafka(&world.config).unwrap();
    let position = Position {
        partition: id(Stream::Actions, 3),
        offset: 17,
    };
    let record = Record {
        position,
        timestamp_ms: None,
        payload: Some(vec![b'z'; 2000]),
        metadata: None,
    };
    let null = Record {
        payload: None,
        ..record.clone()
    };
    let reject = Reject::new(RejectReason::WrongType, "`value`: expected a number");
    letters.send(&record, &reject);
    letters.send(
        &null,
        &Reject::new(RejectReason::NullValue, "the record has no value"),
    );
    letters.poll();
    letters.flush(TIMEOUT).unwrap();

    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", world.broker.bootstrap().unwrap())
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset("actions.dlq", 0, rdkafka::Offset::Beginning)
        .unwrap();
    consumer.assign(&list).unwrap();
    let deadline = Instant::now() + TIMEOUT;
    let mut read = Vec::new();
    while read.len() < 2 {
        assert!(Instant::now() < deadline);
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
            read.push(message.detach());
        }
    }
    assert_eq!(read[0].key(), Some(b"actions/3/17".as_slice()));
    assert_eq!(read[0].payload(), Some([b'z'; 512].as_slice()));
    assert_eq!(read[1].payload(), None);
    let headers: BTreeMap<_, _> = read[0]
        .headers()
        .unwrap()
        .iter()
        .map(|header| {
            (
                header.key.to_owned(),
                String::from_utf8(header.value.unwrap().to_vec()).unwrap(),
            )
        })
        .collect();
    for (name, value) in [
        ("topic", "actions"),
        ("partition", "3"),
        ("offset", "17"),
        ("reason", "wrong_type"),
        ("detail", "`value`: expected a number"),
        ("size", "2000"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert_eq!(
        headers["blake3"],
        blake3::hash(&[b'z'; 2000]).to_hex().to_string()
    );
}

#[test]
fn dead_letters_of_a_replay_go_to_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dead.jsonl");
    let position = Position {
        partition: id(Stream::Items, 0),
        offset: 4,
    };
    let record = Record {
        position,
        timestamp_ms: None,
        payload: Some([b"\xff".as_slice(), &[b'x'; 600]].concat()),
        metadata: None,
    };
    let mut letters = DeadLetters::file(&path, Topics::default()).unwrap();
    letters.send(
        &record,
        &Reject::new(RejectReason::MalformedJson, "expected value"),
    );
    letters.flush(TIMEOUT).unwrap();
    let line: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(line["topic"], "items");
    assert_eq!(
        (line["partition"].as_i64(), line["offset"].as_i64()),
        (Some(0), Some(4))
    );
    assert_eq!(line["reason"], "malformed_json");
    assert_eq!(line["payload"], format!("\u{fffd}{}", "x".repeat(511)));
    DeadLetters::discard().send(&record, &Reject::new(RejectReason::BadId, ""));
}
