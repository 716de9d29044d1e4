//! Mutates mappings and payloads at random, as a fuzzer does, and checks what holds for all of them.
//!
//! Nothing panics; a record decodes to the same twice; every record has one fate; and a payload that JSON writes otherwise
//! (other order of white space) decodes to the same. `OUZEL_FUZZ_CASES` sets how many cases run, `OUZEL_FUZZ_SEED` from which
//! seed; a failure names the seed of its case.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails while setting a test up fails the test"
)]

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ouzel_ingest::mapping::READY_MADE;
use ouzel_ingest::{Decoder, EventConfig};
use ouzel_sample::{IdSpace, PartitionId, Record, RecordMetadata, Stream};
use serde_json::{Map, Value, json};

/// Cases in every run of the tests.
const CASES: u64 = 20_000;
/// Payloads that are tried on one mapping.
const PAYLOADS: u64 = 8;

/// Pieces that paths and texts are made of.
const WORDS: [&str; 34] = [
    "$",
    "$.",
    "@key",
    "@timestamp",
    "@topic",
    "@position",
    "@header.",
    "|json",
    "[*]",
    "[0]",
    "[18446744073709551616]",
    "[key=page]",
    "[",
    "]",
    "\"odd.name\"",
    ".",
    "items",
    "item_id",
    "event",
    "user.id",
    "payload",
    "after",
    "properties",
    "request_id",
    "ts_ms",
    "*",
    "",
    "é",
    "\u{0}",
    "params[key=ga_session_id].value",
    "2024-05-01T08:00:01.500Z",
    "1714550401500",
    "-0",
    "1e400",
];

/// A pseudo-random number generator (xorshift).
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % n
    }

    fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    fn text(&mut self) -> String {
        (0..=self.below(4)).map(|_| *self.pick(&WORDS)).collect()
    }

    fn scalar(&mut self) -> Value {
        match self.below(9) {
            0 => Value::Null,
            1 => json!(self.below(2) == 0),
            2 => json!(i64::MIN),
            3 => json!(u64::MAX),
            4 => json!(1e300),
            5 => json!(1_714_550_401_500_i64 + i64::try_from(self.below(2000)).unwrap()),
            6 => json!(self.below(20)),
            _ => json!(self.text()),
        }
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(8) {
            0 if depth > 0 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            1 | 2 if depth > 0 => {
                let fields = 0..self.below(5);
                Value::Object(fields.map(|_| (self.text(), self.value(depth - 1))).collect())
            }
            _ => self.scalar(),
        }
    }

    /// Changes one place below `value`.
    fn mutate(&mut self, value: &mut Value, fresh: fn(&mut Self) -> Value) {
        let stays = self.below(4) > 0;
        match value {
            Value::Array(list) if stays && !list.is_empty() => {
                let at = self.below(list.len());
                match self.below(6) {
                    0 => drop(list.remove(at)),
                    1 => list.insert(at, fresh(self)),
                    _ => self.mutate(&mut list[at], fresh),
                }
            }
            Value::Object(object) if stays && !object.is_empty() => {
                let name = object.keys().nth(self.below(object.len())).unwrap().clone();
                match self.below(6) {
                    0 => drop(object.remove(&name)),
                    1 => drop(object.insert(self.text(), fresh(self))),
                    _ => self.mutate(&mut object[&name], fresh),
                }
            }
            other => *other = fresh(self),
        }
    }
}

/// A source of a field, or a part of one.
fn source(rng: &mut Rng) -> Value {
    match rng.below(7) {
        0 => json!([rng.text(), rng.text()]),
        1 => json!({"path": rng.text(), "equals": [rng.text()]}),
        2 => json!({ "value": rng.value(1) }),
        3 => json!({ rng.text(): rng.text() }),
        4 => rng.value(1),
        _ => json!(rng.text()),
    }
}

/// Records of the shapes that the ready-made mappings read.
fn payloads() -> Vec<Value> {
    let t = 1_714_550_401_500_i64;
    vec![
        json!({"request_id": "r", "user_id": "u", "ts_ms": t, "items": [{"item_id": "a", "position": 0, "features": {"s": 1}}],
               "context": {"device": "tv"}}),
        json!({"request_id": 1, "user_id": 2, "item_id": 3, "ts_ms": t.to_string(), "action": "click", "value": "2.5"}),
        json!({"item_id": "a", "ts_ms": t, "title": "t", "text": ["x"], "category": "a|b", "vectors": {"text": [1, 2]},
               "price": 9.5, "partial": true, "image": null}),
        json!({"event": {"name": "view"}, "properties": {"products": [{"sku": "a", "product_id": "b"}]}, "userId": "u",
               "timestamp": "2024-05-01T08:00:01.500Z", "messageId": "m"}),
        json!({"event_name": "view_item_list", "event_timestamp": t * 1000, "user_pseudo_id": "u",
               "event_params": [{"key": "ga_session_id", "value": {"int_value": 7}}], "items": [{"item_id": "a", "index": 1}]}),
        json!({"payload": {"op": "u", "before": null, "after": {"id": 5, "item_id": 5, "title": "t"}, "ts_ms": t}}),
        json!({"specversion": "1.0", "id": "1", "time": "2024-05-01T08:00:01Z", "type": "view",
               "data": {"request_id": "r", "user_id": "u", "item_id": "a"}}),
        json!({"wrapped": "{\"request_id\": \"r\", \"user_id\": \"u\", \"item_id\": \"a\", \"ts_ms\": 1714550401500}"}),
    ]
}

