//! The messages for a file that cannot be used.

use std::path::Path;

use super::super::{Config, ConfigError};
use super::check;

#[test]
fn a_missing_file_is_named() {
    let message = Config::load(Path::new("/nowhere/ouzel.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("cannot read the configuration /nowhere/ouzel.toml: "),
        "{message}"
    );
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_name() {
    for (text, line, hint) in [
        (
            "[learner]\nbatch_min_sample = 64",
            "x.toml:2:1: learner.batch_min_sample: unknown key",
            "the nearest known name is `batch_min_samples`",
        ),
        ("[lerner]\n", "x.toml:1:2: lerner: unknown key", "`learner`"),
        (
            "[serving]\nmax-candidates = 5",
            "serving.max-candidates: unknown key",
            "`max_candidates`",
        ),
        (
            "[kafka.topics]\nclicks = \"c\"",
            "kafka.topics.clicks: unknown key",
            "knows ",
        ),
        (
            "[kafka]\nallowed_lateness = \"5s\"",
            "kafka.allowed_lateness: unknown key",
            "`join.allowed_lateness`",
        ),
        (
            "history_len = 5",
            "x.toml:1:1: history_len: unknown key",
            "`features.history_len`",
        ),
        (
            "join.tasks = [\n  { name = \"click\", windw = \"1m\" },\n]",
            "x.toml:2:21: join.tasks[0].windw: unknown key",
            "`window`",
        ),
        (
            "[[join.tasks]]\nname = \"a\"\nwindow = \"1m\"\nzzz = 1",
            ":4:1: join.tasks[0].zzz",
            "name, value, value_cap, window",
        ),
        // Derived values are not keys.
        ("model.tasks = [\"click\"]", "model.tasks: unknown key", ""),
        (
            "features.history_contents = 3",
            "features.history_contents: unknown key",
            "",
        ),
    ] {
        check(text, line);
        check(text, hint);
    }
}

#[test]
fn a_wrong_value_is_refused_with_its_path_line_and_column() {
    for (text, line) in [
        (
            "[order]\nmax_reorder_delay = 50",
            "x.toml:2:21: order.max_reorder_delay: ",
        ),
        ("[order]\nmax_reorder_delay = 50", "a duration with its unit"),
        ("[order]\nmax_reorder_delay = \"50\"", "\"50\" is not a duration"),
        (
            "[join]\ndedup_window = \"maybe\"",
            "neither \"auto\" nor a duration",
        ),
        ("[serving]\nlisten = \"8600\"", "x.toml:2:10: serving.listen: "),
        ("[serving]\nworkers = -1", "x.toml:2:11: serving.workers: "),
        ("[serving]\nmax_body = \"1 meg\"", "is not a size with its unit"),
        (
            "[join]\nlabel_policy = \"eagre\"",
            "expected one of `eager`, `wait`",
        ),
        (
            "[join]\ntasks = [{ name = \"click\" }]",
            "x.toml:2:10: join.tasks[0]: missing field `window`",
        ),
        ("[learner", "x.toml:1:9: "),
        ("a = 1\na = 2", "x.toml:2:1: duplicate key"),
        ("[kafka]\nproperties = 3", "kafka.properties: expected a table"),
        ("model = 3", "x.toml:1:9: model: "),
        ("model.from = 3", "x.toml:1:14: model.from: "),
        ("model.hidden = [8, \"x\"]", "x.toml:1:20: model.hidden[1]: "),
    ] {
        check(text, line);
    }
}

#[test]
fn a_score_a_body_and_a_topic_that_cannot_be_used_are_refused() {
    for (text, line) in [
        (
            "[serving]\nscore = \"click + 5 * ordr\"",
            "x.toml:2:1: serving.score: is no usable expression, column 13: there is no task `ordr`",
        ),
        (
            "join.tasks = [{ name = \"order\", window = \"1m\" }]\nserving.score = \"order / 0\"",
            "x.toml:2:9: serving.score: is no usable expression, column 9: divides by zero",
        ),
        (
            "[serving]\nevents_listen = \"127.0.0.1:8601\"\nmax_body = \"64KiB\"",
            "x.toml:3:1: serving.max_body: must be at least events.max_record, 960KiB",
        ),
        (
            "[kafka.topics]\nitems = \"actions.late\"",
            "x.toml:2:1: kafka.topics.items: must differ from actions.late, the topic of the late records of actions",
        ),
        (
            "[join]\nsource = \"tier\"\n[kafka]\nlate_records = true",
            "x.toml:4:1: kafka.late_records: must be false with join.source",
        ),
        (
            "[events.items]\nformat = \"avro\"",
            "x.toml:2:1: events.items.format: needs the schemas of a registry: set kafka.schema_registry.url",
        ),
        (
            "[kafka.schema_registry]\nurl = \"registry:8081\"",
            "x.toml:2:1: kafka.schema_registry.url: must begin with http:// or https://",
        ),
        (
            "[serving]\nevents_listen = \"127.0.0.1:8601\"\n[events.items]\nformat = \"json_schema\"",
            "x.toml:4:1: events.items.format: must be \"json\" where serving.events_listen takes events",
        ),
        (
            "kafka.topics.items = \"impressions.dlq\"",
            "x.toml:1:14: kafka.topics.items: must differ from impressions.dlq, the topic of the dead letters of impressions",
        ),
    ] {
        check(text, line);
    }
}

#[test]
fn a_value_out_of_its_range_is_refused_where_it_is_written() {
    for (text, line) in [
        (
            "[learner]\n\nthreads = 0",
            "x.toml:3:1: learner.threads: must be at least 1, not 0",
        ),
        (
            "join.tasks = []",
            "x.toml:1:6: join.tasks: must list 1 to 8 tasks",
        ),
        (
            "join.tasks = [{ name = \"a\", window = \"0s\" }]",
            "x.toml:1:29: join.tasks[0].window: must be from 1ms to 3660d, not 0s",
        ),
        ("[join]\ndedup_window = \"1m\"", "x.toml:2:1: join.dedup_window: "),
        (
            "join.sled.page_cache = \"1B\"",
            "join.sled.page_cache: must be at least 256B, not 1B",
        ),
        (
            "[features]\nfast_ema_rate = 1.5",
            "features.fast_ema_rate: must be more than 0 and less than 1, not 1.5",
        ),
        (
            "features.history_capacity = 99",
            "must be at least history_len, 100, not 99",
        ),
        (
            "[learner]\ndevice = \"gpu\"",
            "learner.device: must be \"cpu\" or \"cuda:N\"",
        ),
        (
            "learner.negative_sample_rate = 0.0",
            "must be more than 0 and at most 1, not 0",
        ),
        (
            "learner.negative_sample_rate = 1.5",
            "must be more than 0 and at most 1, not 1.5",
        ),
        (
            "optimizer.clip_rows = -1.0",
            "optimizer.clip_rows: must be at least 0, not -1",
        ),
        (
            "optimizer.row_rate = nan",
            "optimizer.row_rate: must be a finite number",
        ),
        (
            "rows.item.min_users = 8",
            "rows.item.min_users: must be from 1 to 7, not 8",
        ),
        (
            "rows.user.min_samples = 0",
            "rows.user.min_samples: must be from 1 to 65535, not 0",
        ),
        (
            "rows.attribute.rate = -0.1",
            "rows.attribute.rate: must be at least 0",
        ),
        (
            "rows.expire_after = \"30m\"",
            "rows.expire_after: must be 0s or at least 1h, not 30m",
        ),
        (
            "rows.admission_capacity = 0",
            "rows.admission_capacity: must be at least 1",
        ),
        ("snapshot.keep = 0", "snapshot.keep: must be at least 1, not 0"),
        (
            "serving.deadline = \"0s\"",
            "serving.deadline: must be at least 1ms, not 0s",
        ),
        (
            "kafka.topics.items = \"actions\"",
            "kafka.topics.actions: must differ",
        ),
        (
            "kafka.bootstrap = \"broker\"",
            "kafka.bootstrap: must be host:port, not \"broker\"",
        ),
        (
            "[log]\nlevel = \"loud=very\"",
            "log.level: must be a level or a filter",
        ),
    ] {
        check(text, line);
    }
}

#[test]
fn every_unknown_key_is_reported_at_once_in_order() {
    let text = "[serving]\nportt = 1\n[learner]\nthread = 1\n";
    let Err(ConfigError::Invalid { problems }) = Config::parse(text, "x.toml") else {
        panic!("accepted")
    };
    let found: Vec<_> = problems.iter().map(|p| (p.key.as_str(), p.at)).collect();
    assert_eq!(
        found,
        [("serving.portt", Some((2, 1))), ("learner.thread", Some((4, 1)))]
    );
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_repeated() {
    let text = "[kafka.properties]\nsasl.password = \"hunter2\"";
    let error = Config::parse(text, "x.toml").unwrap_err();
    assert!(error.to_string().starts_with("x.toml:2:"), "{error}");
    assert!(error.to_string().contains("${env:NAME}"), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn plaintext_to_another_machine_and_an_open_port_cause_warnings() {
    for (text, expected) in [
        ("", 0),
        ("kafka.bootstrap = \"localhost:1,[::1]:2\"", 0),
        ("kafka.bootstrap = \"127.0.0.1:9092, kafka.example:9092\"", 1),
        (
            "[kafka]\nbootstrap = \"k:1\"\n[kafka.properties]\nsecurity.protocol = \"SASL_PLAINTEXT\"",
            1,
        ),
        (
            "[kafka]\nbootstrap = \"k:1\"\n[kafka.properties]\nsecurity.protocol = \"SASL_SSL\"",
            0,
        ),
        ("serving.listen = \"0.0.0.0:8600\"", 1),
    ] {
        let warnings = Config::parse(text, "x").unwrap().warnings();
        assert_eq!(warnings.len(), expected, "{text}: {warnings:?}");
    }
}
