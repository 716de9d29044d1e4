//! Refusals: one clear line of error and an exit code, never a panic.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use super::broker::Broker;
use super::daemon::Home;
use super::{CommandOutput, run, run_here};

/// Checks that the output is one line of error with each of `words`, and at most one hint.
#[track_caller]
fn check(output: &CommandOutput, code: i32, words: &[&str]) {
    let text = &output.err;
    assert_eq!(output.code, Some(code), "{text}");
    assert_eq!(output.out, "");
    let lines: Vec<&str> = text.lines().collect();
    assert!((1..=2).contains(&lines.len()), "{text}");
    assert!(lines[0].starts_with("error: "), "{text}");
    assert!(
        lines.get(1).is_none_or(|line| line.starts_with("hint: ")),
        "{text}"
    );
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
}

/// `ouzel daemon` with this configuration.
fn daemon(config: &Path) -> CommandOutput {
    run(["daemon", "--config", config.to_str().unwrap()])
}

/// `ouzel daemon` in this process, for a configuration that is refused at once.
fn refused(config: &Path) -> CommandOutput {
    run_here(&["daemon", "--config", config.to_str().unwrap()])
}

#[test]
fn a_configuration_that_cannot_be_used_is_one_line() {
    let home = Home::empty();
    let write = |bytes: &[u8]| fs::write(home.config(), bytes).unwrap();
    check(
        &refused(Path::new("/nowhere/ouzel.toml")),
        1,
        &["/nowhere/ouzel.toml"],
    );
    check(&refused(home.path()), 1, &["cannot read the configuration"]);
    write(b"\xff\xfe");
    check(&refused(&home.config()), 1, &["cannot read the configuration"]);
    write(b"[kafka\n");
    check(&refused(&home.config()), 2, &["ouzel.toml:1:"]);
    write(b"[kafka]\nbootstrp = \"127.0.0.1:9092\"\n");
    let words = [
        "ouzel.toml:2:1: kafka.bootstrp: unknown key",
        "hint:",
        "`bootstrap`",
    ];
    check(&refused(&home.config()), 2, &words);
    write(b"[serving]\nworkers = \"many\"\n");
    check(&refused(&home.config()), 2, &["ouzel.toml:2:", "serving.workers"]);
    // These two are refused later.
    write(b"[kafka.properties]\n\"auto.offset.reset\" = \"latest\"\n");
    check(&daemon(&home.config()), 2, &["auto.offset.reset"]);
    write(b"[kafka.properties]\n\"no.such.property\" = \"1\"\n");
    check(&daemon(&home.config()), 2, &["no.such.property"]);
}

#[test]
fn a_broker_that_is_not_there_is_one_line() {
    let home = Home::empty();
    let text = format!(
        "kafka.bootstrap = \"127.0.0.1:1\"\nserving.listen = \"127.0.0.1:0\"\nsnapshot.dir = {:?}\n",
        home.state()
    );
    fs::write(home.config(), text).unwrap();
    let config = home.config();
    let config = config.to_str().unwrap();
    let commands = [
        vec!["daemon", "--config", config],
        vec!["replay", "--from", "start", "--config", config],
        vec!["topics", "create", "--config", config],
    ];
    // Each waits some seconds for the broker.
    thread::scope(|scope| {
        let waiting = commands.map(|command| scope.spawn(move || run(&command)));
        for command in waiting {
            check(&command.join().unwrap(), 1, &["127.0.0.1:1", "refused"]);
        }
    });
}

#[test]
fn a_missing_topic_is_one_line() {
    let broker = Broker::embedded(1);
    let home = Home::new(&broker, "");
    let text = fs::read_to_string(home.config()).unwrap();
    fs::write(home.config(), text.replace("\"actions\"", "\"clicks-misspelt\"")).unwrap();
    let words = ["clicks-misspelt", "does not exist", "ouzel topics create"];
    check(&daemon(&home.config()), 1, &words);
}

#[test]
fn a_port_or_a_state_directory_in_use_is_one_line() {
    let broker = Broker::embedded(1);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = Home::new(&broker, "");
    let text = fs::read_to_string(home.config()).unwrap();
    fs::write(home.config(), text.replace("127.0.0.1:0", &address)).unwrap();
    check(
        &daemon(&home.config()),
        1,
        &["cannot listen on", &address, "hint: another process listens"],
    );

    // One daemon at a time owns the state directory.
    let mut home = Home::new(&broker, "log.level = \"info\"");
    let first = home.start();
    let second = daemon(&home.config());
    let errors: Vec<&str> = second
        .err
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(second.code, Some(1), "{}", second.err);
    assert!(
        errors.len() == 1 && errors[0].contains("is held by another process"),
        "{}",
        second.err
    );
    assert_eq!(first.get("/healthz").status, 200);
    first.stop();
}

#[test]
fn a_missing_snapshot_is_one_line() {
    let home = Home::empty();
    fs::create_dir(home.state()).unwrap();
    let state = home.state();
    let state = state.to_str().unwrap();
    let nowhere = home.path().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    for command in [
        vec!["score", "--state", state],
        vec!["score", "--state", state, "--snapshot", "latest"],
        vec!["score", "--state", nowhere],
        vec!["score", "--state", state, "--snapshot", "00000000000000000007"],
        vec!["score", "--state", state, "--snapshot", "7"],
        vec!["score", "--state", state, "--snapshot", "serving"],
        vec!["snapshot", "--state", state, "show", "latest"],
        vec!["snapshot", "--state", state, "show", "7"],
        vec!["snapshot", "--state", state, "rollback", "7", "--rewind"],
        vec!["snapshot", "--state", state, "pin", "latest"],
        vec!["snapshot", "--state", nowhere, "list"],
        vec!["snapshot", "--state", state, "diff", "1", "2"],
    ] {
        check(&run_here(&command), 1, &["no "]);
    }
    check(
        &run(["snapshot", "--state", state, "show", "newest"]),
        2,
        &["`newest` is not a snapshot id, alias or tag", "hint:"],
    );
    check(
        &run(["score", "--state", state, "--snapshot", "newest"]),
        2,
        &["`newest` is not a snapshot id, alias or tag", "hint:"],
    );
    let listed = run_here(&["snapshot", "--state", state, "list", "--json"]).json();
    assert_eq!(listed["snapshots"].as_array().map(Vec::len), Some(0));
}

#[test]
fn unusable_data_is_one_line() {
    let home = Home::empty();
    let dir = home.path().to_str().unwrap();
    for command in ["replay", "demo"] {
        check(&run_here(&[command, "--data", "/nowhere"]), 1, &["/nowhere"]);
        check(&run_here(&[command, "--data", dir]), 1, &["impressions"]);
    }
    fs::write(
        home.path().join("impressions.jsonl"),
        "{\"request_id\": \"r1\"}\n",
    )
    .unwrap();
    let replayed = run_here(&["replay", "--data", dir]);
    assert_eq!(replayed.code, Some(3), "{}", replayed.out);
    for words in [
        "1 of 1 records of impressions cannot be used",
        "impressions.jsonl:1: ",
    ] {
        assert!(replayed.out.contains(words), "{}", replayed.out);
    }
    check(
        &run_here(&["replay", "--strict", "--data", dir]),
        1,
        &["impressions.jsonl:1: "],
    );
    fs::write(home.path().join("impressions.jsonl"), "nonsense\n").unwrap();
    check(&run_here(&["demo", "--data", dir]), 1, &["impressions.jsonl:1: "]);
}
