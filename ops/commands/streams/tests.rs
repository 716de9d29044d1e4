//! Logs as users bring them: what each leads to, from files, as records, and through a broker, counter by counter.
//!
//! The broker is a real one where `OUZEL_KAFKA_BOOTSTRAP` names it, and the embedded one otherwise.

mod broken;
mod readings;
mod users;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use ouzel_ingest::join::StoreConfig;
use ouzel_ingest::{DeadLetters, Stage};
use ouzel_sample::{Batch, FeatureState, PartitionId, Record, Stream};

use super::*;
use crate::commands::data::open_data;
use crate::pipeline::spec::{contract_decoder, decoder};
use readings::{check_report, from_broker, from_records};
use users::{records, write_files};

const T0: i64 = 1_714_550_400_000;
const N_REQUESTS: i64 = 60;
const SLATE: i64 = 5;

/// The rows of a log.
#[derive(Clone, Default)]
struct Log {
    impressions: Vec<Value>,
    actions: Vec<Value>,
    items: Vec<Value>,
    users: Vec<Value>,
}

/// A log in which everything is as documented: 300 shown items, 100 clicks, 12 items.
fn base() -> Log {
    let mut log = Log::default();
    for n in 0..12 {
        log.items
            .push(json!({"item_id": format!("i{n}"), "ts_ms": T0 - 1000, "category": "c"}));
    }
    for request in 0..N_REQUESTS {
        for place in 0..SLATE {
            let item = (request * 7 + place * 5) % 12;
            let row = json!({
                "request_id": format!("r{request}"), "user_id": format!("u{}", request % 9), "item_id": format!("i{item}"),
                "ts_ms": T0 + request * 10_000, "position": place,
            });
            if (request + place) % 3 == 0 {
                let mut action = row.clone();
                action["ts_ms"] = json!(T0 + request * 10_000 + 2000 + place * 500);
                action["action"] = json!("click");
                action.as_object_mut().unwrap().remove("position");
                log.actions.push(action);
            }
            log.impressions.push(row);
        }
    }
    log
}

impl Log {
    fn streams(&self) -> [(Stream, &[Value]); 4] {
        [
            (Stream::Impressions, &self.impressions),
            (Stream::Actions, &self.actions),
            (Stream::Items, &self.items),
            (Stream::Users, &self.users),
        ]
    }

    /// Changes every row of every stream.
    fn each(mut self, change: impl Fn(&mut Value)) -> Self {
        for rows in [&mut self.impressions, &mut self.actions, &mut self.items] {
            rows.iter_mut().for_each(&change);
        }
        self
    }

    fn times(self, time: impl Fn(i64) -> Value) -> Self {
        self.each(|row| row["ts_ms"] = time(row["ts_ms"].as_i64().unwrap()))
    }
}

/// Joins records in order of their time, and reports.
fn report(config: &Config, records: Vec<Record>, from: &Accounts, is_file: bool) -> StreamReport {
    join(config, records, from, is_file).0
}

/// Joins records in order of their time: the report, and the batches to learn.
fn join(config: &Config, records: Vec<Record>, from: &Accounts, is_file: bool) -> (StreamReport, Vec<Batch>) {
    let decoder = if is_file {
        contract_decoder(config)
    } else {
        decoder(config)
    }
    .unwrap();
    let features = Arc::new(FeatureState::new(config.feature_config()));
    let partitions = [Stream::Impressions, Stream::Actions].map(|stream| PartitionId::new(stream, 0));
    let mut stage = Stage::new(&StoreConfig::Memory, &config.join, partitions, features, 64).unwrap();
    let mut decoded: Vec<_> = records.iter().map(|record| decoder.decode(record)).collect();
    let time = |record: &ouzel_sample::DecodedRecord| record.event.as_ref().map_or(0, |event| event.ts().0);
    decoded.sort_by_key(|record| {
        let stream = record.position.partition.stream;
        (!stream.is_catalog(), time(record), stream, record.position.offset)
    });
    let mut next: BTreeMap<Stream, i64> = BTreeMap::new();
    let mut batches = Vec::new();
    for mut record in decoded {
        // Offsets in the order of reading, as a sorted topic has them.
        let offset = next.entry(record.position.partition.stream).or_default();
        record.position.offset = *offset;
        *offset += 1;
        stage.take(&record, &mut batches).unwrap();
    }
    stage.finish(&mut batches).unwrap();
    stage.counters().check().unwrap();
    let read = decoder.accounts();
    let report = StreamReport::new(&Sources {
        config,
        accounts: if is_file { from } else { &read },
        counters: stage.counters(),
        items: stage.item_counts(),
        users: stage.user_counts(),
        histories: None,
        immediate: None,
    });
    (report.unwrap(), batches)
}

