use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ouzel_sample::{Event, IdKind, IdSpace, Positions, Stream};
use serde_json::{Value, json};

use super::source::DataSource;
use super::*;
use crate::{Decoder, EventConfig, Polled, Source};

const T0: i64 = 1_600_000_000_000;

fn folder(files: &[(&str, &[Value])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, rows) in files {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(dir.path().join(format!("{name}.jsonl")), text).unwrap();
    }
    dir
}

fn decoder() -> Decoder {
    let tasks = ["click", "like"].map(str::to_owned).to_vec();
    Decoder::new(IdSpace::new(0), tasks, EventConfig::default()).unwrap()
}

fn open(path: &Path) -> Result<DataDir, Error> {
    DataDir::open(path, &decoder(), &mut ReadOptions::default())
}

fn shown(request: &str, item: &str, ts: i64) -> Value {
    json!({"request_id": request, "user_id": "u", "item_id": item, "ts_ms": ts})
}

fn payload(event: &DataEvent) -> Value {
    serde_json::from_slice(&event.payload).unwrap()
}

#[test]
fn lines_of_a_request_become_one_impression_with_named_fields_as_context() {
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
    let dir = folder(&[("impressions", &rows)]);
    let data = open(dir.path()).unwrap();
    let events: Vec<_> = data.events().iter().map(payload).collect();
    assert_eq!(
        events,
        [
            json!({
                "request_id": "r1", "user_id": "u", "ts_ms": T0, "context": {"scene": 1},
                "items": [{"item_id": "a", "position": 0}, {"item_id": "b", "position": 1}],
            }),
            json!({
                "request_id": "r2", "user_id": "u", "ts_ms": T0 + 1, "context": {"scene": 1},
                "items": [{"item_id": "c"}],
            }),
        ]
    );
    assert_eq!(data.events()[0].key, "r1");
    let summary = data.summary();
    assert_eq!((summary.n_requests, summary.n_impressions), (2, 3));
    let account = data.accounts().of(Stream::Impressions);
    assert_eq!((account.read, account.used, account.repeated), (4, 3, 1));
    assert_eq!(
        account.unread_fields,
        [("clicked".to_owned(), 4)].into(),
        "no column tells the outcome"
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
    let data = open(dir.path()).unwrap();
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
fn users_come_first_too_and_without_a_time_have_that_of_the_first_impression() {
    let users = [
        json!({"user_id": 5, "ts_ms": T0 + 9, "age": 30, "country": "FR"}),
        json!({"user_id": "u", "age": 40}),
        json!({"age": 50}),
    ];
    let impressions = [shown("r1", "a", T0), shown("r2", "a", T0 + 20)];
    let dir = folder(&[("impressions", &impressions), ("users", &users)]);
    let data = Arc::new(open(dir.path()).unwrap());
    let order: Vec<_> = data
        .events()
        .iter()
        .map(|event| (event.stream, event.key.as_str(), event.ts_ms - T0))
        .collect();
    assert_eq!(
        order[..3],
        [
            (Stream::Users, "u", 0),
            (Stream::Users, "5", 9),
            (Stream::Impressions, "r1", 0)
        ]
    );
    assert_eq!(
        payload(&data.events()[1]),
        json!({"user_id": "5", "ts_ms": T0 + 9, "features": {"age": 30, "country": "FR"}})
    );
    let account = data.accounts().of(Stream::Users);
    assert_eq!((account.read, account.used, account.n_rejected()), (3, 2, 1));
    let partitions = |data| DataSource::new(data, &Positions::default()).partitions().len();
    assert_eq!(partitions(&data), 4);
    let without = folder(&[("impressions", &impressions)]);
    assert_eq!(partitions(&Arc::new(open(without.path()).unwrap())), 3);
}

#[test]
fn an_item_row_fills_the_contract_and_other_scalars_become_features() {
    let row = json!({
        "item_id": "7", "title": "T", "text": "long", "category": "a|b", "subcategory": "c", "author_id": 5,
        "image": "p.jpg", "tags": ["x", "", "y"], "music_id": 9_155_697_141_i64, "duration_ms": 3,
        "score": 9.5, "upload_dt": "2022-04-10", "blank": "", "nothing": null, "nested": {"a": 1},
        "vectors": {"text": [1.0]},
    });
    let bare = json!({"item_id": "8", "title": "", "text": "", "category": "", "director": "d"});
    let dir = folder(&[("impressions", &[shown("r", "7", T0)]), ("items", &[row, bare])]);
    let data = open(dir.path()).unwrap();
    assert_eq!(
        payload(&data.events()[0]),
        json!({
            "item_id": "7", "ts_ms": T0, "title": "T", "text": "long", "category": "a|b",
            "author": "5", "image": "p.jpg", "vectors": {"text": [1.0]},
            "features": {
                "subcategory": "c", "tags": ["x", "", "y"], "music_id": 9_155_697_141_i64, "duration_ms": 3,
                "score": 9.5, "upload_dt": "2022-04-10", "blank": "",
            },
        })
    );
    assert_eq!(
        payload(&data.events()[1]),
        json!({"item_id": "8", "ts_ms": T0, "author": "d", "title": "", "text": "", "category": ""})
    );
}

#[test]
fn histories_are_separate_from_the_log() {
    let rows = [
        json!({"user_id": "u", "ts_ms": 0, "clicked_before": ["a", "b"]}),
        json!({"user_id": 7, "items": [1, "x"]}),
        json!({"user_id": "v"}),
    ];
    let dir = folder(&[("impressions", &[shown("r", "a", T0)]), ("user_history", &rows)]);
    let data = open(dir.path()).unwrap();
    let ids = |ids: [&str; 2]| ids.map(str::to_owned).to_vec();
    assert_eq!(
        data.histories(),
        [
            ("u".to_owned(), ids(["a", "b"])),
            ("7".to_owned(), ids(["1", "x"]))
        ]
    );
    assert_eq!(data.events().len(), 1);
    let account = data.history_account();
    assert_eq!((account.read, account.used, account.n_rejected()), (3, 2, 1));
    let first = &account.rejected["wrong_type"].first;
    assert!(
        first.starts_with("user_history.jsonl:3: neither `items` nor"),
        "{first}"
    );
}

#[test]
fn a_line_that_cannot_be_used_is_counted_by_reason_and_ends_a_strict_reading() {
    let good = shown("r", "a", T0);
    let table: [(&str, &[Value], Stream, &str, &str); 5] = [
        (
            "impressions",
            &[good.clone(), json!([1])],
            Stream::Impressions,
            "malformed_json",
            "impressions.jsonl:2:",
        ),
        (
            "impressions",
            &[
                good.clone(),
                json!({"request_id": "r", "item_id": "a", "ts_ms": T0}),
            ],
            Stream::Impressions,
            "missing_field",
            "`user_id` is missing",
        ),
        (
            "clicks",
            &[json!({"request_id": "r", "item_id": "a", "user_id": "u", "ts_ms": "x"})],
            Stream::Actions,
            "wrong_type",
            "clicks.jsonl:1: `ts_ms`",
        ),
        (
            "actions",
            std::slice::from_ref(&good),
            Stream::Actions,
            "missing_field",
            "`action` is missing",
        ),
        (
            "items",
            &[json!({"item_id": "a", "ts_ms": 1_600_000_000})],
            Stream::Items,
            "too_old",
            "time.unit = \"s\"",
        ),
    ];
    for (name, rows, stream, reason, expected) in table {
        let fallback: &[Value] = std::slice::from_ref(&good);
        let dir = folder(&[("impressions", fallback), (name, rows)]);
        let account = open(dir.path()).unwrap().accounts().of(stream);
        assert_eq!(account.check(stream), Ok(()));
        assert_eq!(account.rejected[reason].count, 1, "{account:?}");
        assert!(account.rejected[reason].first.contains(expected), "{account:?}");
        let mut options = ReadOptions {
            is_strict: true,
            ..ReadOptions::default()
        };
        let error = DataDir::open(dir.path(), &decoder(), &mut options)
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("{name}.jsonl:")), "{error}");
    }
}

