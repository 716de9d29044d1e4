//! Profiles of users: what is read of them, and that they are learned from.

use ouzel_learner::Trainer;
use ouzel_learner::validation::ScoreLog;
use ouzel_sample::EventTime;

use super::*;

/// Requests, each of a user of its own, so that nothing but the profile tells users apart.
const N_USERS: i64 = 1_200;

/// A number below 10,000 of a place in the log, the same in every run.
fn draw(user: i64, of: i64) -> u16 {
    let mixed = (user * 31 + of)
        .unsigned_abs()
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    u16::try_from((mixed ^ (mixed >> 32)) % 10_000).unwrap()
}

/// Users of 45 years and more, and those of two of four countries, click more.
fn log_of_users() -> Log {
    let mut log = Log::default();
    for user in 0..N_USERS {
        let age = 18 + draw(user, 1) % 60;
        let country = ["FR", "DE", "IT", "ES"][usize::from(draw(user, 2) % 4)];
        let logit = 2.5 * f64::from(u8::from(age >= 45)) + 2.5 * f64::from(u8::from(country < "FZ")) - 2.5;
        log.users.push(json!({
            "user_id": format!("u{user}"), "ts_ms": T0 - 1000, "features": {"age": age, "country": country},
        }));
        for place in 0..4 {
            let row = json!({
                "request_id": format!("r{user}"), "user_id": format!("u{user}"), "ts_ms": T0 + user * 10_000,
                "item_id": format!("i{}", (user * 7 + place * 5) % 12),
            });
            if f64::from(draw(user, 10 + place)) < 10_000.0 / (1.0 + (-logit).exp()) {
                let mut action = row.clone();
                action["ts_ms"] = json!(T0 + user * 10_000 + 2000);
                action["action"] = json!("click");
                log.actions.push(action);
            }
            log.impressions.push(row);
        }
    }
    log
}

/// AUC of the second half of a log, each batch scored before it is learned; from files and as records.
fn aucs(config: &Config, log: &Log) -> [f64; 2] {
    let dir = write_files(log);
    let (of_files, accounts) = read_folder(config, dir.path()).unwrap();
    let joined = [
        join(config, of_files, &accounts, true),
        join(config, records(log), &Accounts::default(), false),
    ];
    joined.map(|(report, batches)| {
        assert_eq!(report.problems, Vec::<String>::new());
        let mut trainer = Trainer::new(config.model_config(), config.learner_config()).unwrap();
        let mut scores = ScoreLog::default();
        for (n, batch) in batches.iter().enumerate() {
            let learned = trainer.step(batch).unwrap();
            if n >= batches.len() / 2 {
                scores.add(batch, &learned.logits);
            }
        }
        scores.figures(EventTime::MIN).auc.unwrap()
    })
}

/// A folder with the rows of each stream.
pub(super) fn write_files(log: &Log) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (stream, rows) in log.streams() {
        let line = |row: &Value| match row {
            Value::String(text) => format!("{text}\n"),
            row => format!("{row}\n"),
        };
        let text: String = rows.iter().map(line).collect();
        if !rows.is_empty() {
            fs::write(dir.path().join(format!("{stream}.jsonl")), text).unwrap();
        }
    }
    dir
}

/// The rows as records of topics, without timestamps of their own.
pub(super) fn records(log: &Log) -> Vec<Record> {
    let mut records = Vec::new();
    for (stream, rows) in log.streams() {
        for (offset, row) in (0..).zip(rows) {
            let text = row.as_str().map_or_else(|| row.to_string(), str::to_owned);
            records.push(Record {
                position: PartitionId::new(stream, 0).at(offset),
                timestamp_ms: None,
                payload: Some(text.into_bytes()),
                metadata: None,
            });
        }
    }
    records
}

#[test]
fn a_click_that_age_and_country_decide_is_predicted_from_the_profile() {
    let config = Config::default();
    let with_users = log_of_users();
    let mut without = with_users.clone();
    without.users.clear();
    for auc in aucs(&config, &with_users) {
        assert!(auc > 0.7, "{auc}");
    }
    for auc in aucs(&config, &without) {
        assert!((0.44..0.56).contains(&auc), "{auc}");
    }
}

#[test]
fn every_record_of_the_users_has_one_fate() {
    let default = Config::default();
    let mut log = base();
    for n in 0..9 {
        log.users
            .push(json!({"user_id": format!("u{n}"), "ts_ms": T0 - 500, "age": 20 + n, "country": "FR"}));
    }
    log.users
        .push(json!({"user_id": "u1", "ts_ms": T0 - 400, "partial": true, "age": 50}));
    log.users
        .push(json!({"user_id": "u2", "ts_ms": T0 - 600, "age": 60}));
    log.users
        .push(json!({"user_id": "u3", "ts_ms": T0 - 300, "deleted": true}));
    log.users
        .push(json!({"user_id": "u4", "ts_ms": T0 - 700, "deleted": true}));
    log.users.push(json!({"age": 50, "ts_ms": T0}));
    log.users
        .push(json!({"user_id": "u5", "ts_ms": T0, "address": {"street": "x"}}));
    let mut expected = ALL.to_vec();
    // Files are sorted by time, and so is what `report` joins: only what is older on arrival is outdated.
    expected.extend([
        ("users.records.used", 14),
        ("users.records.missing_field", 1),
        ("users.events.stored", 12),
        ("users.events.deleted", 2),
        ("users.events.outdated", 0),
    ]);
    for report in check(&default, &log, &expected) {
        assert_eq!(report.streams["users"].unread_fields["address"], 1);
        assert_eq!(report.problems, Vec::<String>::new());
    }

    let mut mapped = base();
    mapped.users = (0..9)
        .map(|n| json!({"uid": n, "at": (T0 - 500) / 1000, "profile": {"age": 20 + n}, "secret": n}))
        .collect();
    let mapping = config(
        "events.users = { user_id = \"uid\", time = { field = \"at\", unit = \"s\" }, features = { age = \"profile.age\" } }",
    );
    for report in check(&mapping, &mapped, &[("users.events.stored", 9), ALL[0], ALL[1]]) {
        assert_eq!(report.streams["users"].unread_fields["secret"], 9);
    }
    let reports = check(&default, &mapped, &[("users.records.missing_field", 9)]);
    problem(&reports, &["9 of 9 records of users cannot be used"]);
}
