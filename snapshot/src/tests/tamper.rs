//! Tampering: changed files are detected and refused, and an older snapshot serves.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{ROOT, check_content, draft, id, inspect, open};
use crate::tests::sim_fs::SimFs;
use crate::{Alias, Error, FileKind, Fs, MANIFEST_NAME, Retention, Store};

/// Writes two snapshots and moves `latest` to the second.
fn write_two(store: &Store) {
    for (parent, tag) in [(None, 0), (Some(0), 1)] {
        let id = store.write(&draft(parent, tag)).unwrap();
        store.set_alias(Alias::Latest, id).unwrap();
    }
}

/// Checks that the second snapshot is refused everywhere and that a start falls back to the first.
fn check_refused(store: &Store, context: &str) {
    assert!(store.read(id(1)).is_err(), "{context}");
    assert!(!store.verify(id(1)).unwrap().is_valid(), "{context}");
    let recovery = store.newest_valid().unwrap();
    assert_eq!(recovery.skipped.len(), 1, "{context}");
    assert_eq!(recovery.skipped[0].id, Some(id(1)), "{context}");
    let snapshot = recovery.snapshot.unwrap();
    assert_eq!(snapshot.id(), id(0), "{context}");
    check_content(&snapshot);
}

#[test]
fn no_flipped_bit_and_no_cut_of_any_file_passes() {
    let sim = SimFs::new();
    write_two(&open(&sim));
    let store = inspect(&sim);
    let dir = Path::new(ROOT).join("snapshots").join(id(1).to_string());
    let files = ["rows.safetensors", "join.bin", MANIFEST_NAME];
    for path in files.map(|name| dir.join(name)) {
        let good = sim.bytes(&path);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            sim.overwrite(&path, &bad);
            check_refused(&store, &format!("{} flipped at {at}", path.display()));
        }
        for at in (0..good.len()).step_by(7).chain([good.len() - 1]) {
            sim.overwrite(&path, &good[..at]);
            check_refused(&store, &format!("{} truncated at {at}", path.display()));
        }
        sim.overwrite(&path, &[good.as_slice(), b"\n"].concat());
        check_refused(&store, "one more byte");
        sim.overwrite(&path, &good);
        assert!(store.read(id(1)).is_ok());
    }
}

#[test]
fn a_file_changed_after_it_was_verified_is_not_returned() {
    let sim = SimFs::new();
    write_two(&open(&sim));
    let snapshot = inspect(&sim).read(id(1)).unwrap();
    for name in ["rows.safetensors", "join.bin"] {
        let path = snapshot.dir().join(name);
        let mut bytes = sim.bytes(&path);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        sim.overwrite(&path, &bytes);
    }
    assert!(matches!(
        snapshot.arrays("rows.safetensors"),
        Err(Error::Damaged { .. })
    ));
    assert!(matches!(snapshot.blob("join.bin"), Err(Error::Damaged { .. })));
    assert!(matches!(
        snapshot.blob("rows.safetensors"),
        Err(Error::NoFile { .. })
    ));
    assert!(matches!(snapshot.arrays("../x"), Err(Error::NoFile { .. })));
}

#[test]
fn missing_foreign_and_swapped_entries_are_refused() {
    let fresh = || {
        let sim = SimFs::new();
        write_two(&open(&sim));
        sim
    };
    let dir = Path::new(ROOT).join("snapshots").join(id(1).to_string());
    type Tamper = fn(&SimFs, &Path);
    let tampers: [(&str, Tamper); 7] = [
        ("no manifest", |sim, dir| {
            sim.remove_file(&dir.join(MANIFEST_NAME)).unwrap()
        }),
        ("no rows", |sim, dir| {
            sim.remove_file(&dir.join("rows.safetensors")).unwrap()
        }),
        ("no directory", |sim, dir| sim.remove_dir_all(dir).unwrap()),
        ("a foreign file", |sim, dir| {
            drop(sim.create_file(&dir.join("extra")).unwrap())
        }),
        ("a fifo", |sim, dir| sim.make_other(&dir.join("pipe"))),
        ("a directory", |sim, dir| {
            sim.create_dir(&dir.join("more")).unwrap()
        }),
        ("another snapshot's manifest", |sim, dir| {
            let other = dir.with_file_name(id(0).to_string()).join(MANIFEST_NAME);
            sim.overwrite(&dir.join(MANIFEST_NAME), &sim.bytes(&other));
        }),
    ];
    for (context, tamper) in tampers {
        let sim = fresh();
        tamper(&sim, &dir);
        let store = inspect(&sim);
        let recovery = store.newest_valid().unwrap();
        assert_eq!(recovery.skipped[0].id, Some(id(1)), "{context}");
        assert_eq!(recovery.snapshot.unwrap().id(), id(0), "{context}");
        if context == "no directory" {
            assert!(matches!(store.read(id(1)), Err(Error::NoSnapshot { .. })));
            assert!(matches!(store.verify(id(1)), Err(Error::NoSnapshot { .. })));
        } else {
            check_refused(&store, context);
        }
    }
}

