//! The snapshot commands, on a store in a temporary folder.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::thread;

use ouzel_learner::Trainer;
use ouzel_snapshot::{CheckpointMeta, Draft, Fingerprint};
use serde_json::Value;

use super::*;
use crate::admin::{Listener, serve};
use crate::commands;
use crate::pipeline::provenance::fingerprint;
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
        for (name, value) in [
            ("interval_auc", 0.75),
            ("interval_ne", 0.9),
            ("interval_calibration", 1.02),
        ] {
            checkpoint.metrics.insert(name.to_owned(), Some(value));
        }
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
    assert_eq!(lines.len(), 6, "{out}");
    assert!(lines[0].starts_with("  ID"));
    assert!(
        lines[3].starts_with("* 2   2026-05-01 12:00  20       2560     0.750  0.900  1.020  "),
        "{out}"
    );
    assert_eq!(lines[4], "    latest");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{out}");
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
fn branches_are_indented_and_notes_wrapped() {
    let dir = state(2);
    let store = Store::open(dir.path()).unwrap();
    for (parent, note) in [
        (
            0,
            "rolled back to 0 while running, because the labels of one source were inverted for an hour",
        ),
        (2, ""),
    ] {
        let mut draft = Draft::new(
            Some(SnapshotId::new(parent)),
            1_777_636_800_000,
            Fingerprint::default(),
            CheckpointMeta {
                batch_seq: 123_456_789,
                sample_seq: 98_765_432_100,
                ..CheckpointMeta::default()
            },
        );
        draft.note = (!note.is_empty()).then(|| note.to_owned());
        store.write(&draft).unwrap();
    }
    let (_, out, _) = snapshot(dir.path(), "list");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{out}");
    assert!(
        lines[4].starts_with("    2 ") && lines[7].starts_with("    3 "),
        "{out}"
    );
    assert!(lines[4].contains("123.45M  98.76G"), "{out}");
    assert!(
        lines[5].starts_with("      rolled back to 0") && lines[6].starts_with("      "),
        "{out}"
    );
    let (_, out, _) = snapshot(dir.path(), "show 2");
    assert!(out.contains("00000000000000000000, branch 1"), "{out}");
}

#[test]
fn tags_name_snapshots_and_keep_them_from_being_removed() {
    let dir = state(4);
    let (code, out, err) = snapshot(dir.path(), "tag 1 before-launch --note why");
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.starts_with("tagged 00000000000000000001 as before-launch, by this command"),
        "{out}"
    );
    assert!(
        snapshot(dir.path(), "list")
            .1
            .contains("\n    tag before-launch\n")
    );
    assert_eq!(
        json_of(dir.path(), "show before-launch")["tags"][0],
        "before-launch"
    );
    let (code, out, _) = snapshot(dir.path(), "gc --keep 1 --dry-run");
    assert_eq!(code, 0);
    let lines: Vec<&str> = out.lines().skip(1).collect();
    let expected = [
        "remove  no rule keeps it",
        "keep    tag before-launch",
        "remove  no rule keeps it",
        "keep    latest",
    ];
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.ends_with(expected), "{out}");
    }
    assert!(
        lines[4].starts_with("keeps 2 (") && lines[4].contains("would remove 2 ("),
        "{out}"
    );
    assert_eq!(
        json_of(dir.path(), "list")["snapshots"].as_array().unwrap().len(),
        4,
        "nothing was removed"
    );
    assert_eq!(
        json_of(dir.path(), "gc --keep 1")["removed"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(snapshot(dir.path(), "untag before-launch").0, 0);
    let (code, _, err) = snapshot(dir.path(), "untag before-launch");
    assert!(code == 1 && err.contains("no snapshot has it"), "{err}");
    let (code, _, err) = snapshot(dir.path(), "tag 3 latest");
    assert!(code == 1 && err.contains("ouzel itself moves the alias"), "{err}");
}

#[test]
fn an_exported_snapshot_is_imported_once_its_weights_are_verified() {
    let dir = state(0);
    let config = Config::default();
    let mut trainer = Trainer::new(config.model_config(), config.learner_config()).unwrap();
    let mut draft = Draft::new(None, 0, fingerprint(&config), CheckpointMeta::default());
    trainer.save(&mut draft).unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.write(&draft).unwrap();
    drop(store);
    let folder = dir.path().join("exported");
    let line = format!("export 0 {}", folder.display());
    let (code, _, err) = snapshot(dir.path(), &line);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(snapshot(dir.path(), &line).0, 1, "the folder exists");
    let other = state(2);
    let (code, out, err) = snapshot(other.path(), &format!("import {} --note moved", folder.display()));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.starts_with("imported as snapshot 00000000000000000002; `ouzel snapshot rollback 2`"),
        "{out}"
    );
    let (code, out, _) = snapshot(other.path(), "verify 2");
    assert!(code == 0 && out.contains("scores as recorded"), "{out}");
    assert_eq!(latest(other.path()), 1);
    let npz = format!("export 2 {} --format npz", dir.path().join("npz").display());
    assert_eq!(snapshot(other.path(), &npz).0, 0);
    assert!(dir.path().join("npz/dense.npz").is_file());
    fs::write(folder.join("trainer.json"), "{}").unwrap();
    let (code, _, err) = snapshot(other.path(), &format!("import {}", folder.display()));
    assert!(
        code == 1 && err.contains("trainer.json cannot be trusted"),
        "{err}"
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
            "`../../etc` is not a snapshot id, alias or tag",
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
