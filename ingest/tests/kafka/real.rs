//! Tests that need a real broker: transactions, lookup by time, topics made by request, retention by
//! request. Runs against the broker named by `OUZEL_KAFKA_BOOTSTRAP` (`host:port`) and prints a notice when there is
//! none.

use std::collections::BTreeMap;
use std::time::Duration;

use ouzel_ingest::{
    Error, Feeder, KafkaConfig, KafkaSource, ReplayBound, ReplayRange, Source, Topics, topics,
};
use ouzel_sample::{Positions, Stream};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::{Collected, TIMEOUT, id};

/// Topics of this test's own on the broker under test, one partition each.
#[allow(
    clippy::print_stderr,
    reason = "a skipped test says so where the runner shows it"
)]
fn real(test: &str) -> Option<KafkaConfig> {
    let Ok(bootstrap) = std::env::var("OUZEL_KAFKA_BOOTSTRAP") else {
        eprintln!("SKIPPED {test}: set OUZEL_KAFKA_BOOTSTRAP=host:port to run it against a real broker");
        return None;
    };
    let name = |stream| format!("{test}-{stream}-{}", std::process::id());
    let topics = Topics {
        impressions: name("impressions"),
        actions: name("actions"),
        items: name("items"),
        samples: name("samples"),
        users: String::new(),
    };
    let config = KafkaConfig {
        bootstrap,
        topics,
        ..KafkaConfig::default()
    };
    let all = config.topics.all();
    let created = topics::create(&config.bootstrap, &config.properties, &all, 1, 1).unwrap();
    assert_eq!(created, all);
    let again = topics::create(&config.bootstrap, &config.properties, &all, 1, 1).unwrap();
    assert_eq!(again, Vec::<String>::new());
    Some(config)
}

#[test]
fn transactions_leave_gaps_that_are_no_losses_and_ends_that_are_ends() {
    let Some(config) = real("transactions") else {
        return;
    };
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap)
        .set("transactional.id", format!("ouzel-test-{}", std::process::id()))
        .create()
        .unwrap();
    producer.init_transactions(TIMEOUT).unwrap();
    for transaction in 0..4 {
        producer.begin_transaction().unwrap();
        for i in 0..5 {
            let payload = (transaction * 5 + i).to_string();
            let record = BaseRecord::to(&config.topics.impressions)
                .key("k")
                .payload(&payload);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(TIMEOUT).unwrap();
        if transaction == 1 {
            producer.abort_transaction(TIMEOUT).unwrap();
        } else {
            producer.commit_transaction(TIMEOUT).unwrap();
        }
    }
    let mut source = KafkaSource::open_range(&config, &ReplayRange::default()).unwrap();
    let mut read = Vec::new();
    let mut n_ends = 0;
    loop {
        match source.poll(Duration::from_millis(50)).unwrap() {
            ouzel_ingest::Polled::Records(records) => {
                read.extend(records.into_iter().map(|record| record.position.offset));
            }
            ouzel_ingest::Polled::AtEnd(_) => n_ends += 1,
            ouzel_ingest::Polled::Added(_) | ouzel_ingest::Polled::Idle => {}
            ouzel_ingest::Polled::Finished => break,
        }
    }
    // 5 records and a marker, 5 aborted ones and their marker, and so on: 24 offsets.
    assert_eq!(read, (0..5).chain(12..17).chain(18..23).collect::<Vec<i64>>());
    assert_eq!(n_ends, 3);
}

#[test]
fn a_range_is_found_by_time() {
    let Some(config) = real("times") else { return };
    let feeder = Feeder::connect(&config.bootstrap, &BTreeMap::new(), config.topics.clone()).unwrap();
    // The broker's default refuses no past times.
    let t0 = 1_700_000_000_000_i64;
    for i in 0..10 {
        feeder.send(Stream::Items, "k", Some(t0), Some(b"7")).unwrap();
        feeder
            .send(Stream::Actions, "k", Some(t0 + i), Some(i.to_string().as_bytes()))
            .unwrap();
    }
    feeder.flush(TIMEOUT).unwrap();
    for (from, to, expected) in [(3, 7, 3..7), (-5, 4, 0..4), (8, 100, 8..10), (50, 60, 0..0)] {
        let range = ReplayRange {
            from: Some(ReplayBound::TimeMs(t0 + from)),
            to: Some(ReplayBound::TimeMs(t0 + to)),
        };
        let mut source = KafkaSource::open_range(&config, &range).unwrap();
        let mut collected = Collected::default();
        collected.until(&mut source, |collected| collected.is_finished);
        assert_eq!(
            collected.payloads(Stream::Actions),
            expected.collect::<Vec<_>>(),
            "{range:?}"
        );
        assert_eq!(
            collected.payloads(Stream::Items).len(),
            if to > 0 { 10 } else { 0 }
        );
    }
}

#[test]
fn records_deleted_before_they_were_read_are_an_error() {
    let Some(config) = real("deleted") else { return };
    let feeder = Feeder::connect(&config.bootstrap, &BTreeMap::new(), config.topics.clone()).unwrap();
    for i in 0..10 {
        feeder
            .send(Stream::Actions, "k", None, Some(i.to_string().as_bytes()))
            .unwrap();
    }
    feeder.flush(TIMEOUT).unwrap();
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap)
        .create()
        .unwrap();
    let mut upto = rdkafka::TopicPartitionList::new();
    upto.add_partition_offset(&config.topics.actions, 0, rdkafka::Offset::Offset(6))
        .unwrap();
    pollster::block_on(admin.delete_records(&upto, &AdminOptions::new())).unwrap();
    let from: Positions = [(id(Stream::Actions, 0), 3)].into_iter().collect();
    let error = KafkaSource::open(&config, &from, None).err().expect("refused");
    assert!(
        matches!(error, Error::RetentionPassed { next: 3, low: 6, .. }),
        "{error}"
    );
    let mut collected = Collected::default();
    let mut source = KafkaSource::open(&config, &Positions::default(), None).unwrap();
    collected.until(&mut source, |collected| collected.n() == 4);
    assert_eq!(collected.payloads(Stream::Actions), (6..10).collect::<Vec<_>>());
}