/// The sections of a ready-made mapping as JSON, which the mutations change.
fn mappings() -> Vec<Value> {
    let parse =
        |text: &str| -> Value { serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap() };
    READY_MADE.iter().map(|(_, text)| parse(text)).collect()
}

/// The bytes of a payload, sometimes damaged.
fn bytes(rng: &mut Rng, payload: &Value) -> Vec<u8> {
    let mut bytes = payload.to_string().into_bytes();
    if rng.below(5) == 0 && !bytes.is_empty() {
        let at = rng.below(bytes.len());
        match rng.below(3) {
            0 => bytes.truncate(at),
            1 => bytes[at] = rng.below(256).to_le_bytes()[0],
            _ => bytes.splice(at..at, b"NaN".iter().copied()).for_each(drop),
        }
    }
    bytes
}

/// One mapping and some payloads. Returns how many records became events.
fn case(seed: u64, mappings: &[Value], payloads: &[Value]) -> u64 {
    // Spread, so that neighbouring seeds differ in every bit.
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut section = rng.pick(mappings).clone();
    if section.as_object().is_none_or(Map::is_empty) {
        section = json!({"impressions": {}, "actions": {}, "items": {}});
    }
    for _ in 0..rng.below(4) {
        rng.mutate(&mut section, source);
        let stream = *rng.pick(&["impressions", "actions", "items"]);
        let key = *rng.pick(&[
            "root",
            "where",
            "item_id",
            "items",
            "request_id",
            "context",
            "features",
            "actions",
            "deleted",
        ]);
        if let Some(object) = section.get_mut(stream).and_then(Value::as_object_mut) {
            object.insert(key.to_owned(), source(&mut rng));
        }
    }
    let Ok(config) = serde_json::from_value::<EventConfig>(section) else {
        return 0;
    };
    let is_valid = config.validate().is_empty();
    let decoder = Decoder::new(IdSpace::new(seed), vec!["click".to_owned()], config);
    // What the check of a configuration refuses is what a decoder refuses.
    assert_eq!(decoder.is_ok(), is_valid);
    let Ok(decoder) = decoder else { return 0 };
    let mut n_read = 0;
    for n in 0..PAYLOADS {
        let mut payload = rng.pick(payloads).clone();
        for _ in 0..rng.below(4) {
            rng.mutate(&mut payload, |rng| rng.value(3));
        }
        let stream = *rng.pick(&Stream::EVENTS);
        let record = Record {
            position: PartitionId::new(stream, 0).at(i64::try_from(n).unwrap()),
            timestamp_ms: (rng.below(4) > 0).then_some(1_714_550_402_000),
            payload: (rng.below(20) > 0).then(|| bytes(&mut rng, &payload)),
            metadata: (rng.below(2) == 0).then(|| {
                Box::new(RecordMetadata {
                    key: Some(rng.text().into_bytes()),
                    headers: vec![("ce_type".to_owned(), rng.text().into_bytes())],
                })
            }),
        };
        let first = decoder.decode(&record);
        let again = decoder.decode(&record);
        // Compared as text: a number that is not one equals nothing.
        assert_eq!(format!("{first:?}"), format!("{again:?}"));
        if let Err(reject) = &first.event {
            assert!(!reject.detail.is_empty(), "a rejection says why");
        }
        // White space between tokens means nothing.
        if let Some(Ok(value)) = record.payload.as_deref().map(serde_json::from_slice::<Value>) {
            let pretty = Record {
                payload: Some(serde_json::to_vec_pretty(&value).unwrap()),
                ..record.clone()
            };
            let plain = Record {
                payload: Some(value.to_string().into_bytes()),
                ..record
            };
            assert_eq!(
                format!("{:?}", decoder.check(&plain)),
                format!("{:?}", decoder.check(&pretty))
            );
        }
        n_read += 2;
    }
    let accounts = decoder.accounts();
    accounts.check().unwrap();
    assert_eq!(
        accounts.0.values().map(|account| account.read).sum::<u64>(),
        n_read
    );
    accounts.0.values().map(|account| account.used).sum()
}

#[test]
fn any_mapping_of_any_payload_keeps_every_record_in_one_account() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cases = number("OUZEL_FUZZ_CASES").unwrap_or(CASES);
    let first = number("OUZEL_FUZZ_SEED").unwrap_or(1);
    let (mappings, payloads) = (mappings(), payloads());
    let mut n_used = 0;
    for seed in first..first + cases {
        match catch_unwind(AssertUnwindSafe(|| case(seed, &mappings, &payloads))) {
            Ok(n) => n_used += n,
            Err(panic) => {
                let mut what = String::new();
                if let Some(text) = panic.downcast_ref::<String>() {
                    write!(what, ": {text}").unwrap();
                }
                panic!("OUZEL_FUZZ_SEED={seed} OUZEL_FUZZ_CASES=1 fails{what}");
            }
        }
    }
    assert!(
        n_used > cases / 10,
        "{n_used} events of {cases} cases: the mutations leave too little"
    );
}