#[test]
fn a_slate_may_be_one_line_and_rows_of_other_times_are_slates_of_their_own() {
    let slate = json!({
        "request_id": 1, "user_id": 2, "ts_ms": T0, "items": [{"item_id": 3, "position": 0}, {"item_id": 4}],
    });
    let later = json!({"request_id": 1, "user_id": 2, "ts_ms": T0 + 5, "item_id": 5});
    let dir = folder(&[("impressions", &[slate, later])]);
    let data = open(dir.path()).unwrap();
    let events: Vec<_> = data.events().iter().map(payload).collect();
    assert_eq!(
        events,
        [
            json!({
                "request_id": "1", "user_id": "2", "ts_ms": T0,
                "items": [{"item_id": "3", "position": 0}, {"item_id": "4"}],
            }),
            json!({"request_id": "1", "user_id": "2", "ts_ms": T0 + 5, "items": [{"item_id": "5"}]}),
        ]
    );
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("\u{feff}{}\r\n{}\r\n", shown("r", "a", T0), shown("r", "b", T0));
    std::fs::write(dir.path().join("impressions.jsonl"), text).unwrap();
    assert_eq!(open(dir.path()).unwrap().summary().n_impressions, 2);
    std::fs::write(dir.path().join("impressions.jsonl"), "\n").unwrap();
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("impressions.jsonl is empty"), "{error}");
}