#[test]
fn a_fifo_of_the_right_size_is_refused_by_the_directory_check() {
    let sim = SimFs::new();
    let store = open(&sim);
    let mut empty = draft(None, 0);
    empty.add_blob("empty.bin", Vec::new()).unwrap();
    store.write(&empty).unwrap();
    let path = store.read(id(0)).unwrap().dir().join("empty.bin");
    sim.remove_file(&path).unwrap();
    sim.make_other(&path);
    assert!(store.list().unwrap()[0].fault.is_some());
    assert!(store.set_alias(Alias::Latest, id(0)).is_err());
}

#[test]
fn a_damaged_alias_is_reported_and_the_newest_valid_snapshot_serves() {
    let sim = SimFs::new();
    write_two(&open(&sim));
    sim.overwrite(&Path::new(ROOT).join("latest"), b"../../etc/passwd x\n");
    let store = inspect(&sim);
    assert!(matches!(store.alias(Alias::Latest), Err(Error::Damaged { .. })));
    let recovery = store.newest_valid().unwrap();
    assert_eq!(recovery.skipped[0].id, None);
    assert_eq!(recovery.snapshot.unwrap().id(), id(1));
    assert!(store.list().is_ok());
    assert!(
        open(&sim).gc(Retention::newest(1), 0).is_err(),
        "what the alias protects is not known"
    );
}

#[test]
fn an_alias_does_not_follow_a_manifest_replaced_by_another_valid_one() {
    let (sim, other) = (SimFs::new(), SimFs::new());
    write_two(&open(&sim));
    let store = open(&other);
    store.write(&draft(None, 0)).unwrap();
    let mut changed = draft(Some(0), 1);
    changed.note = Some("not what was published".to_owned());
    store.write(&changed).unwrap();
    let path = Path::new(ROOT)
        .join("snapshots")
        .join(id(1).to_string())
        .join(MANIFEST_NAME);
    sim.overwrite(&path, &other.bytes(&path));
    let store = inspect(&sim);
    assert!(
        store.verify(id(1)).unwrap().is_valid(),
        "the replacement is a valid snapshot"
    );
    assert!(matches!(
        store.read_alias(Alias::Latest),
        Err(Error::Damaged { .. })
    ));
    assert_eq!(store.newest_valid().unwrap().skipped[0].id, Some(id(1)));
}

fn real() -> (tempfile::TempDir, Store, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&root.path().join("state")).unwrap();
    write_two(&store);
    let dir = root.path().join("state/snapshots").join(id(1).to_string());
    (root, store, dir)
}

#[test]
fn on_a_real_disk_only_the_owner_can_read_files() {
    let (root, store, dir) = real();
    check_content(&store.read(id(1)).unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&dir), mode(store.root()), mode(dir.parent().unwrap())),
        (0o700, 0o700, 0o700)
    );
    store.pin(id(1), "", 0).unwrap();
    for path in [
        dir.join(MANIFEST_NAME),
        dir.join("join.bin"),
        store.root().join("latest"),
        store.root().join("audit.log"),
    ] {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    drop(root);
}

#[test]
fn on_a_real_disk_links_and_fifos_are_refused_without_waiting_for_them() {
    let (root, store, dir) = real();
    let target = root.path().join("elsewhere");
    for name in ["rows.safetensors", MANIFEST_NAME] {
        let path = dir.join(name);
        fs::rename(&path, &target).unwrap();
        symlink(&target, &path).unwrap();
        check_refused(&store, "a link to the same bytes");
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        check_refused(&store, "a fifo");
        fs::remove_file(&path).unwrap();
        fs::rename(&target, &path).unwrap();
        assert!(store.read(id(1)).is_ok());
    }
    fs::rename(&dir, &target).unwrap();
    symlink(&target, &dir).unwrap();
    check_refused(&store, "the directory is a link");
}

#[test]
fn on_a_real_disk_one_process_writes_and_others_may_read() {
    let (_root, store, _) = real();
    assert!(matches!(Store::open(store.root()), Err(Error::Locked { .. })));
    let reader = Store::inspect(store.root());
    assert_eq!(reader.newest_valid().unwrap().snapshot.unwrap().id(), id(1));
    assert!(matches!(
        reader.write(&draft(None, 5)),
        Err(Error::ReadOnly { .. })
    ));
    assert!(matches!(
        reader.rollback(id(0), "", 0),
        Err(Error::ReadOnly { .. })
    ));
    let root = store.root().to_owned();
    drop(store);
    assert!(Store::open(&root).is_ok());
}

#[test]
fn safetensors_files_are_readable_by_the_safetensors_crate() {
    let (_root, store, dir) = real();
    let bytes = fs::read(dir.join("rows.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("rows").unwrap().shape(), [4, 4]);
    let snapshot = store.read(id(1)).unwrap();
    let kinds: Vec<_> = snapshot
        .manifest()
        .files
        .iter()
        .map(|file| (file.name.as_str(), file.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            ("join.bin", FileKind::Blob),
            ("rows.safetensors", FileKind::Arrays)
        ]
    );
    assert_eq!(
        snapshot.manifest().checkpoint.metrics["ne"],
        None,
        "NaN is written as undefined"
    );
}
