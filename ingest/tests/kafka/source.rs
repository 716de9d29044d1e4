//! Reading ranges, resuming and pausing.

use ouzel_ingest::{Decoder, EventConfig, KafkaSource, ReplayBound, ReplayRange, Source, Topics};
use ouzel_sample::{Event, IdKind, IdSpace, Stream};

use super::{Collected, TIMEOUT, id, world, world_of};

#[test]
fn every_record_of_every_stream_is_read_once_and_every_end_is_reported() {
    let world = world(2);
    world.feed(Stream::Items, 0..10);
    world.feed(Stream::Impressions, 0..2000);
    world.feed(Stream::Actions, 0..300);
    let mut source = world.open();
    let mut collected = Collected::default();
    collected.until(&mut source, |collected| {
        collected.n() == 2310 && collected.ends.len() >= 6
    });
    assert_eq!(collected.payloads(Stream::Items), (0..10).collect::<Vec<_>>());
    assert_eq!(
        collected.payloads(Stream::Impressions),
        (0..2000).collect::<Vec<_>>()
    );
    assert_eq!(collected.payloads(Stream::Actions), (0..300).collect::<Vec<_>>());
    assert_eq!(
        collected.records[&id(Stream::Items, 0)][0].timestamp_ms,
        Some(1_000_000)
    );
    for stream in world.config.topics.events() {
        assert!(
            (0..2).all(|partition| collected.ends.contains(&id(stream, partition))),
            "{:?}",
            collected.ends
        );
    }
    // A live partition continues after its reported end.
    world.feed(Stream::Actions, 300..301);
    collected.until(&mut source, |collected| collected.n() == 2311);
    let states = source.partitions();
    assert_eq!(states.len(), 6);
    assert_eq!(states.iter().map(|state| state.next).sum::<i64>(), 2311);
    assert_eq!(
        world.feeder.delivered().iter().map(|(_, next)| next).sum::<i64>(),
        2311
    );
}

#[test]
fn reading_resumes_at_the_positions_given() {
    let world = world(1);
    world.feed(Stream::Impressions, 0..100);
    let from = [(id(Stream::Impressions, 0), 60)].into_iter().collect();
    let mut source = KafkaSource::open(&world.config, &from, None).unwrap();
    let mut collected = Collected::default();
    collected.until(&mut source, |collected| collected.ends.len() >= 3);
    assert_eq!(
        collected.payloads(Stream::Impressions),
        (60..100).collect::<Vec<_>>()
    );
}

#[test]
fn a_range_of_the_log_has_every_user_where_users_have_a_topic() {
    let from = Some(ReplayBound::Offset(3));
    let read = |world: &super::World, n: usize| {
        let range = ReplayRange { from, to: None };
        let mut source = KafkaSource::open_range(&world.config, &range).unwrap();
        let mut collected = Collected::default();
        collected.until(&mut source, |collected| collected.n() == n);
        assert!(matches!(
            source.poll(TIMEOUT),
            Ok(ouzel_ingest::Polled::AtEnd(_) | ouzel_ingest::Polled::Finished)
        ));
        collected.payloads(Stream::Users)
    };
    let without = world(1);
    without.feed(Stream::Impressions, 0..5);
    assert_eq!(read(&without, 2), Vec::<i32>::new());
    let topics = Topics {
        users: "users".to_owned(),
        ..Topics::default()
    };
    let world = world_of(topics, 1);
    world.feed(Stream::Impressions, 0..5);
    world.feed(Stream::Users, 0..5);
    assert_eq!(read(&world, 7), [0, 1, 2, 3, 4]);
}

