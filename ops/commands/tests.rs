//! Whole command lines.

use super::*;

/// Runs a command line; returns the exit code, stdout and stderr.
fn ouzel(line: &str) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["ouzel"]
        .into_iter()
        .chain(line.split_whitespace())
        .map(OsString::from);
    let exit = run(args, &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (exit.code(), text(out), text(err))
}

#[test]
fn help_and_version_go_to_stdout() {
    for (line, expected) in [
        ("--help", "snapshot"),
        ("--version", "ouzel 0."),
        ("replay --help", "--labels"),
    ] {
        let (code, out, err) = ouzel(line);
        assert_eq!((code, err.as_str()), (0, ""), "{line}");
        assert!(out.contains(expected), "{out}");
    }
}

#[test]
fn a_wrong_command_line_exits_with_code_2_and_an_error_on_stderr() {
    for line in [
        "",
        "demon",
        "daemon",
        "replay",
        "replay --from 0",
        "replay --data d --from 0 --config c",
        "replay --data d --labels soon",
        "replay --from yesterday --config c",
        "demo --listen 8600",
        "snapshot",
        "snapshot show",
        "snapshot list --state a --config b",
        "config check",
        "config check --json",
        "model",
        "model describe a b",
        "model describe --history -1",
        "topics create",
        "completions klingon",
    ] {
        let (code, out, err) = ouzel(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
        assert!(!err.is_empty(), "{line}");
    }
}

#[test]
fn the_configuration_is_shown_checked_and_described() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = write(
        "good.toml",
        "serving.workers = 3\nkafka.bootstrap = \"far.example:9092\"",
    );
    let bad = write("bad.toml", "[serving]\nworker = 3\n");

    let (code, out, _) = ouzel(&format!("config show {good}"));
    assert_eq!(code, 0);
    assert!(
        out.contains("# Default: 1. Unit: threads. ") && out.contains("\nworkers = 3\n"),
        "{out}"
    );
    let (code, out, _) = ouzel(&format!("config show --json --config {good}"));
    assert_eq!(code, 0);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["serving"]["workers"],
        3
    );

    let (code, out, err) = ouzel(&format!("config check {good}"));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("warning: "), "{out}");
    let (code, out, err) = ouzel(&format!("config check {bad}"));
    assert_eq!((code, out.as_str()), (3, ""));
    let expected =
        format!("error: {bad}:2:1: serving.worker: unknown key\nhint: the nearest known name is `workers`\n");
    assert_eq!(err, expected);
    let (code, out, _) = ouzel(&format!("config check --json {bad}"));
    assert_eq!(code, 3);
    let checked: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(checked["ok"], false);
    assert_eq!(checked["problems"][0]["line"], 2);

    let (code, _, err) = ouzel(&format!("config show {bad}"));
    assert_eq!(code, 2, "{err}");
    let (code, _, err) = ouzel("config check /nowhere/ouzel.toml");
    assert_eq!(code, 1);
    assert!(
        err.starts_with("error: cannot read the configuration /nowhere/ouzel.toml: "),
        "{err}"
    );
    let (code, out, _) = ouzel("config schema");
    assert_eq!(code, 0);
    assert!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["properties"]["join"].is_object());
}

#[test]
fn a_missing_secret_is_named_before_a_broker_is_contacted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ouzel.toml");
    std::fs::write(
        &path,
        "[kafka.properties]\nsasl.password = \"${env:OUZEL_TEST_NOBODY}\"",
    )
    .unwrap();
    let (code, out, err) = ouzel(&format!("topics create --config {}", path.display()));
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("OUZEL_TEST_NOBODY is not set"), "{err}");
}

#[test]
fn completions_are_made_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = ouzel(&format!("completions {shell}"));
        assert_eq!(code, 0);
        assert!(out.contains("rollback"), "{shell}");
    }
}

#[test]
fn a_closed_stdout_is_no_failure() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut err = Vec::new();
    let args = ["ouzel", "config", "show"].map(OsString::from);
    assert_eq!(run(args, &mut Closed, &mut err), Exit::Ok);
    assert!(err.is_empty());
}
