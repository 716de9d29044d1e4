//! Invalid records among valid ones: each is counted by reason and sent to the dead letters, without any other effect.

use std::collections::BTreeMap;
use std::time::Duration;

use ouzel_ingest::{KafkaConfig, KafkaSource, Polled, ReplayRange, Source, Topics};
use ouzel_sample::{Record, RejectReason, Stream};
use serde_json::json;

use super::broker::Broker;
use super::daemon::Home;
use super::wait_until;
use super::world::{START_MS, World};

/// 3000-01-01.
const YEAR_3000_MS: i64 = 32_503_680_000_000;

/// An invalid record with the reason for which it is rejected.
struct Bad {
    stream: Stream,
    reason: RejectReason,
    payload: Option<Vec<u8>>,
}

fn bad(stream: Stream, reason: RejectReason, payload: impl ToString) -> Bad {
    Bad {
        stream,
        reason,
        payload: Some(payload.to_string().into_bytes()),
    }
}

/// Records for every reason of rejection, each with one fault.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn bad_records(largest: usize) -> Vec<Bad> {
    use RejectReason as Reason;
    use Stream::{Actions, Impressions, Items};
    let shown = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut event = json!({ "request_id": "bad", "user_id": "user-1", "ts_ms": START_MS,
                                "items": [{ "item_id": "item-1" }] });
        change(&mut event);
        event
    };
    let acted = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut event = json!({ "request_id": "r1", "item_id": "item-1", "user_id": "user-1", "ts_ms": START_MS,
                                "action": "click" });
        change(&mut event);
        event
    };
    let mut records = vec![
        bad(Impressions, Reason::MalformedJson, "{\"request_id\": \"r1\","),
        bad(Impressions, Reason::MalformedJson, "[]"),
        bad(Impressions, Reason::MalformedJson, ""),
        bad(
            Impressions,
            Reason::WrongType,
            shown(&|e| e["request_id"] = json!([7])),
        ),
        bad(
            Impressions,
            Reason::WrongType,
            shown(&|e| e["items"] = json!("item-1")),
        ),
        bad(
            Impressions,
            Reason::WrongType,
            shown(&|e| e["ts_ms"] = json!("yesterday")),
        ),
        bad(
            Impressions,
            Reason::MissingField,
            shown(&|e| e["user_id"] = json!(null)),
        ),
        bad(
            Impressions,
            Reason::MissingField,
            shown(&|e| e["items"] = json!([])),
        ),
        bad(
            Impressions,
            Reason::BadId,
            shown(&|e| e["request_id"] = json!("")),
        ),
        bad(
            Impressions,
            Reason::BadId,
            shown(&|e| e["user_id"] = json!("u".repeat(513))),
        ),
        bad(Impressions, Reason::TooOld, shown(&|e| e["ts_ms"] = json!(0))),
        bad(
            Impressions,
            Reason::Future,
            shown(&|e| e["ts_ms"] = json!(YEAR_3000_MS)),
        ),
        bad(
            Impressions,
            Reason::Future,
            shown(&|e| e["ts_ms"] = json!(START_MS + 3_600_000)),
        ),
        bad(
            Impressions,
            Reason::TooLarge,
            shown(&|e| e["padding"] = json!("x".repeat(1_000_000))),
        ),
        bad(Actions, Reason::MalformedJson, "not json"),
        bad(Actions, Reason::WrongType, acted(&|e| e["value"] = json!("much"))),
        bad(
            Actions,
            Reason::MissingField,
            acted(&|e| e["item_id"] = json!(null)),
        ),
        bad(
            Actions,
            Reason::MissingField,
            acted(&|e| e["action"] = json!(null)),
        ),
        bad(Actions, Reason::TooOld, acted(&|e| e["ts_ms"] = json!(1))),
        bad(
            Actions,
            Reason::Future,
            acted(&|e| e["ts_ms"] = json!(YEAR_3000_MS)),
        ),
        bad(
            Actions,
            Reason::TooLarge,
            acted(&|e| e["padding"] = json!("x".repeat(largest))),
        ),
        bad(
            Actions,
            Reason::UnknownAction,
            acted(&|e| e["action"] = json!("stare")),
        ),
        bad(Items, Reason::MalformedJson, "{}}"),
        bad(Items, Reason::MissingField, json!({ "ts_ms": START_MS })),
        bad(
            Items,
            Reason::WrongType,
            json!({ "item_id": "item-1", "ts_ms": START_MS, "title": {} }),
        ),
        Bad {
            stream: Actions,
            reason: Reason::MalformedJson,
            payload: Some(b"\xff\xfe\x00".to_vec()),
        },
    ];
    // A null value of an item is its tombstone, which is valid.
    records.extend([Stream::Impressions, Stream::Actions].map(|stream| Bad {
        stream,
        reason: Reason::NullValue,
        payload: None,
    }));
    records
}

