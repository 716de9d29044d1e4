//! The snapshot commands, on a store in a temporary folder.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::thread;

use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint};
use serde_json::Value;

use super::*;
use crate::admin::{Listener, serve};
use crate::commands;
use crate::supervisor::Shutdown;

/// A state directory with `n` snapshots, the last of them `latest`.
fn state(n: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut parent = None;
    for i in 0..n {
        let mut checkpoint = CheckpointMeta {
            batch_seq: 10 * i,
            sample_seq: 1280 * i,
            ..CheckpointMeta::default()
        };
        checkpoint.metrics.insert("auc".to_owned(), Some(0.75));
        let mut draft = Draft::new(parent, 1_777_636_800_000, Fingerprint::default(), checkpoint);
        draft
            .add_blob("join.bin", format!("state {i}").into_bytes())
            .unwrap();
        parent = Some(store.write(&draft).unwrap());
    }
    if let Some(latest) = parent {
        store.set_alias(Alias::Latest, latest).unwrap();
    }
    dir
}

/// Runs `ouzel snapshot <line> --state <dir>`; returns the exit code, stdout and stderr.
fn snapshot(dir: &Path, line: &str) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = ["ouzel", "snapshot"]
        .into_iter()
        .chain(line.split_whitespace())
        .map(OsString::from);
    let args = args.chain([OsString::from("--state"), dir.into()]);
    let exit = commands::run(args, &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (exit.code(), text(out), text(err))
}

fn json_of(dir: &Path, line: &str) -> Value {
    let (code, out, err) = snapshot(dir, &format!("{line} --json"));
    assert_eq!((code, err.as_str()), (0, ""), "{line}");
    serde_json::from_str(&out).unwrap()
}

fn latest(dir: &Path) -> u64 {
    Store::inspect(dir)
        .alias(Alias::Latest)
        .unwrap()
        .unwrap()
        .number()
}

#[test]
fn snapshots_are_listed_shown_and_compared() {
    let dir = state(3);
    let (code, out, err) = snapshot(dir.path(), "list");
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 4, "{out}");
    assert!(lines[0].starts_with("SNAPSHOT"));
    assert!(
        lines[3].contains("2560") && lines[3].contains("0.750") && lines[3].ends_with("latest"),
        "{out}"
    );
    assert_eq!(
        json_of(dir.path(), "list")["snapshots"].as_array().unwrap().len(),
        3
    );

    let (code, out, _) = snapshot(dir.path(), "show latest");
    assert_eq!(code, 0);
    assert!(
        out.contains("2026-05-01T12:00:00Z") && out.contains("join.bin"),
        "{out}"
    );
    assert!(out.contains("\nbase           not frozen\n"), "{out}");
    assert_eq!(json_of(dir.path(), "show 1")["manifest"]["cut"]["batch_seq"], 10);

    let (code, out, _) = snapshot(dir.path(), "diff 0 latest");
    assert_eq!(code, 0);
    assert!(
        out.contains("/cut/batch_seq") && out.contains("join.bin"),
        "{out}"
    );
}

#[test]
fn a_damaged_snapshot_fails_the_check_with_code_3() {
    let dir = state(2);
    assert_eq!(snapshot(dir.path(), "verify").0, 0);
    let id = SnapshotId::new(0);
    fs::write(dir.path().join(format!("snapshots/{id}/join.bin")), "stale 0").unwrap();
    let (code, out, _) = snapshot(dir.path(), "verify");
    assert_eq!(code, 3);
    assert!(out.contains("DAMAGED") && out.contains("join.bin: "), "{out}");
    assert_eq!(snapshot(dir.path(), "verify 1").0, 0);
    let (code, out, _) = snapshot(dir.path(), "verify 0 --json");
    assert_eq!(code, 3);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["ok"], false);
}