fn from_files(config: &Config, log: &Log) -> anyhow::Result<StreamReport> {
    folder(config, write_files(log).path())
}

fn folder(config: &Config, path: &Path) -> anyhow::Result<StreamReport> {
    let (records, accounts) = read_folder(config, path)?;
    Ok(report(config, records, &accounts, true))
}

fn read_folder(config: &Config, path: &Path) -> anyhow::Result<(Vec<Record>, Accounts)> {
    let data = open_data(path, config, false, &mut DeadLetters::discard())?;
    let streams = Stream::EVENTS.into_iter();
    let records = streams.flat_map(|stream| data.records(stream)).collect();
    Ok((records, data.accounts().clone()))
}

fn config(text: &str) -> Config {
    Config::parse(text, "case.toml").unwrap()
}

/// Checks counts as [`check_report`] does, of each reading. Returns the reports of files and of records.
#[track_caller]
fn check(config: &Config, log: &Log, expected: &[(&str, u64)]) -> [StreamReport; 2] {
    let reports = check_without_broker(config, log, expected);
    check_report(&from_broker(config, log), "a broker", expected);
    reports
}

/// As [`check`], of records without timestamps of their own alone.
#[track_caller]
fn check_without_broker(config: &Config, log: &Log, expected: &[(&str, u64)]) -> [StreamReport; 2] {
    let reports = [from_files(config, log).unwrap(), from_records(config, log)];
    for (report, reading) in reports.iter().zip(["files", "records"]) {
        check_report(report, reading, expected);
    }
    reports
}

const ALL: &[(&str, u64)] = &[
    ("impressions.events.positive", 100),
    ("impressions.events.negative", 200),
    ("actions.events.matched", 100),
    ("items.events.stored", 12),
];

#[track_caller]
fn problem(reports: &[StreamReport], words: &[&str]) {
    for report in reports {
        let problems = report.problems.join("\n");
        assert!(words.iter().all(|word| problems.contains(word)), "{problems}");
    }
}

#[test]
fn times_in_every_form_that_is_unmistakable_are_read() {
    let default = Config::default();
    let iso = |t: i64| {
        let seconds = (t - T0).div_euclid(1000) + 8 * 3600;
        let day = format!("2024-05-{:02}", 1 + seconds.div_euclid(86_400));
        let s = seconds.rem_euclid(86_400);
        json!(format!(
            "{day}T{:02}:{:02}:{:02}.{:03}Z",
            s / 3600,
            s / 60 % 60,
            s % 60,
            t.rem_euclid(1000)
        ))
    };
    check(&default, &base(), ALL);
    check(&default, &base().times(iso), ALL);
    check(&default, &base().times(|t| json!(t.to_string())), ALL);
    #[allow(clippy::cast_precision_loss, reason = "milliseconds fit")]
    check(&default, &base().times(|t| json!(t as f64)), ALL);
    // Times that begin near 0 are for files alone: a record of Kafka has a timestamp to compare with.
    let relative = base().times(|t| json!(t - T0 + 2000));
    check_without_broker(&default, &relative, ALL);
    let through_broker = from_broker(&default, &relative);
    check_report(
        &through_broker,
        "a broker",
        &[("impressions.records.too_old", 300)],
    );
    for (unit, log) in [
        ("s", base().times(|t| json!(t / 1000))),
        ("us", base().times(|t| json!(t * 1000))),
        ("ns", base().times(|t| json!(t * 1_000_000))),
    ] {
        let reports = check(
            &default,
            &log,
            &[
                ("impressions.records.used", 0),
                ("impressions.events.positive", 0),
            ],
        );
        problem(
            &reports,
            &[
                "300 of 300 records of impressions",
                &format!("set time.unit = \"{unit}\""),
            ],
        );
        for unit in [unit, "auto"] {
            let text =
                ["impressions", "actions", "items"].map(|s| format!("events.{s}.time.unit = \"{unit}\"\n"));
            check(&config(&text.concat()), &log, ALL);
        }
    }
}

