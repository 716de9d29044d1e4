//! The broker of a test: the embedded broker, or a real one with new topics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use ouzel_ingest::{DataEvent, EmbeddedBroker, Feeder, Topics, topics};
use ouzel_sample::{Positions, Stream};
use serde_json::json;

use super::TIMEOUT;

/// A broker with the three topics and their dead letters.
pub(crate) struct Broker {
    pub(crate) bootstrap: String,
    pub(crate) topics: Topics,
    pub(crate) n_partitions: i32,
    pub(crate) feeder: Feeder,
    /// Positions written by earlier feeders.
    before: Positions,
    // Stops when the test ends.
    embedded: Option<EmbeddedBroker>,
}

impl Broker {
    /// The embedded broker.
    pub(crate) fn embedded(n_partitions: i32) -> Self {
        let topics = Topics::default();
        let all = [topics.all(), topics.tier().to_vec()].concat();
        let embedded = EmbeddedBroker::start(n_partitions, &all).unwrap();
        Self::new(
            embedded.bootstrap().unwrap(),
            topics,
            n_partitions,
            Some(embedded),
        )
    }

    /// The real broker with new topics, if there is one.
    pub(crate) fn real(test: &str, n_partitions: i32) -> Option<Self> {
        let named = std::env::var("OUZEL_KAFKA_BOOTSTRAP").ok();
        let Some(bootstrap) = named.filter(|bootstrap| !bootstrap.is_empty()) else {
            skipped(
                test,
                "set OUZEL_KAFKA_BOOTSTRAP=host:port to run it against a real broker",
            );
            return None;
        };
        Some(Self::at(bootstrap, test, n_partitions))
    }

    /// The broker at this address, with new topics.
    pub(crate) fn at(bootstrap: String, test: &str, n_partitions: i32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |stream| format!("it-{test}-{stream}-{}-{number}", std::process::id());
        let topics = Topics::named(name);
        let all = [topics.all(), topics.tier().to_vec()].concat();
        let created = topics::create(&bootstrap, &BTreeMap::new(), &all, n_partitions, 1).unwrap();
        assert_eq!(created, all);
        Self::new(bootstrap, topics, n_partitions, None)
    }

    /// This broker with a producer that knows the partitions added to impressions and actions.
    pub(crate) fn with_partitions(self, n_partitions: i32) -> Self {
        let before = self.delivered();
        let feeder = feeder(&self.bootstrap, &self.topics);
        Self {
            n_partitions,
            feeder,
            before,
            ..self
        }
    }

    fn new(bootstrap: String, topics: Topics, n_partitions: i32, embedded: Option<EmbeddedBroker>) -> Self {
        let feeder = feeder(&bootstrap, &topics);
        Self {
            bootstrap,
            topics,
            n_partitions,
            feeder,
            before: Positions::default(),
            embedded,
        }
    }

    /// True for a real broker, which accepts records up to its configured size.
    pub(crate) fn is_real(&self) -> bool {
        self.embedded.is_none()
    }

    /// Makes the embedded broker unreachable or reachable again.
    pub(crate) fn set_reachable(&self, is_reachable: bool) {
        let embedded = self.embedded.as_ref().expect("the broker is embedded");
        embedded.set_reachable(is_reachable).unwrap();
    }

    /// Writes `events` with their event time as timestamp and waits until all are acknowledged.
    pub(crate) fn feed(&self, events: &[DataEvent]) {
        for event in events {
            self.send(event.stream, &event.key, event.ts_ms, Some(&event.payload));
        }
        self.flush();
    }

    /// Writes one record.
    pub(crate) fn send(&self, stream: Stream, key: &str, ts_ms: i64, payload: Option<&[u8]>) {
        self.feeder.send(stream, key, Some(ts_ms), payload).unwrap();
    }

    /// Waits until all records are acknowledged.
    pub(crate) fn flush(&self) {
        self.feeder.flush(TIMEOUT).unwrap();
    }

    /// Number of records written so far.
    pub(crate) fn n_records(&self) -> u64 {
        let sum: i64 = self.delivered().iter().map(|(_, next)| next).sum();
        u64::try_from(sum).unwrap()
    }

    /// Offset after the last record written to each partition.
    fn delivered(&self) -> Positions {
        let now = self.feeder.delivered();
        self.before.iter().chain(now.iter()).collect()
    }

    /// Advances event time to `at_ms` in every partition of impressions and actions, which closes all earlier windows.
    /// Returns the number of one-item impressions written for it; their own windows stay open.
    pub(crate) fn heartbeat(&self, at_ms: i64) -> u64 {
        let before = self.delivered();
        // Time crosses a gap with the fourth request.
        let n_beats = if self.n_partitions == 1 {
            4
        } else {
            8 * u64::try_from(self.n_partitions).unwrap()
        };
        for beat in 0..n_beats {
            let key = format!("beat-{beat}");
            let impression = json!({ "request_id": key, "user_id": "nobody", "ts_ms": at_ms,
                                     "items": [{ "item_id": "item-0" }] });
            let action = json!({ "request_id": format!("{key}-of-none"), "item_id": "item-0", "user_id": "nobody",
                                 "ts_ms": at_ms, "action": "click" });
            for (stream, event) in [(Stream::Impressions, impression), (Stream::Actions, action)] {
                self.send(stream, &key, at_ms, Some(event.to_string().as_bytes()));
            }
        }
        self.flush();
        let after = self.delivered();
        for (id, next) in after.iter().filter(|(id, _)| id.stream != Stream::Items) {
            assert!(before.next(id).unwrap_or(0) < next, "no heartbeat reached {id}");
        }
        n_beats
    }
}

fn feeder(bootstrap: &str, topics: &Topics) -> Feeder {
    // Room for the oversized records that some tests send.
    let properties = [
        ("message.max.bytes", "16000000"),
        ("queue.buffering.max.kbytes", "65536"),
    ];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Feeder::connect(bootstrap, &properties.into(), topics.clone()).unwrap()
}

#[allow(
    clippy::print_stderr,
    reason = "the test runner shows a skipped test on request"
)]
pub(crate) fn skipped(test: &str, how: &str) {
    eprintln!("SKIPPED {test}: {how}");
}