#[test]
fn without_a_daemon_the_command_changes_the_store() {
    let dir = state(3);
    assert_eq!(
        json_of(dir.path(), "rollback 1 --rewind --note because")["done_by"],
        "this command"
    );
    assert_eq!(latest(dir.path()), 1);
    assert_eq!(snapshot(dir.path(), "pin 0").0, 0);
    assert_eq!(
        Store::inspect(dir.path()).alias(Alias::Pinned).unwrap(),
        Some(SnapshotId::new(0))
    );
    assert!(snapshot(dir.path(), "list").1.contains("rolled back"));
    assert_eq!(snapshot(dir.path(), "unpin").0, 0);
    assert_eq!(Store::inspect(dir.path()).alias(Alias::Pinned).unwrap(), None);
    let removed = &json_of(dir.path(), "gc --keep 1")["removed"];
    assert_eq!(removed.as_array().unwrap().len(), 1, "{removed}");
    assert_eq!(
        Store::inspect(dir.path()).audit().unwrap().lines[0].note,
        "because"
    );
}

#[test]
fn a_running_daemon_makes_the_change_or_its_refusal_is_printed() {
    let dir = state(2);
    let owner = Store::open(dir.path()).unwrap();
    let listener = Listener::bind(&dir.path().join("admin.sock")).unwrap();
    let shutdown = Shutdown::new();
    thread::scope(|scope| {
        let daemon = scope.spawn(|| {
            serve(&listener, &shutdown, |request| match request {
                AdminRequest::Rollback { id, note, .. } => {
                    owner.rollback(id.parse().unwrap(), &note, 1).unwrap();
                    AdminReply::Done {
                        snapshot: Some(id),
                        also: Vec::new(),
                    }
                }
                _ => AdminReply::Refused {
                    error: "not now".to_owned(),
                    hint: Some("later".to_owned()),
                },
            })
        });
        assert_eq!(
            json_of(dir.path(), "rollback 0 --rewind")["done_by"],
            "the running daemon"
        );
        let (code, _, err) = snapshot(dir.path(), "pin 0");
        assert_eq!(
            (code, err.as_str()),
            (1, "error: the running daemon refused: not now\nhint: later\n")
        );
        assert_eq!(snapshot(dir.path(), "gc").0, 1);
        shutdown.trigger();
        daemon.join().unwrap().unwrap();
    });
    assert_eq!(latest(dir.path()), 0);
    // The daemon holds the store, but its socket is gone: the change is refused.
    drop(listener);
    let (code, _, err) = snapshot(dir.path(), "rollback 1 --rewind");
    assert_eq!(code, 1);
    assert!(err.contains("is held by another process"), "{err}");
}

#[test]
fn a_missing_snapshot_is_one_line_with_a_hint() {
    let dir = state(0);
    assert!(snapshot(dir.path(), "list").1.starts_with("no snapshots in "));
    for (line, code, expected) in [
        ("show latest", 1, "no snapshot is called latest"),
        ("show 7", 1, "there is no snapshot 00000000000000000007"),
        (
            "rollback ../../etc --rewind",
            2,
            "`../../etc` is not a snapshot id or alias",
        ),
        (
            "rollback 7 --rewind",
            1,
            "there is no snapshot 00000000000000000007",
        ),
    ] {
        let (found, out, err) = snapshot(dir.path(), line);
        assert_eq!((found, out.as_str()), (code, ""), "{line}: {err}");
        assert!(err.starts_with(&format!("error: {expected}")), "{line}: {err}");
    }
    let dir = state(1);
    for verb in ["freeze-base", "rebase"] {
        let (code, _, err) = snapshot(dir.path(), verb);
        let expected = "error: snapshot 00000000000000000000 was written under another configuration";
        assert!(code == 1 && err.starts_with(expected), "{err}");
    }
    assert_eq!(latest(dir.path()), 0);
    let (code, _, err) = snapshot(&dir.path().join("nowhere"), "list");
    assert_eq!(code, 1);
    assert!(
        err.contains("there is no state directory") && err.contains("\nhint: "),
        "{err}"
    );
}
