use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ouzel_sample::{Event, IdKind, IdSpace, Positions, Stream};
use serde_json::{Value, json};

use super::source::DataSource;
use super::*;
use crate::{Decoder, EventLimits, Polled, Source};

const T0: i64 = 1_600_000_000_000;

fn folder(files: &[(&str, &[Value])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, rows) in files {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(dir.path().join(format!("{name}.jsonl")), text).unwrap();
    }
    dir
}

fn shown(request: &str, item: &str, ts: i64) -> Value {
    json!({"request_id": request, "user_id": "u", "item_id": item, "ts_ms": ts})
}

fn payload(event: &DataEvent) -> Value {
    serde_json::from_slice(&event.payload).unwrap()
}

#[test]
fn lines_of_a_request_become_one_impression_with_their_common_fields_as_context() {
    let mut rows = vec![
        shown("r1", "a", T0),
        shown("r2", "c", T0 + 1),
        shown("r1", "b", T0),
        shown("r1", "a", T0),
    ];
    rows[0]["position"] = json!(0);
    rows[2]["position"] = json!(1);
    for row in &mut rows {
        row["scene"] = json!(1);
        row["clicked"] = json!(1);
    }
    rows[0]["bid"] = json!(7);
    rows[2]["bid"] = json!(8);
    let dir = folder(&[("impressions", &rows)]);
    let data = DataDir::open(dir.path(), None).unwrap();
    let events: Vec<_> = data.events().iter().map(payload).collect();
    assert_eq!(
        events,
        [
            json!({
                "request_id": "r1", "user_id": "u", "ts_ms": T0, "context": {"scene": "1"},
                "items": [{"item_id": "a", "position": 0}, {"item_id": "b", "position": 1}],
            }),
            json!({
                "request_id": "r2", "user_id": "u", "ts_ms": T0 + 1, "context": {"scene": "1"},
                "items": [{"item_id": "c"}],
            }),
        ]
    );
    assert_eq!(data.events()[0].key, "r1");
    let summary = data.summary();
    assert_eq!(
        (summary.n_requests, summary.n_impressions, summary.n_repeated),
        (2, 3, 1)
    );
    assert_eq!(
        (summary.first_ts, summary.mid_ts, summary.last_ts),
        (T0, T0, T0 + 1)
    );
}

#[test]
fn streams_are_merged_items_first_and_impressions_before_actions() {
    let mut click = shown("r1", "a", T0 + 5);
    click["dwell_ms"] = json!(12);
    let mut like = shown("r1", "a", T0 + 2);
    like["type"] = json!("like");
    let dir = folder(&[
        ("impressions", &[shown("r2", "a", T0 + 5), shown("r1", "a", T0)]),
        ("clicks", &[click]),
        ("feedback", &[like]),
        (
            "items",
            &[json!({"item_id": "b", "ts_ms": T0 + 9}), json!({"item_id": "a"})],
        ),
    ]);
    let data = DataDir::open(dir.path(), None).unwrap();
    let order: Vec<_> = data
        .events()
        .iter()
        .map(|event| (event.stream, event.key.as_str(), event.ts_ms - T0))
        .collect();
    assert_eq!(
        order,
        [
            (Stream::Items, "a", 0),
            (Stream::Items, "b", 9),
            (Stream::Impressions, "r1", 0),
            (Stream::Actions, "r1", 2),
            (Stream::Impressions, "r2", 5),
            (Stream::Actions, "r1", 5),
        ]
    );
    assert_eq!(
        payload(&data.events()[5]),
        json!({
            "request_id": "r1", "item_id": "a", "user_id": "u", "ts_ms": T0 + 5, "action": "click", "value": 12
        })
    );
    assert_eq!(payload(&data.events()[3])["action"], "like");
    let n_actions: Vec<_> = data
        .summary()
        .n_actions
        .iter()
        .map(|(name, n)| (name.as_str(), *n))
        .collect();
    assert_eq!(n_actions, [("click", 1), ("like", 1)]);
}

