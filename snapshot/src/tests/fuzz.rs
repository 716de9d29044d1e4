//! Random damage to every file of a store, through the loaders of the store.
//!
//! Nothing panics; an error names the file; and what is read although a file was changed is what was written. A hundredth of
//! `OUZEL_FUZZ_CASES` says how many cases run, but at least 2,000; a failure names its case.

use std::path::{Path, PathBuf};

use super::{ROOT, check_content, draft, id, inspect, open};
use crate::format::codec;
use crate::tests::sim_fs::{Random, SimFs};
use crate::{Alias, AuditLog, Snapshot};

/// Cases in every run of the tests.
const CASES: u64 = 2_000;

fn cases() -> u64 {
    let wanted = std::env::var("OUZEL_FUZZ_CASES").map_or(0, |cases| {
        cases.parse::<u64>().expect("OUZEL_FUZZ_CASES is a number")
    });
    CASES.max(wanted / 100)
}

/// Flips bits, cuts, repeats, moves or overwrites a part, or several of these.
pub(super) fn mutate(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(3) {
        let len = bytes.len();
        if len == 0 {
            return vec![u8::try_from(random.below(256)).unwrap()];
        }
        let (at, n) = (random.below(len), 1 + random.below(1 + len / 2));
        let end = (at + n).min(len);
        match random.below(7) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let part = bytes[at..end].to_vec();
                let to = random.below(len + 1);
                bytes.splice(to..to, part);
            }
            5 => {
                let part = bytes[at..end].to_vec();
                let to = random.below(len - part.len() + 1);
                bytes[to..to + part.len()].copy_from_slice(&part);
            }
            _ => {
                let fill = [0, 0xff, b'9', b'{', b'"'][random.below(5)];
                bytes[at..end].fill(fill);
            }
        }
    }
    bytes
}

/// A store with a chain, aliases, a tag and a history.
fn base() -> SimFs {
    let sim = SimFs::new();
    let store = open(&sim);
    for tag in 0..4u64 {
        store.write_chained(&draft(tag.checked_sub(1), tag), 3).unwrap();
        store.set_alias(Alias::Latest, id(tag)).unwrap();
        store.set_alias(Alias::Serving, id(tag)).unwrap();
    }
    store.pin(id(1), "good", 1).unwrap();
    store.tag(id(2), "v1", "named", 2).unwrap();
    store.rollback(id(2), "worse", 3).unwrap();
    sim.sync_all();
    sim
}

/// Everything that a reader may ask of a snapshot.
fn read_all(snapshot: &Snapshot) -> Result<(), String> {
    for file in &snapshot.manifest().files {
        let read = match file.kind {
            crate::FileKind::Arrays => snapshot.arrays(&file.name).map(drop),
            crate::FileKind::Blob => snapshot.blob(&file.name).map(drop),
        };
        read.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Reads a store in which the file `path` was changed.
fn check_damaged(sim: &SimFs, path: &Path, original: &SimFs, context: &str) {
    let store = inspect(sim);
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let names_it =
        |error: &str| error.contains(&name) || error.contains("its base") || error.contains("bases");
    for number in 0..4 {
        let read = store.read(id(number)).map_err(|error| error.to_string());
        let read = read.and_then(|snapshot| read_all(&snapshot).map(|()| snapshot));
        match read {
            Ok(snapshot) => {
                let before = inspect(original).read(id(number)).unwrap();
                assert_eq!(snapshot.manifest(), before.manifest(), "{context}");
                check_content(&snapshot);
            }
            Err(error) => assert!(names_it(&error), "{context}: {error}"),
        }
        assert!(store.verify(id(number)).is_ok(), "{context}");
    }
    for (alias, expected) in [(Alias::Latest, 2), (Alias::Serving, 3), (Alias::Pinned, 1)] {
        match store.alias(alias) {
            Ok(found) => assert_eq!(found, Some(id(expected)), "{context}"),
            Err(error) => assert!(
                error.is_damage() && error.to_string().contains(&name),
                "{context}: {error}"
            ),
        }
    }
    match store.tags() {
        Ok(tags) => assert_eq!(tags.get("v1"), Some(&id(2)), "{context}"),
        Err(error) => assert!(error.to_string().contains("v1"), "{context}: {error}"),
    }
    check_audit(
        &store.audit().unwrap(),
        &inspect(original).audit().unwrap(),
        context,
    );
    let recovery = store.newest_valid().unwrap();
    recovery.snapshot.iter().for_each(check_content);
    store.list().unwrap();
}

/// No line that was not written passes for one, and a line that is missing in the middle breaks the chain.
fn check_audit(found: &AuditLog, original: &AuditLog, context: &str) {
    assert!(
        found.lines.iter().all(|line| original.lines.contains(line)),
        "{context}: {found:?}"
    );
    if found.broken_at.is_none() {
        assert!(original.lines.starts_with(&found.lines), "{context}: {found:?}");
    }
}

#[test]
fn damage_to_any_file_is_an_error_that_names_it() {
    let original = base();
    let root = Path::new(ROOT);
    let mut files: Vec<PathBuf> = ["latest", "serving", "pinned", "audit.log", "tags/v1"]
        .map(|name| root.join(name))
        .to_vec();
    for number in 0..4 {
        let dir = inspect(&original).read(id(number)).unwrap().dir().to_owned();
        files.extend(["manifest.json", "rows.safetensors", "join.bin"].map(|name| dir.join(name)));
    }
    let mut n_changed = 0;
    for case in 0..cases() {
        let mut random = Random(case);
        let path = &files[random.below(files.len())];
        let bytes = original.bytes(path);
        let changed = mutate(&bytes, &mut random);
        if changed == bytes {
            continue;
        }
        n_changed += 1;
        let sim = original.restart();
        sim.overwrite(path, &changed);
        check_damaged(&sim, path, &original, &format!("case {case}, {}", path.display()));
    }
    assert!(n_changed > cases() / 2);
}

#[test]
fn any_bytes_are_arrays_or_malformed() {
    let original = base();
    let dir = inspect(&original).read(id(0)).unwrap().dir().to_owned();
    let bytes = original.bytes(&dir.join("rows.safetensors"));
    let mut n_read = 0;
    for case in 0..cases() {
        let changed = mutate(&bytes, &mut Random(case));
        // No hash is checked here, so changed numbers are read; shapes and sizes must fit the bytes.
        if let Ok(arrays) = codec::read(&mut &changed[..], changed.len() as u64, "rows".to_owned()) {
            let n_bytes: usize = arrays
                .iter()
                .map(|(_, array)| array.shape().iter().product::<usize>())
                .sum();
            assert!(n_bytes <= changed.len(), "case {case}");
            n_read += 1;
        }
    }
    assert!(n_read > 0, "some changes are of numbers only");
}
