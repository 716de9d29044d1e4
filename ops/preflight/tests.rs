//! Findings of the checks that need neither state nor broker.

use super::*;

#[track_caller]
fn parsed(text: &str, dir: &Path) -> Config {
    let text = format!("snapshot.dir = {:?}\n{text}", dir.join("state"));
    Config::parse(&text, "x.toml").unwrap()
}

/// The problems of a configuration, a line each.
#[track_caller]
fn problems(text: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let found = preflight(&parsed(text, dir.path())).problems;
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn a_usable_configuration_has_no_finding_and_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let findings = preflight(&parsed("", dir.path()));
    assert_eq!((findings.problems, findings.warnings), (vec![], vec![]));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn each_problem_names_its_key_and_what_to_do() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("learner/encoders/tests/fixtures/tiny-bert");
    for (text, expected) in [
        (
            "kafka.properties.\"group.id.typo\" = 1".to_owned(),
            "kafka.properties kafka property `group.id.typo` was refused",
        ),
        (
            "kafka.properties.\"auto.offset.reset\" = \"latest\"".to_owned(),
            "kafka.properties kafka property `auto.offset.reset` cannot be set",
        ),
        (
            "kafka.properties.\"sasl.mechanism\" = \"GSSAPI\"\nkafka.properties.\"security.protocol\" = \"sasl_plaintext\""
                .to_owned(),
            "kafka.properties cannot start a kafka client",
        ),
        (
            "kafka.properties.acks = \"1\"\nserving.events_listen = \"127.0.0.1:0\"".to_owned(),
            "kafka.properties kafka property `acks` cannot be set: every replica",
        ),
        (
            "content.text_encoder = \"/nowhere\"".to_owned(),
            "content cannot",
        ),
        (
            format!("content.text_encoder = {fixtures:?}\nmodel.content.vector_widths = [384, 0]"),
            "content the encoder",
        ),
        (
            "serving.listen = \"0.0.0.0:8600\"\nserving.events_listen = \"127.0.0.1:8600\"".to_owned(),
            "serving.events_listen is 127.0.0.1:8600, and serving.listen is 0.0.0.0:8600",
        ),
        (
            "admin.socket = \"/nowhere/at/all/s\"".to_owned(),
            "admin.socket cannot be made: /nowhere/at/all is no folder",
        ),
    ] {
        let found = problems(&text);
        assert!(
            found.iter().any(|line| line.starts_with(expected)),
            "{text}: {found:?} has no {expected:?}"
        );
    }
}

#[test]
fn a_state_directory_below_a_file_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("state"), "").unwrap();
    let found = preflight(&parsed("", dir.path())).problems;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].to_string().contains("is not a folder"), "{found:?}");
}

#[test]
fn a_secret_that_this_machine_lacks_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let text = "kafka.properties.\"sasl.password\" = \"${env:OUZEL_NO_SUCH_VARIABLE}\"";
    let findings = preflight(&parsed(text, dir.path()));
    assert_eq!(findings.problems, []);
    let warnings: Vec<String> = findings.warning_lines().collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("OUZEL_NO_SUCH_VARIABLE is not set on this machine"),
        "{warnings:?}"
    );
}