#[test]
fn a_bounded_read_ends_at_its_bound_and_ignores_later_records() {
    let world = world(1);
    world.feed(Stream::Items, 0..5);
    world.feed(Stream::Impressions, 0..100);
    let cases = [
        (ReplayRange::default(), 0..100),
        (
            ReplayRange {
                from: Some(ReplayBound::Offset(20)),
                to: Some(ReplayBound::Offset(50)),
            },
            20..50,
        ),
        (
            ReplayRange {
                from: None,
                to: Some(ReplayBound::Offset(1_000_000)),
            },
            0..100,
        ),
        (
            ReplayRange {
                from: Some(ReplayBound::Offset(100)),
                to: None,
            },
            100..100,
        ),
    ];
    let mut n_later = 100;
    for (range, expected) in cases {
        let to = expected.end.min(100);
        let expected: Vec<i32> = match range.to {
            // The earlier cases have added records to the log.
            Some(ReplayBound::Offset(50)) => expected.collect(),
            _ => (expected.start..n_later).collect(),
        };
        let mut source = KafkaSource::open_range(&world.config, &range).unwrap();
        world.feed(Stream::Impressions, n_later..n_later + 10);
        n_later += 10;
        let mut collected = Collected::default();
        collected.until(&mut source, |collected| collected.is_finished);
        assert_eq!(
            collected.payloads(Stream::Impressions),
            expected,
            "{range:?} to {to}"
        );
        assert_eq!(
            collected.payloads(Stream::Items).len(),
            5,
            "items are read from their start"
        );
        assert_eq!(collected.ends.len(), 3, "each end once: {:?}", collected.ends);
    }
}

#[test]
fn a_paused_partition_is_silent_and_continues_where_it_stopped() {
    let world = world(1);
    world.feed(Stream::Impressions, 0..3000);
    let mut source = world.open();
    let mut collected = Collected::default();
    collected.until(&mut source, |collected| collected.n() > 0);
    let paused = [id(Stream::Impressions, 0)];
    for _ in 0..3 {
        source.pause(&paused).unwrap();
        let before = collected.n();
        for _ in 0..5 {
            collected.poll(&mut source).unwrap();
        }
        assert_eq!(collected.n(), before);
        assert_eq!(source.partitions()[1].next, i64::try_from(before).unwrap());
        source.resume(&paused).unwrap();
        collected.until(&mut source, |collected| {
            collected.n() > before || collected.n() == 3000
        });
    }
    collected.until(&mut source, |collected| collected.n() == 3000);
    assert_eq!(
        collected.payloads(Stream::Impressions),
        (0..3000).collect::<Vec<_>>()
    );
}

#[test]
fn the_tombstone_of_an_item_is_read_as_its_deletion() {
    let world = world(1);
    world
        .feeder
        .send(Stream::Items, "film-7", Some(1_700_000_000_000), None)
        .unwrap();
    world.feeder.flush(TIMEOUT).unwrap();
    let mut collected = Collected::default();
    collected.until(&mut world.open(), |collected| collected.n() == 1);
    let record = &collected.records[&id(Stream::Items, 0)][0];
    assert_eq!(record.payload, None);
    let ids = IdSpace::new(0);
    let decoder = Decoder::new(ids, vec!["click".to_owned()], EventConfig::default()).unwrap();
    let Ok(Event::Deletion(deletion)) = decoder.decode(record).event else {
        panic!("{record:?}")
    };
    assert_eq!(deletion.item, ids.id(IdKind::Item, "film-7"));
    assert_eq!(deletion.ts.0, 1_700_000_000_000);
}

#[test]
fn null_values_and_large_records_pass_through_to_the_decoder() {
    let world = world(1);
    world.feeder.send(Stream::Actions, "k", None, None).unwrap();
    let large = vec![b'y'; 900_000];
    world
        .feeder
        .send(Stream::Actions, "k", None, Some(&large))
        .unwrap();
    world.feeder.flush(TIMEOUT).unwrap();
    let mut collected = Collected::default();
    collected.until(&mut world.open(), |collected| collected.n() == 2);
    let payloads: Vec<_> = collected.records[&id(Stream::Actions, 0)]
        .iter()
        .map(|record| record.payload.clone())
        .collect();
    assert_eq!(payloads, [None, Some(large)]);
    let refused = world
        .feeder
        .send(Stream::Actions, "k", None, Some(&vec![0; 20 << 20]))
        .unwrap_err();
    assert!(refused.to_string().contains("actions"), "{refused}");
}
