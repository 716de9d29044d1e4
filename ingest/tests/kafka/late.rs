//! Copies of late records.

use ouzel_ingest::LateRecords;
use ouzel_ingest::join::Outcome;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;

use super::*;

#[test]
fn a_late_record_is_copied_with_its_payload_under_its_coordinates_and_others_are_not() {
    let topics = Topics::default();
    let late = topics.late(Stream::Actions);
    let broker = EmbeddedBroker::start(1, std::slice::from_ref(&late)).unwrap();
    let config = KafkaConfig {
        bootstrap: broker.bootstrap().unwrap(),
        ..KafkaConfig::default()
    };
    let copies = LateRecords::kafka(&config).unwrap();
    let record = |stream, offset| Record {
        position: id(stream, 0).at(offset),
        timestamp_ms: Some(1_000_000 + offset),
        payload: Some(vec![b'a'; 2000]),
        metadata: None,
    };
    copies.keep((0..4).map(|offset| record(Stream::Actions, offset)).collect());
    copies.keep(vec![record(Stream::Items, 0)]);
    for (offset, outcome) in [
        (0, Outcome::Matched),
        (1, Outcome::LateAction),
        (2, Outcome::Early),
        (3, Outcome::LateAction),
        // Not kept, as when its partition has too many bytes: counted, and no error.
        (9, Outcome::LateAction),
    ] {
        copies.joined(id(Stream::Actions, 0).at(offset), outcome);
    }
    copies.flush(TIMEOUT).unwrap();
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap)
        .set("group.id", "test")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset(&late, 0, rdkafka::Offset::Beginning)
        .unwrap();
    consumer.assign(&list).unwrap();
    let (started, mut read) = (Instant::now(), Vec::new());
    loop {
        assert!(started.elapsed() < TIMEOUT);
        match consumer.poll(Duration::from_millis(50)) {
            Some(Ok(message)) => read.push(message.detach()),
            Some(Err(_)) if !read.is_empty() => break,
            _ => {}
        }
    }
    let keys: Vec<_> = read.iter().map(|message| message.key().unwrap()).collect();
    assert_eq!(keys, [b"actions/0/1", b"actions/0/3"]);
    assert_eq!(read[0].payload(), Some([b'a'; 2000].as_slice()));
    assert_eq!(read[0].timestamp().to_millis(), Some(1_000_001));
    let headers = read[0].headers().unwrap();
    let reason = headers.iter().find(|header| header.key == "reason").unwrap();
    assert_eq!(reason.value, Some(b"late_action".as_slice()));
}
