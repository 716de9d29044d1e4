//! Lost records, unreachable brokers and wrong configurations.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ouzel_ingest::{EMBEDDED_PARTITION_BYTES, Error, KafkaConfig, KafkaSource, Source, Topics};
use ouzel_sample::{Positions, Stream};

use super::{Collected, TIMEOUT, World, failure, id, world};

#[test]
fn reading_continues_after_an_outage_of_the_broker() {
    let world = world(1);
    world.feed(Stream::Actions, 0..10);
    let mut source = world.open();
    let mut collected = Collected::default();
    collected.until(&mut source, |collected| collected.n() == 10);
    world.broker.set_reachable(false).unwrap();
    for _ in 0..10 {
        collected.poll(&mut source).unwrap();
    }
    world.broker.set_reachable(true).unwrap();
    world.feed(Stream::Actions, 10..20);
    collected.until(&mut source, |collected| collected.n() == 20);
}

#[test]
fn partitions_that_have_no_leader_yet_are_asked_again() {
    let world = world(1);
    world.feed(Stream::Actions, 0..10);
    world.broker.lose_leaders(5).unwrap();
    let mut source = world.open();
    Collected::default().until(&mut source, |collected| collected.n() == 10);
}

#[test]
fn positions_outside_of_the_log_are_refused_with_their_coordinates() {
    let world = world(1);
    world.feed(Stream::Impressions, 0..10);
    let open = |partition, offset| {
        let from = [(id(Stream::Impressions, partition), offset)]
            .into_iter()
            .collect();
        KafkaSource::open(&world.config, &from, None)
            .err()
            .expect("refused")
            .to_string()
    };
    let truncated = open(0, 11);
    assert!(
        truncated.contains("impressions[0] ends at offset 10"),
        "{truncated}"
    );
    let gone = open(3, 0);
    assert!(
        gone.contains("impressions[3]") && gone.contains("1 partitions"),
        "{gone}"
    );
}

/// Fills impressions[0] beyond the limit of the embedded broker.
fn overflow(world: &World) {
    let payload = vec![b'x'; 50_000];
    for _ in 0..=EMBEDDED_PARTITION_BYTES / 50_000 + 20 {
        world
            .feeder
            .send(Stream::Impressions, "k", None, Some(&payload))
            .unwrap();
    }
    world.feeder.flush(TIMEOUT).unwrap();
}

#[test]
fn retention_that_passed_a_position_is_an_error_at_the_start_and_while_reading() {
    let world = world(1);
    world.feed(Stream::Impressions, 0..5);
    // Opened and assigned, but paused while the broker drops the next records.
    let mut source = world.open();
    let mut collected = Collected::default();
    collected.until(&mut source, |collected| collected.n() == 5);
    source.pause(&[id(Stream::Impressions, 0)]).unwrap();
    overflow(&world);
    source.resume(&[id(Stream::Impressions, 0)]).unwrap();
    let error = failure(&mut source);
    assert!(
        matches!(error, Error::RetentionPassed { next: 5, low, .. } if low > 5),
        "{error}"
    );
    assert!(!error.is_transient());

    let from: Positions = [(id(Stream::Impressions, 0), 2)].into_iter().collect();
    let error = KafkaSource::open(&world.config, &from, None)
        .err()
        .expect("refused");
    assert!(matches!(error, Error::RetentionPassed { next: 2, .. }), "{error}");
    assert!(
        error.to_string().contains("retention passed impressions[0]"),
        "{error}"
    );

    // A first start takes the log as it is, unless all of it is expected.
    assert!(KafkaSource::open(&world.config, &Positions::default(), None).is_ok());
    let whole = KafkaConfig {
        is_whole_log_expected: true,
        ..world.config.clone()
    };
    let error = KafkaSource::open(&whole, &Positions::default(), None)
        .err()
        .expect("refused");
    assert!(matches!(error, Error::RetentionPassed { next: 0, .. }), "{error}");
}

#[test]
fn a_missing_topic_and_a_wrong_address_are_one_clear_line() {
    let world = world(1);
    let topics = Topics {
        actions: "clicks-misspelt".to_owned(),
        ..Topics::default()
    };
    let config = KafkaConfig {
        topics,
        ..world.config.clone()
    };
    let error = KafkaSource::open(&config, &Positions::default(), None)
        .err()
        .expect("refused");
    assert!(
        matches!(&error, Error::MissingTopic { topic, .. } if topic == "clicks-misspelt"),
        "{error}"
    );

    let config = KafkaConfig {
        bootstrap: "127.0.0.1:1".to_owned(),
        ..KafkaConfig::default()
    };
    let started = Instant::now();
    let error = KafkaSource::open(&config, &Positions::default(), None)
        .err()
        .expect("refused");
    assert!(started.elapsed() < Duration::from_secs(20));
    let text = error.to_string();
    assert!(matches!(error, Error::Unreachable { .. }), "{text}");
    assert!(
        text.contains("127.0.0.1:1") && text.contains("refused") && !text.contains('\n'),
        "{text}"
    );
}

#[test]
fn an_owned_or_unknown_property_is_refused() {
    for (key, value) in [("auto.offset.reset", "latest"), ("no.such.property", "s3cret")] {
        let properties = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let config = KafkaConfig {
            bootstrap: "127.0.0.1:1".to_owned(),
            properties,
            ..KafkaConfig::default()
        };
        let text = KafkaSource::open(&config, &Positions::default(), None)
            .err()
            .unwrap()
            .to_string();
        assert!(text.contains(key) && !text.contains("s3cret"), "{text}");
    }
}
