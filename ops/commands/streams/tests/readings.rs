//! The logs as records, and through a broker: the one that `OUZEL_KAFKA_BOOTSTRAP` names, else the embedded one; and the
//! check of what a reading leads to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ouzel_ingest::accounts::Accounts;
use ouzel_ingest::{
    EmbeddedBroker, Feeder, KafkaConfig, KafkaSource, Polled, ReplayRange, Source, Topics, topics,
};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A row as it stands in a topic; a text is a row that is written as it is.
fn text(row: &Value) -> String {
    row.as_str().map_or_else(|| row.to_string(), str::to_owned)
}

/// The rows as records of topics, without timestamps of their own.
pub(super) fn from_records(config: &Config, log: &Log) -> StreamReport {
    report(config, records(log), &Accounts::default(), false)
}

/// Writes the rows of a log to topics, reads them back and joins them.
pub(super) fn from_broker(config: &Config, log: &Log) -> StreamReport {
    let real = std::env::var("OUZEL_KAFKA_BOOTSTRAP")
        .ok()
        .filter(|bootstrap| !bootstrap.is_empty());
    let mut kafka = KafkaConfig::default();
    // Stops when the records are read.
    let _embedded = match real {
        Some(bootstrap) => {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            kafka.bootstrap = bootstrap;
            kafka.topics = Topics::named(|stream| format!("case-{stream}-{}-{number}", std::process::id()));
            let names = Stream::EVENTS.map(|stream| kafka.topics.name(stream).to_owned());
            topics::create(&kafka.bootstrap, &BTreeMap::new(), &names, 1, 1).unwrap();
            None
        }
        None => {
            kafka.topics.users = "users".to_owned();
            let broker = EmbeddedBroker::start(1, &kafka.topics.all()).unwrap();
            kafka.bootstrap = broker.bootstrap().unwrap();
            kafka.is_whole_log_expected = true;
            Some(broker)
        }
    };
    kafka.streams = kafka.topics.events();
    let feeder = Feeder::connect(&kafka.bootstrap, &BTreeMap::new(), kafka.topics.clone()).unwrap();
    for (stream, rows) in log.streams() {
        for row in rows {
            let key = row.get("request_id").map_or_else(String::new, Value::to_string);
            feeder
                .send(stream, &key, None, Some(text(row).as_bytes()))
                .unwrap();
        }
    }
    feeder.flush(TIMEOUT).unwrap();
    let mut source = KafkaSource::open_range(&kafka, &ReplayRange::default()).unwrap();
    let (mut records, started) = (Vec::new(), Instant::now());
    loop {
        assert!(started.elapsed() < TIMEOUT, "the topics are read to their end");
        match source.poll(Duration::from_millis(20)).unwrap() {
            Polled::Records(read) => records.extend(read),
            Polled::Finished => break,
            Polled::AtEnd(_) | Polled::Added(_) | Polled::Idle => {}
        }
    }
    report(config, records, &Accounts::default(), false)
}

/// Checks counts `stream.records.NAME` or `stream.events.NAME` of a reading, and that each record has one fate.
#[track_caller]
pub(super) fn check_report(report: &StreamReport, reading: &str, expected: &[(&str, u64)]) {
    for (key, count) in expected {
        let [stream, kind, name] = key.split('.').collect::<Vec<_>>()[..] else {
            panic!("{key}")
        };
        let figures = &report.streams[stream];
        let counts = if kind == "records" {
            &figures.records
        } else {
            &figures.events
        };
        assert_eq!(
            counts.get(name).copied().unwrap_or(0),
            *count,
            "{key} from {reading}: {figures:?}"
        );
    }
    for (stream, figures) in &report.streams {
        assert_eq!(
            figures.records.values().sum::<u64>(),
            figures.read,
            "{stream} from {reading}"
        );
    }
}
