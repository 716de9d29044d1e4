//! The Kafka source, the feeder and the dead letters against the embedded broker.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails while setting a test up fails the test"
)]

mod faults;
mod formats;
mod late;
mod producer;
mod real;
#[path = "../support/registry.rs"]
#[allow(dead_code, reason = "the tests of the formats use all of it")]
mod registry_server;
mod source;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ouzel_ingest::{EmbeddedBroker, Error, Feeder, KafkaConfig, KafkaSource, Polled, Source, Topics};
use ouzel_sample::{PartitionId, Positions, Record, Stream};

/// Longest wait of any step; only a failing test waits for it.
const TIMEOUT: Duration = Duration::from_secs(60);

struct World {
    broker: EmbeddedBroker,
    config: KafkaConfig,
    feeder: Feeder,
}

/// A broker with the three topics and their dead letters, `n` partitions each.
fn world(n: i32) -> World {
    world_of(Topics::default(), n)
}

/// A broker with these topics and their dead letters, `n` partitions each.
fn world_of(topics: Topics, n: i32) -> World {
    let broker = EmbeddedBroker::start(n, &topics.all()).unwrap();
    let bootstrap = broker.bootstrap().unwrap();
    let feeder = Feeder::connect(&bootstrap, &BTreeMap::new(), topics.clone()).unwrap();
    let config = KafkaConfig {
        bootstrap,
        streams: topics.events(),
        topics,
        ..KafkaConfig::default()
    };
    World {
        broker,
        config,
        feeder,
    }
}

impl World {
    fn feed(&self, stream: Stream, keys: impl IntoIterator<Item = i32>) {
        for key in keys {
            let key = key.to_string();
            self.feeder
                .send(stream, &key, Some(1_000_000), Some(key.as_bytes()))
                .unwrap();
        }
        self.feeder.flush(TIMEOUT).unwrap();
    }

    fn open(&self) -> KafkaSource {
        KafkaSource::open(&self.config, &Positions::default(), None).unwrap()
    }
}

fn id(stream: Stream, partition: i32) -> PartitionId {
    PartitionId { stream, partition }
}

/// The records of a source, checked for continuity.
#[derive(Default)]
struct Collected {
    records: BTreeMap<PartitionId, Vec<Record>>,
    ends: Vec<PartitionId>,
    added: Vec<PartitionId>,
    is_finished: bool,
}

impl Collected {
    fn poll(&mut self, source: &mut KafkaSource) -> Result<(), Error> {
        match source.poll(Duration::from_millis(50))? {
            Polled::Records(records) => {
                let of = self.records.entry(records[0].position.partition).or_default();
                for record in records {
                    if let Some(last) = of.last() {
                        assert_eq!(record.position.partition, last.position.partition);
                        assert_eq!(record.position.offset, last.position.offset + 1);
                    }
                    of.push(record);
                }
            }
            Polled::AtEnd(id) => self.ends.push(id),
            Polled::Added(id) => self.added.push(id),
            Polled::Idle => {}
            Polled::Finished => self.is_finished = true,
        }
        Ok(())
    }

    /// Polls until `is_enough`.
    #[track_caller]
    fn until(&mut self, source: &mut KafkaSource, is_enough: impl Fn(&Collected) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !is_enough(self) {
            assert!(
                Instant::now() < deadline,
                "{} records, ends {:?}",
                self.n(),
                self.ends
            );
            self.poll(source).unwrap();
        }
    }

    fn n(&self) -> usize {
        self.records.values().map(Vec::len).sum()
    }

    fn payloads(&self, stream: Stream) -> Vec<i32> {
        let of = self.records.iter().filter(|(id, _)| id.stream == stream);
        let text = of
            .flat_map(|(_, records)| records)
            .map(|record| record.payload.clone().unwrap());
        let mut payloads: Vec<i32> = text
            .map(|text| String::from_utf8(text).unwrap().parse().unwrap())
            .collect();
        payloads.sort_unstable();
        payloads
    }
}

/// Polls until the source fails.
fn failure(source: &mut KafkaSource) -> Error {
    let deadline = Instant::now() + TIMEOUT;
    let mut collected = Collected::default();
    while Instant::now() < deadline {
        if let Err(error) = collected.poll(source) {
            return error;
        }
    }
    panic!("no failure, {} records", collected.n());
}