#[test]
fn an_item_row_fills_the_contract_and_other_fields_become_features() {
    let row = json!({
        "item_id": "7", "title": "T", "text": "long", "category": "a|b", "subcategory": "c", "author_id": 5,
        "image": "p.jpg", "tags": ["x", "", "y"], "music_id": 9_155_697_141_i64, "duration_ms": 3,
        "score": 9.5, "upload_dt": "2022-04-10", "blank": "", "nothing": null, "nested": {"a": 1},
        "vectors": {"text": [1.0]},
    });
    let bare = json!({"item_id": "8", "title": "", "text": "", "category": "", "director": "d"});
    let dir = folder(&[("impressions", &[shown("r", "7", T0)]), ("items", &[row, bare])]);
    let data = DataDir::open(dir.path(), None).unwrap();
    assert_eq!(
        payload(&data.events()[0]),
        json!({
            "item_id": "7", "ts_ms": T0, "title": "T", "text": ["long"], "category": ["a", "b"],
            "author": "5", "image": "p.jpg", "vectors": {"text": [1.0]},
            "features": {
                "subcategory": "c", "tags": ["x", "y"], "music_id": "9155697141", "duration_ms": 3,
                "score": 9.5, "upload_dt": "2022-04-10",
            },
        })
    );
    assert_eq!(
        payload(&data.events()[1]),
        json!({"item_id": "8", "ts_ms": T0, "author": "d"})
    );
}

#[test]
fn histories_are_separate_from_the_log() {
    let row = json!({"user_id": "u", "ts_ms": 0, "clicked_before": ["a", "b"]});
    let dir = folder(&[("impressions", &[shown("r", "a", T0)]), ("user_history", &[row])]);
    let data = DataDir::open(dir.path(), None).unwrap();
    assert_eq!(
        data.histories(),
        [("u".to_owned(), vec!["a".to_owned(), "b".to_owned()])]
    );
    assert_eq!(data.events().len(), 1);
}

#[test]
fn a_line_that_cannot_be_used_is_named_by_file_and_number() {
    let good = shown("r", "a", T0);
    let table: [(&str, &[Value], &str); 6] = [
        ("impressions", &[good.clone(), json!([1])], "impressions.jsonl:2:"),
        (
            "impressions",
            &[json!({"request_id": "r"})],
            "`user_id` is missing",
        ),
        (
            "impressions",
            &[good.clone(), shown("r", "b", T0 + 1)],
            "another time",
        ),
        (
            "clicks",
            &[json!({"request_id": "r", "ts_ms": "x"})],
            "clicks.jsonl:1: `ts_ms`",
        ),
        ("actions", std::slice::from_ref(&good), "names the action"),
        ("user_history", &[json!({"user_id": "u"})], "clicked_before"),
    ];
    for (name, rows, expected) in table {
        let fallback: &[Value] = std::slice::from_ref(&good);
        let dir = folder(&[("impressions", fallback), (name, rows)]);
        let error = DataDir::open(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_folder_without_impressions_is_refused_by_the_missing_file() {
    let dir = folder(&[("clicks", &[shown("r", "a", T0)])]);
    let error = DataDir::open(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("impressions"), "{error}");
    assert!(DataDir::open(Path::new("/nowhere/at/all"), None).is_err());
}

#[test]
fn as_a_source_it_gives_every_event_decodable_and_resumes() {
    let dir = folder(&[
        ("impressions", &[shown("r1", "a", T0), shown("r2", "a", T0 + 9)]),
        ("clicks", &[shown("r1", "a", T0 + 1)]),
        ("items", &[json!({"item_id": "a", "title": "t"})]),
    ]);
    let data = Arc::new(DataDir::open(dir.path(), None).unwrap());
    let decoder = Decoder::new(IdSpace::new(0), vec!["click".to_owned()], EventLimits::default());
    let impressions = PartitionId {
        stream: Stream::Impressions,
        partition: 0,
    };
    for (from, expected) in [
        (Positions::default(), 4),
        ([(impressions, 1)].into_iter().collect(), 3),
    ] {
        let mut source = DataSource::new(&data, &from);
        let mut requests = Vec::new();
        let mut n_read = 0;
        loop {
            match source.poll(Duration::ZERO).unwrap() {
                Polled::Records(records) => {
                    for record in records {
                        n_read += 1;
                        let event = decoder.decode(&record).event.unwrap();
                        assert_eq!(record.timestamp_ms, Some(event.ts().0));
                        if let Event::Impression(impression) = event {
                            requests.push(impression.request);
                        }
                    }
                }
                Polled::Finished => break,
                Polled::AtEnd(_) | Polled::Added(_) | Polled::Idle => {}
            }
        }
        assert_eq!(n_read, expected);
        assert_eq!(requests.last(), Some(&IdSpace::new(0).id(IdKind::Request, "r2")));
    }
}
