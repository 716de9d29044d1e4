//! `ouzel config check --connect`: what the broker says about the configuration.

use serde_json::Value;

use super::broker::Broker;
use super::daemon::Home;
use super::own_broker::OwnBroker;
use super::run;

/// The exit code and the document of `ouzel config check --connect --json`.
fn check(home: &Home) -> (Option<i32>, Value) {
    let config = home.config();
    let output = run(["config", "check", "--connect", "--json", config.to_str().unwrap()]);
    let document = serde_json::from_str(&output.out).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.code, document)
}

/// The problems as `key: message`.
fn problems(document: &Value) -> Vec<String> {
    let problems = document["problems"].as_array().unwrap().iter();
    problems
        .map(|problem| {
            let text = |name: &str| problem[name].as_str().unwrap().to_owned();
            format!("{}: {}", text("key"), text("message"))
        })
        .collect()
}

#[track_caller]
fn assert_has(found: &[String], expected: &str) {
    assert!(
        found.iter().any(|line| line.starts_with(expected)),
        "{found:?} has no {expected:?}"
    );
}

#[test]
fn topics_are_looked_for_and_what_cannot_be_asked_is_said() {
    let broker = Broker::embedded(1);
    let home = Home::new(&broker, "");
    let (code, document) = check(&home);
    assert_eq!(
        (code, &document["ok"]),
        (Some(0), &Value::Bool(true)),
        "{document}"
    );
    let notes = document["notes"].to_string();
    for expected in [
        "the retention of impressions was not checked",
        "whether this user may write was not checked",
        "the broker's clock was not compared",
    ] {
        assert!(notes.contains(expected), "{expected} is not in {notes}");
    }

    let text = std::fs::read_to_string(home.config()).unwrap();
    std::fs::write(
        home.config(),
        text.replace("items = \"items\"", "items = \"nowhere\""),
    )
    .unwrap();
    let (code, document) = check(&home);
    assert_eq!(code, Some(3), "{document}");
    let found = problems(&document);
    assert_has(&found, "kafka.topics.items: topic nowhere does not exist");
    assert_has(&found, "kafka.dlq: topic nowhere.dlq does not exist");
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(document["problems"][0]["line"], 2, "{document}");

    broker.set_reachable(false);
    let (code, document) = check(&home);
    assert_eq!(code, Some(3), "{document}");
    assert_has(&problems(&document), "kafka.bootstrap: cannot reach kafka at");
}

#[test]
fn retention_that_is_too_short_and_partitions_that_differ_are_found() {
    let Some(own) = OwnBroker::start("check") else {
        return;
    };
    let create = |topic: &str, partitions: &str, config: &str| {
        let args = [
            "tool",
            "TopicCommand",
            "--create",
            "--topic",
            topic,
            "--partitions",
            partitions,
        ];
        own.kafka(&[&args[..], &["--config", config]].concat());
    };
    create("short", "1", "retention.ms=60000");
    create("compact", "2", "cleanup.policy=compact");
    create("forgetful", "1", "retention.ms=86400000");
    let broker = Broker::at(own.address.clone(), "check", 1);
    let home = Home::new(&broker, "kafka.dlq = false\njoin.source = \"tier\"");
    let (_, document) = check(&home);
    assert_eq!(problems(&document), Vec::<String>::new());

    let text = std::fs::read_to_string(home.config()).unwrap();
    let topics = &broker.topics;
    let text = text
        .replace(&format!("{:?}", topics.impressions), "\"short\"")
        .replace(&format!("{:?}", topics.actions), "\"compact\"")
        .replace(&format!("{:?}", topics.items), "\"forgetful\"");
    std::fs::write(home.config(), text).unwrap();
    let (code, document) = check(&home);
    assert_eq!(code, Some(3), "{document}");
    let found = problems(&document);
    for expected in [
        "kafka.topics.impressions: topic short keeps records for 1m, and the join may have to read",
        "kafka.topics.actions: topic compact is compacted",
        "kafka.topics.items: topic forgetful deletes old records (retention.ms is 86400000, 1d)",
        "join.source: short has 1 partitions and compact has 2",
    ] {
        assert_has(&found, expected);
    }
    assert_eq!(found.len(), 4, "{found:?}");
}