/// The contents of the dead-letter topics, by stream.
fn dead_letters(broker: &Broker) -> BTreeMap<Stream, Vec<Record>> {
    let topics = Topics::named(|stream| broker.topics.dead_letters(stream));
    let config = KafkaConfig {
        bootstrap: broker.bootstrap.clone(),
        topics,
        ..KafkaConfig::default()
    };
    let mut source = KafkaSource::open_range(&config, &ReplayRange::default()).unwrap();
    let mut letters: BTreeMap<Stream, Vec<Record>> = BTreeMap::new();
    wait_until("the dead letters are read", || {
        match source.poll(Duration::from_millis(50)).unwrap() {
            Polled::Records(records) => {
                let stream = records[0].position.partition.stream;
                letters.entry(stream).or_default().extend(records);
                None
            }
            Polled::AtEnd(_) | Polled::Added(_) | Polled::Idle => None,
            Polled::Finished => Some(()),
        }
    });
    letters
}

fn bad_records_have_no_effect(broker: &Broker) {
    let dir = tempfile::tempdir().unwrap();
    let world = World::generate(150, dir.path());
    let bad = bad_records(if broker.is_real() { 10_000_000 } else { 1_000_000 });
    let mut home = Home::new(broker, "learner.batch_min_samples = 32");
    let daemon = home.start();
    // An invalid record after every few valid ones. Its timestamp is the start of the log, to which its event time is
    // compared.
    let (first, rest) = world.events.split_at(world.events.len() / 4);
    broker.feed(first);
    let place = |n: usize| n * rest.len() / bad.len();
    for (n, bad) in bad.iter().enumerate() {
        broker.send(bad.stream, "bad", START_MS, bad.payload.as_deref());
        broker.feed(&rest[place(n)..place(n + 1)]);
    }
    assert_eq!(
        broker.n_records(),
        (world.events.len() + bad.len()) as u64,
        "all records are in the log"
    );
    let n_beats = broker.heartbeat(world.end_ms + 3_600_000);
    daemon.wait_joined(broker.n_records());

    let mut by_reason: BTreeMap<(Stream, RejectReason), f64> = BTreeMap::new();
    for bad in &bad {
        *by_reason.entry((bad.stream, bad.reason)).or_default() += 1.0;
    }
    for ((stream, reason), n) in by_reason {
        let labels = format!("{{stream=\"{stream}\",reason=\"{}\"}}", reason.name());
        let counted = daemon.metric("ouzel_ingest_rejected_total", &labels);
        assert!((counted - n).abs() < 0.5, "{labels}: {counted} counted, {n} sent");
    }
    let status = daemon.status();
    assert_eq!(status.rejected + status.unneeded, bad.len() as u64);
    let shown = world.expected.shown;
    wait_until("every sample is learned", || {
        (daemon.status().samples == world.expected.samples()).then_some(())
    });
    daemon.stop();

    // An action that no task learns is valid and has no dead letter.
    let letters = dead_letters(broker);
    for stream in KafkaConfig::default().streams {
        let sent: Vec<&Bad> = bad
            .iter()
            .filter(|bad| bad.stream == stream && !bad.reason.is_unneeded())
            .collect();
        let found = &letters[&stream];
        assert_eq!(found.len(), sent.len(), "{stream}");
        for (bad, letter) in sent.iter().zip(found) {
            // A dead letter holds the beginning of the payload.
            let payload = bad.payload.as_ref();
            let beginning = payload.map(|payload| payload[..payload.len().min(512)].to_vec());
            assert_eq!(letter.payload, beginning, "{stream}: {}", bad.reason.name());
        }
    }

    let checkpoint = home.manifest().checkpoint;
    let n_bad = |stream| bad.iter().filter(|bad| bad.stream == stream).count() as u64;
    for (name, value) in [
        ("rejected_impressions", n_bad(Stream::Impressions)),
        ("rejected_actions", n_bad(Stream::Actions)),
        ("accepted", world.expected.requests + n_beats),
        ("click.positive", world.expected.positives),
        ("click.negative", shown - world.expected.positives),
        ("duplicate_items", 0),
        ("late_actions", world.expected.late),
    ] {
        assert_eq!(checkpoint.counters[name], value, "{name}");
    }
    assert_eq!(checkpoint.sample_seq, world.expected.samples());
}

#[test]
fn bad_records_have_no_effect_on_the_embedded_broker() {
    bad_records_have_no_effect(&Broker::embedded(1));
}

#[test]
fn bad_records_have_no_effect_on_a_real_broker() {
    if let Some(broker) = Broker::real("bad", 1) {
        bad_records_have_no_effect(&broker);
    }
}