#[test]
fn ids_may_be_numbers_and_rows_of_any_order_repeated_or_broken() {
    let default = Config::default();
    let number = |value: &Value| json!(value.as_str().unwrap()[1..].parse::<i64>().unwrap());
    let numbers = base().each(|row| {
        for field in ["request_id", "user_id", "item_id"] {
            if let Some(value) = row.get(field) {
                row[field] = number(value);
            }
        }
    });
    check(&default, &numbers, ALL);
    let mut mixed = numbers.clone();
    mixed.actions = base().actions;
    for action in &mut mixed.actions {
        for field in ["request_id", "user_id", "item_id"] {
            action[field] = json!(number(&action[field]).to_string());
        }
    }
    check(&default, &mixed, ALL);

    let mut reversed = base();
    reversed.impressions.reverse();
    reversed.actions.reverse();
    check(&default, &reversed, ALL);

    let mut log = base();
    log.impressions.extend(base().impressions.into_iter().take(50));
    log.actions.extend(base().actions.into_iter().take(7));
    log.items.extend(base().items);
    let [files, records] = check(
        &default,
        &log,
        &[ALL[0], ALL[1], ALL[2], ("actions.events.duplicate", 7)],
    );
    assert_eq!(files.streams["impressions"].records["repeated"], 50);
    assert_eq!(records.streams["impressions"].events["duplicate"], 50);

    let mut log = base();
    log.impressions
        .insert(7, json!("{\"request_id\": \"r1\", \"i/3\\x"));
    log.items.push(json!(
        "{\"item_id\": \"i99\", \"ts_ms\": 1714550399000, \"price\": NaN}"
    ));
    log.actions.push(json!({"request_id": "ghost", "user_id": "u1", "item_id": "i1", "ts_ms": T0 + 5000, "action": "click"}));
    let mut expected = ALL.to_vec();
    expected.extend([
        ("impressions.records.malformed_json", 1),
        ("items.records.non_finite", 1),
        ("actions.events.orphan", 1),
    ]);
    let [files, _] = check(&default, &log, &expected);
    assert!(files.streams["impressions"].first["malformed_json"].starts_with("impressions.jsonl:8:"));
    assert_eq!(files.problems, Vec::<String>::new());
}

#[test]
fn what_no_task_or_no_feature_reads_is_named() {
    let mut log = base();
    for shown in base().impressions {
        let mut seen = shown;
        seen["action"] = json!("impression");
        seen.as_object_mut().unwrap().remove("position");
        log.actions.push(seen);
    }
    let mut expected = ALL.to_vec();
    expected.push(("actions.records.unknown_action", 300));
    for report in check(&Config::default(), &log, &expected) {
        assert_eq!(report.streams["actions"].unused_actions["impression"], 300);
        assert_eq!(report.problems, Vec::<String>::new());
    }

    let mut log = base();
    log.actions
        .iter_mut()
        .for_each(|action| action["action"] = json!("Click"));
    let reports = check(&Config::default(), &log, &[("impressions.events.negative", 300)]);
    problem(
        &reports,
        &["100 actions match no task: Click (100); the tasks are click"],
    );
    check(
        &config("events.actions.actions = { Click = \"click\" }"),
        &log,
        ALL,
    );

    let mut log = base();
    log.impressions
        .iter_mut()
        .for_each(|row| row["rating"] = json!(5));
    for report in check(&Config::default(), &log, ALL) {
        assert_eq!(report.streams["impressions"].unread_fields["rating"], 300);
    }
}

#[test]
fn requests_in_pieces_and_slates_in_one_record_are_learned_whole() {
    let default = Config::default();
    let mut scroll = base();
    for row in &mut scroll.impressions {
        row["ts_ms"] = json!(row["ts_ms"].as_i64().unwrap() + row["position"].as_i64().unwrap() * 300);
    }
    check(&default, &scroll, ALL);

    let mut dump = base();
    let mut slates: Vec<Value> = Vec::new();
    for row in base().impressions {
        let item = json!({"item_id": row["item_id"], "position": row["position"]});
        match slates.last_mut().filter(|slate| slate["request_id"] == row["request_id"]) {
            Some(slate) => slate["items"].as_array_mut().unwrap().push(item),
            None => slates.push(json!({
                "request_id": row["request_id"], "user_id": row["user_id"], "ts_ms": row["ts_ms"], "items": [item],
            })),
        }
    }
    dump.impressions = slates;
    check(&default, &dump, ALL);

    let mut again = base();
    let later = base().impressions.into_iter().take(5).map(|mut row| {
        row["ts_ms"] = json!(row["ts_ms"].as_i64().unwrap() + 1000);
        row
    });
    again.impressions.extend(later);
    let mut expected = ALL.to_vec();
    expected.push(("impressions.events.duplicate", 5));
    check(&default, &again, &expected);
}