#[test]
fn one_dump_of_several_streams_is_read_for_each_and_items_need_no_record_time() {
    let config: EventConfig = toml::from_str(
        "impressions = { where = { event = \"view\" } }\nactions = { where = { event = \"click\" }, action = \"event\" }\n\
         items = { time = { unit = \"record\" } }",
    )
    .unwrap();
    let decoder = Decoder::new(IdSpace::new(0), vec!["click".to_owned()], config).unwrap();
    let view = json!({"event": "view", "request_id": "r", "user_id": "u", "ts_ms": T0, "item_id": "a"});
    let click = json!({"event": "click", "request_id": "r", "user_id": "u", "ts_ms": T0 + 5, "item_id": "a"});
    let dir = folder(&[
        ("events", &[view, json!({"event": "scroll"}), click]),
        ("items", &[json!({"item_id": "a", "category": "c"})]),
    ]);
    let data = DataDir::open(dir.path(), &decoder, &mut ReadOptions::default()).unwrap();
    let found: Vec<_> = data
        .events()
        .iter()
        .map(|event| (event.stream, event.ts_ms))
        .collect();
    let expected = [
        (Stream::Items, T0),
        (Stream::Impressions, T0),
        (Stream::Actions, T0 + 5),
    ];
    assert_eq!(found, expected);
    for stream in [Stream::Impressions, Stream::Actions] {
        let account = data.accounts().of(stream);
        assert_eq!((account.read, account.used), (3, 1));
        assert_eq!(account.rejected["not_selected"].count, 2);
    }
    // Without conditions nobody reads it.
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("holds no impressions.jsonl"), "{error}");
    assert!(error.contains("events.jsonl"), "{error}");
}

#[test]
fn a_folder_without_impressions_is_refused_by_the_missing_file() {
    let dir = folder(&[("clicks", &[shown("r", "a", T0)])]);
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("impressions"), "{error}");
    assert!(open(Path::new("/nowhere/at/all")).is_err());
}

#[test]
fn as_a_source_it_gives_every_event_decodable_and_resumes() {
    let dir = folder(&[
        ("impressions", &[shown("r1", "a", T0), shown("r2", "a", T0 + 9)]),
        ("clicks", &[shown("r1", "a", T0 + 1)]),
        ("items", &[json!({"item_id": "a", "title": "t"})]),
    ]);
    let data = Arc::new(open(dir.path()).unwrap());
    let decoder = decoder();
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