#[test]
fn actions_without_a_request_before_their_impression_or_late_stand_in_a_figure() {
    let mut log = base();
    log.actions.iter_mut().for_each(|action| {
        action.as_object_mut().unwrap().remove("request_id");
    });
    let reports = check(&Config::default(), &log, &[("actions.events.unattributed", 100)]);
    problem(&reports, &["join.by = \"user_item\""]);
    let by_item = config("join.by = \"user_item\"");
    check(
        &by_item,
        &log,
        &[
            ("actions.events.matched", 100),
            ("actions.events.unattributed", 0),
        ],
    );

    let mut log = base();
    for action in &mut log.actions {
        action["ts_ms"] = json!(action["ts_ms"].as_i64().unwrap() / 300_000 * 300_000);
    }
    for report in [
        from_files(&Config::default(), &log).unwrap(),
        from_records(&Config::default(), &log),
    ] {
        let events = &report.streams["actions"].events;
        assert_eq!(events.values().sum::<u64>(), 100, "{events:?}");
        assert!(events["before_shown"] > 50, "{events:?}");
        problem(&[report], &["join.max_clock_skew"]);
    }
    check(&config("join.skew = \"5m\""), &log, ALL);

    let mut log = base();
    log.actions
        .iter_mut()
        .for_each(|action| action["user_id"] = json!("login"));
    check(&Config::default(), &log, ALL);
    log.actions.clear();
    let reports = check(&Config::default(), &log, &[("impressions.events.negative", 300)]);
    problem(&reports, &["there are no actions"]);
}

#[test]
fn a_stream_that_cannot_be_used_is_a_problem_with_its_first_record() {
    let mut log = base();
    for row in &mut log.impressions {
        row["position"] = json!(row["position"].as_i64().unwrap() + 70_000);
    }
    let reports = check(
        &Config::default(),
        &log,
        &[("impressions.records.wrong_type", 300)],
    );
    problem(&reports, &["300 of 300 records of impressions", "beyond 65535"]);

    let mut log = base();
    log.items
        .iter_mut()
        .for_each(|row| row["ts_ms"] = json!(row["ts_ms"].as_i64().unwrap() / 1000));
    let reports = check(
        &Config::default(),
        &log,
        &[("items.records.too_old", 12), ALL[0], ALL[1]],
    );
    problem(&reports, &["12 of 12 records of items", "time.unit = \"s\""]);

    let mut log = base();
    log.impressions.iter_mut().for_each(|row| {
        row.as_object_mut().unwrap().remove("ts_ms");
    });
    let reports = check(
        &Config::default(),
        &log,
        &[("impressions.records.missing_field", 300)],
    );
    problem(&reports, &["`ts_ms` is missing"]);

    let mut log = base();
    log.impressions.clear();
    let error = from_files(&Config::default(), &log).unwrap_err().to_string();
    assert!(error.contains("holds no impressions.jsonl"), "{error}");
}

#[test]
fn a_folder_of_csv_files_is_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = base();
    let header = ["request_id", "user_id", "item_id", "ts_ms", "position", "action"];
    for (stream, rows) in log.streams() {
        let cell = |row: &Value, name: &str| row.get(name).map_or_else(String::new, |v| v.to_string());
        let line = |row: &Value| header.map(|name| cell(row, name)).join(",");
        let lines: Vec<String> = std::iter::once(header.join(","))
            .chain(rows.iter().map(line))
            .collect();
        fs::write(dir.path().join(format!("{stream}.csv")), lines.join("\n")).unwrap();
    }
    let report = folder(&Config::default(), dir.path()).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.streams["actions"].events["matched"], 100);
    assert_eq!(report.streams["impressions"].events["negative"], 200);
}
